"""Too much of everything: by the rows of reliability's table of load and resources."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Generator
from typing import Any

import pytest
import zmq

from tests.programs import running
from tests.rpc.service import ECHO, Echo, Waiting, text
from tests.support import Loop, gather
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server, SocketOptions
from txzmq.rpc._wire.headers import RequestHead, encode_request

ANY_PORT = "tcp://127.0.0.1:*"


@contextlib.contextmanager
def strangers(endpoint: str, count: int) -> Generator[list[socket.socket]]:
    """TCP connections that say nothing."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(count)
        ]


def request(number: int, value: str) -> list[bytes]:
    """A request in frames, from one source of ids."""
    id_ = b"epoch..." + number.to_bytes(8, "big")
    head = encode_request(RequestHead(ECHO.path, None, ()))
    return [id_, b"", head, text(value).SerializeToString()]


def test_l1_a_flood_of_requests_lets_others_have_their_turns(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    service = Echo()

    async def main() -> None:
        server = Server(factory, [service])
        busy, quiet = server.listen(ANY_PORT), server.listen(ANY_PORT)
        channel = Channel(factory, quiet)
        await channel.unary_unary(ECHO, text("x"))
        flood = factory.context.socket(zmq.DEALER)
        flood.set(zmq.SNDHWM, 0)
        flood.set(zmq.RCVHWM, 0)
        flood.connect(busy)
        for number in range(1, 20_001):
            flood.send_multipart(request(number, "flood"))
        await one_loop.until(lambda: service.seen.count("flood") > 100)
        most = 0
        for _ in range(10):
            before = len(service.seen)
            await channel.unary_unary(ECHO, text("y"), timeout=10)
            most = max(most, len(service.seen) - before)
        print(f"at most {most} requests of a flood before another client's call")
        assert most < 5_000
        flood.close(linger=0)
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_l7_a_message_of_very_many_frames_harms_nobody_else(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)

    async def main() -> None:
        server = Server(factory, [Echo()])
        endpoint = server.listen(ANY_PORT)
        channel = Channel(factory, endpoint)
        await channel.unary_unary(ECHO, text("x"))
        stranger = factory.context.socket(zmq.DEALER)
        stranger.connect(endpoint)
        stranger.send_multipart([b"x"] * 20_000)
        stranger.send_multipart([*request(1, "x"), *[b""] * 20_000])
        await one_loop.until(lambda: server.counters["malformed"] == 2)
        assert (await channel.unary_unary(ECHO, text("y"))).value == "y"
        stranger.close(linger=0)
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_l9_a_server_without_descriptors_serves_whom_it_has_and_recovers(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    with running("-m", "tests.field.small_server", ANY_PORT, "64") as server:
        endpoint = server.expect("listening at (.*)")[1]

        async def main() -> None:
            channel = Channel(factory, endpoint)
            await channel.unary_unary(ECHO, text("x"))
            with strangers(endpoint, 120):
                await one_loop.sleep(1)
                for number in range(20):
                    answer = await channel.unary_unary(ECHO, text(str(number)), timeout=5)
                    assert answer.value == str(number)
            began = time.monotonic()
            late = Channel(factory, endpoint)
            answer = await late.unary_unary(ECHO, text("late"), wait_for_ready=True, timeout=20)
            assert answer.value == "late"
            print(f"usable {time.monotonic() - began:.2f} s after the famine")
            channel.close()
            late.close()
            factory.shutdown()

        one_loop.run(main)
        assert server.terminate() == 0
        # A listener without descriptors tells of 30,000 failures a second, to those who ask.
        events = int(server.output[-1].split()[0])
        assert events < 1_000


def test_l10_who_connects_and_says_nothing_is_dropped(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    options = SocketOptions(handshake_timeout=0.5)

    async def main() -> None:
        server = Server(factory, [Echo()], socket_options=options)
        endpoint = server.listen(ANY_PORT)
        channel = Channel(factory, endpoint)
        with strangers(endpoint, 200) as idle:
            answers = [channel.unary_unary(ECHO, text("x"), timeout=10) for _ in range(100)]
            await gather(list(answers))
            for stranger in idle:
                stranger.setblocking(False)
            left = set(idle)

            def all_dropped() -> bool:
                for stranger in list(left):
                    with contextlib.suppress(BlockingIOError):
                        if not _read(stranger):
                            left.discard(stranger)
                return not left

            await one_loop.until(all_dropped)
        assert (await channel.unary_unary(ECHO, text("y"))).value == "y"
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def _read(stranger: socket.socket) -> bytes:
    try:
        return stranger.recv(1_000)
    except ConnectionResetError:
        return b""


def test_l11_two_peers_with_one_routing_id_never_get_each_others_replies(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    service = Waiting()

    async def main() -> None:
        server = Server(factory, [service])
        endpoint = server.listen(ANY_PORT)
        peers: list[Any] = []
        for name in ("victim", "thief"):
            peer: Any = factory.context.socket(zmq.DEALER)
            peer.set(zmq.ROUTING_ID, b"the same")
            peer.set(zmq.LINGER, 0)
            peer.connect(endpoint)
            peers.append(peer)
            peer.send_multipart(request(len(peers), name))
            if name == "victim":
                await one_loop.until(lambda: service.seen == ["victim"])
        await one_loop.sleep(0.3)
        assert service.seen == ["victim"], "the second is not heard while the first is there"
        service.results[0].callback(text("a secret"))
        victim, thief = peers
        await one_loop.until(lambda: bool(victim.poll(0)))
        assert b"a secret" in victim.recv_multipart()[-1]
        assert not thief.poll(200)
        victim.close()
        thief.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize("size", [100, 100_000])
def test_l2_a_client_that_does_not_read_is_bounded_and_others_go_on(
    one_loop: Loop, size: int
) -> None:
    class Sized(Echo):
        def echo(self, request: Any, context: Any) -> Any:
            return text("x" * size)

    factory = ZmqFactory(one_loop.reactor)
    options = SocketOptions(
        send_high_water_mark=10,
        send_budget=1_000_000,
        send_buffer=10_000,
        receive_buffer=10_000,
    )

    async def main() -> None:
        server = Server(factory, [Sized()], socket_options=options)
        endpoint = server.listen(ANY_PORT)
        deaf: Any = factory.context.socket(zmq.DEALER)
        deaf.set(zmq.RCVHWM, 1)
        deaf.set(zmq.RCVBUF, 10_000)
        deaf.connect(endpoint)
        for number in range(1, 1_001):
            deaf.send_multipart(request(number, "x"))
        channel = Channel(factory, endpoint)
        for _ in range(20):
            answer = await channel.unary_unary(ECHO, text("y"), timeout=10)
            assert len(answer.value) == size
        # All comes in the end, in order and whole, or as a short error where it was too much.
        got: list[list[bytes]] = []
        while len(got) < 1_000:
            while deaf.poll(0):
                got.append(deaf.recv_multipart())
            await one_loop.sleep(0)
        numbers = [int.from_bytes(message[0][8:], "big") for message in got]
        assert numbers == list(range(1, 1_001))
        assert all(len(message) == 4 for message in got)
        refused = [message for message in got if not message[3]]
        assert len(refused) == server.counters["reply over a slow client's backlog"]
        assert bool(refused) == (size > 1_000), "64 MiB is less than 100 MB"
        deaf.close(linger=0)
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)
