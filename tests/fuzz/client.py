"""Scripts of what a server sends to a channel that has calls and streams, over wires in memory.

A script plays the server, and what the caller does. Ids that the channel has chosen are random, so
a script names them by words of the same length, such as ``<the request 00>``.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.fuzz.mutators import Step, read_steps
from tests.fuzz.server import check_log
from tests.fuzz.wire import WORDS, expect, fields, of_corpus, scripts
from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, PUBLISHER, RESUME, TICKS, Reader, texts
from tests.support import captured_log, error_of
from txzmq._identity import Identity
from txzmq._ids import EPOCH_SIZE, ID_SIZE
from txzmq.rpc import Channel, RpcError, Server
from txzmq.rpc._core.transport import SubscriberConnection
from txzmq.testing import MemoryNetwork
from txzmq.testing._leftovers import leftovers

#: What may happen; another number means what is left of it after division.
REPLY, PUBLISH, CALL, STREAM, COLLECTS, CHATS, CANCEL, CUT, PASS = range(9)
KINDS: Final = 9
#: The topics that scripts give to streams.
TOPICS: Final = (b"the first topic.", b"the second topic", b"the bundle topic")
GOOD: Final = "inproc://good"


def request(number: int) -> bytes:
    """What stands for the id of a request, in scripts."""
    return b"<the request %02d>" % number


#: What stands for the first half of the ids.
EPOCH: Final = b"<epoch.>"
CLIENT_WORDS: Final = (
    *WORDS,
    *map(request, range(4)),
    EPOCH,
    *TOPICS,
    *(t + b"\0" for t in TOPICS),
)


class World:
    """A channel, what is scripted in place of its server, and a good server with a channel."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.transport = self.network.listen(ADDRESS, self, {})
        self.publisher = self.network.publish(PUBLISHER, self, {})
        self.channel = Channel(self.network, ADDRESS)
        self.server = Server(self.network, [Echo()])
        self.server.listen(GOOD)
        self.good = Channel(self.network, GOOD)
        self.peer = b""
        self.ids: list[bytes] = []
        self.calls: list[Deferred[Any]] = []
        #: How calls and streams have ended.
        self.ends: list[object] = []
        self.readers: list[Reader] = []
        self.network.run()

    def play(self, step: Step) -> None:
        """Have one thing happen."""
        frames = [self._meant(frame) for frame in step.frames]
        what = step.what % KINDS
        if what == REPLY and self.peer:
            self.transport.send_message([self.peer, *frames])
        elif what == PUBLISH:
            for frame in frames:
                self.publisher.publish(frame)
        elif what == CALL:
            self._note(self.channel.unary_unary(ECHO, text("x"), timeout=20))
        elif what == STREAM:
            method = (COUNT, TICKS, RESUME)[len(frames) % 3]
            self.readers.append(Reader(self.channel.unary_stream(method, text("x"), timeout=30)))
        elif what == COLLECTS:
            self._note(self.channel.stream_unary(COLLECT, texts(3), timeout=20))
        elif what == CHATS:
            self.readers.append(Reader(self.channel.stream_stream(CHAT, texts(3), timeout=20)))
        elif what == CANCEL and self.calls:
            self.calls[-1].cancel()
        elif what == CUT:
            self.network.cut(PUBLISHER if frames else ADDRESS)
        elif what == PASS:
            self.network.advance(sum(map(len, frames)) % 50 / 10)
        self.network.run()

    def _note(self, call: Deferred[Any]) -> None:
        call.addBoth(self.ends.append)
        self.calls.append(call)

    def _meant(self, frame: bytes) -> bytes:
        if b"<" in frame:
            for number, real in enumerate(self.ids[:20]):
                frame = frame.replace(request(number), real)
            if self.ids:
                frame = frame.replace(EPOCH, self.ids[-1][:EPOCH_SIZE])
        return frame

    # -- as a server ---------------------------------------------------------------------------

    def received(self, message: list[bytes]) -> None:
        self.peer = message[0]
        if len(message[1]) == ID_SIZE:
            self.ids.append(message[1])

    def peer_lost(self, peer: bytes) -> None: ...

    def allows(
        self, tag: bytes, connection: SubscriberConnection | None, identity: Identity | None
    ) -> bool:
        return True

    def subscribed(self, tag: bytes) -> None: ...

    def unsubscribed(self, tag: bytes, connection: SubscriberConnection | None) -> None: ...

    def end_connections(self, keys: Collection[str]) -> None: ...

    def flush(self) -> None: ...

    def closed(self) -> None: ...

    # -- the end -------------------------------------------------------------------------------

    def serves(self) -> None:
        """Calls by another channel end well."""
        call = self.good.unary_unary(ECHO, text("good"), timeout=30)
        expect(self.network.result(call).value == "good", "another reply")

    def close(self) -> None:
        """Every call and stream has ended in one of the ways that there are; nothing is left."""
        self.network.advance(40)  # past all deadlines
        expect(len(self.ends) == len(self.calls), "a call has not ended at its deadline")
        self.channel.close()
        self.network.advance(1)
        for end in self.ends:
            if isinstance(end, Failure):
                error = error_of(end)
                expect(_is_an_end(error), f"a call has ended with {error!r}")
        for reader in self.readers:
            expect(reader.has_ended, "a stream has not ended")
            how = reader.ended
            expect(how == "well" or _is_an_end(how), f"a stream has ended with {how!r}")
        self.good.close()
        stopped = self.server.stop(0)
        self.transport.close()
        self.publisher.close()
        self.network.advance(5)
        expect(stopped.called, "the server has not stopped")
        left = leftovers(self.channel, self.good, self.server)
        expect(left == [], f"left: {left}")
        timers = self.network.clock.getDelayedCalls()
        expect(not timers, f"timers are left: {timers}")


def _is_an_end(error: object) -> bool:
    return isinstance(error, (RpcError, CancelledError)) and str(error).isprintable()


def check_client(data: bytes) -> None:
    """Whatever a server sends, calls end as they may, and other channels do not notice."""
    with captured_log() as logged:
        world = World()
        for step in read_steps(data):
            world.play(step)
        world.serves()
        world.close()
    check_log(logged)


def _frame(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.choice(CLIENT_WORDS)
    if data[16:17] == b"\0" and chance.random() < 0.8:
        return data[:17] + fields(data[17:], chance)
    return fields(data, chance)


TARGETS: Final = {
    "client": of_corpus("client", scripts("client", KINDS, _frame), check_client),
}
