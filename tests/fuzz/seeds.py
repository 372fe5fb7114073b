"""Writes the corpus: the examples of docs/protocol.md, and scripts of calls and streams.

``python -m tests.fuzz.seeds`` writes ``tests/fuzz/corpus`` anew; a test compares it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from tests.fuzz import client as to_client
from tests.fuzz import server as to_server
from tests.fuzz.harness import CORPUS
from tests.fuzz.mutators import Step, write_steps
from tests.rpc.service import ECHO, MISSING, OTHER, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, PUBLISHER, RESUME, TICKS
from tests.wire.vectors import everything, read
from txzmq._ids import request_id
from txzmq.rpc import Code
from txzmq.rpc._wire.batches import pack
from txzmq.rpc._wire.headers import (
    OpenedStream,
    OpenStream,
    RequestHead,
    ResponseHead,
    encode_request,
    encode_response,
)
from txzmq.rpc._wire.streams import Publication, encode, encode_bundle
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.rpc.v1.streams_pb2 import (
    AcknowledgeRequest,
    CancelStreamsRequest,
    Position,
    ReplayRequest,
    SendRequest,
)

__all__ = ["corpus", "write"]

#: Of the scripts' clients.
EPOCH: Final = b"\xa1\xb2\xc3\xd4\xe5\xf6\x07\x18"
REQUESTS: Final = b"r" * 16
TOPIC: Final = b"the first topic."
METADATA: Final = (("tenant", "a"), ("trace-bin", b"\0\xff"))
#: A key that is right, and a secret one with its public key.
PUBLIC: Final = "jb>5%&>9]T^0T$zuAx>Dc-o9[HZ=x%xK[tJhz1=u"
SECRET: Final = "x[jE^NSdw:6&ZSK!0#}nZ]Z*V.@=0VO}2pW*5Uo="


def corpus() -> Iterator[tuple[str, str, bytes]]:
    """Target, name and content of each seed."""
    yield from _headers()
    yield from _frames()
    for name, steps in _server_scripts():
        yield "server", name, write_steps(steps)
    for name, steps in _client_scripts():
        yield "client", name, write_steps(steps)
    yield from _sockets()
    yield from _certificates()
    for number, address in enumerate(ADDRESSES):
        yield "address", f"{number:02}", address.encode()


def write() -> None:
    """Write the corpus anew."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for target, name, content in corpus():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# -- headers, batches, publications: docs/protocol.md's examples --------------------------------


def _headers() -> Iterator[tuple[str, str, bytes]]:
    for file, name, frames in everything():
        parts = [bytes.fromhex(frame) for frame in frames]
        if file in ("requests", "malformed-requests") and len(parts) > 3:
            yield "request_header", name, parts[-2]
            if b"tenant" in parts[-2] or "metadata" in name:
                yield "metadata", name, parts[-2]
        elif file in ("replies", "malformed-replies") and len(parts) > 3:
            yield "reply_header", name, parts[2]
        elif file == "streams" and len(parts) > 2:
            kind = "reply_header" if name.startswith("opened") else "request_header"
            if parts[2]:
                yield kind, name, parts[2]
        elif file == "streams" and len(parts) == 1 and len(parts[0]) > 17:
            yield "publication", name, parts[0]
        elif file == "batches":
            yield "batch", name, parts[2]
    detail = AnyMessage()
    detail.Pack(text("a detail"))
    head = ResponseHead(Code.NOT_FOUND, "no such thing", (detail,), METADATA, METADATA)
    yield "reply_header", "everything", encode_response(head)
    yield "metadata", "pairs", encode_request(RequestHead(ECHO.path, None, METADATA * 3))


def _frames() -> Iterator[tuple[str, str, bytes]]:
    for file in ("requests", "malformed-requests", "batches", "streams"):
        messages = [
            [bytes.fromhex(frame) for frame in vector["frames"]]
            for vector in read(file)
            if len(vector["frames"]) > 1
        ]
        for number in range(0, len(messages), 5):
            steps = [Step(0, message) for message in messages[number : number + 5]]
            yield "server_wire", f"{file}-{number}", write_steps(steps)
    replies = [
        [request_id(EPOCH, number), b"", *map(bytes.fromhex, vector["frames"][2:])]
        for number, vector in enumerate(read("replies") + read("malformed-replies"))
    ]
    for number in range(0, len(replies), 5):
        steps = [Step(0, message) for message in replies[number : number + 5]]
        yield "client_wire", f"replies-{number}", write_steps(steps)
    notice = encode_response(ResponseHead(draining=True))
    error = encode_response(ResponseHead(Code.INTERNAL, "no"))
    batch = pack(EPOCH, [1, 2, 0, 8, 3], [b"", b"", notice, b"", error], [b"x"] * 5)
    yield "client_wire", "batch", write_steps([Step(0, batch)])
    end = encode_response(ResponseHead(trailing=METADATA))
    parts = [
        Publication(1, [b"one", b"two"], start=encode_response(ResponseHead(initial=METADATA))),
        Publication(4, [b"four"]),
        Publication(3, [b"three"]),
        Publication(7, [b"seven", b"e" * 150], end),
        Publication(5, [b"five", b"six"]),
    ]
    frames = [encode(TOPIC, part) for part in parts]
    yield (
        "receiver",
        "a-stream",
        write_steps([Step(0, frames[:3]), Step(2, []), Step(1, frames[3:])]),
    )
    yield "receiver", "backwards", write_steps([Step(2, frames[::-1]), Step(2, frames)])


# -- a server -----------------------------------------------------------------------------------


# Any: what the fields of the heads take.
def _ask(number: int, path: str, body: Message, **head: Any) -> list[bytes]:
    asked = RequestHead(path, None, ())._replace(**head)
    return [request_id(EPOCH, number), b"", encode_request(asked), body.SerializeToString()]


def _open(number: int, path: str, value: str = "seven..", **stream: Any) -> list[bytes]:
    opened = OpenStream()._replace(**stream)
    return _ask(number, path, text(value), open_stream=opened)


def _control(number: int, method: str, body: Message) -> list[bytes]:
    return _ask(number, f"/txzmq.rpc.v1.{method}", body)


def _server_scripts() -> Iterator[tuple[str, Sequence[Step]]]:
    send, subscribe, unsubscribe, cut, passes, stranger = range(6)
    topic, first = to_server.topic(0), request_id(EPOCH, 1)
    pause = Step(passes, [b"x" * 11])
    yield (
        "calls",
        [
            Step(send, _ask(1, ECHO.path, text("x"), timeout_us=2_000_000, metadata=METADATA)),
            Step(send, _ask(2, OTHER.path, text("x"), request_key=b"k" * 16, accepts_batches=True)),
            Step(send, _ask(3, OTHER.path, text("x"), request_key=b"k" * 16)),
            Step(send, _ask(4, MISSING.path, text("x"))),
            Step(
                send,
                _control(5, "Control/Cancel", CancelRequest(request_ids=[request_id(EPOCH, 2)])),
            ),
            Step(send, _control(6, "Control/Ping", text(""))),
            pause,
            Step(send, _control(7, "Control/Leave", text(""))),
        ],
    )
    header = encode_request(RequestHead(OTHER.path, 5_000_000, (), accepts_batches=True))
    many = pack(EPOCH, range(1, 20), [header] * 19, [text("x").SerializeToString()] * 19)
    yield "batch", [Step(send, many), pause, Step(cut, []), Step(send, many)]
    positions = [Position(topic=topic, sequence=2), Position(topic=TOPIC, sequence=1)]
    yield (
        "stream",
        [
            Step(send, _open(1, COUNT.path, window_items=3, window_bytes=100)),
            Step(subscribe, [topic + b"\0"]),
            Step(send, _control(2, "Streams/Acknowledge", AcknowledgeRequest(positions=positions))),
            Step(send, _control(3, "Streams/Replay", ReplayRequest(topic=topic, sequence=1))),
            pause,
            Step(cut, [b""]),
            Step(stranger, [topic + b"\0"]),
            Step(send, _control(4, "Streams/Cancel", CancelStreamsRequest(topics=[topic]))),
            Step(unsubscribe, [topic + b"\0"]),
        ],
    )
    yield (
        "shared",
        [
            Step(send, _open(1, TICKS.path)),
            Step(send | to_server.OTHER_CLIENT, _open(1, TICKS.path)),
            Step(subscribe, [topic + b"\0"]),
            Step(subscribe | to_server.OTHER_CLIENT, [topic + b"\0", b"stray", b""]),
            pause,
            Step(send, _control(2, "Streams/Cancel", CancelStreamsRequest(topics=[topic]))),
            Step(send | to_server.OTHER_CLIENT, _open(2, RESUME.path, sequence=3)),
        ],
    )
    sends = SendRequest(
        requests=REQUESTS, sequence=1, items=[text("a").SerializeToString()] * 2, acknowledge=True
    )
    ends = SendRequest(requests=REQUESTS, sequence=3, items=[b""], end=True, acknowledge=True)
    for name, path in (("requests", COLLECT.path), ("both", CHAT.path)):
        yield (
            name,
            [
                Step(send, _open(1, path, requests=REQUESTS)),
                Step(subscribe, [topic + b"\0", to_server.bundle(0) + b"\0"]),
                Step(send, _control(2, "Streams/Send", sends)),
                Step(send, _control(3, "Streams/Send", ends)),
                Step(send, _control(4, "Control/Cancel", CancelRequest(request_ids=[first]))),
                pause,
            ],
        )


# -- a client -----------------------------------------------------------------------------------


def _reply(number: int, head: ResponseHead, body: bytes = b"") -> Step:
    return Step(to_client.REPLY, [to_client.request(number), b"", encode_response(head), body])


def _client_scripts() -> Iterator[tuple[str, Sequence[Step]]]:
    body = text("x").SerializeToString()
    call, pause = Step(to_client.CALL, []), Step(to_client.PASS, [b"x" * 11])
    yield (
        "calls",
        [
            call,
            call,
            _reply(0, ResponseHead(accepts_batches=True, initial=METADATA), body),
            _reply(1, ResponseHead(Code.UNAVAILABLE, "not now", not_executed=True)),
            call,
            Step(to_client.CANCEL, []),
            call,
            _reply(3, ResponseHead(draining=True), body),
            Step(to_client.CUT, []),
            pause,
        ],
    )
    batch = pack(
        to_client.EPOCH, [1, 2], [b"", encode_response(ResponseHead(Code.ABORTED))], [body] * 2
    )
    yield "batch", [call, call, Step(to_client.REPLY, batch), Step(to_client.REPLY, batch)]
    opened = OpenedStream(TOPIC, PUBLISHER, b"epoch...", grace_ms=5_000, window_items=10)
    first = encode(TOPIC, Publication(1, [body] * 3, start=b""))
    last = encode(TOPIC, Publication(4, [body], encode_response(ResponseHead(trailing=METADATA))))
    for name, step in (
        ("stream", Step(to_client.STREAM, [])),
        ("shared", Step(to_client.STREAM, [b""])),
        ("resumable", Step(to_client.STREAM, [b"", b""])),
        ("both", Step(to_client.CHATS, [])),
    ):
        yield (
            name,
            [
                step,
                _reply(0, ResponseHead(stream=opened._replace(shared=name == "shared"))),
                pause,
                Step(to_client.PUBLISH, [first]),
                Step(to_client.PUBLISH, [encode(TOPIC, Publication(5, []))]),
                pause,
                Step(to_client.CUT, [b""]),
                Step(to_client.PUBLISH, [first, last]),
            ],
        )
    bundled = opened._replace(bundle=to_client.TOPICS[2])
    frame = encode_bundle(to_client.TOPICS[2], [first, last])
    yield (
        "bundle",
        [
            Step(to_client.STREAM, []),
            _reply(0, ResponseHead(stream=bundled)),
            pause,
            Step(to_client.PUBLISH, [frame]),
            pause,
        ],
    )
    yield (
        "requests",
        [
            Step(to_client.COLLECTS, []),
            Step(to_client.PASS, [b"x"]),
            _reply(1, ResponseHead(), b"\x08\x03"),
            _reply(0, ResponseHead(), body),
        ],
    )


# -- sockets, certificates, addresses -----------------------------------------------------------


def _sockets() -> Iterator[tuple[str, str, bytes]]:
    for name, mechanism, credentials in (
        ("curve", b"CURVE", [bytes(range(32))]),
        ("null", b"NULL", []),
        ("plain", b"PLAIN", [b"alice", b"s3cret"]),
    ):
        question = [b"", b"1.0", b"1", b"<domain>", b"10.0.0.1", b"", mechanism, *credentials]
        yield "zap", name, write_steps([Step(0, question), Step(0, question)])
    yield (
        "zap",
        "known",
        write_steps(
            [
                Step(
                    0,
                    [
                        b"",
                        b"1.0",
                        b"1",
                        b"<domain>",
                        b"10.0.0.1",
                        b"",
                        b"CURVE",
                        b"<the key of alice, 32 bytes....>",
                    ],
                )
            ]
        ),
    )
    for name, event, value in (("connected", 1, 7), ("failed", 0x4000, -1), ("retried", 2, 300)):
        message = [struct.pack("=Hi", event, value), b"tcp://127.0.0.1:5000"]
        yield "monitor", name, write_steps([Step(0, message)])
    for number, message in enumerate(
        ([b"id", b"", b"x"], [b"\1tag"], [b"\0tag"], [b"tag\0data"], [b"", b"id", b"", b"x"])
    ):
        yield "sockets", str(number), write_steps([Step(kind, message) for kind in range(8)])


def _certificates() -> Iterator[tuple[str, str, bytes]]:
    groups = '    name = "alice"\n    groups = "staff, admin"\n'
    public = f'metadata\n{groups}curve\n    public-key = "{PUBLIC}"\n'
    yield "certificate", "public", public.encode()
    yield "certificate", "secret", f"# a comment\n{public}    secret-key = '{SECRET}'\n".encode()
    yield "certificate", "neither", b"metadata\r\n\tname=x\ncurve\npublic-key = short\n"


ADDRESSES: Final = (
    "tcp://127.0.0.1:5000",
    "tcp://[::1]:5000-5003",
    "tcp://eth0:*;example.org:80",
    "tcp://*:*",
    "tcp://0.0.0.0:5001",
    "ipc:///run/x.sock",
    "ipc://@abstract",
    "ipc://*",
    "inproc://name",
    "dns:///example.org:5000",
    "dns://[::1]:53/example.org:5000-5002",
    "dns+srv:_rpc._tcp.example.org",
    "epgm://eth0;239.192.1.1:5555",
    "tcp://127.0.0.1:99999",
    "tcp//127.0.0.1:1",
    "http://example.org",
)

if __name__ == "__main__":
    write()
