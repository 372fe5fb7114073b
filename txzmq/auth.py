"""Who may connect, and to whom: CURVE keys, and the identities of those who have them.

A server with :class:`CurveServerCredentials` lets in who has a key that it knows, and each call
says who makes it, ``context.identity``. A client with :class:`CurveClientCredentials` talks only to
a server that has the right key. All that goes over the connection is encrypted::

    keys = CurveKeyPair.load("server.key_secret")
    server = Server(factory, [Greeter()], credentials=CurveServerCredentials(keys, "clients/"))
    server.listen("tcp://0.0.0.0:5000")

    keys = CurveKeyPair.load("me.key_secret")
    credentials = CurveClientCredentials(keys, server_keys=[SERVER_KEY])
    channel = Channel(factory, "tcp://10.0.0.7:5000", credentials=credentials)

``python -m txzmq.auth new NAME`` makes keys. Their files are those of pyzmq and CZMQ.
"""

from __future__ import annotations

import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import zmq
from zmq.utils import z85

from txzmq import _certificates, _check
from txzmq._client_keys import ClientKeys, KeyRule
from txzmq._identity import Identity

__all__ = [
    "ClientKeys",
    "Credentials",
    "CurveClientCredentials",
    "CurveKeyPair",
    "CurveServerCredentials",
    "Domains",
    "Identity",
    "KeyRule",
]

_SECRET_SUFFIX: Final = ".key_secret"  # noqa: S105 - of the names of files
_PUBLIC_SUFFIX: Final = ".key"


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
        _check_mode(path, allow_group=allow_group)
        certificate = _certificates.read(path)
        if not certificate.secret_key:
            raise ValueError(
                f"{os.fspath(path)} has no secret key; that is in the file NAME{_SECRET_SUFFIX}"
            )
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
    for suffix in (_SECRET_SUFFIX, _PUBLIC_SUFFIX):
        text = text.removesuffix(suffix)
    return Path(text + _SECRET_SUFFIX), Path(text + _PUBLIC_SUFFIX)


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


class Domains(Protocol):
    """What a server's credentials need of a factory."""

    def domainOf(self, credentials: CurveServerCredentials, /) -> bytes:
        """The ZAP domain whose clients these credentials know; somebody answers for it."""
        ...


class Credentials(ABC):
    """What a socket proves who it is with, and asks of its peers; see the subclasses."""

    @abstractmethod
    def secure(self, socket: zmq.Socket[bytes], factory: Domains, server_key: int = 0) -> None:
        """Set the keys of a socket, before its first bind or connect.

        :param server_key: which of several keys the server is to have, a number from 0.
        :raises RuntimeError: if libzmq cannot promise what these ask for.
        """


def _set_key(socket: zmq.Socket[bytes], option: int, key: str) -> None:
    socket.set(option, bytes(z85.decode(key.encode())))


class CurveServerCredentials(Credentials):
    """A server's key, and who may connect.

    :ivar keys: of the server.
    :ivar clients: who may connect; ``clients.reload()`` reads it again.
    :ivar policy_timeout: seconds that a function of *clients* may take; then the client is refused.
    """

    def __init__(
        self,
        keys: CurveKeyPair,
        clients: ClientKeys | Mapping[str, Identity | str] | str | os.PathLike[str] | KeyRule,
        *,
        policy_timeout: float = 2.0,
    ) -> None:
        """
        :param clients: a :class:`ClientKeys`, or what one is made of: a mapping of public keys to
            identities or names, a folder of certificates, or a function.
        :raises TypeError: for a value of a wrong type.
        :raises ValueError: if what should be a key is none, or a file no certificate.
        :raises OSError: if the folder or a file cannot be read.
        """
        _check.instance("keys", keys, CurveKeyPair, "a CurveKeyPair")
        _check.number("policy_timeout", policy_timeout, above=True)
        self.keys = keys
        self.clients = clients if isinstance(clients, ClientKeys) else ClientKeys(clients)
        self.policy_timeout = policy_timeout

    def __repr__(self) -> str:
        return f"CurveServerCredentials({self.keys!r})"

    def secure(self, socket: zmq.Socket[bytes], factory: Domains, server_key: int = 0) -> None:
        """Have a socket let nobody in but these clients; see :class:`Credentials`."""
        domain = factory.domainOf(self)  # first: from here on, somebody decides
        socket.set(zmq.CURVE_SERVER, 1)
        _set_key(socket, zmq.CURVE_SECRETKEY, self.keys.secret_key)
        socket.set(zmq.ZAP_DOMAIN, domain)
        try:
            socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
            enforced = socket.get(zmq.ZAP_ENFORCE_DOMAIN)
        except zmq.ZMQError:
            enforced = 0
        if enforced != 1:
            # Without it, CURVE lets everybody in while nobody answers libzmq's questions.
            raise RuntimeError(
                "this libzmq has no ZMQ_ZAP_ENFORCE_DOMAIN, without which a server cannot be sure "
                "that strangers stay out; pyzmq's wheels have it"
            )


class CurveClientCredentials(Credentials):
    """A client's key, and those of the servers that it talks to.

    :ivar keys: of the client.
    :ivar server_keys: any of which the server may have. They are tried in turn, so that a server
        can get another key; the current one belongs first.
    """

    def __init__(self, keys: CurveKeyPair, *, server_keys: Iterable[str | bytes]) -> None:
        """
        :param server_keys: one public key or more.
        :raises TypeError: for a value of a wrong type.
        :raises ValueError: if there is none, or what should be a key is none.
        """
        _check.instance("keys", keys, CurveKeyPair, "a CurveKeyPair")
        given: object = server_keys
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type("server_keys", given, "a sequence of public keys")
        self.keys = keys
        self.server_keys: Sequence[str] = tuple(
            _certificates.check_key("server_keys", key) for key in server_keys
        )
        if not self.server_keys:
            raise ValueError("server_keys must have one public key or more")

    def secure(self, socket: zmq.Socket[bytes], factory: Domains, server_key: int = 0) -> None:
        """Have a socket talk to such a server only; see :class:`Credentials`."""
        _set_key(socket, zmq.CURVE_SERVERKEY, self.server_keys[server_key])
        _set_key(socket, zmq.CURVE_PUBLICKEY, self.keys.public_key)
        _set_key(socket, zmq.CURVE_SECRETKEY, self.keys.secret_key)

    def __repr__(self) -> str:
        return f"CurveClientCredentials({self.keys!r}, server_keys={list(self.server_keys)!r})"
