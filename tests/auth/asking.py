"""Asks a factory whether clients may connect, in libzmq's place."""

from __future__ import annotations

from typing import Any

import zmq
from zmq.utils import z85

from tests.auth.support import CLIENTS, serving
from tests.sockets.support import Turns
from txzmq import _zap


class Asking:
    """Asks a factory's handler as libzmq does."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        #: What keeps all credentials.
        self.kept: list[Any] = []
        self.socket: Any = None  # Any: pyzmq's types of sockets are wide

    def domain(self, clients: Any = CLIENTS, **options: Any) -> bytes:
        """Credentials; libzmq asks for them by this name."""
        self.credentials = serving(clients, **options)
        self.kept.append(self.credentials)
        return self.turns.factory.domainOf(self.credentials)

    def ask(
        self,
        domain: bytes,
        *credentials: bytes,
        number: bytes = b"1",
        mechanism: bytes = b"CURVE",
        version: bytes = b"1.0",
        place: bytes = b"10.0.0.1",
    ) -> None:
        parts = (version, number, domain, place, b"", mechanism, *credentials)
        self.send(b"", *parts)

    def send(self, *parts: bytes) -> None:
        if self.socket is None:
            self.socket = self.turns.raw(zmq.DEALER, _zap.ADDRESS)
        self.socket.send_multipart(parts)
        self.settle()

    def settle(self) -> None:
        """Have the handler read."""
        authenticator: Any = self.turns.factory
        authenticator._authenticator.doRead()
        self.turns.settle()

    def answers(self) -> list[tuple[bytes, ...]]:
        """Number, code, text and user of each answer since the last time."""
        found: list[tuple[bytes, ...]] = []
        while self.socket.poll(0):
            empty, version, *rest, metadata = self.socket.recv_multipart()
            assert (empty, version, metadata) == (b"", b"1.0", b"")
            found.append(tuple(rest))
        return found

    def decide(self, domain: bytes, *credentials: bytes, **options: bytes) -> list[bytes]:
        """Code, text and user of the answer; empty if there is none."""
        self.ask(domain, *credentials, **options)
        answers = self.answers()
        assert len(answers) < 2
        return list(answers[0][1:]) if answers else []


def key(pair: Any) -> bytes:
    return bytes(z85.decode(pair.public_key.encode()))
