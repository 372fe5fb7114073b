"""A client on bare pyzmq, written from docs/protocol.md alone, without txzmq and protobuf."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import zmq

#: Seconds until a test gives up waiting; far more than a reply takes.
PATIENCE = 30.0

#: Metadata: pairs of a key and bytes.
Pairs = list[tuple[str, bytes]]


# -- protobuf, as far as it is needed ----------------------------------------------------------


def varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a message: a number, or text, bytes or another message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: of the kinds that the protocol has."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            shift += 7
            at += 1
            if message[at - 1] < 0x80:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        else:
            assert tag & 7 == 2
            length = number()
            yield tag >> 3, message[at : at + length]
            at += length


def of_number(message: bytes, number: int) -> list[bytes]:
    """The values of one field, which is text, bytes or a message."""
    return [value for key, value in fields(message) if key == number and isinstance(value, bytes)]


def string_value(text: str) -> bytes:
    """A ``google.protobuf.StringValue``, the request and response of the test's methods."""
    return field(1, text) if text else b""


def text_of(body: bytes) -> str:
    """What a ``google.protobuf.StringValue`` says."""
    return b"".join(of_number(body, 1)).decode()


# -- the protocol ------------------------------------------------------------------------------


def request_header(
    method: str, timeout_us: int | None = None, metadata: Pairs | None = None
) -> bytes:
    header = field(1, method)
    if timeout_us is not None:
        header += field(2, timeout_us)
    for key, value in metadata or []:
        header += field(3, field(1, key) + field(2, value))
    return header


class Answer(NamedTuple):
    """A reply, read."""

    code: int
    message: str
    details: list[bytes]
    initial: Pairs
    trailing: Pairs
    body: bytes


def read_pairs(header: bytes, number: int) -> Pairs:
    return [
        (b"".join(of_number(pair, 1)).decode(), b"".join(of_number(pair, 2)))
        for pair in of_number(header, number)
    ]


def read_answer(header: bytes, body: bytes) -> Answer:
    status = b"".join(of_number(header, 1))
    code = next((value for key, value in fields(status) if key == 1), 0)
    assert isinstance(code, int)
    message = b"".join(of_number(status, 2)).decode()
    return Answer(
        code,
        message,
        of_number(status, 3),
        read_pairs(header, 2),
        read_pairs(header, 3),
        body,
    )


class BareClient:
    """One DEALER, one server."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, routing_id: bytes = b"") -> None:
        self.socket = context.socket(zmq.DEALER)
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE * 1000))
        self.socket.connect(endpoint)
        self.random_part = os.urandom(8)
        self.counter = 0
        self.replies: dict[bytes, list[Answer]] = {}
        #: Replies of another shape; a client gets them that pretends to be a proxy.
        self.malformed = 0

    def new_id(self) -> bytes:
        self.counter += 1
        return self.random_part + self.counter.to_bytes(8, "big")

    def send(
        self,
        method: str,
        body: bytes = b"",
        *,
        timeout_us: int | None = None,
        metadata: Pairs | None = None,
    ) -> bytes:
        """Begin a call; its id."""
        request_id = self.new_id()
        self.send_frames([request_id, b"", request_header(method, timeout_us, metadata), body])
        return request_id

    def send_frames(self, frames: Iterable[bytes]) -> None:
        """Send a message, whatever it is."""
        self.socket.send_multipart(list(frames))

    def receive(self) -> bytes:
        """Wait for the next reply; its id."""
        if not self.socket.poll(int(PATIENCE * 1000)):
            raise AssertionError(f"no reply in {PATIENCE} s")
        reply: list[bytes] = self.socket.recv_multipart()
        request_id = reply[0]
        if len(reply) != 4 or reply[1]:
            self.malformed += 1
            return request_id
        header, body = reply[2:]
        self.replies.setdefault(request_id, []).append(read_answer(header, body))
        return request_id

    def answer(self, request_id: bytes) -> Answer:
        """Wait for the reply to a call; other replies are kept."""
        while request_id not in self.replies:
            self.receive()
        return self.replies[request_id][0]

    def call(
        self,
        method: str,
        text: str = "",
        *,
        timeout_us: int | None = None,
        metadata: Pairs | None = None,
    ) -> Answer:
        """Make a call and wait for its end."""
        body = string_value(text)
        return self.answer(self.send(method, body, timeout_us=timeout_us, metadata=metadata))

    def told(self, text: str = "") -> dict[str, Any]:
        """What the test's server has counted; *text* has it begin ``anew``, or ``let go``."""
        told: dict[str, Any] = json.loads(text_of(self.call("/test.Bare/Tell", text).body))
        told["counters"].pop("reactor blocked", None)  # the machine's, not what a client did
        return told

    def cancel(self, *request_ids: bytes) -> bytes:
        """End calls of this client; the id of the call that does it."""
        body = b"".join(field(1, request_id) for request_id in request_ids)
        return self.send("/txzmq.rpc.v1.Control/Cancel", body, timeout_us=30_000_000)

    def close(self) -> None:
        """Go away."""
        self.socket.close()
