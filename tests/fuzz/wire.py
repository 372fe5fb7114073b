"""Bytes of peers for the parsers of the wire: headers, batches, publications, messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from google.protobuf.message import DecodeError

from tests.fuzz.harness import CORPUS, Broken, Target
from tests.fuzz.mutators import (
    MAX_STEPS,
    Step,
    mutate_fields,
    mutate_steps,
    read_steps,
)
from txzmq._ids import ID_SIZE, request_id
from txzmq.rpc._wire.batches import MAX_BATCH, BadBatch, pack, unpack
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import (
    MAX_HEADER,
    MAX_PATH,
    BadHeader,
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from txzmq.rpc._wire.metadata import add_to, from_wire
from txzmq.rpc._wire.server import Refusal, Request, ServerWire
from txzmq.rpc._wire.streams import (
    BadPublication,
    Publication,
    Receiver,
    decode,
    decode_bundle,
    encode,
    encode_bundle,
    topic_of,
)
from txzmq.rpc.errors import Code
from txzmq.rpc.metadata import MAX_PAIRS, normalise
from txzmq.rpc.v1.header_pb2 import RequestHeader

#: Of the scripts' clients.
EPOCH: Final = b"\xa1\xb2\xc3\xd4\xe5\xf6\x07\x18"
PATH: Final = "/demo.greeter.v1.Greeter/SayHello"
#: What is put in place of fields and frames.
WORDS: Final = (
    *(b"", b"\0", b"\xff", b"a", b"\xc3\xa9", b"\xed\xa0\x80", b"\n", bytes(16), b"\xff" * 16),
    *(EPOCH, request_id(EPOCH, 1), request_id(EPOCH, 2), request_id(EPOCH, 0), b"x" * 16),
    *(PATH.encode(), b"/a/b", b"/", b"a-bin", b"txzmq-x", b"b", b"p" * 300, b"k" * 255),
)


@cache
def corpus(name: str) -> tuple[bytes, ...]:
    """The checked-in inputs of a target."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / name).iterdir()))


def of_corpus(
    name: str,
    mutate: Callable[[bytes, random.Random], bytes],
    check: Callable[[bytes], None],
) -> Target:
    """A target whose seeds are checked in."""

    def seed(number: int) -> bytes:
        seeds = corpus(name)
        return seeds[number % len(seeds)]

    return Target(seed, mutate, check, len(corpus(name)))


def fields(data: bytes, chance: random.Random) -> bytes:
    """Mutates a serialised message."""
    return mutate_fields(data, chance, WORDS)


def scripts(
    name: str, whats: int, frame: Callable[[bytes, random.Random], bytes] = fields
) -> Callable[[bytes, random.Random], bytes]:
    """Mutates scripts; steps are taken from the corpus."""

    def mutate(data: bytes, chance: random.Random) -> bytes:
        return mutate_steps(data, chance, frame, whats, corpus(name))

    return mutate


def expect(condition: object, what: str) -> None:
    """:raises Broken: unless the condition holds."""
    if not condition:
        raise Broken(what)


def _is_shown(text: str) -> bool:
    """Whether a text may be sent to peers and logged."""
    return text.isprintable() and len(text) < 500


# -- headers and metadata ----------------------------------------------------------------------


def check_request_header(data: bytes) -> None:
    """It is a header, whose meaning stays when it is encoded again; or it is refused in words."""
    try:
        head = decode_request(data)
    except BadHeader as error:
        expect(_is_shown(str(error)), f"a message that cannot be shown: {error}")
        return
    expect(len(data) <= MAX_HEADER, "a header over the limit")
    expect(len(head.path) <= MAX_PATH and head.path.isprintable(), f"a path {head.path!r}")
    expect(decode_request(data) == head, "the second time it says something else")
    expect(decode_request(encode_request(head)) == head, "encoded again it says something else")
    normalise(head.metadata)
    try:
        limited = decode_request(data, 100)
    except BadHeader:
        return
    expect(limited == head, "with a limit it says something else")


def check_reply_header(data: bytes) -> None:
    """As of requests."""
    try:
        head = decode_response(data)
    except BadHeader as error:
        expect(_is_shown(str(error)), f"a message that cannot be shown: {error}")
        return
    normalise(head.initial)
    normalise(head.trailing)
    again = encode_response(head)
    expect(len(again) <= MAX_HEADER, "an encoded header over the limit")
    known = decode_response(again)
    # One that is larger when it is encoded anew, with defaults for instance, is shortened.
    if "more than" not in known.message:
        same = _plain(known) == _plain(head)
        expect(same, f"encoded again it says something else: {known} and not {head}")


def _plain(head: ResponseHead) -> tuple[list[bytes], ResponseHead]:
    """As it is compared: protobuf in Python does not compare an Any whose type it does not know."""
    details = [detail.SerializeToString(deterministic=True) for detail in head.details]
    return details, head._replace(details=())


def check_metadata(data: bytes) -> None:
    """Pairs of the wire are what a caller might give, or they are refused."""
    try:
        message = RequestHeader.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        return
    try:
        pairs = from_wire(message.metadata)
    except ValueError:
        return
    expect(len(pairs) <= MAX_PAIRS, "too many pairs")
    expect(normalise(pairs) == pairs, "a caller might not give them")
    again = RequestHeader()
    add_to(again.metadata, pairs)
    expect(from_wire(again.metadata) == pairs, "encoded again they are others")


# -- batches -----------------------------------------------------------------------------------


def check_batch(data: bytes) -> None:
    """A batch is unpacked, and packed again says the same; or it is refused."""
    try:
        headers, messages = unpack(data)
    except BadBatch as error:
        expect(_is_shown(str(error)), f"a message that cannot be shown: {error}")
        return
    unpacked = [(counter, headers[index], body) for counter, index, body in messages]
    expect(0 < len(unpacked) <= MAX_BATCH, "too many messages, or none")
    counters, heads, bodies = (list(column) for column in zip(*unpacked, strict=True))
    *_, frame = pack(EPOCH, counters, heads, bodies)
    again, messages = unpack(frame)
    expect(
        [(counter, again[index], body) for counter, index, body in messages] == unpacked,
        "packed again it says something else",
    )


# -- publications ------------------------------------------------------------------------------


def check_publication(data: bytes) -> None:
    """A frame is a publication and a bundle, or is refused; encoded again it says the same."""
    topic = topic_of(data)
    if not topic:
        return
    try:
        publication = decode(data)
    except BadPublication:
        pass
    else:
        expect(decode(encode(topic, publication)) == publication, "another publication")
        if publication.end is not None:
            check_reply_header(publication.end)
    try:
        frames = decode_bundle(data)
    except BadPublication:
        return
    expect(decode_bundle(encode_bundle(topic, frames)) == frames, "another bundle")


def check_receiver(data: bytes) -> None:
    """Whatever a server publishes, items come in order, each once, and few are kept."""
    receiver = Receiver(8, 1, window_bytes=200)
    # By number: what was published under it first. A server that publishes another item under the
    # same number breaks the protocol, and either may be taken.
    published: dict[int, set[bytes]] = {}
    taken = 1
    for step in read_steps(data):
        if step.what % 3 == 2:
            while receiver.items:
                item = receiver.items.popleft()
                expect(item in published.get(taken, ()), f"item {taken} is no such item")
                taken += 1
        for frame in step.frames:
            try:
                publication = decode(frame)
            except BadPublication:
                continue
            for number, item in enumerate(publication.items, publication.sequence):
                published.setdefault(number, set()).add(item)
            _receive(receiver, publication)
        expect(receiver.sequence >= taken, "the numbers go back")


def _receive(receiver: Receiver, publication: Publication) -> None:
    before = receiver.sequence
    receiver.receive(publication)
    expect(receiver.sequence >= before, "the numbers go back")
    expect(len(receiver.items) <= 8, f"{len(receiver.items)} items are kept")
    # Each publication that is kept counts as one item more.
    expect(receiver.early_items <= 17, f"{receiver.early_items} early items are kept")
    expect(receiver.early_bytes <= 200, f"{receiver.early_bytes} early bytes are kept")
    size = sum(map(len, receiver.items))
    expect(not receiver.items or size - len(receiver.items[-1]) < 200, f"{size} bytes are kept")


# -- messages ----------------------------------------------------------------------------------


def check_server_wire(data: bytes) -> None:
    """Each message is requests, refusals, or is dropped; and others' requests are taken."""
    wire: ServerWire[str] = ServerWire()
    seen: set[tuple[bytes, ...]] = set()
    received = 0
    for step in read_steps(data):
        peer = b"\0pee" + bytes((step.what & 3,))
        if step.what & 4:
            wire.lost(peer)
            seen = {key for key in seen if key[0] != peer}
        message = [peer, *step.frames]
        received += 1
        batched = wire.is_batch(message)
        events = wire.receive_batch(message) if batched else [wire.receive(message)]
        for event in events:
            if isinstance(event, Request):
                _check_request(event, message, seen, batched=batched)
                if wire.start(event.key, "call") and step.what & 8:
                    expect(wire.finish(event.key) == "call", "the call was not noted")
            elif isinstance(event, Refusal):
                expect(_is_shown(event.reason), f"a reason {event.reason!r}")
                expect(event.key[0] == peer, "the refusal is for somebody else")
    expect(len(wire) <= MAX_BATCH * received, "more calls than messages")
    header = encode_request(RequestHead(PATH, None, ()))
    healthy = [b"\0good", request_id(EPOCH, 1), b"", header, b"body"]
    expect(isinstance(wire.receive(healthy), Request), "a healthy request is not taken")
    calls = sum(len(wire.lost(peer)) for peer in list(wire.peers))
    expect((len(wire), len(wire.peers)) == (0, 0), f"{calls} calls were ended, others are left")


def _check_request(
    request: Request, message: list[bytes], seen: set[tuple[bytes, ...]], *, batched: bool
) -> None:
    expect(request.key[0] == message[0], "the request is of somebody else")
    expect(request.key not in seen, "a request is served twice")
    seen.add(request.key)
    if not batched:
        expect(list(request.key) == message[: len(request.key)], "another key")
        expect(request.body == message[-1], "another body")
    expect(len(request.key[-1]) == ID_SIZE, "an id of another size")


def check_client_wire(data: bytes) -> None:
    """Each message ends calls that wait, each once, or is dropped; and the others still wait."""
    wire: ClientWire[int] = ClientWire()
    header = encode_request(RequestHead(PATH, None, ()))
    steps = read_steps(data)
    for number in range(1, 9):
        wire.request(number, header, b"")
    wire.forget(wire.id_of(8))
    waiting, drops = set(range(1, 8)), 0
    for step in steps:
        message = [_real_ids(frame, wire) for frame in step.frames]
        ended: Sequence[Any] = ()  # Any: a Reply, or a tuple like one
        if wire.is_batch(message):
            ended = list(wire.receive_batch(message))
        elif (reply := wire.receive(message)) is not None:
            ended = [reply]
        for call, head, _ in ended:
            expect(call in waiting, f"call {call} has ended twice")
            waiting.remove(call)
            expect(isinstance(head.code, Code), f"the code {head.code}")
        expect(set(wire) == waiting, "other calls than that have ended")
        expect(wire.drops >= drops, "drops are not counted")
        drops = wire.drops
    expect(drops <= MAX_BATCH * MAX_STEPS, "more drops than replies")
    wire.request(99, header, b"")
    expect(wire.receive([wire.id_of(wire.latest), b"", b"", b"body"]), "a good reply is dropped")
    expect(set(wire.forget_all()) == waiting, "other calls are left")


def _real_ids(frame: bytes, wire: ClientWire[int]) -> bytes:
    """A frame with the wire's own random part in place of the scripts'."""
    return frame.replace(EPOCH, wire.id_of(0)[:8]) if EPOCH in frame else frame


def steps_of(*messages: Sequence[bytes]) -> list[Step]:
    """A script in which messages come from one peer."""
    return [Step(0, list(message)) for message in messages]


TARGETS: Final = {
    "request_header": of_corpus("request_header", fields, check_request_header),
    "reply_header": of_corpus("reply_header", fields, check_reply_header),
    "metadata": of_corpus("metadata", fields, check_metadata),
    "batch": of_corpus("batch", fields, check_batch),
    "publication": of_corpus(
        "publication",
        lambda data, chance: (
            data[:17] + fields(data[17:], chance) if chance.random() < 0.8 else fields(data, chance)
        ),
        check_publication,
    ),
    "receiver": of_corpus(
        "receiver",
        scripts("receiver", 3, lambda data, chance: data[:17] + fields(data[17:], chance)),
        check_receiver,
    ),
    "server_wire": of_corpus("server_wire", scripts("server_wire", 16), check_server_wire),
    "client_wire": of_corpus("client_wire", scripts("client_wire", 1), check_client_wire),
}
