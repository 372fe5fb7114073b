"""What gRPC says of a response, in the words of the client's engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc.aio

from txzmq._escape import text_of
from txzmq.rpc._grpc.statuses import details_of, metadata_of
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc.errors import Code, to_code

__all__ = ["StreamingRpc", "broken", "refusal", "success"]

#: A call of gRPC's with a stream of responses; its messages are bytes.
StreamingRpc: TypeAlias = (
    "grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]"
)


def success(initial: Iterable[Any] | None, trailing: Iterable[Any] | None) -> ResponseHead:
    """The call has ended well."""
    return ResponseHead(initial=metadata_of(initial), trailing=metadata_of(trailing))


def refusal(error: grpc.aio.AioRpcError) -> ResponseHead:
    """The call has ended with a status that is none of success."""
    trailing: list[Any] = list(error.trailing_metadata() or ())
    return ResponseHead(
        to_code(error.code().value[0]),
        error.details() or "",
        details_of(trailing),
        metadata_of(error.initial_metadata()),
        metadata_of(trailing),
    )


def broken(error: BaseException) -> ResponseHead:
    """GRPC has raised what is no status."""
    return ResponseHead(Code.INTERNAL, f"gRPC could not make the call: {text_of(error)}")
