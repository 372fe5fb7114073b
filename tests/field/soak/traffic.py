"""Calls of every kind, by a seed, from one process."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from tests.field.soak.history import CHAT, COLLECT, PRIVATE, SHARED, SINGLE, Call, History
from tests.field.soak.service import CHAT as CHAT_METHOD
from tests.field.soak.service import COLLECT as COLLECT_METHOD
from tests.field.soak.service import COUNT, ONCE, TICKS
from tests.field.soak.state import more, resources
from tests.rpc.leftovers import leftovers
from tests.rpc.service import text
from tests.support import Loop
from txzmq.rpc import Channel, ResponseStream, RpcError

#: Calls that are open at one time, at most.
_OPEN = 100
#: Seconds that most calls may take, and after which none may be open.
_TIMEOUT, _PATIENCE = 15.0, 40.0
_log = Logger()


class Traffic:
    """Makes calls on channels, two that stay and others that come and go.

    :ivar wrong: what did not hold, besides what the history says, each in a sentence.
    """

    def __init__(
        self, loop: Loop, seed: int, name: str, history: History, connect: Callable[[], Channel]
    ) -> None:
        """:param connect: makes a channel."""
        self._loop = loop
        self._random = random.Random(f"{seed} {name}")
        self._name = name
        self._history = history
        self._connect = connect
        self._channels = [connect(), connect()]
        self._open: dict[str, tuple[Call, Channel]] = {}
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> None:
        """Make calls for so long, then wait until all of them have ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(self._open) < _OPEN:
                self._begin()
            if self._random.random() < 0.01:
                self._replace()
            await self._loop.sleep(self._random.uniform(0, 0.03))
        patience = time.monotonic() + _PATIENCE
        while self._open and time.monotonic() < patience:
            await self._loop.sleep(0.05)

    def close(self) -> None:
        """Close all channels."""
        while self._channels:
            self._close(self._channels.pop())

    def _replace(self) -> None:
        """Close the channel that came last, or open another one."""
        if len(self._channels) > 2:
            self._close(self._channels.pop())
        else:
            self._channels.append(self._connect())

    def _close(self, channel: Channel) -> None:
        for call, its_channel in self._open.values():
            if its_channel is channel:
                call.cancelled = True
        channel.close()
        self.wrong += [f"{self._name}: a closed channel has {each}." for each in leftovers(channel)]

    def _begin(self) -> None:
        kind = self._random.choice([SINGLE, SINGLE, PRIVATE, SHARED, COLLECT, CHAT])
        name = f"{self._name}-{self._history.begun}"
        call = Call(name, kind, key=name)
        if kind != SINGLE:
            call.count = self._random.choice([1, 20, 300])
        if kind == SHARED:
            call.key = self._random.choice("abc")
            call.count = 200  # requests must be equal
            call.skips = self._random.random() < 0.5
        call.timeout = _TIMEOUT if self._random.random() < 0.8 else self._random.uniform(0.1, 2)
        channel = self._random.choice(self._channels)
        self._open[name] = call, channel
        self._history.begin(call)
        done = Deferred.fromCoroutine(self._make(call, channel))
        done.addErrback(lambda failure: _log.failure("a call of the soak", failure))

    async def _make(self, call: Call, channel: Channel) -> None:
        began = time.monotonic()
        cancelling: Any = None
        try:
            made = self._made(call, channel)
            if self._random.random() < 0.15:
                cancelling = self._loop.reactor.callLater(
                    self._random.uniform(0, 1.5), self._cancel, call, made
                )
            if isinstance(made, Deferred):
                call.items.append((await made).value)
            else:
                await self._read(call, made)
            call.end = "ok"
        except CancelledError:
            call.end = "cancelled"
        except RpcError as error:
            call.end = error.code.name
        finally:
            if cancelling is not None and cancelling.active():
                cancelling.cancel()
            call.seconds = time.monotonic() - began
            del self._open[call.name]
            self._history.end(call)

    def _made(
        self, call: Call, channel: Channel
    ) -> Deferred[StringValue] | ResponseStream[StringValue]:
        options: Any = {"timeout": call.timeout, "wait_for_ready": self._random.random() < 0.5}
        pause = self._random.choice(["0", "0.01", "0.1"])
        if call.kind == SINGLE:
            return channel.unary_unary(ONCE, text(f"{call.key} {pause}"), **options)
        if call.kind == COLLECT:
            return channel.stream_unary(COLLECT_METHOD, self._requests(call), **options)
        if call.kind == CHAT:
            return channel.stream_stream(CHAT_METHOD, self._requests(call), **options)
        if call.kind == PRIVATE:
            request = text(f"{call.key} {call.count} {pause}")
            return channel.unary_stream(COUNT, request, **options)
        stream = channel.unary_stream(TICKS, text(f"{call.key} {call.count} 0.1"), **options)
        return stream.skip_gaps(call.gaps.append) if call.skips else stream

    def _cancel(
        self, call: Call, made: Deferred[StringValue] | ResponseStream[StringValue]
    ) -> None:
        call.cancelled = True
        made.cancel()

    async def _requests(self, call: Call) -> AsyncIterator[StringValue]:
        is_slow = self._random.random() < 0.3
        for number in range(call.count):
            if is_slow and self._random.random() < 0.05:
                await self._loop.sleep(self._random.uniform(0, 0.3))
            yield text(f"{call.key}:{number}")

    async def _read(self, call: Call, stream: ResponseStream[StringValue]) -> None:
        is_slow = self._random.random() < 0.3
        async for item in stream:
            call.items.append(item.value)
            if is_slow and self._random.random() < 0.05:
                await self._loop.sleep(self._random.uniform(0, 0.5))


async def left_over(loop: Loop, who: str, before: dict[str, int]) -> list[str]:
    """What a process still has more than *before*, when it has had time to let go."""
    patience = time.monotonic() + 10
    while (wrong := more(resources(loop.reactor), before)) and time.monotonic() < patience:
        await loop.sleep(0.1)
    if wrong:
        wrong += map(str, loop.reactor.getDelayedCalls())
        wrong += [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
    return [f"{who}: {each}." for each in wrong]
