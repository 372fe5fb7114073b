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
from typing import Final, cast

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq.rpc._wire.headers import ResponseHead, encode_response
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code, DeadlineExceeded, RpcError, to_code
from txzmq.rpc.method import Kind
from txzmq.rpc.records import CallRecord

__all__ = ["encode_reply", "log_late_failure", "status_of", "tell_end", "too_much_metadata"]

_log = Logger()
_CANNOT_BE_SENT: Final = ResponseHead(
    Code.INTERNAL, "the handler's status or metadata cannot be sent"
)
_CANCELLED: Final = (CancelledError, asyncio.CancelledError)
#: Seconds. Deadlines are met in steps of a thousandth, so one of two equal ones may come first.
_SAME_TIME: Final = 0.002


def status_of(failure: Failure, context: Context, *, debug: bool) -> ResponseHead:
    """The answer to a call whose handler failed.

    What its caller must not see is logged, with an id that the caller gets. Never raises.

    :param failure: whatever the handler raised.
    :param context: of the call.
    :param debug: tell the caller the text as well.
    """
    error = _value(failure)
    try:
        head = _chosen(error, context)
    except Exception:  # noqa: BLE001 - an error class of the user's, with attributes that raise
        head = None
    if head is not None:
        return head
    identifier = uuid.uuid4().hex
    _log.failure(
        "{method} failed for {peer} ({identifier})",
        failure,
        method=context.method,
        peer=context.peer or "a peer without address",
        identifier=identifier,
    )
    text = f": {_text_of(error)}" if debug else ""
    if isinstance(error, _CANCELLED):
        return ResponseHead(
            Code.CANCELLED, f"the handler was cancelled; the server logged it as {identifier}{text}"
        )
    return ResponseHead(
        Code.UNKNOWN, f"the handler failed; the server logged it as {identifier}{text}"
    )


def log_late_failure(failure: Failure, context: Context) -> None:
    """Log what a handler raised whose call was over before, unless that is how it should end.

    Nobody gets an answer any more, but what fails while it cleans up is to be seen all the same.
    """
    if isinstance(_value(failure), (*_CANCELLED, RpcError)):
        return
    _log.failure(
        "{method} failed for {peer}, after the call had ended",
        failure,
        method=context.method,
        peer=context.peer or "a peer without address",
    )


def tell_end(
    context: Context, kind: Kind, head: ResponseHead, now: float, requests: int, responses: int
) -> None:
    """A call has ended: tell those who asked; does nothing if they know.

    :param head: what its client is told, or would be.
    :param now: by the clock.
    :param requests: how many the handler was given.
    :param responses: how many it gave.
    """
    if context.end is None:
        context.end_unasked()
    elif not context.end.is_over:
        context.end.reach(
            CallRecord(
                method=context.method,
                kind=kind,
                code=to_code(head.code),
                message=head.message,
                seconds=now - context.arrived,
                requests=requests,
                responses=responses,
            )
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


def _value(failure: Failure) -> BaseException:
    return cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's


def _chosen(error: BaseException, context: Context) -> ResponseHead | None:
    """The status that the handler chose; None if what it raised is no choice."""
    if not isinstance(error, RpcError):
        return None
    if not error.method:
        code = to_code(error.code)
        if code is Code.OK:
            return None  # set by hand: no error can be made with it
        return ResponseHead(code, error.message, error.details, (), error.metadata)
    left = context.time_remaining()
    if isinstance(error, DeadlineExceeded) and left is not None and left <= _SAME_TIME:
        # The call took its deadline from this one, and was the first to notice.
        return ResponseHead(
            Code.DEADLINE_EXCEEDED,
            "the call's time was up on the server; it may have been executed",
        )
    return None


def _text_of(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception that cannot even say what it is
        return type(error).__name__
