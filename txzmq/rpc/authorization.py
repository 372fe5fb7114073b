"""Who may call what: ``Server(authorize=...)`` is asked before anything is done for a call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from txzmq import _check
from txzmq._identity import Identity
from txzmq.rpc.metadata import Metadata

__all__ = ["Authorize", "permissions"]

#: Given who calls (None where nobody has authenticated), the path of a method and the metadata of
#: the request. Only True allows the call. An :class:`~txzmq.rpc.RpcError` that it raises is the
#: answer; anything else that it raises denies. It must not wait.
Authorize: TypeAlias = Callable[[Identity | None, str, Metadata], bool]

_PATH: Final = re.compile(r"\*|/[^/*]+/([^/*]+|\*)")
#: In a table, in place of groups: whoever has authenticated; and everybody.
_AUTHENTICATED: Final = "*"
_ANYBODY: Final = "anybody"


def permissions(table: Mapping[str, Iterable[str]]) -> Authorize:
    """A rule of who may call what, from a table; what is not in it is denied.

    ::

        authorize = permissions({
            "/acme.orders.v1.Orders/*": {"staff"},           # a service
            "/acme.orders.v1.Orders/Delete": {"admin"},      # one method: goes before the service
            "/acme.status.v1.Status/*": {"*"},               # whoever has authenticated
        })

    :param table: by the path of a method, ``/service/*`` for a whole service, or ``*`` for all
        others: the groups of which the caller has to be in one. The group ``*`` is whoever has
        authenticated, and ``anybody`` also who has not.
    :raises TypeError: for a value of a wrong type.
    :raises ValueError: for a path that is none.
    """
    if not isinstance(table, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
        raise _check.wrong_type("table", table, "a mapping of paths to groups")
    groups: dict[str, frozenset[str]] = {}
    for path, names in table.items():
        _check.text("table", path)
        if _PATH.fullmatch(path) is None:
            raise ValueError(
                f"table: {path!r} is no path of a method: /package.Service/Method, "
                "/package.Service/*, or *"
            )
        if isinstance(names, str) or not isinstance(names, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type(f"table[{path!r}]", names, "a collection of groups")
        each = tuple(names)
        for name in each:
            _check.text(f"table[{path!r}]", name)
        groups[path] = frozenset(each)
    others = groups.get("*", frozenset())

    def authorize(identity: Identity | None, method: str, metadata: Metadata) -> bool:
        allowed = groups.get(method)
        if allowed is None:
            allowed = groups.get(f"{method.rpartition('/')[0]}/*", others)
        if identity is None:
            return _ANYBODY in allowed
        if not allowed.isdisjoint(identity.groups):
            return True
        return _AUTHENTICATED in allowed or _ANYBODY in allowed

    return authorize
