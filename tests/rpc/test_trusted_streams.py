"""A stream is for whom it was opened; and what becomes of those who are revoked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from tests.auth.support import ALICE, BOB
from tests.rpc.service import ECHO, Waiting, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, TICKS, Endless, Reader, Streaming
from tests.rpc.trusted import Raw, Trusted, failure
from tests.support import Logged, Loop, error_of
from txzmq.rpc import ResourceExhausted, ServerLimits, StreamWriter, Unauthenticated
from txzmq.rpc._wire.control import ACKNOWLEDGE, CANCEL, CANCEL_STREAMS, REPLAY, SEND
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.rpc.v1.streams_pb2 import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    CancelStreamsRequest,
    Position,
    ReplayRequest,
    SendRequest,
)


def streams_of(world: Trusted) -> Any:
    """What the server has of streams; there is no other place to look."""
    server: Any = world.server
    return server._dispatcher.streams


def topics_of(world: Trusted) -> list[bytes]:
    return list(streams_of(world)._streams)


def listener_of(world: Trusted) -> Any:
    """As :func:`streams_of`: where it listens."""
    server: Any = world.server
    (listener,) = server._listeners
    return listener


def bundles_of(world: Trusted) -> list[bytes]:
    return list(listener_of(world).publisher._bundle_of)


async def give(loop: Loop, endless: Endless, readers: list[Reader]) -> None:
    """Give each reader three items, one after the other."""
    handlers = len(endless.waiting)
    for _ in range(3):
        endless.give()
        await loop.until(lambda: all(len(reader.items) == endless.given for reader in readers))
        await loop.until(lambda: len(endless.waiting) == handlers)


@pytest.mark.parametrize("method", [COUNT, TICKS], ids=["private", "shared"])
def test_a_topic_is_of_no_use_to_another_user(one_loop: Loop, method: Any) -> None:
    endless = Endless()
    world = Trusted(one_loop, [Streaming(endless)])

    async def main() -> None:
        alice = world.channel(ALICE)
        reader = Reader(alice.unary_stream(method, text("x")))
        await one_loop.until(lambda: endless.waiting)
        (topic,) = topics_of(world)
        thief = Raw(world, BOB)
        await thief.ready()
        await thief.subscribe(world.publisher, topic, b"")
        # What would end the stream, acknowledge it, or give it again.
        position = AcknowledgeRequest(positions=[Position(topic=topic, sequence=10**6)])
        head, body = await thief.ask(ACKNOWLEDGE, position)
        assert list(AcknowledgeResponse.FromString(body).unknown) == [topic]
        head, body = await thief.ask(REPLAY, ReplayRequest(topic=topic, sequence=1))
        assert (head.code.name, body) == ("NOT_FOUND", b"")
        head, _ = await thief.ask(CANCEL_STREAMS, CancelStreamsRequest(topics=[topic]))
        assert head.code.name == "OK"  # as of any that there is not
        await give(one_loop, endless, [reader])
        assert not thief.frames
        assert not reader.has_ended
        thief.close()
        reader.stream.cancel()

    world.run(main)


def test_a_bundle_is_for_whom_its_streams_are(one_loop: Loop) -> None:
    endless = Endless()
    world = Trusted(one_loop, [Streaming(endless)])

    async def main() -> None:
        alice = world.channel(ALICE)
        readers = [Reader(alice.unary_stream(COUNT, text(str(n)))) for n in range(3)]
        await one_loop.until(lambda: len(endless.waiting) == 3)
        (bundle,) = bundles_of(world)
        thief, owner = Raw(world, BOB), Raw(world, ALICE)
        for raw in (thief, owner):
            await raw.subscribe(world.publisher, bundle)
        await give(one_loop, endless, readers)
        assert not thief.frames
        assert owner.frames  # the test's way to look is good
        for raw in (thief, owner):
            raw.close()
        for reader in readers:
            reader.stream.cancel()

    world.run(main)


@pytest.mark.parametrize("method", [COLLECT, CHAT], ids=["collect", "chat"])
def test_nobody_else_sends_to_a_stream_of_requests(one_loop: Loop, method: Any) -> None:
    seen: list[str] = []

    async def collect(requests: Any, context: Any) -> Any:
        seen.extend([request.value async for request in requests])
        return text(",".join(seen))

    async def chat(requests: Any, context: Any) -> Any:
        yield await collect(requests, context)

    class Service(Streaming):
        def collect(self, request: Any, context: Any) -> Any:
            return collect(request, context)

        def chat(self, request: Any, context: Any) -> Any:
            return chat(request, context)

    world = Trusted(one_loop, [Service()])

    async def main() -> None:
        writer: StreamWriter[Any] = StreamWriter()
        channel = world.channel(ALICE)
        call: Any
        if method is COLLECT:
            call = channel.stream_unary(COLLECT, writer)
        else:
            call = Reader(channel.stream_stream(CHAT, writer))
        registry = streams_of(world)
        await one_loop.until(lambda: registry._requests)
        (id_,) = registry._requests
        thief = Raw(world, BOB)
        await thief.ready()
        forged = SendRequest(
            requests=id_, sequence=1, items=[text("forged").SerializeToString()], acknowledge=True
        )
        head, _ = await thief.ask(SEND, forged)
        assert head.code.name == "NOT_FOUND"
        writer.write(text("own"))
        writer.finish()
        await (call if method is COLLECT else call.done)
        assert seen == ["own"]
        thief.close()

    world.run(main)


def test_nobody_else_cancels_a_call(one_loop: Loop) -> None:
    service = Waiting()
    world = Trusted(one_loop, [service])

    async def main() -> None:
        call = world.channel(ALICE).unary_unary(ECHO, text("x"))
        await one_loop.until(lambda: service.results)
        (served,) = listener_of(world).wire.calls()
        thief = Raw(world, BOB)
        await thief.ready()
        head, _ = await thief.ask(CANCEL, CancelRequest(request_ids=[served.key[-1]]))
        assert head.code.name == "OK"
        service.results[0].callback(text("done"))
        assert (await call).value == "done"
        thief.close()

    world.run(main)


def test_the_same_user_may_go_on_with_another_connection(one_loop: Loop) -> None:
    """A stream is the user's, not the connection's: it outlives that."""
    endless = Endless()
    world = Trusted(one_loop, [Streaming(endless)])

    async def main() -> None:
        reader = Reader(world.channel(ALICE).unary_stream(COUNT, text("x")))
        await one_loop.until(lambda: endless.waiting)
        (topic,) = topics_of(world)
        other = Raw(world, ALICE)
        await other.ready()
        head, _ = await other.ask(REPLAY, ReplayRequest(topic=topic, sequence=1))
        assert head.code.name == "OK"
        reader.stream.cancel()
        other.close()

    world.run(main)


# -- revocation ------------------------------------------------------------------------------


def test_who_is_revoked_makes_no_call_any_more(one_loop: Loop, logged: Logged) -> None:
    service = Waiting()
    world = Trusted(one_loop, [service])

    async def main() -> None:
        channel = world.channel(ALICE)
        running = channel.unary_unary(ECHO, text("running"), timeout=5)
        others = world.channel(BOB).unary_unary(ECHO, text("bob's"), timeout=5)
        await one_loop.until(lambda: len(service.results) == 2)
        world.revoke(ALICE)
        error = await failure(running)
        assert type(error) is Unauthenticated
        assert error.message == "the client's key was revoked"
        error = await failure(channel.unary_unary(ECHO, text("next"), timeout=5))
        assert type(error) is Unauthenticated
        for seen, result in zip(service.seen, service.results, strict=True):
            if seen == "bob's" and not result.called:
                result.callback(text("done"))
        assert (await others).value == "done"

    world.run(main)
    assert set(service.seen) == {"running", "bob's"}


def test_a_private_stream_ends_when_its_user_is_revoked(one_loop: Loop, logged: Logged) -> None:
    endless = Endless()
    world = Trusted(one_loop, [Streaming(endless)])

    async def main() -> None:
        hers = Reader(world.channel(ALICE).unary_stream(COUNT, text("x")))
        his = Reader(world.channel(BOB).unary_stream(COUNT, text("x")))
        await one_loop.until(lambda: len(endless.waiting) == 2)
        endless.give()
        await one_loop.until(lambda: hers.items and his.items)
        await one_loop.until(lambda: len(endless.waiting) == 2)
        world.revoke(ALICE)
        await one_loop.until(lambda: endless.running == 1)
        assert endless.ends == ["the client's key was revoked"]
        endless.give()
        await one_loop.until(lambda: len(his.items) == 2)
        assert hers.items == ["1"]
        await one_loop.until(lambda: hers.has_ended)
        assert type(hers.ended) is Unauthenticated
        his.stream.cancel()
        hers.stream.cancel()

    world.run(main)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_revoked_subscriber_gets_nothing_more_and_others_miss_nothing(
    one_loop: Loop, logged: Logged, tmp_path: Path, transport: str
) -> None:
    endless = Endless()
    world = Trusted(one_loop, [Streaming(endless)])
    address = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/socket"}[transport]

    async def main() -> None:
        hers = Reader(world.channel(ALICE).unary_stream(TICKS, text("x")))
        his = Reader(world.channel(BOB).unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: endless.waiting)
        (topic,) = topics_of(world)
        # One who only subscribes, and says nothing else.
        silent = Raw(world, ALICE)
        await one_loop.until(lambda: len(streams_of(world).shared) == 2)
        await silent.subscribe(world.publisher, topic)
        while not (silent.frames and hers.items and his.items):
            endless.give()
            await one_loop.sleep(0.01)
        world.revoke(ALICE)
        await one_loop.until(lambda: "disconnected" in silent.events)
        frames, items = len(silent.frames), len(hers.items)
        for _ in range(20):
            await one_loop.until(lambda: endless.waiting)
            endless.give()
            await one_loop.sleep(0.01)
        await one_loop.until(lambda: his.items and his.items[-1] == str(endless.given))
        first = int(his.items[0])
        assert his.items == [str(number) for number in range(first, endless.given + 1)]
        assert len(silent.frames) == frames
        assert len(hers.items) == items
        # A subscription that comes anew is of no use, nor a connection.
        unknown = "the server does not know this client's key"
        await one_loop.until(lambda: unknown in silent.events)
        assert len(silent.frames) == frames
        await one_loop.until(lambda: hers.has_ended)
        assert type(hers.ended) is Unauthenticated
        his.stream.cancel()
        silent.close()

    world.run(main, address)


def test_a_shared_run_does_not_go_on_for_who_was_revoked(one_loop: Loop, logged: Logged) -> None:
    endless = Endless()
    limits = ServerLimits(stream_grace=0.2, stream_silence=0.5)
    world = Trusted(one_loop, [Streaming(endless)], limits=limits)

    async def main() -> None:
        hers = Reader(world.channel(ALICE).unary_stream(TICKS, text("x")))
        await one_loop.until(lambda: endless.waiting)
        endless.give()
        await one_loop.until(lambda: hers.items)
        world.revoke(ALICE)
        await one_loop.until(lambda: not endless.running)
        hers.stream.cancel()

    world.run(main)


# -- limits ----------------------------------------------------------------------------------


def test_all_connections_of_a_user_count_as_one(one_loop: Loop) -> None:
    service = Waiting()
    world = Trusted(one_loop, [service], limits=ServerLimits(running_per_peer=2, queued_per_peer=1))

    async def main() -> None:
        errors: list[object] = []

        def refused(failure: Failure) -> None:
            errors.append(error_of(failure))

        for _ in range(5):
            world.channel(ALICE).unary_unary(ECHO, text("hers")).addErrback(refused)
        # Two run, one waits.
        await one_loop.until(lambda: len(errors) == 2)
        assert {type(error) for error in errors} == {ResourceExhausted}
        assert service.seen == ["hers"] * 2
        bob = world.channel(BOB).unary_unary(ECHO, text("his"), timeout=5)
        await one_loop.until(lambda: len(service.results) == 3)  # he has his own
        service.results[2].callback(text("done"))
        assert (await bob).value == "done"
        service.results[0].callback(text("done"))
        await one_loop.until(lambda: len(service.results) == 4)
        for result in service.results[1::2]:
            result.callback(text("done"))

    world.run(main)
    assert len(service.seen) == 4


@pytest.mark.parametrize("method", [COUNT, TICKS], ids=["private", "shared"])
def test_the_streams_of_all_connections_of_a_user_count_as_one(one_loop: Loop, method: Any) -> None:
    endless = Endless()
    world = Trusted(one_loop, [Streaming(endless)], limits=ServerLimits(streams_per_peer=2))

    async def main() -> None:
        readers = [
            Reader(world.channel(ALICE).unary_stream(method, text(str(number))))
            for number in range(4)
        ]
        await one_loop.until(lambda: sum(reader.has_ended for reader in readers) == 2)
        refused = [reader.ended for reader in readers if reader.has_ended]
        assert {type(error) for error in refused} == {ResourceExhausted}
        await one_loop.until(lambda: endless.running == 2)
        his = Reader(world.channel(BOB).unary_stream(method, text("his")))
        await one_loop.until(lambda: endless.running == 3)
        for reader in (*readers, his):
            reader.stream.cancel()

    world.run(main)
