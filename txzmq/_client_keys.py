"""Which clients may connect: a mapping, a folder of certificates, or a function."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq import _certificates, _check
from txzmq._identity import Identity
from txzmq._ordered_set import OrderedSet

__all__ = ["ClientKeys", "KeyRule", "read_folder"]

_log = Logger()

#: Says who has a key, by the key and the address that the client connects from; None for nobody.
#: It may answer later, by a Deferred or as a coroutine.
KeyRule: TypeAlias = Callable[
    [str, str],
    Identity | Deferred[Identity | None] | Coroutine[Any, Any, Identity | None] | None,
]

#: Identities that a function has given are kept for so many keys.
_MOST_KEPT: Final = 65_536


class ClientKeys:
    """The keys of the clients that may connect, and who they are.

    ``len()`` tells for how many keys it is known who has them.
    """

    def __init__(
        self, source: Mapping[str, Identity | str] | str | os.PathLike[str] | KeyRule
    ) -> None:
        """
        :param source: a mapping of public keys to identities, or to names; or a folder with
            certificates, ``NAME.key``, whose metadata may have ``name`` and ``groups = "staff,
            admin"``; or a function of a public key and an address that returns an
            :class:`Identity`, None for nobody, or a Deferred or a coroutine of these. What it
            raises denies. Where it answers late, the answer to the newest question counts.
        :raises TypeError: if it is none of these.
        :raises ValueError: if what should be a key is none, or a file no certificate.
        :raises OSError: if the folder or a file cannot be read.
        """
        self._mapping: Mapping[str, Identity | str] | None = None
        self._folder: Path | None = None
        self._rule: Callable[[str, str], object] | None = None
        if isinstance(source, (str, os.PathLike)):
            self._folder = Path(os.fspath(source))
        elif isinstance(source, Mapping):
            self._mapping = source
        elif callable(source):
            _check.function("clients", source, ("key", "address"))
            self._rule = source
        else:
            raise _check.wrong_type("clients", source, "a mapping, a folder or a function")
        # By key: all of a mapping or a folder; of a function those that it was asked for.
        self._known: OrderedDict[str, Identity] = OrderedDict()
        self._addresses: dict[str, str] = {}
        # What the function was asked and has not answered, by key, the oldest first.
        self._numbers = itertools.count()
        self._asked: dict[str, list[int]] = {}
        self._watchers: OrderedSet[Callable[[frozenset[str]], None]] = OrderedSet()
        if self._rule is None:
            self._known = self._read()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, public_key: str) -> Identity | None:
        """Who has a key now; None for nobody."""
        identity = self._known.get(public_key)
        if identity is not None and self._rule is not None:
            self._known.move_to_end(public_key)  # who is connected and does something, stays
        return identity

    def when_revoked(self, callback: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        """Have *callback* called with the public keys that are nobody's any more, or another's.

        :return: a function that takes this back.
        :raises TypeError: if it is no function that takes them.
        """
        _check.function("callback", callback, ("keys",), awaited=False)
        self._watchers.add(callback)
        return lambda: self._watchers.discard(callback)

    # -- who may connect ---------------------------------------------------------------------

    def look_up(self, public_key: str, address: str) -> Deferred[Identity | None]:
        """Who has a key, when a client connects with it.

        :return: a Deferred; it fails where a function has raised, or has returned nonsense.
        """
        if self._rule is None:
            return succeed(self._known.get(public_key))
        return self._ask(public_key, address)

    def _ask(self, public_key: str, address: str) -> Deferred[Identity | None]:
        assert self._rule is not None, "there is a function"
        number = next(self._numbers)
        self._asked.setdefault(public_key, []).append(number)
        try:
            answer = self._rule(public_key, address)
        except BaseException:  # noqa: BLE001 - whatever a user's function raises denies
            answer = fail()
        if isinstance(answer, Coroutine):
            answer = Deferred.fromCoroutine(cast("Coroutine[Any, Any, object]", answer))
        asked = answer if isinstance(answer, Deferred) else succeed(answer)  # pyright: ignore[reportUnknownVariableType]  # a user's
        return asked.addBoth(self._answered, public_key, address, number)  # pyright: ignore[reportUnknownMemberType]  # as above

    def _is_newest(self, public_key: str, number: int) -> bool:
        """Whether an answer is the newest so far; those to older questions count no more."""
        numbers = self._asked.get(public_key, [])
        if number not in numbers:
            return False
        del numbers[: numbers.index(number) + 1]
        if not numbers:
            del self._asked[public_key]
        return True

    def _answered(
        self, answer: object, public_key: str, address: str, number: int
    ) -> Identity | Failure | None:
        if not self._is_newest(public_key, number):
            # Or who was revoked meanwhile would get in by an answer from before.
            return self._known.get(public_key)
        if isinstance(answer, Failure):
            return answer
        if answer is None:
            self._forget(public_key)
            return None
        if not isinstance(answer, Identity):
            what = "an Identity or None"
            raise _check.wrong_type("what the function of clients returns", answer, what)
        identity = _with_key(answer, public_key)
        before = self._known.get(public_key)
        self._known[public_key] = identity
        self._known.move_to_end(public_key)
        self._addresses[public_key] = address
        if len(self._known) > _MOST_KEPT:
            oldest, _ = self._known.popitem(last=False)
            self._addresses.pop(oldest, None)
        if before is not None and before.name != identity.name:
            self._tell({public_key})
        return identity

    def _forget(self, public_key: str) -> None:
        """A key is nobody's: if somebody had it, those are told who have let them in."""
        self._addresses.pop(public_key, None)
        if self._known.pop(public_key, None) is not None:
            self._tell({public_key})

    # -- what changes ------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the mapping or the folder again, or ask the function again for each known key.

        Who is not in it any more can do nothing from now on. If something is wrong with it, all
        stays as it was.

        :raises ValueError: if what should be a key is none, or a file no certificate.
        :raises OSError: if the folder or a file cannot be read.
        """
        if self._rule is None:
            self._change(self._read())
            return
        for key in list(self._known):
            self.look_again(key).addErrback(self._deny, key)

    def look_again(self, public_key: str) -> Deferred[Identity | None]:
        """Who has a key that is connected: a function is asked again.

        :return: as :meth:`look_up`. Where nobody has it any more, those of :meth:`when_revoked` are
            told.
        """
        return self.look_up(public_key, self._addresses.get(public_key, ""))

    def _deny(self, failure: object, public_key: str) -> None:
        _log.failure("the function of clients failed; the key is revoked", cast("Any", failure))
        self._forget(public_key)

    def _change(self, new: OrderedDict[str, Identity]) -> None:
        old, self._known = self._known, new
        revoked = {
            key for key, identity in old.items() if key not in new or new[key].name != identity.name
        }
        if revoked:
            self._tell(revoked)

    def _tell(self, revoked: Collection[str]) -> None:
        for callback in list(self._watchers):
            try:
                callback(frozenset(revoked))
            except Exception:  # noqa: BLE001 - a user's own; the others must be told too
                _log.failure("a callback of when_revoked() raised an exception")

    def _read(self) -> OrderedDict[str, Identity]:
        if self._folder is not None:
            return OrderedDict((each.public_key, each) for each in read_folder(self._folder))
        assert self._mapping is not None, "functions are asked"
        return OrderedDict(self._of_mapping(self._mapping))

    @staticmethod
    def _of_mapping(mapping: Mapping[str, Identity | str]) -> Iterable[tuple[str, Identity]]:
        for key, value in mapping.items():
            checked = _certificates.check_key("a key of clients", key)
            if isinstance(value, str):
                yield checked, Identity(value, checked)
            elif isinstance(value, Identity):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
                yield checked, _with_key(value, checked)
            else:
                raise _check.wrong_type("a value of clients", value, "an Identity or a name")


def read_folder(folder: Path) -> Iterator[Identity]:
    """Whom the certificates of a folder are of, ``NAME.key``, in the order of their names.

    :raises ValueError: if a file is no certificate, or two have the same key.
    :raises OSError: if the folder or a file cannot be read.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder of certificates")
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.key")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is no file")  # who reads a FIFO may wait for ever
        certificate = _certificates.read(path)
        other = files.setdefault(certificate.public_key, path)
        if other != path:
            raise ValueError(f"{other} and {path} have the same key; remove one of them")
        named = certificate.metadata.get("groups", "")
        groups = frozenset(group.strip() for group in named.split(",") if group.strip())
        name = certificate.metadata.get("name", "") or path.stem
        try:
            identity = Identity(name, certificate.public_key, groups)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        yield identity


def _with_key(identity: Identity, public_key: str) -> Identity:
    if identity.public_key == public_key:
        return identity
    return Identity(identity.name, public_key, identity.groups, identity.claims)
