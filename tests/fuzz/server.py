"""Scripts of what clients send to a server that has calls and streams, over wires in memory.

A script plays two clients, each with a connection for calls and one for streams. What a server told
them is random, so a script names it by words of the same length, such as ``<the topic no 0>``.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.fuzz.mutators import Step, read_steps
from tests.fuzz.wire import WORDS, expect, fields, of_corpus, scripts
from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import COUNT, PUBLISHER, Reader, Streaming, join
from tests.support import Logged, captured_log
from txzmq._ids import EPOCH_SIZE
from txzmq.rpc import Channel, Context, RequestStream, Server, ServerLimits
from txzmq.rpc._wire.batches import is_batch, unpack
from txzmq.rpc._wire.headers import decode_response
from txzmq.testing import MemoryNetwork
from txzmq.testing._leftovers import leftovers

#: Those of one client are small, so that scripts reach them; the others are served all the same.
LIMITS: Final = ServerLimits(
    running_per_peer=6,
    queued_per_peer=4,
    request_bytes_per_peer=50_000,
    metadata_size=500,
    max_timeout=60,
    streams_per_peer=5,
    subscribers=8,
    stream_window=20,
    stream_window_bytes=500,
    stray_subscriptions=12,
    stray_subscriptions_per_peer=6,
    stream_grace=1,
    stream_silence=4,
)
#: What may happen; another number means what is left of it after division.
SEND, SUBSCRIBE, UNSUBSCRIBE, CUT, PASS, STRANGER = range(6)
KINDS: Final = 6
#: Of a step, whose it is.
OTHER_CLIENT: Final = 0x80
#: What a server that runs may keep: its clients, and what is bounded and goes with the next one.
_STAYS: Final = (
    *(".wire._peers", "._control._pings"),
    *(".replies._kept", ".replies._shares", ".replies._heaviest"),
)
#: Lines of the log for one script; one whose clients break every rule makes fewer.
MOST_LINES: Final = 60


def topic(number: int) -> bytes:
    """What stands for a topic that the server has told, in scripts."""
    return b"<the topic no %d>" % number


def bundle(number: int) -> bytes:
    """What stands for the topic of a bundle."""
    return b"<bundle topic %d>" % number


#: What is put in place of fields: also what stands for topics.
SERVER_WORDS: Final = (*WORDS, *map(topic, range(4)), *map(bundle, range(2)), b"r" * 16)


class Services(Streaming):
    """Handlers of all kinds, which end well and by themselves."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(self._items)
        self._network = network

    def sleep(self) -> Deferred[None]:
        """A virtual second."""
        deferred: Deferred[None] = Deferred(lambda _: call.cancel())
        call: Any = self._network.clock.callLater(1, deferred.callback, None)
        return deferred

    async def _items(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        for number in range(len(request.value) % 8):
            if number % 3 == 2:
                await self.sleep()
            yield text(request.value[:40])

    def collect(self, request: Any, context: Context) -> Any:
        return join(request, context)

    async def chat(self, request: Any, context: Context) -> Any:
        requests: RequestStream[StringValue] = request
        async for each in requests:
            yield each


class Echoes(Echo):
    """Unary calls: one answers at once, one after a second."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services

    def note(self, request: StringValue, context: Context) -> None:
        """Keep nothing."""

    async def other(self, request: StringValue, context: Context) -> StringValue:
        await self._services.sleep()
        return text(request.value)

    def watch(self, request: StringValue, context: Context) -> list[StringValue]:
        return [request] * 3


class Client:
    """Sends what the script says, and notes topics that it is told (all handlers of a network)."""

    def __init__(self, network: MemoryNetwork, topics: list[bytes], bundles: list[bytes]) -> None:
        self._topics, self._bundles = topics, bundles
        self.calls = network.connect(ADDRESS, self, {})
        self.streams = network.subscribe(PUBLISHER, self, {})
        self.received_count = 0

    def received(self, message: list[bytes]) -> None:
        self.received_count += 1
        if is_batch(message):
            expect(len(message[0]) == EPOCH_SIZE, "a batch for no source")
            headers, messages = unpack(message[2])
            self._note([headers[index] for _, index, _ in messages])
        else:
            expect(len(message) >= 4, f"a reply of {len(message)} frames")
            self._note([message[-2]])

    def _note(self, headers: list[bytes]) -> None:
        for header in headers:
            head = decode_response(header)
            expect(head.message.isprintable(), f"a message {head.message!r}")
            if head.stream is not None:
                self._topics.append(head.stream.topic)
                if head.stream.bundle and head.stream.bundle not in self._bundles:
                    self._bundles.append(head.stream.bundle)

    def published(self, frame: bytes) -> None: ...

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def accepted(self, what: str) -> None: ...

    def unreachable(self, reason: str) -> None: ...

    def failed(self, reason: str) -> None: ...

    def refused(self, reason: str, *, is_last: bool) -> None: ...

    def flush(self) -> None: ...

    def closed(self) -> None: ...

    def close(self) -> None:
        self.calls.close()
        self.streams.close()


class World:
    """A server, a client that means well, and two that do not."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.services = Services(self.network)
        # Any: its parts are looked at.
        echoes = Echoes(self.services)
        self.server: Any = Server(self.network, [self.services, echoes], limits=LIMITS)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS)
        self.topics: list[bytes] = []
        self.bundles: list[bytes] = []
        self.clients = [Client(self.network, self.topics, self.bundles) for _ in range(2)]
        self.network.run()

    def play(self, step: Step) -> None:
        """Have one thing happen."""
        client = self.clients[bool(step.what & OTHER_CLIENT)]
        frames = [self._meant(frame) for frame in step.frames]
        what = (step.what & ~OTHER_CLIENT) % KINDS
        if what == SEND:
            client.calls.send_message(frames)
        elif what == SUBSCRIBE:
            for frame in frames:
                client.streams.subscribe(frame)
        elif what == UNSUBSCRIBE:
            for frame in frames:
                client.streams.unsubscribe(frame)
        elif what == CUT:
            (client.streams if frames else client.calls).cut()
        elif what == PASS:
            self.network.advance(sum(map(len, frames)) % 50 / 10)
        else:
            for frame in frames:
                self.network.unsubscribe_as_stranger(PUBLISHER, frame)
        self.network.run()

    def _meant(self, frame: bytes) -> bytes:
        if b"<" in frame:
            for number, real in enumerate(self.topics[:10]):
                frame = frame.replace(topic(number), real)
            for number, real in enumerate(self.bundles[:10]):
                frame = frame.replace(bundle(number), real)
        return frame

    def serves(self, value: str) -> None:
        """A call and a stream of somebody else end well."""
        reader = Reader(self.channel.unary_stream(COUNT, text("seven.."), timeout=30))
        reply = self.network.result(self.channel.unary_unary(ECHO, text(value), timeout=30))
        expect(reply.value == value, "another reply")
        self.network.advance(5)
        expect(reader.ended == "well", f"a stream has ended with {reader.ended!r}")
        expect(reader.items == ["seven.."] * 7, f"a stream had {reader.items}")

    def close(self) -> None:
        """All go, and nothing is left."""
        for client in self.clients:
            client.close()
        self.network.advance(90)  # limits of time pass, and kept replies are forgotten
        (listener,) = self.server._dispatcher._listeners  # there is no other place to look
        expect(len(listener.wire.peers) == 1, "clients that have gone are not forgotten")
        left = [each for each in leftovers(self.server) if not any(map(each.count, _STAYS))]
        expect(left == [], f"left with the server: {left}")
        self.serves("after")
        self.channel.close()
        stopped = self.server.stop(0)
        self.network.advance(5)
        expect(stopped.called, "the server has not stopped")
        left = leftovers(self.server, self.channel)
        expect(left == [], f"left: {left}")
        timers = self.network.clock.getDelayedCalls()
        expect(not timers, f"timers are left: {timers}")


def check_log(logged: Logged) -> None:
    """Nothing has failed, and the log is short."""
    for error in logged.failures():
        raise error
    expect(len(logged) <= MOST_LINES, f"{len(logged)} lines in the log")


def check_server(data: bytes) -> None:
    """Whatever clients send, others are served meanwhile, and nothing is left when all go."""
    with captured_log() as logged:
        world = World()
        steady = Reader(world.channel.unary_stream(COUNT, text("steady"), timeout=80))
        for step in read_steps(data):
            world.play(step)
        world.serves("during")
        world.network.advance(5)
        expect(steady.items == ["steady"] * 6, f"a stream had {steady.items}")
        world.close()
    check_log(logged)


def _frame(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.choice(SERVER_WORDS)
    return fields(data, chance)


TARGETS: Final = {
    "server": of_corpus("server", scripts("server", KINDS, _frame), check_server),
}
