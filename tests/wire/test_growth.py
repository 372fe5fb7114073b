"""The protocol grows: who meets fields, flags and methods of a later version goes on as before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, OTHER, Waiting, made, text
from tests.rpc.streaming import (
    CHAT,
    COLLECT,
    COUNT,
    PUBLISHER,
    TICKS,
    Reader,
    Streaming,
    StreamWorld,
    echo,
    join,
)
from tests.support import error_of
from tests.wire.grown import MESSAGES, GrownNetwork, Growth, OlderServers
from tests.wire.strategies import WIRE
from tests.wire.vectors import Vector, cases, frames_of
from txzmq.rpc import Channel, Code, Context, NotFound, ResponseMetadata, RpcError, Server
from txzmq.rpc._wire.client import ClientWire
from txzmq.rpc._wire.headers import (
    OpenStream,
    RequestHead,
    decode_request,
    decode_response,
)
from txzmq.rpc._wire.streams import Publication, decode, decode_bundle, topic_of
from txzmq.rpc.v1.header_pb2 import RequestHeader, ResponseHeader
from txzmq.testing import MemoryNetwork

# -- fields that no version has ------------------------------------------------------------------


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def value_of(wire_type: int, payload: bytes) -> bytes:
    """A value of one of protobuf's wire types."""
    if wire_type == 2:
        return varint(len(payload)) + payload
    if wire_type == 0:
        return varint(int.from_bytes(payload[:8], "big"))
    return payload.ljust(8, b"\0")[: 8 if wire_type == 1 else 4]


class Unknown:
    """Fields with numbers behind those that a message has; the same for each message.

    :param fields: how far behind, the wire type and the payload of each.
    """

    def __init__(self, fields: list[tuple[int, int, bytes]]) -> None:
        self.fields = fields

    def __call__(self, message: str) -> bytes:
        latest = max([*MESSAGES[message].DESCRIPTOR.fields_by_number, 0])
        return b"".join(
            varint((latest + behind) << 3 | wire_type) + value_of(wire_type, payload)
            for behind, wire_type, payload in self.fields
        )

    def __repr__(self) -> str:
        return f"Unknown({self.fields!r})"


#: A flag; a message; numbers; repeated, near and far.
unknown = st.lists(
    st.tuples(
        st.integers(1, 3) | st.integers(4, 10_000),
        st.sampled_from([0, 1, 2, 5]),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=4,
).map(Unknown)
FLAG = Unknown([(1, 0, b"\1")])


def test_every_wire_type_is_skipped_where_it_is_unknown() -> None:
    for wire_type in (0, 1, 2, 5):
        added = Unknown([(1, wire_type, b"payload")])("txzmq.rpc.v1.ResponseHeader")
        message = ResponseHeader.FromString(added)
        assert message.ListFields() == []
        assert message.SerializeToString() == added


# -- a whole conversation ------------------------------------------------------------------------


class Service(Waiting):
    """Fails, or never answers."""

    def other(self, request: StringValue, context: Context) -> Any:
        self.note(request, context)
        context.set_trailing_metadata({"trailing": "1"})
        raise NotFound("nobody", details=[text("why")], metadata={"who": "server"})


class Talk:
    """Everything that a client and a server say to each other, and what came of it."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.waiting = Service()
        self.server = Server(network, [self.waiting, Streaming(self.handle)])
        self.server.listen(ADDRESS)
        self.channel = Channel(network, ADDRESS, timeout=60)
        network.run()

    def handle(self, request: Any, context: Context) -> Any:
        if context.method == COLLECT.path:
            return join(request, context)
        if context.method == CHAT.path:
            return echo(request, context)
        return self.count(request, context)

    def sleep(self, seconds: float) -> Deferred[None]:
        deferred: Deferred[None] = Deferred(lambda _: call.cancel())
        call: Any = self.network.clock.callLater(seconds, deferred.callback, None)
        return deferred

    async def count(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        context.send_initial_metadata({"initial": "1"})
        context.set_trailing_metadata({"trailing-bin": b"\0"})
        for number in range(int(request.value)):
            await self.sleep(0.1)
            yield text(str(number))
        raise NotFound("the end", details=[text("why")])

    def play(self) -> list[object]:
        """All that the client has seen, in order."""
        seen: list[object] = [*self.unary(), *self.streams(), *self.control()]
        return seen

    def unary(self) -> list[object]:
        seen: list[object] = []
        for _ in range(2):  # the second time in a batch
            calls = [self.channel.unary_unary(ECHO, text(f"{n}")) for n in range(3)]
            with ResponseMetadata() as metadata:
                failing = self.channel.unary_unary(OTHER, text("x"), metadata={"key": "value"})
            self.network.run()
            for result in self.waiting.results:
                result.callback(text("answer"))
            self.waiting.results.clear()
            self.network.run()
            seen += [self.network.result(call).value for call in calls]
            seen += [shown(self.network.result(failing.addErrback(error_of))), metadata.initial]
        seen += [context.metadata for context in self.waiting.contexts]
        return seen

    def streams(self) -> list[object]:
        channel = self.channel
        private = [Reader(channel.unary_stream(COUNT, text("20"))) for _ in range(3)]
        chat = Reader(channel.stream_stream(CHAT, [text("a"), text("b")]))
        collected = channel.stream_unary(COLLECT, [text("c"), text("d")])
        shared = [Reader(channel.unary_stream(TICKS, text("30")))]
        self.network.advance(0.75)
        self.network.cut(PUBLISHER)
        self.network.advance(1)
        shared.append(Reader(Channel(self.network, ADDRESS).unary_stream(TICKS, text("30"))))
        self.network.advance(5)
        readers = [*private, chat, *shared]
        seen: list[object] = [(reader.items, shown(reader.ended)) for reader in readers]
        seen += [reader.stream.initial_metadata for reader in readers]
        seen += [reader.stream.trailing_metadata for reader in readers]
        seen.append(self.network.result(collected).value)
        left = Reader(channel.unary_stream(COUNT, text("1000")))
        self.network.advance(0.55)
        left.stream.cancel()
        self.network.advance(1)
        return [*seen, left.items, self.server.running]

    def control(self) -> list[object]:
        cancelled = self.channel.unary_unary(ECHO, text("cancelled"))
        slow = self.channel.unary_unary(ECHO, text("slow"))
        self.network.run()
        cancelled.addErrback(error_of).cancel()
        self.network.advance(25)  # the client asks whether the server lives
        stopped = self.server.stop(20)
        self.network.advance(1)
        self.waiting.results[-1].callback(text("late"))
        self.network.run()
        seen: list[object] = [type(self.network.result(cancelled)), self.network.result(slow).value]
        self.network.advance(0.5)  # less than clients have that do not leave
        seen += [stopped.called, self.channel.counters, self.server.counters]
        return seen


def shown(ended: object) -> object:
    """How a call ended, to compare."""
    if not isinstance(ended, RpcError):
        return ended
    details = [(each.type_url, each.value) for each in ended.details]
    return ended.code, ended.message, details, ended.metadata


@cache
def as_it_is() -> list[object]:
    return Talk(MemoryNetwork()).play()


def test_the_conversation_has_every_message_of_the_protocol() -> None:
    growth = Growth(FLAG)
    Talk(GrownNetwork(growth)).play()
    assert growth.seen == set(MESSAGES)


@settings(WIRE, max_examples=30)
@given(unknown)
def test_unknown_fields_change_nothing(fields: Unknown) -> None:
    assert Talk(GrownNetwork(Growth(fields))).play() == as_it_is()


# -- one message after another -------------------------------------------------------------------


@pytest.mark.parametrize("vector", cases("requests"))
@given(unknown)
@settings(WIRE, max_examples=20)
def test_a_grown_request_means_the_same(vector: Vector, fields: Unknown) -> None:
    header = frames_of(vector)[-2]
    grown = Growth(fields).grow(RequestHeader.FromString(header)).SerializeToString()
    assert len(grown) > len(header)
    assert decode_request(grown) == decode_request(header)


@pytest.mark.parametrize("vector", cases("replies"))
@given(unknown)
@settings(WIRE, max_examples=20)
def test_a_grown_reply_means_the_same(vector: Vector, fields: Unknown) -> None:
    header = frames_of(vector)[2]
    grown = Growth(fields).grow(ResponseHeader.FromString(header)).SerializeToString()
    assert len(grown) > len(header)
    before, after = decode_response(header), decode_response(grown)
    assert after._replace(details=()) == before._replace(details=())
    assert [detail.value for detail in after.details] == [d.value for d in before.details]


PUBLICATIONS = [vector for vector in cases("streams") if vector.values[0].get("publication")]


@pytest.mark.parametrize("vector", PUBLICATIONS)
@given(unknown)
@settings(WIRE, max_examples=20)
def test_a_grown_publication_means_the_same(vector: Vector, fields: Unknown) -> None:
    (frame,) = frames_of(vector)
    if vector["name"] == "bundle":
        growth = Growth(fields)
        growth.bundles.add(topic_of(frame))
        before, after = decode_bundle(frame), decode_bundle(growth.publication(frame))
    else:
        before, after = [frame], [Growth(fields).publication(frame)]
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert topic_of(new) == topic_of(old)
        # Start and end are headers of replies, which have grown, too.
        assert meaning_of(decode(new)) == meaning_of(decode(old))


def meaning_of(publication: Publication) -> object:
    headers = [publication.start, publication.end]
    return (
        publication.sequence,
        publication.items,
        [h if h is None else decode_response(h) for h in headers],
    )


# -- flags, methods and notices that a peer does not know ----------------------------------------


LATER = [
    "/txzmq.rpc.v1.Control/Later",
    "/txzmq.rpc.v1.Streams/Later",
    "/txzmq.rpc.v1.Later/Later",
    "/txzmq.rpc.v2.Control/Cancel",
]


@pytest.mark.parametrize("open_stream", [None, OpenStream(), OpenStream(requests=bytes(16))])
@pytest.mark.parametrize("path", LATER)
def test_control_methods_of_later_versions_are_unimplemented(
    path: str, open_stream: OpenStream | None
) -> None:
    for make in made(StreamWorld):
        world = make()
        client = RawClient(world.network, ADDRESS)
        world.network.run()
        later = client.request(RequestHead(path, None, (), open_stream=open_stream), b"\x0a\x01x")
        ping = client.request(RequestHead("/txzmq.rpc.v1.Control/Ping", None, ()))
        world.network.run()
        replies = client.replies()
        head, body = replies[later]
        assert (head.code, head.not_executed, body) == (Code.UNIMPLEMENTED, True, b"")
        assert path in head.message
        # And the connection goes on.
        assert replies[ping][0].code is Code.OK
        assert not world.server.counters
        client.transport.close()


def test_a_notice_of_which_no_flag_is_known_is_dropped() -> None:
    wire: ClientWire[str] = ClientWire()
    waiting = wire.request("call", b"", b"")[0]
    notice = wire.id_of(0)
    for header in (b"", FLAG("txzmq.rpc.v1.ResponseHeader")):
        assert wire.receive([notice, b"", header, b""]) is None
    assert wire.dropped == {"unknown reply": 2}
    assert wire.receive([waiting, b"", b"", b"body"]) is not None


def test_the_draining_of_a_later_version_is_draining() -> None:
    """As ``reconnect`` is to who does not know it: a flag that says more about a known one."""
    growth = Growth(FLAG)
    header = growth.grow(ResponseHeader(draining=True)).SerializeToString()
    head = decode_response(header)
    assert (head.draining, head.reconnect) == (True, False)


def test_a_server_that_lacks_the_methods_of_control_is_alive() -> None:
    """Cancelling, pinging and leaving are answered with UNIMPLEMENTED, which is an answer."""
    network = OlderServers()
    service = Waiting()
    server = Server(network, [service])
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS, timeout=120)
    network.run()
    long, unwanted = (channel.unary_unary(ECHO, text(name)) for name in ("long", "unwanted"))
    network.run()
    unwanted.addErrback(error_of).cancel()
    network.advance(60)
    assert channel.counters["ping"] >= 3
    stopped = server.stop(20)
    network.advance(1)
    service.results[0].callback(text("done"))
    assert network.result(long).value == "done"
    assert isinstance(network.result(unwanted), CancelledError)
    service.results[1].callback(text("too late"))
    network.advance(5)
    assert stopped.called
    channel.close()
    network.advance(1)
