"""Clients that come back at once, and servers that come late."""

from __future__ import annotations

from typing import Any

import pytest
import zmq
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone

from tests.sockets.support import Echo, Silent, Turns, address_of, bind, connect, error_of
from tests.support import Loop
from txzmq import ZmqFactory, ZmqREQConnection, ZmqRequestTimeoutError


class Holding(ZmqREQConnection):
    holdUntilConnected = True


class Noting(Echo):
    """Keeps the parts of requests, and answers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[tuple[bytes, ...]] = []

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        self.seen.append(messageParts)
        super().gotMessage(messageId, *messageParts)


# -- the same identity again -----------------------------------------------------------------------


def test_a_client_with_an_identity_that_comes_back_at_once_is_heard(
    loop: Loop, factory: ZmqFactory, remote_address: str
) -> None:
    """Though libzmq may have its old connection still."""

    async def main() -> None:
        server = Echo(factory, bind(remote_address))
        for number in range(5):
            client = ZmqREQConnection(factory, connect(address_of(server)), b"me")
            assert await client.sendMsg(b"%d" % number, timeout=5) == [b"%d" % number]
            client.shutdown()
        factory.shutdown()

    loop.run(main)


# -- requests that nobody can take yet -------------------------------------------------------------


def outcome(deferred: Deferred[list[bytes]]) -> list[Any]:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def test_by_default_a_server_that_comes_late_gets_requests_that_have_timed_out(
    turns: Turns,
) -> None:
    """As with txZMQ, whose applications may count on it."""
    client = ZmqREQConnection(turns.factory, connect("inproc://late"))
    results = outcome(client.sendMsg(b"old", timeout=1))
    turns.reactor.advance(1)
    assert results[0].check(ZmqRequestTimeoutError)
    server = Silent(turns.factory, bind("inproc://late"))
    turns.settle()
    server.doRead()
    assert [parts for _, parts in server.requests] == [(b"old",)]


def test_held_back_a_request_that_has_timed_out_is_never_sent(
    loop: Loop, factory: ZmqFactory, remote_address: str
) -> None:
    async def main() -> None:
        address = free(remote_address)
        client = Holding(factory, connect(address))
        failed = [outcome(client.sendMsg(b"old", timeout=0.01)) for _ in range(20)]
        cancelled = client.sendMsg(b"cancelled")
        cancelled.addErrback(lambda _: None)
        cancelled.cancel()
        kept = [client.sendMsg(b"%d" % number, timeout=10) for number in range(3)]
        await loop.until(lambda: all(failed))
        assert all(isinstance(error_of(it), ZmqRequestTimeoutError) for (it,) in failed)
        server = await _bound(loop, factory, address)
        for number, reply in enumerate(kept):
            assert await reply == [b"%d" % number]
        assert await client.sendMsg(b"new", timeout=10) == [b"new"]
        assert server.seen == [(b"0",), (b"1",), (b"2",), (b"new",)]
        factory.shutdown()

    loop.run(main)


def free(address: str) -> str:
    """An address that was bound, and surely is not any more: the context waits for its sockets."""
    with zmq.Context() as context, context.socket(zmq.REP) as place:
        place.bind(address)
        return place.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


async def _bound(loop: Loop, factory: ZmqFactory, address: str) -> Noting:
    """A server at an address that has just been free; libzmq closes sockets in the background."""
    made: list[Noting] = []

    def bound() -> bool:
        try:
            made.append(Noting(factory, bind(address)))
        except zmq.ZMQError:
            return False
        return True

    await loop.until(bound)
    return made[0]


def test_what_is_held_back_fails_when_the_connection_is_shut_down(turns: Turns) -> None:
    client = Holding(turns.factory, connect("tcp://127.0.0.1:9"))
    results = outcome(client.sendMsg(b"x"))
    client.shutdown()
    assert isinstance(error_of(results[0]), ConnectionDone)
    with pytest.raises(zmq.ZMQError):
        client.sendMsg(b"y")


def test_what_is_held_back_is_checked_and_copied_at_the_call(turns: Turns) -> None:
    client = Holding(turns.factory, bind("inproc://held"))
    with pytest.raises(TypeError, match="must be bytes or str, not int"):
        client.sendMsg(5)  # type: ignore[arg-type]  # wrong on purpose
    part = bytearray(b"before")
    outcome(client.sendMsg(part))
    part[:] = b"after!"
    server = Silent(turns.factory, connect("inproc://held"))
    turns.settle()
    client.doRead()
    server.doRead()
    assert [parts for _, parts in server.requests] == [(b"before",)]
