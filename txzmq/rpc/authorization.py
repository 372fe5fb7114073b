"""Who may call what: ``Server(authorize=...)`` is asked before anything is done for a call.

A proto may say what a method requires of its callers, by a word that a table maps to groups::

    rpc Delete(DeleteRequest) returns (DeleteResponse) {
      option (txzmq.rpc.v1.requires) = "orders.write";
    }

    server = Server(factory, [Orders()], credentials=credentials,
                    authorize=permissions({"orders.write": {"staff"}}))

A server with such methods must have ``authorize``, and a table must have their words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self, TypeAlias, final

from txzmq import _check
from txzmq._identity import Identity, is_among
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import Method

__all__ = ["Authorize", "MethodPath", "Permissions", "has_rule", "permissions"]


@final
class MethodPath(str):
    """The path of a method, ``/package.Service/Method``, as ``authorize`` gets it.

    It is a str that has an attribute more.

    :ivar requires: the word by ``option (txzmq.rpc.v1.requires)`` of the method, or else
        ``service_requires`` of its service; empty where there is none, and where the server has no
        such method.
    """

    __slots__ = ("requires",)

    requires: str

    def __new__(cls, path: str, requires: str = "") -> Self:
        """:param requires: the word; empty for none."""
        self = super().__new__(cls, path)
        self.requires = requires
        return self


#: Given who calls (None where nobody has authenticated), the path of a method and the metadata of
#: the request. Only True allows the call. An :class:`~txzmq.rpc.RpcError` that it raises is the
#: answer; anything else that it raises denies. It must not wait. The path is a str, and its
#: ``requires`` says what the proto requires of callers.
Authorize: TypeAlias = Callable[[Identity | None, MethodPath, Metadata], bool]

_PATH: Final = re.compile(r"/[^/*]+/([^/*]+|\*)")
#: In a table, in place of a path: all others.
_OTHERS: Final = "*"
_NO_GROUPS: Final = frozenset[str]()


@final
class Permissions:
    """A rule of who may call what; made by :func:`permissions`, and may be called by other rules.

    Several servers may have one.
    """

    __slots__ = ("_paths", "_words")

    def __init__(
        self, paths: Mapping[str, frozenset[str]], words: Mapping[str, frozenset[str]]
    ) -> None:
        self._paths = paths
        self._words = words

    @property
    def words(self) -> frozenset[str]:
        """The words that the table has."""
        return frozenset(self._words)

    def __call__(self, identity: Identity | None, method: str, metadata: Metadata) -> bool:
        """Whether somebody may call a method.

        :param method: what ``authorize`` gets; a plain str is a method that requires no word.
        :raises TypeError: for a plain str, if the table has words and no row of this very method:
            it cannot be decided whether one of them is required.
        """
        return is_among(identity, self._groups(method))

    def _groups(self, method: str) -> frozenset[str]:
        """Who may call a method: by its path, or else by its word, its service, all others."""
        allowed = self._paths.get(method)
        if allowed is not None:
            return allowed
        if isinstance(method, MethodPath):
            if method.requires:
                return self._words.get(method.requires, _NO_GROUPS)
        elif self._words:
            raise TypeError(
                f"method must be a MethodPath, not the str {_check.shown(method)}: what the method "
                "requires is not known, and the table has words"
            )
        of_service = self._paths.get(f"{method.rpartition('/')[0]}/*")
        return self._paths.get(_OTHERS, _NO_GROUPS) if of_service is None else of_service

    def names(self, path: str) -> bool:
        """Whether there is a row of a method itself, or of its service."""
        return path in self._paths or f"{path.rpartition('/')[0]}/*" in self._paths

    def for_methods(self, methods: Iterable[Method[Any, Any]]) -> dict[str, frozenset[str]]:
        """Who may call each of the methods that a server serves, by its path.

        :raises ValueError: if the table lacks a word that one of them requires and has no row for
            that very method.
        """
        ready: dict[str, frozenset[str]] = {}
        for method in methods:
            word = method.requires
            if word and word not in self._words and method.path not in self._paths:
                raise ValueError(
                    f"authorize: {method.path} requires {word!r}, and the table has neither this "
                    f"word nor this path{_check.near(word, self._words)}"
                )
            ready[method.path] = self._groups(MethodPath(method.path, word))
        return ready


def has_rule(authorize: Authorize | None, path: str) -> bool:
    """Whether a method is named, itself or its service, by who says who may call what.

    Of a function nobody knows, and it is taken to. A row for all others names none.
    """
    if isinstance(authorize, Permissions):
        return authorize.names(path)
    return authorize is not None


def permissions(table: Mapping[str, Iterable[str]]) -> Permissions:
    """A rule of who may call what, from a table; what is not in it is denied.

    ::

        authorize = permissions({
            "orders.write": {"staff"},                       # what a proto says that it requires
            "/acme.orders.v1.Orders/*": {"staff", "guests"}, # the others of a service
            "/acme.orders.v1.Orders/Delete": {"admin"},      # one method
            "/acme.status.v1.Status/*": {"*"},               # whoever has authenticated
        })

    One row decides about a method: that of its path; or else that of the word, where it requires
    one; or else that of its service; or else that of all others.

    :param table: by the path of a method, a word, ``/service/*`` for a whole service, or ``*`` for
        all others: the groups of which the caller has to be in one. The group ``*`` is whoever has
        authenticated, and ``anybody`` also who has not.
    :raises TypeError: for a value of a wrong type.
    :raises ValueError: for a path or word that is none.
    """
    if not isinstance(table, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
        raise _check.wrong_type("table", table, "a mapping of paths and words to groups")
    paths: dict[str, frozenset[str]] = {}
    words: dict[str, frozenset[str]] = {}
    for row, names in table.items():
        _check.text("table", row)
        is_word = "/" not in row and row != _OTHERS
        if is_word:
            _check.word("table", row)
        elif row != _OTHERS and _PATH.fullmatch(row) is None:
            raise ValueError(
                f"table: {row!r} is no path of a method: /package.Service/Method, "
                "/package.Service/*, or *"
            )
        if isinstance(names, str) or not isinstance(names, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type(f"table[{row!r}]", names, "a collection of groups")
        each = tuple(names)
        for name in each:
            _check.text(f"table[{row!r}]", name)
        (words if is_word else paths)[row] = frozenset(each)
    return Permissions(paths, words)
