"""Reads PromQL as far as tests need it: which metrics a query uses, and what is done with them."""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*") | (?P<name>[a-zA-Z_:][\w:]*) | (?P<number>[\d.]+\w*)
    | (?P<range>\[[^\]]*\]) | (?P<sign>[=!]~|[<>=!]=|[-+*/%^<>=(){},])""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
#: Metrics begin so.
OURS = ("grpc_", "txzmq_")


class Use(NamedTuple):
    """One place in a query where a metric is used."""

    metric: str
    #: The labels that select its series, and what each is compared with.
    selected: dict[str, str]
    #: Whether it is a range, such as ``[5m]``.
    is_range: bool
    #: The functions and aggregations around it, the outermost first.
    around: tuple[str, ...]


class Query(NamedTuple):
    """What a query uses."""

    uses: list[Use]
    #: The labels of ``by (...)``, ``on (...)`` and the like.
    grouped: set[str]


def read(query: str) -> Query:
    """Read a query.

    :raises ValueError: for a character that is no part of PromQL as far as this knows it.
    """
    tokens = _tokens(query)
    uses: list[Use] = []
    grouped: set[str] = set()
    around: list[str] = []
    name = ""
    while tokens:
        token = tokens.pop(0)
        if token in _GROUPING:
            closing = tokens.index(")")
            grouped.update(label for label in tokens[1:closing] if label != ",")
            del tokens[: closing + 1]
            continue  # the aggregation's own parentheses follow: it is still its name
        if token == "(":
            around.append(name)
        elif token == ")":
            around.pop()
        elif token.startswith(OURS):
            uses.append(_use(token, tokens, around))
        name = token if re.fullmatch(r"[a-z_]\w*", token) else ""
    return Query(uses, grouped)


def _use(metric: str, tokens: list[str], around: list[str]) -> Use:
    selected: dict[str, str] = {}
    if tokens and tokens[0] == "{":
        closing = tokens.index("}")
        inner = tokens[1:closing]
        selected = {
            inner[index - 1]: inner[index + 1].strip('"')
            for index, token in enumerate(inner)
            if token in ("=", "!=", "=~", "!~")
        }
        del tokens[: closing + 1]
    is_range = bool(tokens) and tokens[0].startswith("[")
    return Use(metric, selected, is_range, tuple(filter(None, around)))


def _tokens(query: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while rest := query[position:].lstrip():
        found = _TOKEN.match(rest)
        if found is None:
            raise ValueError(f"no PromQL: {rest!r}")
        tokens.append(found[0])
        position = len(query) - len(rest) + found.end()
    return tokens
