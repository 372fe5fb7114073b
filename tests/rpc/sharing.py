"""Shared streams for tests: by the publisher of a server, and by a multicast group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import PUBLISHER, TICKS, Reader, StreamWorld
from txzmq.rpc import Channel, Context, NotFound, ResponseStream, current_context


class Ticker:
    """Gives items when the test says so, and notes its runs."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.running = 0
        self.waiting: list[Deferred[int]] = []
        self.given = 0

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        self.runs.append(request.value)
        assert current_context() is context
        self.running += 1
        try:
            while True:
                self.waiting.append(Deferred(self.waiting.remove))
                for number in range(await self.waiting[-1]):
                    yield text(str(self.given + number))
                if self.given < 0:
                    raise NotFound("no more")
        finally:
            self.running -= 1

    def give(self, count: int = 1) -> None:
        """To each run."""
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(count)
        self.given += count

    def fail(self) -> None:
        self.given = -1
        self.give(0)


class World(StreamWorld):
    """As many channels as there are subscribers."""

    #: Where its server publishes what is shared.
    shared_at = PUBLISHER

    def __init__(self, ticker: Any, **options: Any) -> None:
        super().__init__(ticker, **options)
        self.channels = [self.channel]

    def another(self) -> Channel:
        self.channels.append(Channel(self.network, ADDRESS))
        return self.channels[-1]

    def watch(
        self, request: str = "x", *, channel: Channel | None = None, **options: Any
    ) -> ResponseStream[StringValue]:
        return (channel or self.channel).unary_stream(TICKS, text(request), **options)

    def subscribe(self, request: str = "x", **options: Any) -> Reader:
        reader = Reader(self.watch(request, **options))
        self.network.run()
        return reader

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        super().close()


Worlds = Callable[..., World]


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


GROUP = "epgm://239.192.1.1:5555"


class Group(World):
    """Its server sends shared streams to a group."""

    listening: ClassVar[dict[str, Any]] = {
        "multicast": "epgm://lo;239.192.1.1:5555",
        "insecure": True,
    }
    shared_at = GROUP

    def die(self) -> None:
        """With what it sent to the group."""
        super().die()
        self.network.die(GROUP)
