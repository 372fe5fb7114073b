"""A pair of CURVE keys, and the two files of it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import zmq

from txzmq import _certificates, _check

__all__ = ["PUBLIC_SUFFIX", "SECRET_SUFFIX", "CurveKeyPair"]

#: Of the names of files.
SECRET_SUFFIX: Final = ".key_secret"  # noqa: S105 - no password, but a name
PUBLIC_SUFFIX: Final = ".key"


class CurveKeyPair:
    """A secret key and its public one.

    :ivar public_key: to be given to others; 40 characters of Z85.
    """

    __slots__ = ("_secret", "public_key")

    def __init__(self, secret_key: str | bytes) -> None:
        """
        :param secret_key: 40 characters of Z85, or 32 bytes.
        :raises TypeError: if it is neither str nor bytes.
        :raises ValueError: if it is no key.
        """
        _needs_curve()
        self._secret = _certificates.check_key("secret_key", secret_key)
        self.public_key: str = zmq.curve_public(self._secret.encode()).decode()

    def __repr__(self) -> str:
        return f"CurveKeyPair(public_key={self.public_key!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key pair is secret and cannot be pickled; pass the path of its file")

    @property
    def secret_key(self) -> str:
        """The secret key, 40 characters of Z85."""
        return self._secret

    @classmethod
    def generate(cls) -> CurveKeyPair:
        """A new key pair, from the system's random numbers."""
        _needs_curve()
        _, secret = zmq.curve_keypair()
        return cls(secret)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_group: bool = False) -> CurveKeyPair:
        """Read a file with a secret key, ``NAME.key_secret``, of txzmq, pyzmq or CZMQ.

        :param allow_group: take a file, too, that its group can read, as Kubernetes' ``fsGroup``
            makes them.
        :raises OSError: if it cannot be read.
        :raises PermissionError: if everybody can read or write it, or its group can.
        :raises ValueError: if it has no secret key, or is no certificate.
        """
        _check.boolean("allow_group", allow_group)
        certificate = _certificates.read(path)
        if not certificate.secret_key:
            raise ValueError(
                f"{os.fspath(path)} has no secret key; that is in the file NAME{SECRET_SUFFIX}"
            )
        _check_mode(path, allow_group=allow_group)
        return cls(certificate.secret_key)

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write ``PATH.key_secret``, for its owner only, and ``PATH.key``, to be given to others.

        :param metadata: what the latter says besides, such as ``{"groups": "staff, admin"}``.
        :raises FileExistsError: if there is one of them; nothing is written then.
        """
        secret, public = _paths(path)
        for each in (secret, public):
            if os.path.lexists(each):
                raise FileExistsError(f"{each} is there already, and keys are never overwritten")
        _certificates.write(secret, self.public_key, self._secret, metadata)
        _certificates.write(public, self.public_key, "", metadata)


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    text = os.fspath(path)
    for suffix in (SECRET_SUFFIX, PUBLIC_SUFFIX):
        text = text.removesuffix(suffix)
    return Path(text + SECRET_SUFFIX), Path(text + PUBLIC_SUFFIX)


def _check_mode(path: str | os.PathLike[str], *, allow_group: bool) -> None:
    if sys.platform == "win32":
        return  # it has no such modes
    mode = os.stat(path).st_mode
    others = stat.S_IROTH | stat.S_IWOTH
    group = stat.S_IWGRP if allow_group else stat.S_IRGRP | stat.S_IWGRP
    if mode & (others | group):
        who = "everybody" if mode & others else "its group"
        hint = "" if mode & others or allow_group else ", or pass allow_group=True"
        raise PermissionError(
            f"{os.fspath(path)} has a secret key, and {who} can read or write it: "
            f"chmod 600 it{hint}"
        )


def _needs_curve() -> None:
    if not zmq.has("curve"):
        raise RuntimeError("this libzmq was built without CURVE; pyzmq's wheels have it")
