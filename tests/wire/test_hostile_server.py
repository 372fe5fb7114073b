"""Servers that send what they like: the client lives, counts, and no other call is touched."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import zmq
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop, gather
from tests.wire.bare import field, string_value
from tests.wire.vectors import frames_of, read
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    RpcError,
    Server,
    Unavailable,
    Unknown,
)
from txzmq.testing._leftovers import leftovers


class Asked(NamedTuple):
    """A request, as the hostile server got it."""

    peer: bytes
    request_id: bytes
    body: bytes

    def reply(self, header: bytes = b"", body: bytes | None = None) -> list[bytes]:
        """A reply to it; as it should be, unless told otherwise."""
        return [self.request_id, b"", header, self.body if body is None else body]


class Hostile:
    """A bare ROUTER, a channel to it, and one to an honest server."""

    def __init__(self, loop: Loop, factory: ZmqFactory) -> None:
        self.loop = loop
        self.socket: zmq.Socket[bytes] = factory.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.channel = Channel(factory, f"tcp://127.0.0.1:{port}", timeout=20)
        self.cancels: list[Asked] = []
        self.server = Server(factory, [Echo()])
        self.honest = Channel(factory, self.server.listen("tcp://127.0.0.1:*"))

    def call(self, value: str = "x", timeout: float | None = None) -> Deferred[StringValue]:
        return self.channel.unary_unary(ECHO, text(value), timeout=timeout, wait_for_ready=True)

    async def asked(self) -> Asked:
        """The next request but for pings, which are answered, and Cancels, which are not."""
        while True:
            await self.loop.until(lambda: self.socket.poll(0))
            peer, request_id, empty, header, body = self.socket.recv_multipart()
            assert not empty
            if header.startswith(field(1, ECHO.path)):
                return Asked(peer, request_id, body)
            if header.startswith(field(1, "/txzmq.rpc.v1.Control/Ping")):
                self.socket.send_multipart([peer, request_id, b"", b"", b""])
                continue
            self.cancels.append(Asked(peer, request_id, body))

    async def ask(self, value: str = "x") -> tuple[Deferred[StringValue], Asked]:
        """A call of the client's, and its request."""
        call = self.call(value)
        return call, await self.asked()

    def send(self, asked: Asked, message: list[bytes]) -> None:
        self.socket.send_multipart([asked.peer, *message])

    async def answer(self, call: Deferred[StringValue], asked: Asked) -> None:
        """Answer a call well; what was sent before it has arrived then, too."""
        self.send(asked, asked.reply())
        assert string_value((await call).value) == asked.body

    async def calls_go_on(self) -> None:
        """Neither this server's nor another one's other calls have noticed anything."""
        for number in range(3):
            await self.answer(*await self.ask(str(number)))
            reply = await self.honest.unary_unary(ECHO, text(str(number)))
            assert reply.value == str(number)

    def waiting(self) -> list[str]:
        """Where the channel holds calls, or anything else that should have ended."""
        return leftovers(self.channel)


@asynccontextmanager
async def hostile(loop: Loop) -> AsyncGenerator[Hostile]:
    factory = ZmqFactory(loop.reactor)
    server = Hostile(loop, factory)
    try:
        yield server
    finally:
        server.channel.close()
        server.honest.close()
        await server.server.stop(0)
        server.socket.close()
        factory.shutdown()


#: What a scenario is: it gets a hostile server.
Scenario = Callable[[Hostile], Coroutine[Deferred[Any], Any, None]]


@pytest.fixture
def play(one_loop: Loop) -> Callable[[Scenario], None]:
    """Runs a scenario; afterwards other calls must go on, and none may be left."""

    def play(scenario: Scenario) -> None:
        async def main() -> None:
            async with hostile(one_loop) as server:
                await server.calls_go_on()
                await scenario(server)
                await server.calls_go_on()
                assert server.waiting() == []

        one_loop.run(main)

    return play


# -- replies that end their call ---------------------------------------------------------------


def pair(key: bytes, value: bytes) -> bytes:
    return field(2, field(1, key) + field(2, value))


#: By name: the header and, if it is not the request's, the body; what the call ends with.
BAD_REPLIES: dict[str, tuple[bytes, bytes | None, type[RpcError]]] = {
    "not a header": (b"\xff\xff\xff", None, Internal),
    "a header cut off": (field(1, field(1, 5) + field(2, "because"))[:-1], None, Internal),
    "a status that is none": (field(1, b"\xff"), None, Internal),
    "a message that is not UTF-8": (field(1, field(1, 5) + field(2, b"\xff")), None, Internal),
    "a header over the limit": (field(1000, b"h" * 65_536), None, Internal),
    "a header of megabytes": (field(1000, b"h" * 2**22), None, Internal),
    "metadata with a bad key": (pair(b"A", b"1"), None, Internal),
    "metadata with a bad value": (pair(b"a", b"\n"), None, Internal),
    "too much metadata": (pair(b"a", b"") * 1_025, None, Internal),
    "deep groups": (b"\x0b" * 60_000, None, Internal),
    "a body of another type": (b"", b"\xff", Internal),
    "a body that is not UTF-8": (b"", field(1, b"\xff"), Internal),
    "a body over the limit": (b"", string_value("x" * 2**22), ResourceExhausted),
    "an unknown code": (field(1, field(1, 99)), None, Unknown),
    "a code below zero": (field(1, field(1, 2**64 - 1)), None, Unknown),
    "an error with a body": (field(1, field(1, 5)), None, NotFound),
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_bad_reply_ends_its_call_and_no_other(
    play: Callable[[Scenario], None], name: str
) -> None:
    header, body, error = BAD_REPLIES[name]

    async def scenario(server: Hostile) -> None:
        victim, bystander = await server.ask("victim"), await server.ask("bystander")
        server.send(victim[1], victim[1].reply(header, body))
        with pytest.raises(error) as caught:
            await victim[0]
        assert caught.value.message.isprintable()
        await server.answer(*bystander)
        server.send(victim[1], victim[1].reply())  # the call has had its reply
        await server.calls_go_on()
        assert server.channel.counters["duplicate reply"] == 1

    play(scenario)


@pytest.mark.parametrize("frames", range(1, 12))
def test_a_reply_of_another_number_of_frames(play: Callable[[Scenario], None], frames: int) -> None:
    async def scenario(server: Hostile) -> None:
        victim, bystander = await server.ask("victim"), await server.ask("bystander")
        server.send(victim[1], (victim[1].reply() + [b"more"] * 10)[:frames])
        if frames == 4:
            assert (await victim[0]).value == "victim"
        else:
            with pytest.raises(Internal, match="4 parts"):
                await victim[0]
            assert server.channel.counters == {"malformed": 1}
        await server.answer(*bystander)

    play(scenario)


def test_each_malformed_reply_of_the_page(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Hostile) -> None:
        for vector in read("malformed-replies"):
            call, asked = await server.ask()
            frames = frames_of(vector)
            if vector["ends_the_call"]:
                server.send(asked, [asked.request_id, *frames[1:]])
                with pytest.raises(Internal):
                    await call
            else:
                server.send(asked, frames)
                await server.answer(call, asked)

    play(scenario)


# -- replies that nobody waits for -------------------------------------------------------------


def unasked(asked: Asked) -> list[list[bytes]]:
    """Messages that answer nothing."""
    choose = random.Random(1)
    own, later = asked.request_id, int.from_bytes(asked.request_id, "big")
    ids = [b"", b"x", own[:-1], own + b"\0", bytes(16), own[8:] + own[:8], b"i" * 2**20]
    # Of calls that were, and of those that the client makes next.
    ids += [(later + step).to_bytes(16, "big") for step in (-2, -1, 1, 2, 3, 1000)]
    messages = [[request_id, b"", b"", asked.body] for request_id in ids]
    messages += [[b""], [b"", b""], [b"", own], [b"", *asked.reply()], [b"peer", *asked.reply()]]
    messages += [[b""] * 200_000, [b"x"] * 1_000]
    for _ in range(1_000):
        parts = choose.choices([b"", b"\0", b"\xff" * 20, own[:8], asked.body], k=5)
        messages.append(parts[: choose.randrange(1, 6)])
    # A batch of nothing is nothing wrong.
    return [message for message in messages if message != [own[:8], b"", b""]]


def test_c1_c2_replies_that_nobody_waits_for_are_dropped_and_counted(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(server: Hostile) -> None:
        call, asked = await server.ask("asked")
        messages = unasked(asked)
        for message in messages:
            server.send(asked, message)
        await server.answer(call, asked)
        counters = server.channel.counters
        assert counters.total() == len(messages)
        assert set(counters) == {"duplicate reply", "unknown reply", "malformed"}

    play(scenario)


def test_c2_a_reply_counts_once(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Hostile) -> None:
        for number in range(100):
            call, asked = await server.ask(str(number))
            for _ in range(3):
                server.send(asked, asked.reply())
            server.send(asked, asked.reply(b"", string_value("forged")))
            assert (await call).value == str(number)
        last = await server.ask()
        await server.answer(*last)
        assert server.channel.counters == {"duplicate reply": 300}

    play(scenario)


def test_c1_late_replies_reach_nobody(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Hostile) -> None:
        late: list[Asked] = []
        for number in range(60):
            call = server.call(f"late {number}", timeout=5 if number % 2 else 0.02)
            late.append(await server.asked())
            if number % 2:
                call.cancel()
            with pytest.raises((CancelledError, DeadlineExceeded)):
                await call
        for asked in late:
            server.send(asked, asked.reply())
        # Whatever the client asks from here on gets its own answer, and none of those.
        waiting = [await server.ask(str(number)) for number in range(50)]
        random.Random(1).shuffle(waiting)
        for _, asked in waiting:
            server.send(asked, asked.reply())
        for call, asked in waiting:
            assert string_value((await call).value) == asked.body
        assert server.channel.counters["late reply"] == 60
        assert len(server.cancels) == 30
        for asked in server.cancels:
            server.send(asked, asked.reply(b"", b""))

    play(scenario)


def test_c2_a_reply_from_a_server_that_was_not_asked(one_loop: Loop) -> None:
    async def main() -> None:
        async with hostile(one_loop) as one, hostile(one_loop) as two:
            call, asked = await one.ask("mine")
            other, others = await two.ask("other")
            two.socket.send_multipart([others.peer, *asked.reply(b"", string_value("stolen"))])
            await two.answer(other, others)
            assert not call.called
            await one.answer(call, asked)
            assert two.channel.counters == {"unknown reply": 1}
            assert not one.channel.counters

    one_loop.run(main)


def test_c3_ids_grow_and_never_come_again(one_loop: Loop) -> None:
    async def main() -> None:
        async with hostile(one_loop) as server:
            ids: list[bytes] = []
            for _ in range(3):
                calls = [server.call(str(number)) for number in range(500)]
                asked = [await server.asked() for _ in calls]
                ids += [one.request_id for one in asked]
                for one in asked:
                    server.send(one, one.reply())
                await gather(list(calls))
            assert ids == sorted(set(ids))
            assert len({request_id[:8] for request_id in ids}) == 1

    one_loop.run(main)


# -- worse -------------------------------------------------------------------------------------


def test_l6_a_frame_over_the_sockets_limit_ends_the_calls_on_the_connection(
    one_loop: Loop,
) -> None:
    async def main() -> None:
        async with hostile(one_loop) as server:
            victim, bystander = await server.ask("victim"), await server.ask("bystander")
            server.send(victim[1], victim[1].reply(b"", b"x" * (5 * 2**20)))
            for call in (victim[0], bystander[0]):
                with pytest.raises(Unavailable, match="may have been executed"):
                    await call
            reply = await server.honest.unary_unary(ECHO, text("still there"))
            assert reply.value == "still there"
            assert server.waiting() == []

    one_loop.run(main)


def test_a_server_that_reads_nothing_ends_calls_by_their_deadline(one_loop: Loop) -> None:
    async def main() -> None:
        async with hostile(one_loop) as server:
            await server.calls_go_on()
            big = "x" * 100_000
            calls = [server.call(big, timeout=0.3) for _ in range(1_500)]
            late = 0
            for call in calls:
                with suppress(DeadlineExceeded):
                    await call
                    late -= 1
                late += 1
            assert late == len(calls)
            server.channel.close()  # which by then waits for a sign of life
            assert server.waiting() == []
            reply = await server.honest.unary_unary(ECHO, text("still there"))
            assert reply.value == "still there"

    one_loop.run(main)
