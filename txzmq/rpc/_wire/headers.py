"""The header frames of requests and replies."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Final, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from txzmq.rpc._wire.metadata import add_to, from_wire, request_fields
from txzmq.rpc.errors import Code, to_code
from txzmq.rpc.metadata import MAX_PAIRS, PAIR_OVERHEAD, Metadata, normalise
from txzmq.rpc.v1 import header_pb2
from txzmq.rpc.v1.header_pb2 import RequestHeader, ResponseHeader, Status

__all__ = [
    "MAX_HEADER",
    "MAX_PATH",
    "MAX_USER_AGENT",
    "OK",
    "REQUEST_KEY_SIZE",
    "TOPIC_SIZE",
    "BadHeader",
    "OpenStream",
    "OpenedStream",
    "RequestHead",
    "ResponseHead",
    "TooMuchMetadata",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
    "from_us",
    "to_us",
]

#: Bytes that a header frame may have: room for twice the default limit of metadata, and the rest.
MAX_HEADER: Final = 64 * 1024
#: Characters that a method's path may have.
MAX_PATH: Final = 256
#: Characters of what a client says that it is; a longer text is not looked at.
MAX_USER_AGENT: Final = 128
#: Bytes of a key that stands for all attempts of one call.
REQUEST_KEY_SIZE: Final = 16
#: Bytes of the topic of a stream of responses, and of the id of a stream of requests.
TOPIC_SIZE: Final = 16
# Printable ASCII only: paths are told to peers and written to logs.
_PATH: Final = re.compile(r"/[!-.0-~]+/[!-.0-~]+", re.ASCII)
#: A timeout that is longer counts as none: 2**53 us is 285 years.
_MAX_TIMEOUT_US: Final = 2**53
#: Larger headers are parsed each time: peers decide what is kept, so it must be small.
_MAX_KNOWN_HEADER: Final = 512
#: Characters that are kept of a status message that does not fit.
_SHORT_MESSAGE: Final = 1_024


_US: Final = 1_000_000
#: Added to milliseconds before rounding down: 1.001 s are 1000.9999999999999 ms as a float.
_ROUNDING: Final = 1e-3


def to_us(seconds: float) -> int:
    """The time that a call has left, in microseconds, as its header says it.

    From one second on it is rounded down to whole milliseconds: calls that are made at the same
    moment and inherit a deadline then have equal headers.
    """
    if seconds >= 1.0:
        return int(seconds * 1_000 + _ROUNDING) * 1_000
    return round(seconds * _US)


def from_us(microseconds: int) -> float:
    """The seconds of a time in a header."""
    return microseconds / _US


class BadHeader(ValueError):
    """A header cannot be parsed, or is not allowed; the text may be sent to the peer."""


class TooMuchMetadata(BadHeader):
    """A header has more metadata than the server takes; the text may be sent to the peer."""


class OpenStream(NamedTuple):
    """The client's end of a call in which requests or responses stream.

    :ivar window_items: how many items may be published and not acknowledged.
    :ivar window_bytes: how many bytes of them; the item that reaches them is the last.
    :ivar requests: the id of the stream of requests, 16 bytes; empty if there is none.
    :ivar sequence: the number of the first item, of a stream that is resumed; 0 for the beginning.
    """

    window_items: int = 0
    window_bytes: int = 0
    requests: bytes = b""
    sequence: int = 0


class OpenedStream(NamedTuple):
    """The server's end of a stream of responses.

    :ivar topic: what to subscribe to, with a zero byte behind it.
    :ivar publisher: where the server's publisher listens.
    :ivar epoch: bytes that all streams of a server have in common until it restarts.
    :ivar sequence: the number of the first item.
    :ivar grace_ms: how long the server keeps a stream that nobody subscribes to.
    :ivar shared: whether other calls get the same items.
    :ivar window_items: the window in effect, in items.
    :ivar window_bytes: the window in effect, in bytes.
    :ivar bundle: the topic for publications of several streams at once; empty if there is none.
    """

    topic: bytes
    publisher: str
    epoch: bytes
    sequence: int = 1
    grace_ms: int = 0
    shared: bool = False
    window_items: int = 0
    window_bytes: int = 0
    bundle: bytes = b""


class RequestHead(NamedTuple):
    """What a request's header says.

    :ivar path: ``/package.Service/Method``.
    :ivar timeout_us: the time that the call has left, in microseconds; None for no deadline.
    :ivar accepts_batches: whether the client understands batches, and asks if the server does.
    :ivar request_key: 16 bytes, the same in all attempts of one call; empty if there is none.
    :ivar open_stream: None in a unary call.
    :ivar user_agent: what the client is, if the request says so; else empty.
    """

    path: str
    timeout_us: int | None
    metadata: Metadata
    accepts_batches: bool = False
    request_key: bytes = b""
    open_stream: OpenStream | None = None
    user_agent: str = ""


class ResponseHead(NamedTuple):
    """What a reply's header says. Only an error has a message and details.

    :ivar accepts_batches: whether the server understands batches.
    :ivar not_executed: of an error: whether the server knows that no handler saw the call.
    :ivar draining: whether the server takes no more calls on this connection.
    :ivar stream: the stream of responses that the call has opened.
    :ivar reconnect: with *draining*: whether it takes them on another connection, which the client
        is to make.
    """

    code: Code = Code.OK
    message: str = ""
    details: tuple[AnyMessage, ...] = ()
    initial: Metadata = ()
    trailing: Metadata = ()
    accepts_batches: bool = False
    not_executed: bool = False
    draining: bool = False
    stream: OpenedStream | None = None
    reconnect: bool = False


#: A plain success, whose header is empty.
OK: Final = ResponseHead()


def encode_request(head: RequestHead) -> bytes:
    """The header frame of a request; a timeout of more than 285 years is left out.

    :raises ValueError: for a timeout below 0.
    """
    # Two serialised messages in a row are one message, so the part that calls share is cached.
    header = _encode_common(head.path, head.timeout_us, head.accepts_batches)
    if not (head.metadata or head.request_key or head.user_agent) and head.open_stream is None:
        return header
    if head.metadata:
        header += request_fields(head.metadata)
    if not (head.request_key or head.user_agent) and head.open_stream is None:
        return header
    stream = head.open_stream
    own = RequestHeader(
        request_key=head.request_key,
        # Also if all its fields have defaults: its presence says that the method streams.
        open_stream=None if stream is None else header_pb2.OpenStream(**stream._asdict()),
        user_agent=head.user_agent,
    )
    return header + own.SerializeToString()


@lru_cache(maxsize=1024)
def _encode_common(path: str, timeout_us: int | None, accepts_batches: bool) -> bytes:
    if timeout_us is not None and timeout_us > _MAX_TIMEOUT_US:
        timeout_us = None
    return RequestHeader(
        method=path, timeout_us=timeout_us, accepts_batches=accepts_batches
    ).SerializeToString()


_known_requests: dict[bytes, RequestHead] = {}


def decode_request(header: bytes, metadata_size: int = sys.maxsize) -> RequestHead:
    """Parse the header frame of a request.

    :param metadata_size: bytes of metadata that the server takes. Pairs that are too many for it
        are not looked at; a caller counts the bytes of the others.
    :raises BadHeader: if the frame is not a valid header.
    :raises TooMuchMetadata: if it has too many pairs.
    """
    known = _known_requests.get(header)
    if known is not None:
        return known
    head = _decode_request(header, metadata_size)
    stream = head.open_stream
    if (
        not head.metadata
        and not head.request_key
        and not head.user_agent  # once a connection
        and not (stream and (stream.requests or stream.sequence))
        and len(header) <= _MAX_KNOWN_HEADER
    ):
        if len(_known_requests) >= 1024:
            _known_requests.clear()
        _known_requests[header] = head
    return head


def _decode_request(header: bytes, metadata_size: int) -> RequestHead:
    _check_length(header)
    try:
        message = RequestHeader.FromString(header)
        if metadata_size < PAIR_OVERHEAD * len(message.metadata) <= PAIR_OVERHEAD * MAX_PAIRS:
            raise TooMuchMetadata(
                f"the metadata of the request is over the server's limit of {metadata_size} bytes "
                "(ServerLimits.metadata_size)"
            )
        metadata = from_wire(message.metadata)
    except TooMuchMetadata:
        raise
    except (DecodeError, ValueError) as error:  # ValueError: text that is not UTF-8, on PyPy
        raise BadHeader("the request's header cannot be parsed") from error
    path = message.method
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        raise BadHeader(
            f"the method's path must be /service/method, at most {MAX_PATH} printable characters"
        )
    timeout_us = message.timeout_us if message.HasField("timeout_us") else None
    if timeout_us is not None and timeout_us > _MAX_TIMEOUT_US:
        timeout_us = None
    key = message.request_key
    if len(key) not in (0, REQUEST_KEY_SIZE):
        raise BadHeader(f"a request key has {REQUEST_KEY_SIZE} bytes, not {len(key)}")
    stream = None
    if message.HasField("open_stream"):
        stream = _open_stream_from_wire(message.open_stream)
    agent = message.user_agent
    if len(agent) > MAX_USER_AGENT or not (agent.isascii() and agent.isprintable()):
        agent = ""  # it is for people, and no reason not to serve the request
    return RequestHead(path, timeout_us, metadata, message.accepts_batches, key, stream, agent)


def _open_stream_from_wire(message: header_pb2.OpenStream) -> OpenStream:
    requests = message.requests
    if len(requests) not in (0, TOPIC_SIZE):
        raise BadHeader(f"the id of a stream has {TOPIC_SIZE} bytes, not {len(requests)}")
    return OpenStream(message.window_items, message.window_bytes, requests, message.sequence)


def _check_length(header: bytes) -> None:
    if len(header) > MAX_HEADER:
        raise BadHeader(f"the header has {len(header)} bytes, more than {MAX_HEADER}")


def encode_response(head: ResponseHead) -> bytes:
    """The header frame of a reply; empty for a plain success.

    Past :data:`MAX_HEADER`, details and metadata are left out, and the status says so.

    :raises ValueError: for metadata that is not allowed, which a handler's error may have.
    :raises TypeError: likewise.
    """
    if head == OK:
        return b""
    header = _encode_response(head)
    if len(header) <= MAX_HEADER:
        return header
    problem = f"the reply's header had {len(header)} bytes, more than {MAX_HEADER}"
    if head.code is Code.OK:
        short = ResponseHead(Code.RESOURCE_EXHAUSTED, problem)
    else:
        message = f"{head.message[:_SHORT_MESSAGE]} (shortened: {problem})"
        short = ResponseHead(head.code, message)
    return _encode_response(
        short._replace(
            accepts_batches=head.accepts_batches,
            not_executed=head.not_executed,
            draining=head.draining,
            reconnect=head.reconnect,
        )
    )


def _encode_response(head: ResponseHead) -> bytes:
    message = ResponseHeader(
        accepts_batches=head.accepts_batches, draining=head.draining, reconnect=head.reconnect
    )
    add_to(message.initial_metadata, normalise(head.initial))
    add_to(message.trailing_metadata, normalise(head.trailing))
    stream = head.stream
    if stream is not None:
        message.stream.CopyFrom(
            header_pb2.OpenedStream(
                topic=stream.topic,
                publisher=stream.publisher,
                epoch=stream.epoch,
                sequence=stream.sequence,
                grace_ms=stream.grace_ms,
                shared=stream.shared,
                window_items=stream.window_items,
                window_bytes=stream.window_bytes,
                bundle=stream.bundle,
            )
        )
    if head.code is not Code.OK:
        # An exception's text may hold halves of surrogate pairs, from a file name for instance.
        text = head.message.encode(errors="replace").decode()
        message.status.CopyFrom(Status(code=int(head.code), message=text, details=head.details))
        message.not_executed = head.not_executed
    return message.SerializeToString()


def decode_response(header: bytes) -> ResponseHead:
    """Parse the header frame of a reply.

    :raises BadHeader: if the frame is not a valid header.
    """
    if not header:
        return OK
    _check_length(header)
    try:
        message = ResponseHeader.FromString(header)
        initial = from_wire(message.initial_metadata)
        trailing = from_wire(message.trailing_metadata)
    except (DecodeError, ValueError) as error:  # ValueError: text that is not UTF-8, on PyPy
        raise BadHeader("the reply's header cannot be parsed") from error
    status = message.status
    code = to_code(status.code)
    if code is Code.OK:
        return ResponseHead(
            initial=initial,
            trailing=trailing,
            accepts_batches=message.accepts_batches,
            draining=message.draining,
            stream=_stream_from_wire(message),
            reconnect=message.reconnect,
        )
    return ResponseHead(
        code,
        status.message,
        tuple(status.details),
        initial,
        trailing,
        message.accepts_batches,
        message.not_executed,
        message.draining,
        reconnect=message.reconnect,
    )


def _stream_from_wire(message: ResponseHeader) -> OpenedStream | None:
    if not message.HasField("stream"):
        return None
    stream = message.stream
    for topic in (stream.topic, stream.bundle or stream.topic):
        if len(topic) != TOPIC_SIZE or b"\0" in topic:
            raise BadHeader(
                f"the topic of a stream has {TOPIC_SIZE} bytes, and none of them is zero"
            )
    return OpenedStream(
        stream.topic,
        stream.publisher,
        stream.epoch,
        stream.sequence,
        stream.grace_ms,
        stream.shared,
        stream.window_items,
        stream.window_bytes,
        stream.bundle,
    )
