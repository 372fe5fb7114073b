"""The status that a caller gets when its handler has failed, and how replies are encoded.

What a handler raises by its own choice, an RpcError, is the answer. Everything else is logged with
an id, and the caller gets the id. That holds too for the outcome of a call that the handler made
itself and did not catch: what another server told this one, its message, details and metadata, is
not meant for this server's caller, and its code would say something false of this server
(UNAVAILABLE: try me again). See docs/decisions/0005-errors-of-nested-calls.md.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Iterable
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final, Protocol, cast

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._escape import escaped, text_of
from txzmq._reactor import Clock
from txzmq.rpc._raw_message import RawMessage, hint_to_wrap
from txzmq.rpc._wire.headers import ResponseHead, encode_response
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code, DeadlineExceeded, Internal, RpcError, to_code
from txzmq.rpc.method import Kind
from txzmq.rpc.records import CallRecord, Side

__all__ = [
    "HandlerLog",
    "Handlers",
    "Named",
    "WrongResult",
    "chosen_status",
    "encode_reply",
    "escaped_failure",
    "is_source",
    "tell_end",
    "too_much_metadata",
    "unknown_method",
]

_log = Logger()
_SERVER: Final = Side.SERVER
_CANNOT_BE_SENT: Final = ResponseHead(
    Code.INTERNAL, "the handler's status or metadata cannot be sent"
)
_CANCELLED: Final = (CancelledError, asyncio.CancelledError)
#: Seconds. Deadlines are met in steps of a thousandth, so one of two equal ones may come first.
_SAME_TIME: Final = 0.002
#: Tracebacks of one method that are logged in so many seconds.
_PER_MINUTE: Final = 10
_MINUTE: Final = 60.0
#: Characters of an exception's text where its traceback is left out; requests may be in it.
_MOST_TEXT: Final = 500
#: What Python, Twisted and txzmq say of a handler that uses asyncio as if it ran in its loop.
_OF_ASYNCIO: Final = (
    "no running event loop",
    "await wasn't used with future",
    "should be used inside a task",
    "Task got bad yield",
    "a handler can await Deferreds",
)
_ASYNCIO_HINT: Final = (
    "; to await what is asyncio's, install Twisted's asyncio reactor, and make the server with "
    'handlers="asyncio"; a Task awaits Deferreds that are not txzmq\'s by deferred.asFuture(loop)'
)
#: What is iterable, and gives no messages.
_NO_SOURCES: Final = (Message, bytes, bytearray, memoryview)
#: Required fields that are named where a message lacks them.
_MOST_FIELDS: Final = 5


def is_source(value: object) -> bool:
    """Whether a handler may return it where a stream is due: something that gives items.

    Messages give nothing, though a few, such as ``ListValue``, could be iterated, and so could
    bytes, of which raw messages are made.
    """
    return isinstance(value, (AsyncIterable, Iterable)) and not isinstance(value, _NO_SOURCES)


class Handlers(Protocol):
    """What is known of the handlers of a server."""

    def get(self, path: str, /) -> Named | None:
        """The method with a path."""
        ...


class Named(Protocol):
    """A method with a handler."""

    @property
    def handler_name(self) -> str:
        """What its handler is called."""
        ...


class WrongResult(Internal):
    """A handler or interceptor returned, gave or passed on something of a wrong type.

    :ivar what: what it was and what is due, for the log: types, never values.
    :ivar by_interceptor: whether it was an interceptor.
    """

    what = ""
    by_interceptor = False

    @classmethod
    def returned(
        cls, value: object, expected: type[object], *, streams: bool, by_interceptor: bool = False
    ) -> WrongResult:
        """It was returned where a response is due, or where *streams* a stream of them."""
        who = "an interceptor" if by_interceptor else "the handler"
        error = cls(f"{who} returned a wrong type")
        due = f"an iterable of {expected.__qualname__}" if streams else expected.__qualname__
        hint = _hint_for(value, expected, streams=streams)
        error.what = f"returned {_name_of(value)}, not {due}{hint}"
        error.by_interceptor = by_interceptor
        return error

    @classmethod
    def passed_on(cls, value: object, expected: type[object], *, streams: bool) -> WrongResult:
        """An interceptor gave it to the handler where a request is due, or a stream of them."""
        error = cls("an interceptor passed on a wrong type")
        due = "an asynchronous iterable of " if streams else ""
        error.what = f"passed on {_name_of(value)}, not {due}{expected.__qualname__}"
        error.by_interceptor = True
        return error

    @classmethod
    def item(cls, value: object, expected: str) -> WrongResult:
        """It was given as an item of a stream."""
        error = cls("the handler gave an item of a wrong type")
        error.what = f"gave an item of type {_name_of(value)}, not {expected}"
        return error

    @classmethod
    def last(cls, value: object) -> WrongResult:
        """A generator has returned it, behind its items."""
        error = cls("the handler returned a wrong type")
        error.what = (
            f"returned {_name_of(value)} when its items had ended, which nobody gets; yield it"
        )
        return error

    @classmethod
    def incomplete(cls, message: object) -> WrongResult | None:
        """The required fields of a message are missing; None if that is not what is wrong."""
        if not isinstance(message, Message):
            return None
        # Any: the stubs of protobuf leave it out.
        missing: list[str] = cast("Any", message).FindInitializationErrors()
        if not missing:
            return None
        error = cls("the handler left out required fields")
        error.what = f"gave {_name_of(message)} without {', '.join(missing[:_MOST_FIELDS])}"
        return error


def _name_of(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return type(value).__qualname__


def _hint_for(value: object, expected: type[object], *, streams: bool) -> str:
    if not streams and isinstance(value, GeneratorType | AsyncGeneratorType):
        return "; a handler with a yield gives a stream"
    if streams and isinstance(value, Message | RawMessage):
        return "; a handler of a stream yields its messages, or returns a list of them"
    return hint_to_wrap(value, expected)


class HandlerLog:
    """Says in the log, and to callers, how handlers have failed.

    A method that fails all the time must not fill the disk: of each (and of all that a fallback
    serves together), ten tracebacks a minute are
    logged. A failure past that is one line, with the id that its caller gets. Of wrong results, ten
    lines a minute are logged.
    """

    def __init__(self, clock: Clock, handlers: Handlers, *, debug: bool) -> None:
        """
        :param handlers: by path; they have the names of the handlers.
        :param debug: tell callers the text of exceptions as well.
        """
        self._clock = clock
        self._by_path = handlers
        self._debug = debug
        # Of each method, one for exceptions and one for wrong results.
        self._limits: dict[tuple[str, bool], _Budget] = {}

    def status_of(self, failure: Failure, context: Context) -> ResponseHead:
        """The answer to a call whose handler failed.

        What its caller must not see is logged, with an id that the caller gets. Never raises.

        :param failure: whatever the handler raised.
        :param context: of the call.
        """
        error = _value(failure)
        if isinstance(error, WrongResult):
            self._log_wrong(error, context)
        try:
            head = _chosen(error, context)
        except Exception:  # noqa: BLE001 - an error class of the user's, with attributes that raise
            head = None
        if head is not None:
            return head
        identifier = uuid.uuid4().hex
        self._log_failure(failure, context, f" ({identifier})", identifier)
        text = f": {text_of(error)}" if self._debug else ""
        if isinstance(error, _CANCELLED):
            what = "the handler was cancelled"
            return ResponseHead(
                Code.CANCELLED, f"{what}; the server logged it as {identifier}{text}"
            )
        return ResponseHead(
            Code.UNKNOWN, f"the handler failed; the server logged it as {identifier}{text}"
        )

    def log_late(self, failure: Failure, context: Context) -> None:
        """Log what a handler raised whose call was over before, unless it should end like that.

        Nobody gets an answer any more, but what fails while it cleans up is to be seen all the
        same.
        """
        error = _value(failure)
        if isinstance(error, WrongResult):
            self._log_wrong(error, context)
        elif not isinstance(error, (*_CANCELLED, RpcError)):
            self._log_failure(failure, context, ", after the call had ended")

    def _log_failure(
        self, failure: Failure, context: Context, more: str, identifier: str = ""
    ) -> None:
        budget = self._budget(context.method, is_wrong=False)
        peer = escaped(context.peer) or "a peer without address"
        fields = self._fields(context)
        # In each line: what Twisted writes of a failure as JSON does not have the exception's text.
        fields["error"] = escaped(_shortened(text_of(_value(failure))))
        if not budget.take():
            _log.error(
                "{method} failed for {who}{more}: {error}; its tracebacks are left out for now",
                who=peer,
                more=more,
                identifier=identifier,
                **fields,
            )
            return
        _log.failure(
            "{method} failed for {who}{more}{missed}{hint}",
            escaped_failure(failure),
            who=peer,
            more=more,
            identifier=identifier,
            missed=budget.missed("tracebacks"),
            hint=_hint_of(_value(failure)),
            **fields,
        )

    def _log_wrong(self, error: WrongResult, context: Context) -> None:
        budget = self._budget(context.method, is_wrong=True)
        if not budget.take():
            return
        handler = self._by_path.get(context.method)
        name = "a handler" if handler is None else handler.handler_name
        _log.error(
            "{method}: {who} {what}{missed}",
            **self._fields(context),
            who=f"an interceptor of {name}" if error.by_interceptor else name,
            what=error.what,
            missed=budget.missed("such lines"),
        )

    def _fields(self, context: Context) -> dict[str, Any]:
        """What each line has besides its text, by the names of an access log."""
        record = None if context.end is None else context.end.record
        return {
            "method": context.method,
            "peer": escaped(context.peer),
            "identity": "" if context.identity is None else escaped(context.identity.name),
            # Known where an observer is told of calls, whose log it is to be found in.
            "call_id": "" if record is None else record.request_id.hex(),
            "seconds": round(self._clock.seconds() - context.arrived, 6),
        }

    def _budget(self, path: str, *, is_wrong: bool) -> _Budget:
        if self._by_path.get(path) is None:
            path = ""  # a fallback's: clients choose its paths, and all have one budget
        budget = self._limits.get((path, is_wrong))
        if budget is None:
            budget = self._limits[path, is_wrong] = _Budget(self._clock)
        return budget


class _Budget:
    """What is logged of one kind of failures of one method: so much in a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.seconds()
        self._taken = 0
        self._missed = 0

    def take(self) -> bool:
        """Whether there is room for one more; if not, it is counted."""
        now = self._clock.seconds()
        if now - self._begun >= _MINUTE:
            self._begun = now
            self._taken = 0
        if self._taken >= _PER_MINUTE:
            self._missed += 1
            return False
        self._taken += 1
        return True

    def missed(self, of: str) -> str:
        """How many were left out since the last one, in words; they are counted from 0 again."""
        missed, self._missed = self._missed, 0
        return f"; {missed} {of} of this method were left out before" if missed else ""


def tell_end(
    context: Context,
    kind: Kind,
    head: ResponseHead,
    now: float,
    requests: int,
    responses: int,
    request_bytes: int,
    response_bytes: int,
) -> None:
    """A call has ended: tell those who asked; does nothing if they know.

    :param head: what its client is told, or would be.
    :param now: by the clock.
    :param requests: how many the handler was given.
    :param responses: how many it gave.
    :param request_bytes: of these requests.
    :param response_bytes: of these responses.
    """
    end = context.end
    if end is None:
        context.end_unasked()
    elif not end.is_over:
        record = end.record
        if record is None:
            record = record_of(context, kind)
        code = to_code(head.code)
        record.complete(code, head.message, now, requests, responses, request_bytes, response_bytes)
        end.reach(record)


def record_of(context: Context, kind: Kind, *, known: bool = True) -> CallRecord:
    """The record of a call that has begun.

    :param known: whether the server has the method as one of its own.
    """
    return CallRecord(
        _SERVER,
        context.method,
        kind,
        context.arrived,
        context.metadata,
        context.peer,
        context.identity,
        known,
    )


def encode_reply(head: ResponseHead, body: bytes = b"") -> tuple[bytes, bytes]:
    """Header and body of a reply. Never raises: a head that cannot be encoded becomes INTERNAL."""
    try:
        return encode_response(head), body
    except Exception:  # noqa: BLE001 - handlers set metadata and details of any type
        # The log does not show the head, which may hold secrets.
        _log.failure("a handler's status or its metadata cannot be sent")
        return encode_response(_CANNOT_BE_SENT), b""


def too_much_metadata(what: str, limit: int) -> ResponseHead:
    """The status for metadata over the limit.

    :param what: "request" or "response".
    :param limit: bytes.
    """
    return ResponseHead(
        Code.RESOURCE_EXHAUSTED,
        f"the metadata of the {what} is over the server's limit of {limit} bytes "
        "(ServerLimits.metadata_size)",
    )


def unknown_method(path: str) -> ResponseHead:
    """The status for a method that the server does not have."""
    return ResponseHead(Code.UNIMPLEMENTED, f"the server has no method {path}")


def _value(failure: Failure) -> BaseException:
    return cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's


def _chosen(error: BaseException, context: Context) -> ResponseHead | None:
    """The status that the handler chose; None if what it raised is no choice."""
    if not isinstance(error, RpcError):
        return None
    if not error.method:
        return chosen_status(error)
    left = context.time_remaining()
    if isinstance(error, DeadlineExceeded) and left is not None and left <= _SAME_TIME:
        # The call took its deadline from this one, and was the first to notice.
        return ResponseHead(
            Code.DEADLINE_EXCEEDED,
            "the call's time was up on the server; it may have been executed",
        )
    return None


def chosen_status(error: RpcError) -> ResponseHead | None:
    """The status of an error that is no other call's; None if its code was set to OK by hand."""
    code = to_code(error.code)
    if code is Code.OK:
        return None  # no error can be made with it
    return ResponseHead(code, error.message, error.details, (), error.metadata)


def _hint_of(error: BaseException) -> str:
    """What to do where asyncio and Twisted have met in a handler, whose own words do not say it."""
    if not isinstance(error, (RuntimeError, TypeError)):
        return ""
    text = text_of(error)
    return _ASYNCIO_HINT if any(words in text for words in _OF_ASYNCIO) else ""


def _shortened(text: str) -> str:
    if len(text) <= _MOST_TEXT:
        return text
    return f"{text[:_MOST_TEXT]}... ({len(text)} characters)"


def escaped_failure(failure: Failure) -> Failure:
    """A failure whose traceback shows the text of its exception escaped; else the same.

    Handlers raise exceptions with what they were sent: ``ValueError(f"no user {request.name}")``.
    """
    try:
        text = str(_value(failure))
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is
        return failure
    if text.isprintable():
        return failure
    shown = _EscapedFailure.__new__(_EscapedFailure)
    shown.__dict__.update(failure.__dict__)
    return shown


class _EscapedFailure(Failure):
    """A failure as it is shown in a log."""

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        traceback = super().getTraceback(elideFrameworkCode, detail)
        text = str(_value(self))
        lines = traceback.replace(text, escaped(text)).split("\n")
        return "\n".join(map(escaped, lines))
