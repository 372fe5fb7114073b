"""The header frames of requests and replies."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from txzmq.rpc._wire.metadata import Metadata, from_wire, to_wire
from txzmq.rpc.errors import Code, to_code
from txzmq.rpc.v1.header_pb2 import RequestHeader, ResponseHeader, Status

__all__ = [
    "MAX_HEADER",
    "OK",
    "BadHeader",
    "RequestHead",
    "ResponseHead",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
]

#: Bytes that a header frame may have: the default limits of metadata, twice over, and the rest.
MAX_HEADER: Final = 64 * 1024
#: Characters that a method's path may have.
MAX_PATH: Final = 256
#: A timeout that is longer counts as none: 2**53 us is 285 years.
_MAX_TIMEOUT_US: Final = 2**53


class BadHeader(ValueError):
    """A header that cannot be understood; the message may be shown to the peer."""


class RequestHead(NamedTuple):
    """What a request's header says.

    :ivar path: ``/package.Service/Method``.
    :ivar timeout_us: what is left of the call's time, in microseconds; None for no deadline.
    """

    path: str
    timeout_us: int | None
    metadata: Metadata


class ResponseHead(NamedTuple):
    """What a reply's header says."""

    code: Code = Code.OK
    message: str = ""
    details: tuple[AnyMessage, ...] = ()
    initial: Metadata = ()
    trailing: Metadata = ()


#: A plain success, whose header is empty.
OK: Final = ResponseHead()


def encode_request(head: RequestHead) -> bytes:
    """The header frame of a request."""
    return _encode_request(head) if head.metadata else _encode_plain_request(head)


def _encode_request(head: RequestHead) -> bytes:
    return RequestHeader(
        method=head.path, timeout_us=head.timeout_us, metadata=to_wire(head.metadata)
    ).SerializeToString()


# Requests without metadata repeat: a method, a timeout. Metadata is not kept: it holds secrets.
_encode_plain_request = lru_cache(maxsize=1024)(_encode_request)


_known_requests: dict[bytes, RequestHead] = {}


def decode_request(header: bytes) -> RequestHead:
    """Parse the header frame of a request.

    :raises BadHeader: if it is none.
    """
    known = _known_requests.get(header)
    if known is not None:
        return known
    head = _decode_request(header)
    if not head.metadata:
        if len(_known_requests) >= 1024:
            _known_requests.clear()
        _known_requests[header] = head
    return head


def _decode_request(header: bytes) -> RequestHead:
    if len(header) > MAX_HEADER:
        raise BadHeader(f"the header has {len(header)} bytes, more than {MAX_HEADER}")
    try:
        message = RequestHeader.FromString(header)
        metadata = from_wire(message.metadata)
    except (DecodeError, ValueError) as error:
        raise BadHeader("the request's header cannot be parsed") from error
    if not message.method or len(message.method) > MAX_PATH:
        raise BadHeader(f"the method's path must have 1 to {MAX_PATH} characters")
    timeout_us = message.timeout_us if message.HasField("timeout_us") else None
    if timeout_us is not None and timeout_us > _MAX_TIMEOUT_US:
        timeout_us = None
    return RequestHead(message.method, timeout_us, metadata)


def encode_response(head: ResponseHead) -> bytes:
    """The header frame of a reply; empty for a plain success."""
    if head == OK:
        return b""
    message = ResponseHeader(
        initial_metadata=to_wire(head.initial), trailing_metadata=to_wire(head.trailing)
    )
    if head.code is not Code.OK:
        message.status.CopyFrom(
            Status(code=int(head.code), message=head.message, details=head.details)
        )
    return message.SerializeToString()


def decode_response(header: bytes) -> ResponseHead:
    """Parse the header frame of a reply.

    :raises BadHeader: if it is none.
    """
    if not header:
        return OK
    if len(header) > MAX_HEADER:
        raise BadHeader(f"the header has {len(header)} bytes, more than {MAX_HEADER}")
    try:
        message = ResponseHeader.FromString(header)
        initial = from_wire(message.initial_metadata)
        trailing = from_wire(message.trailing_metadata)
    except (DecodeError, ValueError) as error:
        raise BadHeader("the reply's header cannot be parsed") from error
    status = message.status
    return ResponseHead(
        to_code(status.code), status.message, tuple(status.details), initial, trailing
    )
