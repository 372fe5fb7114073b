"""From an accepted call to its answer: the queue, handlers, results, cancellation."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from types import CoroutineType
from typing import Any, Final

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._reactor import Clock
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._server.admission import Admission, RequestBytes
from txzmq.rpc._server.call import OpenCalls, ServedCall, StreamCall
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.reply_cache import Join, KeptReply, ReplyCache
from txzmq.rpc._server.status import (
    HandlerLog,
    WrongResult,
    encode_reply,
    tell_end,
    too_much_metadata,
)
from txzmq.rpc._server.streams import StreamRegistry
from txzmq.rpc._server.watchdog import Watchdog
from txzmq.rpc._wire.headers import OK, ResponseHead, decode_response, from_us
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.context import Context, set_current
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.metadata import check_size

__all__ = ["MAY_BE_LATE", "Execution", "too_large"]

_WAITED_TOO_LONG: Final = ResponseHead(
    Code.DEADLINE_EXCEEDED,
    "the call's time was up on the server; it was not executed",
    not_executed=True,
)
_TIME_IS_UP: Final = ResponseHead(
    Code.DEADLINE_EXCEEDED, "the call's time was up on the server; it may have been executed"
)
#: A client has it made again where time is left, which only the client knows.
MAY_BE_LATE: Final = ResponseHead(
    Code.UNAVAILABLE,
    "the server stood still, and the request may have come too late; the call was not executed",
    not_executed=True,
)
#: Answers that are kept for calls that come again. A client repeats a call that got another one in
#: the hope of a better one.
_KEPT: Final = frozenset(
    {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
    }
)


class Execution:
    """Runs the handlers of a server's calls, and answers them.

    :ivar watchdog: notices that the reactor stood still, mostly in a handler.
    :ivar open_calls: the calls that wait for a place, or whose handlers run.
    :ivar replies: those that are kept for requests which may come again.
    """

    # Each call reads a dozen; a dictionary of so many would be slower.
    __slots__ = (
        "_admission",
        "_began",
        "_clock",
        "_count",
        "_guard",
        "_handling",
        "_handling_key",
        "_limits",
        "_log",
        "_serving",
        "_settled",
        "_streams",
        "_surroundings",
        "_watch",
        "open_calls",
        "replies",
        "watchdog",
    )

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        limits: ServerLimits,
        admission: Admission[ServedCall],
        streams: StreamRegistry,
        request_bytes: RequestBytes,
        *,
        log: HandlerLog,
        watch: Notifier,
        count: Callable[[str], None],
        settled: Callable[[], None],
        has_input: Callable[[], bool],
        caught_up: Callable[[], None],
    ) -> None:
        """
        :param count: counts what was refused or dropped.
        :param settled: called when a call has ended.
        :param has_input: whether sockets have messages that were not read yet.
        :param caught_up: called when what is read has not lain in a socket any more.
        """
        self._clock = clock
        self._guard = guard
        self._limits = limits
        self._admission = admission
        self._streams = streams
        self._log = log
        self._watch = watch
        self._count = count
        self._settled = settled
        self._serving = False
        self._surroundings = contextvars.copy_context()
        # The method whose handler was called last, for which call, and when.
        self._handling: ServedMethod | None = None
        self._handling_key: CallKey = ()
        self._began = 0.0
        self.open_calls = OpenCalls(Deadlines(clock, self._too_late), request_bytes)
        self.replies: ReplyCache[ServedCall] = ReplyCache(limits.reply_cache)
        self.watchdog = Watchdog(
            clock, limits.blocked_after, self.was_blocked, has_input, caught_up
        )

    # -- a call's life: wait, run, finish ----------------------------------------------------

    def run(self, call: ServedCall) -> None:
        """Start the handler; most handlers are done before this returns."""
        now = self._clock.seconds()
        if now > self.watchdog.late_after:
            self.stood_still(now)
        if call.deadline is not None and call.deadline <= now:
            # Other handlers have kept the reactor from calling _too_late().
            self._count("late request")
            self._answer(call, _WAITED_TOO_LONG if call.end is None else MAY_BE_LATE)
            if call.waited:
                self._admission.waited_in_vain()
            return
        if call.waited:
            call.begin(self.open_calls)
        self._handling = method = call.method
        self._handling_key = call.key
        self._began = now
        try:
            request = call.take_request()
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self._answer(
                call,
                ResponseHead(
                    Code.INTERNAL,
                    f"the request to {method.path} cannot be parsed",
                    not_executed=True,
                ),
            )
            return
        try:
            # What a handler does to context variables is seen by nobody else.
            result = call.surroundings.run(_handle, method.handler, request, call.context)
        except KeyboardInterrupt as error:
            self._fail(call, Failure())  # type: ignore[no-untyped-call]  # Twisted's
            # It is for the process; but the other calls of a batch are served before.
            self._clock.callLater(0, _raise, error)
            return
        except BaseException:  # noqa: BLE001 - whatever a handler raises is the caller's answer
            self._fail(call, Failure())  # type: ignore[no-untyped-call]  # Twisted's
            return
        # The response itself first: Deferred is an abstract class, which costs ten times as much to
        # look for.
        if isinstance(result, method.response_type) or not isinstance(result, Deferred):
            self._succeed(call, result)
        elif result.called and not result.paused and not isinstance(result.result, Failure):
            # Of interceptors, or of a coroutine that had nothing to wait for.
            self._succeed(call, result.result)
        else:
            self._wait(call, result)  # pyright: ignore[reportUnknownArgumentType]  # a user's

    def queue(self, call: ServedCall, timeout_us: int | None, arrived: float) -> None:
        """Have a call wait for a place; or refuse it, where too many wait."""
        reason = self._admission.why_not(call.place)
        if reason is not None:
            self._answer(call, self.shed(reason))
            return
        lain_us = self.watchdog.lain(arrived)
        if lain_us and timeout_us is not None:
            # Nobody may wait for it any more when there is a place.
            call.begin_before(arrived + from_us(timeout_us - lain_us))
        call.wait_in_queue(self.open_calls)
        self._admission.enqueue(call.place, call)

    def shed(self, reason: str) -> ResponseHead:
        """Count a request for which there is no room; its answer."""
        self._count("shed request")
        return ResponseHead(
            Code.RESOURCE_EXHAUSTED, f"the call was not executed: {reason}", not_executed=True
        )

    def _serve_queue(self) -> None:
        """Start calls that wait: one that ran has ended."""
        if self._serving:
            return  # a handler that this has started has ended at once
        self._serving = True
        self._handling = None  # what the time until now was spent on is not known
        try:
            while (call := self._admission.next_call()) is not None:
                call.leave_queue()
                # Not where the other call has ended: that may be in the handler of any call.
                self._surroundings.copy().run(self.run, call)
        finally:
            self._serving = False

    def _wait(self, call: ServedCall, result: Deferred[Any]) -> None:
        """Answer when the handler's result is there, unless the call is over before."""
        # One tuple for both, and no partials: they would be a third of a call's memory.
        arguments = (call,)
        result.addCallbacks(self._has_succeeded, self._has_failed, arguments, errbackArgs=arguments)
        if not call.ended:
            self._admission.started(call.place)
            call.wait_for(result, self.open_calls)

    def _has_succeeded(self, response: object, call: ServedCall) -> None:
        self._ended(call, self._succeed, response)

    def _has_failed(self, failure: Failure, call: ServedCall) -> None:
        self._ended(call, self._fail, failure)

    def _ended(
        self, call: ServedCall, finish: Callable[[ServedCall, Any], None], result: object
    ) -> None:
        """The handler has ended: answer, unless the call was settled, and free its place."""
        if self._guard.report_wrong_thread(self._ended, call, self._fail):
            return  # the handler's Deferred was fired in another thread
        if not call.handler_ended(self.open_calls):
            finish(call, result)  # it was there at once, and the call has no place
            return
        self._admission.ended(call.place)
        if not call.settled:
            finish(call, result)
        elif isinstance(result, Failure):
            self._log.log_late(result, call.context)
        self._serve_queue()
        self._settled()

    def _succeed(self, call: ServedCall, response: object) -> None:
        method = call.method
        if method.response_streaming and isinstance(call, StreamCall):
            wrong = method.wrong(response)
            if wrong is None:
                self._answer(call, self._streams.open(call, response))
            else:
                self._fail(call, Failure(wrong))  # type: ignore[no-untyped-call]  # Twisted's
            return
        if not isinstance(response, method.response_type):
            wrong = method.wrong(response)
            self._fail(call, Failure(wrong))  # type: ignore[no-untyped-call]  # Twisted's
            return
        try:
            body = response.SerializeToString()
        except Exception as error:  # noqa: BLE001 - or it is more than protobuf can
            cause = WrongResult.incomplete(response) or error
            self._fail(call, Failure(cause))  # type: ignore[no-untyped-call]  # Twisted's
            return
        limit = self._limits.message_size
        if len(body) > limit:
            self._answer(call, too_large("response", len(body), limit))
            return
        self._answer(call, OK, body)

    def _fail(self, call: ServedCall, failure: Failure) -> None:
        self._answer(call, self._log.status_of(failure, call.context))

    def _answer(self, call: ServedCall, head: ResponseHead, body: bytes = b"") -> None:
        context = call.context
        if context.initial_metadata or context.trailing_metadata or head.trailing:
            head = head._replace(
                initial=context.initial_metadata,
                trailing=(*context.trailing_metadata, *head.trailing),
            )
            if not check_size((*head.initial, *head.trailing), self._limits.metadata_size):
                head, body = too_much_metadata("response", self._limits.metadata_size), b""
        call.settle(self.open_calls)
        if call.cache_key is None:
            call.listener.answer(call.key, head, body)
        else:
            self._answer_all(call, head, body)
        if head.stream is None:  # else it goes on as a stream
            if context.end is None:
                context.end_unasked()
            else:
                self._tell_end(call, head, len(body))

    def _tell_end(self, call: ServedCall, head: ResponseHead, size: int = 0) -> None:
        """A call that is no open stream has ended.

        :param size: bytes of the response.
        """
        responses = int(head.code is Code.OK)
        kind = call.method.method.kind
        now = self._clock.seconds()
        requests, bytes_taken = call.requests_taken, call.bytes_taken
        tell_end(call.context, kind, head, now, requests, responses, bytes_taken, size)

    # -- requests that may come again --------------------------------------------------------

    def is_first(self, call: ServedCall) -> bool:
        """Whether to execute a request that has a key; if not, it gets the reply of another."""
        joined = self.replies.join(call.cache_key, call, self._clock.seconds())
        if joined is Join.RUN:
            return True
        self._count("repeated request")
        if joined is Join.WAIT:
            call.wait_for_reply(self.open_calls)
        elif joined is Join.REFUSE:
            status = ResponseHead(
                Code.RESOURCE_EXHAUSTED,
                f"{self.replies.limits.waiting} requests with one key wait on the server "
                "(ReplyCacheLimits.waiting)",
            )
            call.listener.answer(call.key, status)
            self._tell_end(call, status)
        else:
            head = decode_response(joined.header)
            call.listener.answer(call.key, head, joined.body)
            self._tell_end(call, head, len(joined.body))
        return False

    def _answer_all(self, call: ServedCall, head: ResponseHead, body: bytes) -> None:
        """Answer a request that has a key, and those with the same key that wait."""
        if self.replies.runner(call.cache_key) is not call:
            call.listener.answer(call.key, head, body)  # it waited for another one's reply
            self._leave(call, "nobody waits for it any more")
            return
        keep = head.code in _KEPT and not head.not_executed
        reply = KeptReply(*encode_reply(head, body)) if keep else KeptReply(b"", b"")
        now = self._clock.seconds()
        for waiting in self.replies.finish(
            call.cache_key, call, reply, now, keep=keep, owner=call.user
        ):
            if waiting is not call:
                waiting.settle(self.open_calls)
            waiting.listener.answer(waiting.key, head, body)
            if waiting is not call:
                self._tell_end(waiting, head, len(body))

    def _leave(self, call: ServedCall, reason: str) -> None:
        """A request with a key does not wait any more; the last one ends the handler."""
        runner = self.replies.runner(call.cache_key)
        if self.replies.leave(call.cache_key, call):
            assert runner is not None, "the run had not ended"
            runner.settle(self.open_calls)
            self._interrupt(runner, reason)
        elif runner is call:
            call.detach()

    # -- ends that come from outside ---------------------------------------------------------

    def abandon(self, calls: Iterable[ServedCall], reason: str) -> None:
        """End calls whose result nobody wants; a place is free when its handler has ended."""
        for call in _waiting_first(calls):
            if call.settled or call.detached:
                continue
            if call.cache_key is None:
                call.settle(self.open_calls)
                self._interrupt(call, reason)
                continue
            if self.replies.runner(call.cache_key) is not call:
                call.settle(self.open_calls)
                self._tell_end(call, ResponseHead(Code.CANCELLED, reason))
            self._leave(call, reason)

    def end_calls(self, calls: Iterable[ServedCall], reason: str) -> None:
        """Answer calls with UNAVAILABLE, and cancel their handlers."""
        for call in _waiting_first(calls):
            if call.settled or call.detached:
                continue
            head = _cut_short(reason, executed=call.may_have_run)
            if call.cache_key is None:
                self._answer(call, head)
                self._interrupt(call, reason)
            else:  # others may wait for its reply, by other connections
                call.listener.answer(call.key, head._replace(not_executed=False))
                self.abandon([call], reason)

    def end(self, calls: Iterable[ServedCall], status: ResponseHead, reason: str) -> None:
        """Answer those of the calls that were not answered, and cancel their handlers."""
        for call in _waiting_first(calls):
            if not call.settled and not call.detached:
                self._answer(call, status)
                self._interrupt(call, reason)

    def end_all(self, calls: Iterable[ServedCall]) -> None:
        """The server shuts down: answer all calls with UNAVAILABLE, and cancel their handlers."""
        for call in _waiting_first(calls):
            if not call.settled:
                self._answer(call, _cut_short("the server shut down", executed=call.may_have_run))
            self._interrupt(call, "the server shuts down")

    def _interrupt(self, call: ServedCall, reason: str) -> None:
        """Have a call end that is settled."""
        if call.queued:
            call.leave_queue()
            self._admission.remove(call.place, call)
        call.interrupt(reason, self.open_calls)
        self._tell_end(call, ResponseHead(Code.CANCELLED, reason))

    def _too_late(self, call: ServedCall) -> None:
        if call.settled:
            return
        if call.may_have_run:
            status = _TIME_IS_UP
        else:
            status = _WAITED_TOO_LONG if call.end is None else MAY_BE_LATE
        self._answer(call, status)
        self._interrupt(call, "its deadline has passed")
        if call.waited:
            self._admission.waited_in_vain()

    # -- a reactor that stood still ----------------------------------------------------------

    def stood_still(self, now: float) -> None:
        """The watchdog's time is past since a message was read, or a place became free."""
        seconds = self.watchdog.noticed(now)
        handling, since = self._handling, now - self._began
        if handling is not None and since <= seconds:  # it was called since the reactor was seen
            self._tell_of_block(since, handling)
        else:
            self._tell_of_block(seconds)

    def was_blocked(self, now: float) -> None:
        """The watchdog's time is past, and it is not known by what."""
        self._tell_of_block(self.watchdog.noticed(now))

    def _tell_of_block(self, seconds: float, handling: ServedMethod | None = None) -> None:
        self._count("reactor blocked")
        if handling is None:
            self._watch.stood_still(seconds)
        else:
            call_id = self._handling_key[-1].hex()
            self._watch.blocked(seconds, handling.path, handling.handler_name, call_id)

    def handles_none(self) -> None:
        """What the time from now on is spent on is no handler."""
        self._handling = None

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Leave nothing behind, in the reactor or here."""
        self.open_calls.deadlines.close()
        self.watchdog.stop()
        self.replies.clear()


def _raise(error: BaseException) -> None:
    raise error


def _handle(handler: Callable[[Any, Context], Any], request: Any, context: Context) -> Any:
    """Call a handler in its own surroundings; the result, or a Deferred of it."""
    set_current(context)
    result = handler(request, context)
    if isinstance(result, CoroutineType):
        # pyright knows nothing of what a handler awaits, and need not.
        return Deferred.fromCoroutine(result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return result


def _waiting_first(calls: Iterable[ServedCall]) -> list[ServedCall]:
    """Calls in the order in which to end them: the end of one that runs starts one that waits."""
    return sorted(calls, key=lambda call: not call.queued)


def _cut_short(reason: str, *, executed: bool) -> ResponseHead:
    what = "may have been" if executed else "was not"
    return ResponseHead(
        Code.UNAVAILABLE, f"{reason}; the call {what} executed", not_executed=not executed
    )


def too_large(what: str, size: int, limit: int) -> ResponseHead:
    return ResponseHead(
        Code.RESOURCE_EXHAUSTED,
        f"the {what} has {size} bytes, over the server's limit of {limit} "
        "(ServerLimits.message_size)",
    )
