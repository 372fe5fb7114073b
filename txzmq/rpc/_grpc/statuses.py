"""Status, details and metadata between gRPC and txzmq, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.metadata import PREVIOUS_ATTEMPTS, PUSHBACK, Metadata
from txzmq.rpc.v1.header_pb2 import Status

__all__ = ["details_of", "end_to_end", "metadata_of", "status_of", "trailing_of"]

#: Trailing metadata with a serialised ``google.rpc.Status``; gRPC's own, so that no caller sees it.
_DETAILS: Final = "grpc-status-details-bin"
#: How the names of gRPC's own headers begin, and HTTP/2's.
_OF_GRPC: Final = ("grpc-", ":")
#: Those of gRPC's that are between a client and the server: how often it has tried, and when it may
#: again.
_OF_RETRIES: Final = frozenset({PREVIOUS_ATTEMPTS, PUSHBACK})
#: Headers for the next hop, or about the body of the message that has them (RFC 9110, 7.6).
_OF_A_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_CODES: Final = {Code(code.value[0]): code for code in grpc.StatusCode}


# Any: what grpcio's stubs say of values is narrower than what arrives.
def metadata_of(pairs: Iterable[Any] | None) -> Metadata:
    """Metadata as it has arrived, without gRPC's own."""
    return tuple((key, value) for key, value in pairs or () if key != _DETAILS)


def end_to_end(pairs: Iterable[Any] | None) -> Metadata:
    """What of metadata a gateway passes on: nothing that is for a single hop, or gRPC's for one."""
    return tuple(
        (key, value)
        for key, value in pairs or ()
        if key in _OF_RETRIES or (key not in _OF_A_HOP and not key.startswith(_OF_GRPC))
    )


def details_of(trailing: Iterable[Any]) -> tuple[AnyMessage, ...]:
    """The details of an error; none where they cannot be parsed, which the status does without."""
    for key, value in trailing:
        if key == _DETAILS:
            try:
                # txzmq.rpc.v1.Status is google.rpc.Status, field by field, and needs no extra.
                return tuple(Status.FromString(value).details)
            except (DecodeError, UnicodeDecodeError, TypeError):  # on PyPy; text in place of bytes
                return ()
    return ()


def trailing_of(error: RpcError) -> Metadata:
    """The trailing metadata of an error for a client of gRPC's, its details among them."""
    trailing = end_to_end(error.metadata)
    if not error.details:
        return trailing
    status = Status(code=error.code, message=error.message, details=error.details)
    return (*trailing, (_DETAILS, status.SerializeToString()))


def status_of(error: RpcError) -> grpc.StatusCode:
    """The code of an error as gRPC has it."""
    return _CODES[error.code]
