"""Between a channel's calls and gRPC: hands calls over, and tells how gRPC's connection is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypedDict

import grpc
import grpc.aio
from twisted.internet.defer import CancelledError, Deferred, succeed

from txzmq._reactor import Clock
from txzmq.rpc._client.call import Call
from txzmq.rpc._core.asyncio_loop import deferred_of, empty_context
from txzmq.rpc._grpc.heads import broken, refusal, success
from txzmq.rpc._grpc.requests import GrpcRequestsCall
from txzmq.rpc._grpc.response_stream import Carrier, StreamCall, is_deadline
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc.errors import Code
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.watching import ConnectivityState

__all__ = ["GrpcTransport"]

_OF_GRPC: Final = {state: ConnectivityState[state.name] for state in grpc.ChannelConnectivity}


_UnaryUnary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
_UnaryStream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
_StreamUnary: TypeAlias = "grpc.aio.StreamUnaryMultiCallable[bytes, bytes]"
_StreamStream: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, bytes]"
#: Seconds that the events of a closed channel may take, and after which it is looked again.
_ENDING: Final = 1.0
_POLL: Final = 0.001
#: What gRPC makes of a call with one response.
_OneResponse: TypeAlias = (
    "grpc.aio.UnaryUnaryCall[bytes, bytes] | grpc.aio.StreamUnaryCall[bytes, bytes]"
)


class _Options(TypedDict):
    """What gRPC is told of any call."""

    timeout: float | None
    metadata: Metadata
    wait_for_ready: bool


class GrpcTransport:
    """The connection of one channel (a Route): gRPC's channel, made as soon as the loop runs.

    :ivar address: the target, as gRPC has it.
    :ivar state: what gRPC's channel is doing.
    :ivar load: how many calls it has.
    """

    def __init__(
        self,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        target: str,
        make: Callable[[], grpc.aio.Channel],
        changed: Callable[[ConnectivityState, ConnectivityState], None],
        unauthenticated: Callable[[Call], None],
    ) -> None:
        """
        :param make: makes gRPC's channel, where the loop runs.
        :param changed: told of the previous state and the new one.
        :param unauthenticated: told of a call that a server has refused with UNAUTHENTICATED.
        """
        self.address = target
        self.state = ConnectivityState.IDLE
        self.load = 0
        self._clock = clock
        self._loop = loop
        self._make = make
        self._changed = changed
        self._unauthenticated = unauthenticated
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._watching: asyncio.Task[None] | None = None
        # Whether the last attempt to connect has failed.
        self._failed = False
        # Who waits for a connection.
        self._waiting: dict[Deferred[None], None] = {}
        # How many calls were handed over.
        self._counter = 0
        # Those that wait for gRPC's channel, and those with one response that gRPC has.
        self._early: dict[Call, None] = {}
        self._calls: dict[Call, _OneResponse] = {}
        if _running_loop() is loop:
            self._connect()
        else:
            # Twisted calls main() of react() before asyncio's loop runs, and gRPC's channel is to
            # belong to that loop.
            loop.call_soon(self._connect, context=empty_context())

    def _connect(self) -> None:
        if self._closed:
            return
        self._channel = self._make()
        self._watching = self._loop.create_task(self._watch(self._channel), context=empty_context())
        early, self._early = self._early, {}
        for call in early:
            self._hand_over(call, self._channel)

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        while True:
            # It connects at once, and again when it has lost its connection.
            state = channel.get_state(try_to_connect=True)
            self._loop.call_soon(self._enter, _OF_GRPC[state], context=empty_context())
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                return
            await channel.wait_for_state_change(state)

    def _enter(self, state: ConnectivityState) -> None:
        previous = self.state
        if previous is state or previous is ConnectivityState.SHUTDOWN:
            return
        self.state = state
        if state is ConnectivityState.TRANSIENT_FAILURE:
            self._failed = True
        elif state is ConnectivityState.READY:
            self._failed = False
            waiting, self._waiting = self._waiting, {}
            for each in waiting:
                each.callback(None)
        self._changed(previous, state)

    def _ready(self) -> Deferred[None]:
        """Fires when there is a connection."""
        if self.state is ConnectivityState.READY:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda this: self._waiting.pop(this, None))
        self._waiting[waiting] = None
        return waiting

    @property
    def waiting(self) -> int:
        """How many calls gRPC does not have yet."""
        return len(self._early)

    # -- calls -------------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        """Hand a call over to gRPC."""
        call.queued(self)
        if self._channel is None:
            self._early[call] = None
        else:
            self._hand_over(call, self._channel)

    def _hand_over(self, call: Call, channel: grpc.aio.Channel) -> None:
        spec, path = call.spec, call.spec.method.path
        left = None
        if spec.deadline is not None:
            left = max(0.0, spec.deadline - self._clock.seconds())
        options = _Options(
            timeout=left, metadata=call.head.metadata, wait_for_ready=spec.wait_for_ready
        )
        self._counter += 1
        call.sent(self._counter)
        self.load += 1
        if isinstance(call, StreamCall):
            refused = partial(self._unauthenticated, call)
            if call.requests is None:
                one_way: _UnaryStream = channel.unary_stream(path)
                stream = one_way(call.body, **options)
                stream.add_done_callback(self._done)
                call.carried(Carrier(stream, self._loop, self._ready(), refused))
            else:
                both_ways: _StreamStream = channel.stream_stream(path)
                streams = both_ways(**options)
                streams.add_done_callback(self._done)
                call.carried(Carrier(streams, self._loop, self._ready(), refused))
                call.requests.carried(streams, self._loop)
        elif isinstance(call, GrpcRequestsCall):
            collecting: _StreamUnary = channel.stream_unary(path)
            collected = collecting(**options)
            self._wait_for(call, collected)
            call.source.carried(collected, self._loop)
        else:
            plain: _UnaryUnary = channel.unary_unary(path)
            self._wait_for(call, plain(call.body, **options))

    def _wait_for(self, call: Call, rpc: _OneResponse) -> None:
        self._calls[call] = rpc
        rpc.add_done_callback(self._done)
        answer = self._loop.create_task(_answer(rpc), context=empty_context())
        answer.add_done_callback(partial(self._answered, call), context=empty_context())

    def _done(self, _: object) -> None:
        self.load -= 1

    def _answered(self, call: Call, answer: asyncio.Task[tuple[ResponseHead, bytes]]) -> None:
        """GRPC has done with a call that has one response."""
        error = None if answer.cancelled() else answer.exception()
        if self._calls.pop(call, None) is None:
            return  # nobody waits for it
        if answer.cancelled():
            call.fail(CancelledError("gRPC cancelled the call"))
            return
        head, body = (broken(error), b"") if error is not None else answer.result()
        if is_deadline(head, call.spec.deadline, self._clock.seconds()):
            call.too_late()
            return
        if head.code is Code.UNAUTHENTICATED:
            self._unauthenticated(call)
        call.finish(head, body)

    # -- a Route -----------------------------------------------------------------------------

    @property
    def obstacle(self) -> str:
        """Why it cannot send calls now; empty if it can, or that is not known."""
        return f"{self.address} cannot be reached" if self._failed else ""

    def withdraw(self, call: Call) -> None:
        """Do not wait for its reply; the server learns of it, as it does of deadlines."""
        self._early.pop(call, None)
        rpc = self._calls.pop(call, None)
        if rpc is not None:
            rpc.cancel()

    cancel = withdraw

    def id_of(self, counter: int, /) -> bytes:
        """Empty: gRPC's requests have no ids."""
        return b""

    def close(self, error: Exception) -> Deferred[object]:
        """End the calls that have one response, and the connection.

        :return: fires when asyncio has nothing to do for it any more.
        """
        self._closed = True
        self._enter(ConnectivityState.SHUTDOWN)
        for call in [*self._early, *self._calls]:
            self.withdraw(call)
            call.fail(error)
        watching, self._watching = self._watching, None
        channel, self._channel = self._channel, None
        if watching is None or channel is None or not self._loop.is_running():
            # Nothing has begun; or nothing runs any more, and gRPC closes what becomes garbage.
            return succeed(None)
        ending = self._close(channel, watching)
        # Any: its end is all that is waited for.
        closing: asyncio.Task[Any] = self._loop.create_task(ending, context=empty_context())
        return deferred_of(closing)

    async def _close(self, channel: grpc.aio.Channel, watching: asyncio.Task[None]) -> None:
        """Close gRPC's channel, and wait for what comes of it: events for a loop that may end."""
        await channel.close()
        try:
            async with asyncio.timeout(_ENDING):
                while self.load:
                    await asyncio.sleep(_POLL)
                await asyncio.wait([watching])
        except TimeoutError:
            pass
        watching.cancel()


async def _answer(rpc: _OneResponse) -> tuple[ResponseHead, bytes]:
    """Wait for the response. In a task of asyncio's, in which no code of a user's runs."""
    try:
        body = await rpc
        return success(await rpc.initial_metadata(), await rpc.trailing_metadata()), body
    except grpc.aio.AioRpcError as error:
        return refusal(error), b""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
