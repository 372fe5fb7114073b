"""What a caller sees of what ended its handler: everything that leaves gets its status here."""

from __future__ import annotations

import uuid
from typing import cast

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code, RpcError

__all__ = ["status_of"]

_log = Logger()


def status_of(failure: Failure, context: Context, *, debug: bool) -> ResponseHead:
    """The answer to a call whose handler failed.

    What its caller must not see is logged, with an id that the caller gets.

    :param failure: whatever the handler raised.
    :param context: of the call.
    :param debug: tell the caller the text as well.
    """
    error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
    if isinstance(error, RpcError):
        return ResponseHead(error.code, error.message, error.details, (), error.metadata)
    if isinstance(error, CancelledError):
        return ResponseHead(Code.CANCELLED, "the handler was cancelled")
    identifier = uuid.uuid4().hex
    _log.failure(
        "{path} failed ({identifier})", failure, path=context.method, identifier=identifier
    )
    text = f": {_text_of(error)}" if debug else ""
    return ResponseHead(
        Code.UNKNOWN, f"the handler failed; the server logged it as {identifier}{text}"
    )


def _text_of(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception that cannot even say what it is
        return type(error).__name__
