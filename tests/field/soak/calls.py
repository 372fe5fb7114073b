"""One call of a soak: what it is to be, by chance, and how it is made and read."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.field.soak import history, service
from tests.field.soak.history import Call, History
from tests.field.soak.interceptors import ROUNDS
from tests.rpc.service import text
from tests.support import Loop
from txzmq.rpc import Channel, Method, ResponseStream, RpcError

#: Seconds that most calls may take; through a proxy only the deadline tells of a dead worker.
TIMEOUT, WORKER_TIMEOUT = 15.0, 4.0
#: Attempts by the service config.
TRIES, HEDGES = 4, 3
_RETRY: Final = {
    "maxAttempts": TRIES,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_HEDGE: Final = {
    "maxAttempts": HEDGES,
    "hedgingDelay": "0.03s",
    "nonFatalStatusCodes": ["UNAVAILABLE"],
}
#: Repeats whatever may be repeated. It names all methods: those that are not idempotent must not
#: be executed twice all the same.
CONFIG: Final[dict[str, Any]] = {
    "methodConfig": [
        {"name": [{}], "retryPolicy": _RETRY},
        {"name": [{"service": service.SERVICE, "method": "Hedged"}], "hedgingPolicy": _HEDGE},
    ],
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
}
_METHODS: Final[dict[str, Method[StringValue, StringValue]]] = {
    history.SINGLE: service.ONCE,
    history.WORKED: service.ONCE,
    history.RETRIED: service.RETRIED,
    history.HEDGED: service.HEDGED,
    history.PRIVATE: service.COUNT,
    history.REOPENED: service.REOPENED,
    history.RESUMED: service.RESUMED,
    history.SHARED: service.TICKS,
    history.COLLECT: service.COLLECT,
    history.RECOLLECTED: service.RECOLLECTED,
    history.CHAT: service.CHAT,
}
_DIRECT: Final = (history.SINGLE, *(kind for kind in _METHODS if kind != history.WORKED))
#: Streams do not go through a proxy.
_BY_WORKERS: Final = (history.WORKED, history.WORKED, history.RETRIED, history.HEDGED)


@dataclass
class Link:
    """A channel, and what becomes of calls that are made on it."""

    channel: Channel
    #: Whether it has :data:`CONFIG`.
    repeats: bool
    #: Whether interceptors go around its calls.
    intercepted: bool
    #: Whether workers behind a proxy answer.
    by_workers: bool


def any_call(chance: random.Random, name: str, link: Link) -> Call:
    """A call of some kind that the link can have."""
    kind = chance.choice(_BY_WORKERS if link.by_workers else _DIRECT)
    call = Call(name, kind, key=name)
    if kind not in history.ANSWERED:
        call.count = chance.choice([1, 20, 300])
    if kind == history.SHARED:
        call.key = chance.choice("abc")
        call.count = 200  # requests must be equal
        call.skips = chance.random() < 0.5
    if kind == history.SINGLE and chance.random() < 0.1:
        call.error = chance.choice(["ABORTED", "NOT_FOUND", "UNAVAILABLE"])
    _set_attempts(chance, call, link)
    most = WORKER_TIMEOUT if link.by_workers else TIMEOUT
    call.timeout = most if chance.random() < 0.8 else chance.uniform(0.1, 2)
    return call


def _set_attempts(chance: random.Random, call: Call, link: Link) -> None:
    """How often it may be executed, and fails before it succeeds."""
    if call.kind not in history.REPEATED or call.kind == history.RESUMED:
        return
    if link.repeats:
        call.tries = HEDGES if call.kind == history.HEDGED else TRIES
    if link.intercepted and call.kind in history.ANSWERED:
        call.rounds = ROUNDS
    if call.kind != history.HEDGED and chance.random() < 0.5:
        call.failures = chance.choice([1, 2, TRIES])


class Caller:
    """Makes calls, each to its end."""

    def __init__(self, loop: Loop, chance: random.Random, written: History) -> None:
        self._loop = loop
        self._random = chance
        self._history = written

    async def make(self, call: Call, channel: Channel) -> None:
        """Make a call and read what comes, or cancel it after a while; write down its end."""
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
            self._history.end(call)

    def _made(
        self, call: Call, channel: Channel
    ) -> Deferred[StringValue] | ResponseStream[StringValue]:
        metadata = {service.FAILURES: str(call.failures)} if call.failures else {}
        if call.error:
            metadata[service.ERROR] = call.error
        options: Any = {
            "timeout": call.timeout,
            "wait_for_ready": self._random.random() < 0.5,
            "metadata": metadata,
        }
        pause = self._random.choice(["0", "0.01", "0.1"])
        method = _METHODS[call.kind]
        if call.kind in history.ANSWERED:
            return channel.unary_unary(method, text(f"{call.key} {pause}"), **options)
        if call.kind in history.COUNTED:
            return channel.stream_unary(method, self._requests(call), **options)
        if call.kind == history.CHAT:
            return channel.stream_stream(method, self._requests(call), **options)
        if call.kind == history.SHARED:
            pause = "0.1"
        if call.kind == history.RESUMED:
            pause = "0.2"  # so that a server is lost meanwhile
        request = text(f"{call.key} {call.count} {pause}")
        stream = channel.unary_stream(method, request, **options)
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
