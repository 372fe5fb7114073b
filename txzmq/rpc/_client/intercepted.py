"""Calls and streams that go through interceptors."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self, TypeVar, cast, final

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txzmq._task_deferred import TaskDeferred, error_for_driver
from txzmq.rpc._client.call import CallRegistry, outcome_of
from txzmq.rpc._client.stream_reader import OpenResponseStream
from txzmq.rpc._core.cancelling import cancel
from txzmq.rpc._core.coroutines import ending_error
from txzmq.rpc._core.milestone import Milestone
from txzmq.rpc.client import CallSpec, wanted_metadata
from txzmq.rpc.errors import Code, DeadlineExceeded, RpcError
from txzmq.rpc.interceptors import ClientCall, ClientProceed
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.records import CallEnd, CallRecord, Side, Tallied, Tally, status_of_end
from txzmq.rpc.streams import ResponseStream, check_silence, check_told

__all__ = ["ClientCallEnd", "InterceptedCall", "InterceptedStream"]

T = TypeVar("T")
R = TypeVar("R")


@final
class ClientCallEnd(CallEnd):
    """The end of a client's call.

    :ivar made: the call that the interceptors went on with last; None if they did not.
    :ivar attempts: of those before it.
    """

    __slots__ = ("attempts", "made")

    def __init__(
        self,
        begun: float = 0.0,
        record: CallRecord | None = None,
        told: Callable[[CallRecord], object] | None = None,
        *,
        is_over: bool = False,
    ) -> None:
        super().__init__(begun, record, told, is_over=is_over)
        self.made: Tallied | None = None
        self.attempts = 0

    def goes_by(self, made: Tallied) -> None:
        """The interceptors went on with the call."""
        if self.made is not None:
            self.attempts += self.made.tally().attempts
        self.made = made


_NOT_ASKED: Final = ClientCallEnd(is_over=True)


class InterceptedCall:
    """A call that goes through interceptors (a LogicalCall): they see it as a ClientCall.

    Where they only look at the call and go on with it, the caller waits for the call that they went
    on with. Where they wait for something, or handle the outcome, the caller waits for this one.
    """

    __slots__ = (
        "_end_of_call",
        "_expected",
        "_over",
        "_pending",
        "_registry",
        "_returned",
        "_same",
        "_spec",
        "deferred",
        "taken",
    )

    #: What the caller waits for if the interceptors do more than go on with the call.
    deferred: Deferred[Any]

    def __init__(
        self, registry: CallRegistry, spec: CallSpec, end: ClientCallEnd | None = None
    ) -> None:
        """:param end: where the end of the call is told; None as long as nobody has asked."""
        self._registry = registry
        self._spec = spec
        self._end_of_call = end
        self._expected: type[object] = object
        self._over = False
        #: A request and the value that it had when it was given: an interceptor that waits goes on
        #: with that value, whatever the caller does to the message meanwhile.
        self.taken: tuple[Message, bytes] | None = None
        # Of the call that the interceptors went on with last, if its deadline and parent are the
        # same.
        self._same: Deferred[Any] | None = None
        # That one, once the caller waits for it.
        self._returned: Deferred[Any] | None = None
        # Of the outermost interceptor; None before it is called, and when the call has ended.
        self._pending: Deferred[Any] | None = None

    @property
    def deadline(self) -> float | None:
        """When its time is up."""
        return self._spec.deadline

    @property
    def over(self) -> bool:
        """Whether the caller has its outcome, or is about to."""
        if self._returned is not None:
            return bool(self._returned.called)
        return self._over or self._registry.end is not None

    def ended(self) -> Deferred[CallRecord]:
        """Fires when the call has truly ended, with how it did."""
        if self._end_of_call is None:
            if self._returned is not None:
                self._end_of_call = _NOT_ASKED  # its caller may have added callbacks since
            else:
                self._end_of_call = ClientCallEnd(self._registry.clock.seconds())
        return self._end_of_call.wait()

    def goes_by(self, made: Tallied) -> None:
        """The interceptors went on with the call: this one is made for it."""
        if self._end_of_call is not None:
            self._end_of_call.goes_by(made)

    def _tell_end(self, outcome: object, responses: int | None = None) -> None:
        """The call has ended.

        :param outcome: an error, or anything else for success.
        :param responses: None for one, if there was one.
        """
        end = self._end_of_call
        if end is None:
            self._end_of_call = _NOT_ASKED
            return
        if end.is_over:
            return
        method, metadata = self._spec.method, self._spec.metadata
        record = end.record
        if record is None:
            record = CallRecord(Side.CLIENT, method.path, method.kind, end.begun, metadata)
        if end.made is None:
            tally = Tally(0, "", 0 if method.kind.request_streaming else 1, 0, 0)
        else:
            tally = end.made.tally()
        code, message = status_of_end(outcome)
        record.complete(
            code,
            message,
            self._registry.clock.seconds(),
            tally.requests,
            int(code is Code.OK) if responses is None else responses,
            tally.request_bytes,
            tally.response_bytes,
            end.attempts + tally.attempts,
            tally.peer,
            tally.request_id,
        )
        end.reach(record)

    def _seen(self, result: T) -> T:
        """As a callback that changes nothing: the caller's Deferred has fired."""
        self._tell_end(_value(result) if isinstance(result, Failure) else result)
        return result

    # Any: the method types what a stream gives.
    def _watched(self, stream: ResponseStream[Any]) -> ResponseStream[Any]:
        """A stream whose end is told."""
        if isinstance(stream, OpenResponseStream):
            stream.when_ended(self._tell_end)
            return stream
        return CountedStream(stream, self._tell_end, self._registry.soon)

    def went_on(
        self, made: Tallied, deferred: Deferred[Any], spec: CallSpec, body: bytes | None
    ) -> None:
        """As :meth:`goes_by`, with the call as *spec*; *deferred* gives the response."""
        mine = self._spec
        if self._end_of_call is not None:
            self._end_of_call.goes_by(made)
        if body is not None:
            self.taken = (spec.request, body)
        same = spec.deadline == mine.deadline and spec.parent is mine.parent
        self._same = deferred if same else None

    def start(
        self, chain: ClientProceed, call: ClientCall, expected: type[object]
    ) -> Deferred[Any]:
        """Call the outermost interceptor.

        :param expected: the type that the interceptors are to return.
        :return: what the caller waits for.
        """
        surroundings = contextvars.copy_context()
        if wanted_metadata.get() is not None:
            # What an interceptor calls on its own is not what the caller wants to know about.
            surroundings.run(wanted_metadata.set, None)
        pending = surroundings.run(chain, call)
        if pending is self._same and not _has_callbacks(pending):
            self._returned = pending
            if self._end_of_call is not None:
                pending.addBoth(self._seen)
            return pending
        self.deferred = TaskDeferred(self._cancelled)
        self._expected = expected
        self._pending = pending
        request = self._spec.request
        if self.taken is None and isinstance(request, Message) and not pending.called:
            self.taken = (request, request.SerializePartialToString())
        if self._registry.end is not None:
            self.give_up(self._registry.end)  # an interceptor has closed the channel
        else:
            self._registry.logical_begun(self)
            if self._spec.parent is not None:
                self._spec.parent.adopt(self.deferred)
        pending.addCallbacks(self._succeeded, self._failed)
        return self.deferred

    def too_late(self) -> None:
        """Its time is up, and no interceptor has said so."""
        self.give_up(DeadlineExceeded("the call's time was up; it may have been executed"))

    def give_up(self, error: Exception) -> None:
        """End it whatever the interceptors do; they are cancelled."""
        if self.deferred.called:
            return  # by what another call's caller did
        pending = self._end()
        self._tell_end(error, 0)
        self.deferred.errback(outcome_of(error, self._spec.method))
        if pending is not None:
            cancel(pending, f"an interceptor of {self._spec.method.path}")

    def _succeeded(self, response: object) -> None:
        if self._end() is None:
            return  # it had ended before
        expected = self._expected
        if isinstance(response, expected):
            if self._end_of_call is None:
                self._end_of_call = _NOT_ASKED
            elif isinstance(response, ResponseStream):
                response = self._watched(response)  # pyright: ignore[reportUnknownArgumentType]  # of the method's
            else:
                self._tell_end(response)
            self.deferred.callback(response)
        else:
            name = type(response).__name__
            error = TypeError(
                f"an interceptor answered {self._spec.method.path} with {name}, "
                f"not {expected.__name__}"
            )
            self._tell_end(error)
            self.deferred.errback(error)

    def _failed(self, failure: Failure) -> None:
        if self._end() is not None:
            error = _value(failure)
            if isinstance(error, RpcError):
                error.of_call(self._spec.method.path)  # an interceptor may have raised it
            ending = ending_error(error, f"an interceptor of {self._spec.method.path}")
            self._tell_end(ending)
            self.deferred.errback(failure if ending is error else ending)

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._registry.guard.check()
        pending = self._end()
        if pending is not None:
            # Twisted fires this call's own Deferred.
            cancel(pending, f"an interceptor of {self._spec.method.path}")
            self._tell_end(CancelledError("the caller cancelled it"))

    def _end(self) -> Deferred[Any] | None:
        self._over = True
        pending, self._pending = self._pending, None
        self._registry.logical_ended(self)
        if self._spec.parent is not None:
            self._spec.parent.release(self.deferred)
        return pending


def _value(failure: Failure) -> BaseException:
    return cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's


def _has_callbacks(deferred: Deferred[Any]) -> bool:
    """Whether an interceptor has added callbacks: it handles the outcome then.

    The name is private to Twisted, and not there before 25.5: then there may be some. Without
    asking, each intercepted call would need a Deferred more, which is 13 % of its instructions.
    """
    return bool(getattr(deferred, "_callbacks", True))


class CountedStream(ResponseStream[T]):
    """A stream of an interceptor's own making, whose end is told when its reader has it."""

    __slots__ = ("_count", "_soon", "_stream", "_tell")

    def __init__(
        self,
        stream: ResponseStream[T],
        tell: Callable[[BaseException, int], None],
        soon: Callable[[Callable[[], object]], None],
    ) -> None:
        """
        :param tell: called with how it ended, and how many items its reader has had.
        :param soon: has something called in the reactor's thread.
        """
        self._stream = stream
        # None when it has been told.
        self._tell: Callable[[BaseException, int], None] | None = tell
        self._soon = soon
        self._count = 0

    def _ended(self, outcome: BaseException) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(outcome, self._count)

    def __del__(self) -> None:
        tell = getattr(self, "_tell", None)
        if tell is not None:
            self._soon(partial(tell, CancelledError("its reader has forgotten it"), self._count))

    async def __anext__(self) -> T:
        try:
            item = await self._stream.__anext__()
        except GeneratorExit:
            raise
        except BaseException as error:
            self._ended(error)
            raise
        self._count += 1
        return item

    def cancel(self) -> None:
        """End the stream early."""
        self._stream.cancel()
        self._ended(CancelledError("the caller cancelled it"))

    @property
    def initial_metadata(self) -> Metadata:
        """What is in front of the first item."""
        return self._stream.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata:
        """What is behind the last one."""
        return self._stream.trailing_metadata

    def opened(self) -> Deferred[None]:
        """As of the interceptor's stream."""
        return self._stream.opened()

    def received_initial_metadata(self) -> Deferred[Metadata]:
        """As of the interceptor's stream."""
        return self._stream.received_initial_metadata()

    def ended(self) -> Deferred[None]:
        """As of the interceptor's stream."""
        return self._stream.ended()

    def max_silence(self, seconds: float | None) -> Self:
        """As of the interceptor's stream."""
        self._stream.max_silence(seconds)
        return self

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """As of the interceptor's stream."""
        self._stream.skip_gaps(told)
        return self


class InterceptedStream(ResponseStream[T]):
    """A stream that is yet to come: from the last interceptor, or never."""

    __slots__ = ("_coming", "_error", "_pending", "_settings", "_stream", "_waiter")

    def __init__(self, pending: Deferred[ResponseStream[T]]) -> None:
        self._coming: Milestone[ResponseStream[T]] = Milestone()
        self._pending: Deferred[ResponseStream[T]] | None = pending
        self._stream: ResponseStream[T] | None = None
        self._error: BaseException | None = None
        self._waiter: Deferred[None] | None = None
        # What is to be said to the stream.
        self._settings: list[Callable[[ResponseStream[T]], object]] = []
        pending.addCallbacks(self._opened, self._failed)

    def _opened(self, stream: ResponseStream[T]) -> None:
        self._pending = None
        self._stream = stream
        for do in self._settings:
            do(stream)
        self._settings.clear()
        self._wake()
        self._coming.reach(stream)

    def _failed(self, failure: Failure) -> None:
        self._pending = None
        error = _value(failure)
        self._error = ending_error(error, "an interceptor")
        self._wake()
        self._coming.miss(self._error)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    async def __anext__(self) -> T:
        while self._stream is None:
            if self._error is not None:
                raise await error_for_driver(self._error)
            if self._waiter is not None:
                raise RuntimeError("a stream has one reader at a time")
            self._waiter = TaskDeferred(self._reader_cancelled)
            try:
                await self._waiter
            except GeneratorExit:
                self._waiter = None  # or what its `finally` does would wake it
                raise
        return await self._stream.__anext__()

    def _reader_cancelled(self, _: Deferred[None]) -> None:
        self._waiter = None
        self.cancel()

    def cancel(self) -> None:
        """End it, or do not begin it."""
        if self._stream is not None:
            self._stream.cancel()
        elif self._pending is not None:
            self._pending.cancel()

    @property
    def initial_metadata(self) -> Metadata:
        """What the server put in front of the first item."""
        return () if self._stream is None else self._stream.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server put behind the last one."""
        return () if self._stream is None else self._stream.trailing_metadata

    def opened(self) -> Deferred[None]:
        """Fires when the server has the stream, and nothing is lost from here on."""
        return self._ask(lambda stream: stream.opened())

    def received_initial_metadata(self) -> Deferred[Metadata]:
        """Fires with the initial metadata."""
        return self._ask(lambda stream: stream.received_initial_metadata())

    def ended(self) -> Deferred[None]:
        """Fires when the end has arrived, and fails with the stream's error."""
        return self._ask(lambda stream: stream.ended())

    def _ask(self, ask: Callable[[ResponseStream[T]], Deferred[R]]) -> Deferred[R]:
        """Ask the stream as soon as it is there."""
        asked = self._coming.wait(self).addCallback(ask)
        # Not that one itself, which counts as called as soon as the stream is there.
        waiting: Deferred[R] = TaskDeferred(lambda _: asked.cancel())
        asked.addCallbacks(waiting.callback, waiting.errback)
        return waiting

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream when its reader has to wait for an item for longer."""
        check_silence(seconds)
        return self._then(lambda stream: stream.max_silence(seconds))

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on where items are lost."""
        check_told(told)
        return self._then(lambda stream: stream.skip_gaps(told))

    def _then(self, do: Callable[[ResponseStream[T]], object]) -> Self:
        if self._stream is not None:
            do(self._stream)
        else:
            self._settings.append(do)
        return self
