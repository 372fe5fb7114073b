"""Connections that are made anew under load, on real sockets, with keys and without."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred, gatherResults

from tests.auth.support import ALICE, BOB, SERVER, knowing
from tests.rpc.raw import RawClient
from tests.rpc.service import ECHO, Echo, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.rpc.streaming import TICKS as SHARED_TICKS
from tests.rpc.trusted import Trusted, failure
from tests.support import PATIENCE, Logged, Loop
from txzmq import ZmqFactory
from txzmq.auth import ClientKeys, CurveKeyPair, CurveServerCredentials, Identity
from txzmq.rpc import (
    Channel,
    Context,
    Count,
    Server,
    ServerLimits,
    Service,
    Unauthenticated,
)
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.method import Sharing, StreamOptions

NEW = CurveKeyPair.generate()
# Fractions of what the test has: what is 0.2 s and 5 s here is five times as much on PyPy, whose
# first calls take long.
SHORT = ServerLimits(connection_age=PATIENCE / 150, connection_age_grace=PATIENCE / 6)
#: Keeps more items than a busy machine gives while a publisher is looked for.
TICKS: Final = dataclasses.replace(
    SHARED_TICKS, stream=StreamOptions(sharing=Sharing.SHARED, replay=10_000)
)


class Counting:
    """Serves all kinds of call, and counts how often each request is executed."""

    __txzmq_service__: ClassVar[Service] = Service(
        "test.Streaming", (ECHO, COUNT, COLLECT, CHAT, TICKS)
    )

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seen: Counter[str] = Counter()

    def echo(self, request: StringValue, context: Context) -> StringValue:
        self.seen[request.value] += 1
        return text(request.value)

    async def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.seen[request.value] += 1
        for number in range(5):
            yield text(f"{request.value} {number}")
            await self.loop.sleep(0.02)

    async def collect(self, requests: Any, context: Context) -> StringValue:
        items = [item.value async for item in requests]
        self.seen[items[0]] += 1
        return text(" ".join(items))

    async def chat(self, requests: Any, context: Context) -> AsyncIterator[StringValue]:
        first = True
        async for item in requests:
            self.seen[item.value] += first
            first = False
            yield item

    async def ticks(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        number = 0
        while True:
            yield text(str(number))
            number += 1
            await self.loop.sleep(0.01)


class Load:
    """Calls of all kinds by one channel, each checked, until it is enough."""

    def __init__(self, loop: Loop, channel: Channel, name: str) -> None:
        self.loop = loop
        self.channel = channel
        self.name = name
        self.made: list[str] = []
        self.numbers = itertools.count()
        self.ticks = 0
        self.enough = False

    def run(self) -> list[Deferred[None]]:
        kinds = [self._unary, self._unary, self._count, self._collect, self._chat]
        return [Deferred.fromCoroutine(self._repeat(kind)) for kind in kinds] + [
            Deferred.fromCoroutine(self._watch())
        ]

    async def _repeat(self, kind: Any) -> None:
        while not self.enough:
            await kind(self._value())

    def _value(self) -> str:
        """What no other call has."""
        self.made.append(f"{self.name} {next(self.numbers)}")
        return self.made[-1]

    async def _unary(self, value: str) -> None:
        values = [value, *(self._value() for _ in range(9))]
        calls = [self.channel.unary_unary(ECHO, text(each)) for each in values]
        assert [(await call).value for call in calls] == values

    async def _count(self, value: str) -> None:
        stream = self.channel.unary_stream(COUNT, text(value))
        assert [item.value async for item in stream] == [f"{value} {n}" for n in range(5)]

    async def _requests(self, value: str) -> AsyncIterator[StringValue]:
        for _ in range(5):
            yield text(value)
            await self.loop.sleep(0.02)

    async def _collect(self, value: str) -> None:
        answer = await self.channel.stream_unary(COLLECT, self._requests(value))
        assert answer.value == " ".join([value] * 5)

    async def _chat(self, value: str) -> None:
        stream = self.channel.stream_stream(CHAT, self._requests(value))
        assert [item.value async for item in stream] == [value] * 5

    async def _watch(self) -> None:
        """A shared stream that lasts all the time: nothing is missed."""
        last: int | None = None
        stream = self.channel.unary_stream(TICKS, text("x"))
        async for item in stream:
            assert last is None or int(item.value) == last + 1
            last = int(item.value)
            self.ticks += 1
            if self.enough:
                break
        stream.cancel()


async def loaded(loop: Loop, channels: list[Channel], service: Counting, server: Server) -> None:
    """Load until all connections were made anew many times, and what has to hold of it."""
    loads = [Load(loop, channel, str(number)) for number, channel in enumerate(channels)]
    runs = gatherResults([run for load in loads for run in load.run()], consumeErrors=True)
    ended: list[object] = []
    runs.addBoth(ended.append)

    def is_enough() -> bool:
        renewed = min(load.channel.counters[Count.CONNECTION_RENEWED] for load in loads)
        return renewed >= 6 and sum(len(load.made) for load in loads) >= 2_000

    await loop.until(lambda: ended or is_enough())
    # Any: a FirstError, whose failure is the one that says what is wrong.
    assert not ended, repr(cast("Any", ended[0]).value.subFailure.value)
    for load in loads:
        load.enough = True
    await loop.until(lambda: ended)
    assert isinstance(ended[0], list), repr(cast("Any", ended[0]).value.subFailure.value)
    made = [value for load in loads for value in load.made]
    assert service.seen == Counter(made)
    assert set(service.seen.values()) == {1}
    assert all(load.ticks > 10 for load in loads)
    assert server.counters[Count.CONNECTION_AGED] >= 6 * len(loads)
    assert server.counters[Count.CONNECTION_ENDED] == 0, "the clients have left by themselves"


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_no_call_of_any_kind_is_lost_or_made_twice(
    one_loop: Loop, tmp_path: Path, transport: str
) -> None:
    service = Counting(one_loop)
    tmp_path.chmod(0o700)
    address = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/socket"

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [service], limits=SHORT)
        endpoint = server.listen(address)
        channels = [Channel(factory, endpoint) for _ in range(5)]
        try:
            await loaded(one_loop, channels, service, server)
        finally:
            for channel in channels:
                channel.close()
            await server.stop(0)
            factory.shutdown()

    one_loop.run(main)


def test_the_same_with_keys(one_loop: Loop) -> None:
    service = Counting(one_loop)
    world = Trusted(one_loop, [service], limits=SHORT)

    async def main() -> None:
        channels = [world.channel(keys) for keys in (ALICE, ALICE, BOB)]
        await loaded(one_loop, channels, service, world.server)

    world.run(main)


def test_who_has_lost_the_key_is_not_let_in_again(one_loop: Loop, logged: Logged) -> None:
    """The function of clients is asked at each renewal: nobody has to tell the server."""
    asked: Counter[str] = Counter()
    known = {ALICE.public_key: "alice", BOB.public_key: "bob"}

    def clients(key: str, address: str) -> Identity | None:
        asked[key] += 1
        return Identity(known[key], key) if key in known else None

    world = Trusted(one_loop, [Echo()], clients=ClientKeys(clients), limits=SHORT)

    async def main() -> None:
        alice, bob = world.channel(ALICE), world.channel(BOB)
        for channel in (alice, bob):
            await channel.unary_unary(ECHO, text("x"))

        async def calls(channel: Channel, times: int) -> None:
            while asked[ALICE.public_key] < times:
                await channel.unary_unary(ECHO, text("x"))

        await calls(alice, 4)
        del known[ALICE.public_key]
        error: Any = None
        while error is None:
            try:
                await alice.unary_unary(ECHO, text("x"))
            except Unauthenticated as raised:
                error = raised
        assert isinstance(await failure(alice.unary_unary(ECHO, text("x"))), Unauthenticated)
        assert (await bob.unary_unary(ECHO, text("x"))).value == "x"
        assert alice.counters[Count.CONNECTION_RENEWED] >= 3
        await one_loop.until(lambda: logged)

    world.run(main)


def test_servers_with_different_keys_and_a_rule_that_fails_cost_no_call(
    one_loop: Loop, logged: Logged
) -> None:
    """In the middle of a rotation; the function of clients raises now and then."""
    asked = itertools.count(1)
    failed: list[int] = []

    def clients(key: str, address: str) -> Identity | None:
        number = next(asked)
        if number > 8 and number % 3 == 0:
            failed.append(number)
            raise ConnectionError("no database")
        return Identity("alice", key)

    service = Counting(one_loop)
    world = Trusted(one_loop, [service], clients=ClientKeys(clients), limits=SHORT)
    rotated = world.serve(CurveServerCredentials(NEW, world.credentials.clients))

    async def main() -> None:
        endpoints = [world.endpoint, rotated.listen("tcp://127.0.0.1:*")]
        channel = Channel(world.factory, endpoints, credentials=knowing(ALICE, SERVER, NEW))
        world.opened.append(channel)
        load = Load(one_loop, channel, "load")
        ended: list[object] = []
        runs = gatherResults(load.run(), consumeErrors=True)
        runs.addBoth(ended.append)
        await one_loop.until(
            lambda: ended or (channel.counters[Count.CONNECTION_RENEWED] > 8 and len(failed) > 2)
        )
        # Any: a FirstError, whose failure is the one that says what is wrong.
        assert not ended, repr(cast("Any", ended[0]).value.subFailure.value)
        load.enough = True
        await one_loop.until(lambda: ended)
        assert isinstance(ended[0], list), repr(cast("Any", ended[0]).value.subFailure.value)
        assert service.seen == Counter(load.made)
        assert set(service.seen.values()) == {1}

    world.run(main)


class Listening:
    """Hears a publisher, and never connects anew by itself (a ``SubscriberHandler``)."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def published(self, frame: bytes) -> None: ...

    def connected(self) -> None:
        self.events.append("connected")

    def disconnected(self) -> None:
        self.events.append("disconnected")

    def failed(self, reason: str) -> None:
        self.events.append(reason)

    def flush(self) -> None: ...

    def closed(self) -> None: ...


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_client_that_stays_is_ended(one_loop: Loop, tmp_path: Path, transport: str) -> None:
    """Its connections to both sockets: the one that it calls by, and the one that it hears by."""
    limits = ServerLimits(connection_age=0.1, connection_age_grace=0.1)
    tmp_path.chmod(0o700)
    address = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/socket"

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Counting(one_loop)], limits=limits)
        network = ZmqNetwork(factory)
        raw = RawClient(network, server.listen(address))
        # Any: there is no other place to look for where the streams are.
        (listener,) = cast("Any", server)._listeners
        listening = Listening()
        subscriber = network.subscribe(listener.publisher.endpoint, listening, {})
        subscriber.subscribe(b"topic")
        try:
            await one_loop.until(lambda: raw.events)
            raw.request(RequestHead(ECHO.path, None, ()), text("x").SerializeToString())
            await one_loop.until(lambda: "disconnected" in raw.events)
            assert raw.replies()[0][0].reconnect
            await one_loop.until(lambda: "disconnected" in listening.events)
            await one_loop.until(lambda: listening.events[-1] == "connected")
            await one_loop.until(lambda: server.counters[Count.CONNECTION_ENDED] >= 2)
        finally:
            raw.transport.close()
            subscriber.close()
            await server.stop(0)
            factory.shutdown()

    one_loop.run(main)
