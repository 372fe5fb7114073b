"""Makes the calls of a channel whose observer is told of them.

A channel without one has :class:`Calls` in its place, which knows nothing of all this. So the two
methods that begin calls stand here once more: a hook in those of :class:`Calls` would cost
everybody's calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any, Final, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from txzmq.rpc._client.call import Call, CallRegistry, outcome_of
from txzmq.rpc._client.calls import NOT_MADE, CallOptions, Calls
from txzmq.rpc._client.intercepted import ClientCallEnd, InterceptedStream
from txzmq.rpc._client.received_stream import ReceivedStream
from txzmq.rpc._client.retried_call import RetriedCall
from txzmq.rpc._client.stream_reader import OpenResponseStream
from txzmq.rpc._core.call_watch import CallWatch
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc.client import CallSpec, check_method
from txzmq.rpc.errors import Code
from txzmq.rpc.interceptors import ClientInterceptor
from txzmq.rpc.metadata import MetadataInput
from txzmq.rpc.method import Method
from txzmq.rpc.records import CallRecord, Side, Tally, status_of_end
from txzmq.rpc.service_config import ServiceConfig
from txzmq.rpc.streams import ResponseStream

__all__ = ["WatchedCalls"]

_CLIENT: Final = Side.CLIENT
_OK: Final = Code.OK


class WatchedCall(Call):
    """A call with one request and one response, which an observer is told of.

    It tells its end where it ends, just before its Deferred fires: a callback of the Deferred would
    take twice the time. For the same reason it names its base in place of ``super()``.
    """

    __slots__ = ("_error", "_record", "_response_bytes", "_watch")

    def watch(self, watch: CallWatch, record: CallRecord) -> None:
        """Have its end told; called as soon as it is made."""
        self._watch = watch
        self._record = record
        self._response_bytes = 0
        self._error: BaseException | None = None

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        self._response_bytes = len(body)
        Call.finish(self, head, body)

    def fail(self, error: BaseException) -> None:
        """There will be no reply; nothing happens if the call has ended."""
        if not self.deferred.called:
            self._error = error
            Call.fail(self, error)

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._error = CancelledError()
        Call._cancelled(self, _)

    def _end(self) -> None:
        Call._end(self)
        record, error = self._record, self._error
        code, message = (_OK, "") if error is None else status_of_end(error)
        again = 0 if self._attempts is None else self._attempts.made
        peer, request_id = self.went_to
        record.complete(
            code,
            message,
            self.registry.clock.seconds(),
            1,
            int(error is None),
            len(self.body),
            self._response_bytes,
            again + bool(self.counter),
            peer,
            request_id,
        )
        self._watch.ended(record)


class SizedCall(Call):
    """A call that is made for one which interceptors see; it knows how large the response was."""

    __slots__ = ("_response_bytes",)

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        self._response_bytes = len(body)
        super().finish(head, body)

    def tally(self) -> Tally:
        """What it has sent and received."""
        # Not there before the reply is: to set it before would take each call a constructor more.
        return super().tally()._replace(response_bytes=getattr(self, "_response_bytes", 0))


class WatchedCalls(Calls):
    """Makes calls, and tells an observer when they begin and when they have ended."""

    def __init__(
        self,
        registry: CallRegistry,
        options: CallOptions,
        config: ServiceConfig | None,
        interceptors: Sequence[ClientInterceptor],
        watch: CallWatch,
    ) -> None:
        """:param watch: tells the observer."""
        super().__init__(registry, options, config, interceptors)
        self._unary = WatchedCall if self._chain is None else SizedCall
        self._watch = watch

    def call(
        self,
        # Any: the caller's signature typed the result.
        method: Method[Any, Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
        *,
        streams: bool = False,
    ) -> Deferred[Any]:
        """Make a call that has one response; as :meth:`Calls.call`."""
        if self._guard.thread != get_ident():
            self._check_thread()
        try:
            spec = self._spec(
                method, request, timeout, metadata, wait_for_ready, self._options.timeout
            )
            record, spec = self._begin(spec)
        except AttributeError:
            check_method(method)
            raise
        end = None
        try:
            if self._chain is not None:
                end = self._end_of(record)
                return self._intercept(self._chain, spec, end)
            made = self._make_with_requests(spec) if streams else self._make_unary(spec)
        except NOT_MADE as error:
            self._never_made(record, error, end)
            return fail(outcome_of(error, method, sent=False))
        except BaseException as error:
            self._never_made(record, error, end)
            raise
        if isinstance(made, WatchedCall):
            made.watch(self._watch, record)
            self._registry.start(made)
            return made.deferred
        arguments = (record, made)
        made.deferred.addCallbacks(self._succeeded, self._failed, arguments, errbackArgs=arguments)
        if isinstance(made, RetriedCall):
            made.start()
        else:
            self._registry.start(made)
        return made.deferred

    def stream(
        self,
        method: Method[Any, Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
    ) -> ResponseStream[Any]:
        """Open a stream of responses; as :meth:`Calls.stream`."""
        if self._guard.thread != get_ident():
            self._check_thread()
        try:
            spec = self._spec(method, request, timeout, metadata, wait_for_ready, None)
            record, spec = self._begin(spec)
        except AttributeError:
            check_method(method)
            raise
        end = None
        try:
            if self._chain is not None:
                end = self._end_of(record)
                return InterceptedStream(self._intercept(self._chain, spec, end))
            stream = self._open(spec)
        except NOT_MADE as error:
            self._never_made(record, error, end)
            return InterceptedStream(fail(outcome_of(error, method, sent=False)))
        except BaseException as error:
            self._never_made(record, error, end)
            raise
        stream.when_ended(partial(self._stream_ended, record, stream))
        return OpenResponseStream(stream)

    # -- how calls begin and end -------------------------------------------------------------

    def _begin(self, spec: CallSpec) -> tuple[CallRecord, CallSpec]:
        """A call begins: its record, and what it is made of, with what the observer has added."""
        method, metadata = spec.method, spec.metadata
        record = CallRecord(_CLIENT, method.path, method.kind, self._clock.seconds(), metadata)
        self._watch.started(record)
        if record.metadata is not metadata:
            spec = spec.with_metadata(record.metadata)
        return record, spec

    def _end_of(self, record: CallRecord) -> ClientCallEnd:
        """Where the end of a call is told that goes through interceptors."""
        return ClientCallEnd(record.began, record, self._watch.ended)

    def _never_made(
        self, record: CallRecord, error: BaseException, end: ClientCallEnd | None
    ) -> None:
        """A call cannot be made, or its caller has made a mistake.

        :param end: where its end is told if it went through interceptors.
        """
        requests = 0 if record.kind.request_streaming else 1
        tally = Tally(0, "", requests, 0, 0)
        self._complete(record, error, 0, tally)
        if end is None:
            self._watch.ended(record)
        else:
            end.reach(record)

    # Any: the response of whatever method.
    def _succeeded(self, response: Any, record: CallRecord, made: Call | RetriedCall) -> Any:
        self._ended(record, None, 1, made.tally())
        return response

    def _failed(self, failure: Failure, record: CallRecord, made: Call | RetriedCall) -> Failure:
        error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        self._ended(record, error, 0, made.tally())
        return failure

    def _stream_ended(
        self, record: CallRecord, stream: ReceivedStream, outcome: BaseException
    ) -> None:
        self._ended(record, outcome, stream.arrived_items, stream.tally())

    def _ended(self, record: CallRecord, outcome: object, responses: int, tally: Tally) -> None:
        self._complete(record, outcome, responses, tally)
        self._watch.ended(record)

    def _complete(self, record: CallRecord, outcome: object, responses: int, tally: Tally) -> None:
        code, message = status_of_end(outcome)
        record.complete(
            code,
            message,
            self._clock.seconds(),
            tally.requests,
            responses,
            tally.request_bytes,
            tally.response_bytes,
            tally.attempts,
            tally.peer,
            tally.request_id,
        )
