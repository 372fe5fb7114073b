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
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import zmq
from zmq.utils import z85

from txzmq import _certificates, _check
from txzmq._client_keys import ClientKeys, KeyRule
from txzmq._identity import Identity
from txzmq._key_pair import CurveKeyPair

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


if __name__ == "__main__":
    import sys

    from txzmq._auth_command import main

    sys.exit(main())
