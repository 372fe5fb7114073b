"""Who has authenticated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from txzmq import _check

__all__ = ["ANYBODY", "AUTHENTICATED", "Identity", "is_among", "key_of", "user_of"]

#: In tables of permissions, in place of groups: whoever has authenticated; and everybody.
AUTHENTICATED: Final = "*"
ANYBODY: Final = "anybody"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who has authenticated, as the server knows them.

    :ivar name: for people, logs and limits: all keys of one name are one user.
    :ivar public_key: the CURVE key, 40 characters of Z85; empty if there is none.
    :ivar groups: the groups that the user is in; any iterable of str is taken.
    :ivar claims: what else is known, such as the claims of a token.
    """

    name: str
    public_key: str = ""
    groups: frozenset[str] = frozenset()
    #: Any: claims are JSON.
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    def __post_init__(self) -> None:
        """
        :raises TypeError: for a value of a wrong type.
        :raises ValueError: if the name is empty, or has half a character, as names of files may.
        """
        _check.text("name", self.name)
        if not _is_utf8(self.name):
            raise ValueError("name must be text of UTF-8, and has half a character")
        _check.text("public_key", self.public_key, empty=True)
        groups: object = self.groups
        if isinstance(groups, str) or not isinstance(groups, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type("groups", groups, "a collection of str")
        # Frozen: this is its own value in one form, set before anybody sees it. First a tuple, as
        # what cannot be hashed is no text either, and an iterator can be read once.
        each = tuple(self.groups)
        for group in each:
            _check.text("groups", group)
        object.__setattr__(self, "groups", frozenset(each))
        if not isinstance(self.claims, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type("claims", self.claims, "a mapping")
        object.__setattr__(self, "claims", MappingProxyType(dict(self.claims)))

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash((self.name, self.public_key))


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_of(identity: Identity | None) -> str:
    """Whose a call is: the name; empty where nobody has authenticated."""
    return "" if identity is None else identity.name


def key_of(identity: Identity | None) -> str:
    """The key that somebody has authenticated with; empty where nobody has."""
    return "" if identity is None else identity.public_key


def is_among(identity: Identity | None, groups: frozenset[str]) -> bool:
    """Whether somebody is in one of the groups of a table of permissions."""
    if identity is None:
        return ANYBODY in groups
    if AUTHENTICATED in groups or ANYBODY in groups:
        return True
    return not groups.isdisjoint(identity.groups)
