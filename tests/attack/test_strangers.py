"""Raw peers at a server with credentials: none gets in, and a healthy client is served."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from tests.auth.support import ALICE, BOB, SERVER, STRANGER
from tests.rpc.service import ECHO, Echo, Waiting, text
from tests.rpc.streaming import COUNT, TICKS, Endless, Reader, Streaming
from tests.rpc.trusted import Raw, Trusted
from tests.sockets.support import raw_sockets, send_if_connected
from tests.support import Logged, Loop
from txzmq._ids import new_epoch, request_id
from txzmq.auth import CurveKeyPair
from txzmq.rpc import Code
from txzmq.rpc._wire.control import CANCEL
from txzmq.rpc._wire.headers import RequestHead, encode_request
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.v1.control_pb2 import CancelRequest

#: ZMTP 3.1's signature and version, with which a handshake begins.
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x01"


@pytest.fixture
def attack() -> Iterator[Callable[..., Any]]:
    """Makes the attackers' sockets. Any: pyzmq's types of sockets are wide."""
    with raw_sockets() as make:
        yield make


def curve(keys: CurveKeyPair, server: CurveKeyPair = SERVER) -> dict[str, bytes]:
    return {
        "CURVE_SERVERKEY": server.public_key.encode(),
        "CURVE_PUBLICKEY": keys.public_key.encode(),
        "CURVE_SECRETKEY": keys.secret_key.encode(),
    }


#: What attackers set.
MECHANISMS: dict[str, dict[str, bytes]] = {
    "NULL": {},
    "PLAIN": {"PLAIN_USERNAME": b"alice", "PLAIN_PASSWORD": b"s3cret"},
    "unknown key": curve(STRANGER),
    "wrong key of the server": curve(ALICE, STRANGER),
    "a public key without its secret": {
        **curve(STRANGER),
        "CURVE_PUBLICKEY": ALICE.public_key.encode(),
    },
}


def request(epoch: bytes, number: int = 1) -> list[bytes]:
    header = encode_request(RequestHead(ECHO.path, None, ()))
    return [request_id(epoch, number), b"", header, text("attack").SerializeToString()]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_stranger_gets_a_message_in_or_out(
    one_loop: Loop, logged: Logged, attack: Any, mechanism: str
) -> None:
    echo, endless = Echo(), Endless()
    world = Trusted(one_loop, [echo, Streaming(endless)])

    async def main() -> None:
        channel = world.channel()
        reader = Reader(channel.unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: endless.waiting)
        server: Any = world.server
        (topic,) = server._dispatcher.streams._streams
        dealer = attack(zmq.DEALER, world.endpoint, **MECHANISMS[mechanism])
        sub = attack(zmq.SUB, world.publisher, **MECHANISMS[mechanism])
        sub.subscribe(b"")
        sub.subscribe(topic + SEPARATOR)
        send_if_connected(dealer, request(new_epoch()))
        for _ in range(10):
            await one_loop.until(lambda: endless.waiting)
            endless.give()
            assert (await channel.unary_unary(ECHO, text("healthy"), timeout=5)).value == "healthy"
            await one_loop.sleep(0.03)
        assert not dealer.poll(0)
        assert not sub.poll(0)
        assert reader.items
        reader.stream.cancel()

    world.run(main)
    assert set(echo.seen) == {"healthy"}
    assert "s3cret" not in repr(list(logged))


def test_who_was_revoked_gets_nothing_with_the_connections_that_there_are(
    one_loop: Loop, logged: Logged, attack: Any
) -> None:
    echo = Echo()
    world = Trusted(one_loop, [echo])

    async def main() -> None:
        epoch = new_epoch()
        dealer = attack(zmq.DEALER, world.endpoint, **curve(ALICE))
        dealer.send_multipart(request(epoch))
        await one_loop.until(lambda: dealer.poll(0))
        dealer.recv_multipart()
        world.revoke(ALICE)
        dealer.send_multipart(request(epoch, 2))
        await one_loop.until(lambda: dealer.poll(0))
        assert b"does not know who calls" in b"".join(dealer.recv_multipart())

    world.run(main)
    assert len(echo.seen) == 1


def test_whoever_takes_anothers_routing_id_gets_no_reply_of_his(
    one_loop: Loop, logged: Logged, attack: Any
) -> None:
    """Not before the other has a call, not meanwhile, and the other notices nothing."""
    echo = Waiting()
    world = Trusted(one_loop, [echo])

    async def main() -> None:
        channel = world.channel()
        call = channel.unary_unary(ECHO, text("alice's"), timeout=5)
        await one_loop.until(lambda: echo.results)
        server: Any = world.server
        (routing_id,) = server._listeners[0].wire.peers
        thief = attack(zmq.DEALER, world.endpoint, ROUTING_ID=routing_id, **curve(BOB))
        for number in range(1, 20):
            thief.send_multipart(request(new_epoch(), number))
        await one_loop.sleep(0.2)
        for result in echo.results:
            result.callback(text("for alice"))
        assert (await call).value == "for alice"
        again = channel.unary_unary(ECHO, text("again"), timeout=5)
        await one_loop.until(lambda: echo.seen[-1] == "again")
        echo.results[-1].callback(text("again"))
        assert (await again).value == "again"
        while thief.poll(0):
            assert b"alice" not in b"".join(thief.recv_multipart())

    world.run(main)


def test_whoever_knows_anothers_request_id_cannot_end_the_call_nor_answer_for_it(
    one_loop: Loop, logged: Logged
) -> None:
    echo = Waiting()
    world = Trusted(one_loop, [echo])

    async def main() -> None:
        channel = world.channel()
        call = channel.unary_unary(ECHO, text("alice's"), timeout=5)
        await one_loop.until(lambda: echo.results)
        server: Any = world.server
        ((_, victim),) = [call.key for call in server._listeners[0].wire.calls()]
        bob = Raw(world, BOB)
        await bob.ready()
        head, _ = await bob.ask(CANCEL, CancelRequest(request_ids=[victim] * 3))
        assert head.code is Code.OK  # as for a call that there is not
        epoch, number = victim[:8], int.from_bytes(victim[8:], "big")
        bob.client.transport.send_message(request(epoch, number))
        await one_loop.until(lambda: len(echo.results) == 2)
        echo.results[1].callback(text("bob's"))
        await one_loop.until(lambda: bob.client.messages[-1][0] == victim)
        assert b"bob's" in bob.client.messages[-1][3]
        assert not call.called
        echo.results[0].callback(text("alice's"))
        assert (await call).value == "alice's"
        bob.close()

    world.run(main)


@pytest.mark.parametrize("first", [b"", GREETING, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64])
def test_half_open_connections_keep_nobody_out(
    one_loop: Loop, logged: Logged, first: bytes
) -> None:
    world = Trusted(one_loop, [Echo(), Streaming()])

    async def main() -> None:
        held: list[socket.socket] = []
        try:
            for address in (world.endpoint, world.publisher):
                host, _, port = address.removeprefix("tcp://").rpartition(":")
                for _ in range(100):
                    held.append(socket.create_connection((host, int(port))))
                    held[-1].sendall(first)
            channel = world.channel()
            for _ in range(20):
                await channel.unary_unary(ECHO, text("x"), timeout=5)
            reader = Reader(channel.unary_stream(COUNT, text("5"), timeout=5))
            await reader.done
            assert len(reader.items) == 5
        finally:
            for each in held:
                each.close()

    world.run(main)


def test_a_flood_of_handshakes_keeps_nobody_out(
    one_loop: Loop, logged: Logged, attack: Any
) -> None:
    """Two hundred strangers at once."""
    echo = Echo()
    world = Trusted(one_loop, [echo])

    async def main() -> None:
        channel = world.channel()
        await channel.unary_unary(ECHO, text("before"), timeout=5)
        for _ in range(200):
            options = {"RECONNECT_IVL": 50, "IMMEDIATE": 0, **curve(STRANGER)}
            send_if_connected(attack(zmq.DEALER, world.endpoint, **options), request(new_epoch()))
        took: list[float] = []
        for _ in range(50):
            start = one_loop.reactor.seconds()
            await channel.unary_unary(ECHO, text("x"), timeout=5)
            took.append(one_loop.reactor.seconds() - start)
        await world.channel().unary_unary(ECHO, text("new"), timeout=5)  # a new connection, too
        print(f"the slowest of 50 calls took {max(took) * 1000:.0f} ms")

    world.run(main)
    assert set(echo.seen) == {"before", "x", "new"}
