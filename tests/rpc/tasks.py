"""Calls in Tasks of asyncio's, over a network in memory that moves in turns of asyncio's loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, TICKS
from txzmq.rpc import (
    Channel,
    Context,
    Method,
    ResponseStream,
    Server,
    ServerInterceptor,
    Service,
)
from txzmq.testing import MemoryNetwork, assert_all_given_back

T = TypeVar("T")
SAY = Method("/test.Say/Say", "say", StringValue, StringValue)


class TaskWorld:
    """A server and a channel in memory, used in asyncio's loop; one handler for all methods."""

    def __init__(
        self,
        handler: Callable[..., Any],
        *,
        handlers: Literal["twisted", "asyncio"] = "asyncio",
        interceptors: Sequence[ServerInterceptor] = (),
        client_interceptors: Sequence[Any] = (),
        stream_window: int = 256,
        **server: Any,
    ) -> None:
        self.network = MemoryNetwork()
        self.service = Saying(handler)
        self.server = Server(
            self.network, [self.service], handlers=handlers, interceptors=interceptors, **server
        )
        self.server.listen(ADDRESS)
        self.channel = Channel(
            self.network, ADDRESS, interceptors=client_interceptors, stream_window=stream_window
        )
        self._loop = asyncio.get_running_loop()
        self._moving = self._loop.call_soon(self._move)

    def _move(self) -> None:
        self.network.run()
        self._moving = self._loop.call_soon(self._move)

    def say(self, value: str = "x", **options: Any) -> Deferred[StringValue]:
        return self.channel.unary_unary(SAY, text(value), **options)

    def count(self, value: object = 3, **options: Any) -> ResponseStream[StringValue]:
        return self.channel.unary_stream(COUNT, text(str(value)), **options)

    def ticks(self, value: object = 3, **options: Any) -> ResponseStream[StringValue]:
        return self.channel.unary_stream(TICKS, text(str(value)), **options)

    def collect(self, requests: Any, **options: Any) -> Deferred[StringValue]:
        return self.channel.stream_unary(COLLECT, requests, **options)

    def chat(self, requests: Any, **options: Any) -> ResponseStream[StringValue]:
        return self.channel.stream_stream(CHAT, requests, **options)

    async def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        self.channel.close()
        stopping = self.server.stop(0)
        await turns()
        self._moving.cancel()
        self.network.advance(3)
        await turns()
        assert stopping.called
        assert not self.network.clock.getDelayedCalls()
        assert_all_given_back(self.channel, self.server)


class Saying:
    """A service with a method of each kind, and one whose streams are shared."""

    __txzmq_service__: ClassVar[Service] = Service("test.Say", (SAY, COUNT, COLLECT, CHAT, TICKS))

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.handler = handler
        #: Of the calls that reached a handler.
        self.contexts: list[Context] = []

    def say(self, request: Any, context: Context) -> Any:
        self.contexts.append(context)
        return self.handler(request, context)

    count = collect = chat = ticks = say


async def turns(count: int = 20) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something holds; the test's own time limit bounds it."""
    while not condition():
        await asyncio.sleep(0)


def run_in_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    """Run a test in a loop of its own, in asyncio's debug mode; nothing may be left unretrieved."""
    complaints: list[dict[str, Any]] = []

    async def whole() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
        async with asyncio.timeout(30):
            return await main()

    with asyncio.Runner(debug=True) as runner:
        # What takes longer is no matter here.
        runner.get_loop().slow_callback_duration = 10
        result = runner.run(whole())
        gc.collect()  # what nobody has asked for complains when it is garbage
        runner.run(turns(1))
    assert complaints == []
    return result
