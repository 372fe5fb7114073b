"""What gRPC says of a response, in the words of the client's engine."""

from __future__ import annotations

import contextvars
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from txzmq._escape import text_of
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc.errors import Code, to_code
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.v1.header_pb2 import Status

__all__ = ["StreamingRpc", "broken", "empty_context", "metadata_of", "refusal", "success"]

#: A call of gRPC's with a stream of responses; its messages are bytes.
StreamingRpc: TypeAlias = (
    "grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]"
)

#: Trailing metadata with a serialised ``google.rpc.Status``; gRPC's own, so that no caller sees it.
_DETAILS: Final = "grpc-status-details-bin"


def empty_context() -> contextvars.Context:
    """For what asyncio runs: it belongs to no caller, as what the reactor runs does not."""
    return contextvars.Context()


# Any: what grpcio's stubs say of values is narrower than what arrives.
def metadata_of(pairs: Iterable[Any] | None) -> Metadata:
    """Metadata as it has arrived, without gRPC's own."""
    return tuple((key, value) for key, value in pairs or () if key != _DETAILS)


def success(initial: Iterable[Any] | None, trailing: Iterable[Any] | None) -> ResponseHead:
    """The call has ended well."""
    return ResponseHead(initial=metadata_of(initial), trailing=metadata_of(trailing))


def refusal(error: grpc.aio.AioRpcError) -> ResponseHead:
    """The call has ended with a status that is none of success."""
    trailing: list[Any] = list(error.trailing_metadata() or ())
    return ResponseHead(
        to_code(error.code().value[0]),
        error.details() or "",
        _details(trailing),
        metadata_of(error.initial_metadata()),
        metadata_of(trailing),
    )


def _details(trailing: Iterable[Any]) -> tuple[AnyMessage, ...]:
    """The details of an error; none where they cannot be parsed, which the status does without."""
    for key, value in trailing:
        if key == _DETAILS:
            try:
                # txzmq.rpc.v1.Status is google.rpc.Status, field by field, and needs no extra.
                return tuple(Status.FromString(value).details)
            except (DecodeError, UnicodeDecodeError, TypeError):  # on PyPy; text in place of bytes
                return ()
    return ()


def broken(error: BaseException) -> ResponseHead:
    """GRPC has raised what is no status."""
    return ResponseHead(Code.INTERNAL, f"gRPC could not make the call: {text_of(error)}")
