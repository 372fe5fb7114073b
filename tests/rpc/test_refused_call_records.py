"""Requests that never reach a handler are calls, which begin and end like all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import Deferred

from tests.rpc.observing import Calls, outline
from tests.rpc.raw import RawClient
from tests.rpc.service import (
    ADDRESS,
    ECHO,
    ECHO_AS_BYTES,
    MISSING,
    WATCH,
    Echo,
    Waiting,
    made,
    text,
)
from tests.rpc.service import World as EchoWorld
from tests.rpc.streaming import Reader, StreamWorld
from tests.support import error_of
from txzmq.auth import Identity
from txzmq.rpc import (
    CallRecord,
    Channel,
    Code,
    Kind,
    Method,
    ReplyCacheLimits,
    Server,
    ServerLimits,
    Side,
)
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.testing import MemoryNetwork

BODY = text("x").SerializeToString()
SIZE = len(BODY)
KEY = b"sixteen bytes..."
CANCEL = RequestHead("/txzmq.rpc.v1.Control/Cancel", None, ())


class World(EchoWorld):
    """With an observer on both sides."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.calls = Calls()
        super().__init__(*arguments, observer=self.calls, **options)

    def ended(self, code: Code, **options: Any) -> tuple[CallRecord, CallRecord]:
        """Make a call that ends so; its records."""
        outcome = self.network.result(self.call(**options).addErrback(error_of))
        assert getattr(outcome, "code", Code.OK) is code
        client, server = self.calls.both()
        assert (client.code, server.code) == (code, code)
        return client, server

    def raw(self) -> RawClient:
        client = RawClient(self.network, ADDRESS)
        self.network.run()
        return client


@pytest.fixture
def make() -> Iterator[Any]:
    yield from made(World)


@pytest.fixture
def repeating() -> Iterator[Any]:
    yield from made(Repeating)


# -- refused by the server -----------------------------------------------------------------------


def test_a_method_that_the_server_does_not_have_is_unknown(make: Any) -> None:
    client, server = make().ended(Code.UNIMPLEMENTED, method=MISSING)
    assert (client.known, server.known) == (True, False)
    assert (server.method, server.kind) == (MISSING.path, Kind.UNARY_UNARY)
    assert outline(server) == (1, SIZE, 0, 0)
    assert server.attempts == client.attempts == 1


@pytest.mark.parametrize(
    ("requests", "kind"), [(b"", Kind.UNARY_STREAM), (b"1" * 16, Kind.STREAM_STREAM)]
)
def test_an_unknown_method_has_the_kind_that_its_request_looks_like(
    make: Any, requests: bytes, kind: Kind
) -> None:
    world = make()
    raw = world.raw()
    raw.request(RequestHead("/a/b", None, (), open_stream=OpenStream(1, 1, requests=requests)))
    world.network.run()
    record = world.calls.take(Side.SERVER)
    assert (record.kind, record.known, record.code) == (kind, False, Code.UNIMPLEMENTED)
    raw.transport.close()


def test_a_method_that_is_called_as_another_kind_is_known(make: Any) -> None:
    world = make()
    method = Method(ECHO.path, "echo", StringValue, StringValue, kind=Kind.UNARY_STREAM)
    reader = Reader(world.channel.unary_stream(method, text("x")))
    world.network.run()
    assert reader.has_ended
    client, server = world.calls.both()
    assert (client.kind, server.kind) == (Kind.UNARY_STREAM, Kind.UNARY_UNARY)
    assert (server.code, server.known) == (Code.UNIMPLEMENTED, True)


def test_a_request_that_cannot_be_parsed_has_ended(make: Any) -> None:
    wrong = BytesValue(value=b"\xff")
    world = make()
    call = world.channel.unary_unary(ECHO_AS_BYTES, wrong).addErrback(error_of)
    assert world.network.result(call).code is Code.INTERNAL
    for record in world.calls.both():
        assert (record.code, record.known) == (Code.INTERNAL, True)
        assert record.request_bytes == len(wrong.SerializeToString())


def test_a_header_that_cannot_be_read_is_a_call_of_no_method(make: Any) -> None:
    world = make()
    raw = world.raw()
    raw.transport.send_message([raw.id_of(1), b"", b"\xff\xff", b""])
    world.network.run()
    record = world.calls.take(Side.SERVER)
    assert (record.method, record.known, record.code) == ("", False, Code.INTERNAL)
    assert record.peer == "memory"
    raw.transport.close()


def test_what_nobody_is_answered_is_no_call(make: Any) -> None:
    world = make()
    raw = world.raw()
    raw.request(RequestHead(ECHO.path, None, ()), BODY)
    world.network.run()
    world.calls.take(Side.SERVER)
    for message in ([b"", b"x"], [raw.id_of(1), b"", b"", b""]):  # malformed, and come before
        raw.transport.send_message(message)
    world.network.run()
    assert world.calls.records == []
    raw.transport.close()


def test_control_calls_are_no_calls(make: Any) -> None:
    world = make()
    raw = world.raw()
    for path in ("Ping", "Leave", "Cancel"):
        raw.request(RequestHead(f"/txzmq.rpc.v1.Control/{path}", None, ()))
    raw.request(CANCEL, b"\xff")
    world.network.run()
    assert len(raw.replies()) == 4
    assert (world.calls.records, world.calls.begun) == ([], [])
    raw.transport.close()


@pytest.mark.parametrize(
    ("limits", "options", "code"),
    [
        ({"message_size": 1}, {}, Code.RESOURCE_EXHAUSTED),
        ({"metadata_size": 1}, {"metadata": {"k": "v"}}, Code.RESOURCE_EXHAUSTED),
        ({"running": 0, "queued": 0}, {}, Code.RESOURCE_EXHAUSTED),
    ],
)
def test_a_limit_ends_a_call(
    make: Any, limits: dict[str, Any], options: dict[str, Any], code: Code
) -> None:
    _, server = make(limits=ServerLimits(**limits)).ended(code, **options)
    assert outline(server)[2:] == (0, 0)


def test_a_call_that_is_shed_or_waits_too_long_has_ended(make: Any) -> None:
    world = make(Waiting(), limits=ServerLimits(running=1, queued=1))
    calls = [world.call(value, timeout=1).addErrback(error_of) for value in "abc"]
    world.network.run()
    assert len(world.calls.begun) == 6
    record = world.calls.take(Side.SERVER)
    assert (record.code, record.seconds) == (Code.RESOURCE_EXHAUSTED, 0.0)
    world.network.advance(1.1)
    assert all(call.called for call in calls)
    codes = [record.code for record in world.calls.records if record.side is Side.SERVER]
    assert codes == [Code.DEADLINE_EXCEEDED] * 2
    assert world.calls.open == {}


def test_a_request_that_comes_too_late_has_ended(make: Any) -> None:
    world = make()
    raw = world.raw()
    raw.request(RequestHead(ECHO.path, 0, ()), BODY)
    world.network.run()
    assert world.calls.take(Side.SERVER).code is Code.DEADLINE_EXCEEDED
    raw.transport.close()


def test_a_server_that_drains_ends_what_comes(make: Any) -> None:
    world = make(Waiting())
    raw = world.raw()
    world.call("x").addErrback(error_of)
    world.network.run()
    stopped = world.server.stop(5)
    raw.request(RequestHead(ECHO.path, None, ()), BODY)
    world.network.run()
    assert world.calls.take(Side.SERVER).code is Code.UNAVAILABLE
    raw.transport.close()
    world.service.results[0].callback(text("y"))
    world.network.advance(5)
    assert stopped.called
    assert [record.code for record in world.calls.both()] == [Code.OK, Code.OK]


class Ruled:
    """A server that lets nobody in, and its observer."""

    def __init__(self, authorize: Any) -> None:
        self.calls = Calls()
        self.network = MemoryNetwork()
        self.server = Server(self.network, [Echo()], observer=self.calls, authorize=authorize)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, observer=self.calls)


def test_a_call_that_is_not_allowed_has_ended() -> None:
    def nobody(identity: Identity | None, method: str, metadata: object) -> bool:
        return False

    world = Ruled(nobody)
    call: Deferred[Any] = world.channel.unary_unary(ECHO, text("x")).addErrback(error_of)
    assert world.network.result(call).code is Code.UNAUTHENTICATED
    for record in world.calls.both():
        assert (record.code, record.method) == (Code.UNAUTHENTICATED, ECHO.path)
    world.channel.close()
    world.server.stop(0)
    world.network.advance(1)


def test_a_stream_that_is_refused_has_ended() -> None:
    calls = Calls()
    world = StreamWorld(limits=ServerLimits(streams=0), observer=calls)
    world.run()
    for record in calls.both():
        assert (record.code, record.kind) == (Code.RESOURCE_EXHAUSTED, Kind.UNARY_STREAM)
    reader = Reader(world.channel.unary_stream(WATCH, text("x")))
    world.network.run()
    assert reader.has_ended
    client, server = calls.both()
    assert (client.code, server.code, server.known) == (
        Code.UNIMPLEMENTED,
        Code.UNIMPLEMENTED,
        False,
    )
    world.close()


# -- requests that come again --------------------------------------------------------------------


class Repeating(World):
    """Requests with one key."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.one = self.raw()

    def send(self) -> int:
        number = self.one.request(RequestHead(ECHO.path, None, (), request_key=KEY), BODY)
        self.network.run()
        return number

    def codes(self) -> list[Code]:
        assert not self.calls.problems
        return [record.code for record in self.calls.records]

    def close(self) -> None:
        self.one.transport.close()
        super().close()


def test_each_request_that_is_answered_from_the_reply_cache_is_a_call(repeating: Any) -> None:
    world = repeating()
    for _ in range(3):
        world.send()
    assert world.service.seen == ["x"]
    assert world.codes() == [Code.OK] * 3
    assert [outline(record) for record in world.calls.records] == [(1, SIZE, 1, SIZE)] * 3


def test_requests_that_wait_for_the_reply_to_another_end_with_it(repeating: Any) -> None:
    world = repeating(Waiting(), limits=ServerLimits(reply_cache=ReplyCacheLimits(waiting=3)))
    numbers = [world.send() for _ in range(4)]
    assert world.codes() == [Code.RESOURCE_EXHAUSTED]  # the fourth
    cancel = CancelRequest(request_ids=[world.one.id_of(numbers[1])])
    world.one.request(CANCEL, cancel.SerializeToString())
    world.network.run()
    assert world.codes()[1:] == [Code.CANCELLED]
    world.service.results[0].callback(text("y"))
    world.network.run()
    assert sorted(world.codes()[2:]) == [Code.OK, Code.OK]
    assert [outline(record)[1] for record in world.calls.records] == [SIZE] * 4
    assert world.calls.open == {}


def test_a_run_that_nobody_waits_for_is_cancelled(repeating: Any) -> None:
    world = repeating(Waiting())
    numbers = [world.send(), world.send()]
    cancel = CancelRequest(request_ids=[world.one.id_of(number) for number in numbers])
    world.one.request(CANCEL, cancel.SerializeToString())
    world.network.run()
    assert world.codes() == [Code.CANCELLED, Code.CANCELLED]
    assert world.calls.open == {}
