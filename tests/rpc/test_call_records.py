"""What an observer is told of calls: once each, at the true end, on both sides; in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.observing import Calls, outline
from tests.rpc.service import ADDRESS, ECHO, Echo, Waiting, made, text
from tests.rpc.service import World as EchoWorld
from tests.rpc.streaming import CHAT, COLLECT, COUNT, Reader, StreamWorld
from tests.support import Logged, error_of
from txzmq.rpc import (
    CallRecord,
    Channel,
    ClientCall,
    ClientProceed,
    Code,
    Context,
    Kind,
    NotFound,
    Observer,
    ServerProceed,
    Side,
    StartedCall,
    Watched,
)
from txzmq.rpc._client.calls import Calls as PlainCalls
from txzmq.rpc._server.call import ServedCall

SIZE = len(text("x").SerializeToString())


def going_on(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    return proceed(call)


async def waiting(call: ClientCall, proceed: ClientProceed) -> Any:
    return await proceed(call)


def serving(request: Any, context: Context, proceed: ServerProceed) -> Deferred[Any]:
    return proceed(request)


#: With what channel and server are made, besides.
STYLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "interceptors": {"interceptors": [serving], "client_interceptors": [going_on]},
    "waiting": {"interceptors": [serving], "client_interceptors": [waiting, going_on]},
}


class World(StreamWorld):
    def __init__(self, style: dict[str, Any], **options: Any) -> None:
        self.calls = Calls()
        super().__init__(self.handle, observer=self.calls, **style, **options)
        #: Seconds that handlers take, and how they end.
        self.seconds = 0.25
        self.error: Exception | None = None

    def handle(self, request: Any, context: Context) -> Any:
        streams = context.method in (COUNT.path, CHAT.path)
        return self.many(request) if streams else self.one(request)

    async def one(self, request: Any) -> StringValue:
        async for _ in request:
            pass
        await self.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return text("y")

    async def many(self, request: Any) -> Any:
        if not isinstance(request, StringValue):
            async for _ in request:
                pass
        yield text("y")
        yield text("yy")
        await self.sleep(self.seconds)
        if self.error is not None:
            raise self.error

    def begin(self, kind: Kind) -> Any:
        """Make a call of three requests where they stream, and read what comes."""
        requests = [text("x"), text("xx"), text("xxx")]
        if kind is Kind.STREAM_UNARY:
            return self.collect(requests).addErrback(error_of)
        stream = self.open("x") if kind is Kind.UNARY_STREAM else self.chat(requests)
        return Reader(stream).done


@pytest.fixture(params=STYLES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(STYLES[request.param])
    yield world
    world.close()
    assert (world.calls.problems, world.calls.open) == ([], {})


@pytest.fixture
def echoing() -> Iterator[Callable[..., EchoWorld]]:
    yield from made(EchoWorld)


#: Requests and responses of a call, and bytes of them.
SENT = {
    Kind.UNARY_STREAM: (1, SIZE, 2, 2 * SIZE + 1),
    Kind.STREAM_UNARY: (3, 3 * SIZE + 3, 1, SIZE),
    Kind.STREAM_STREAM: (3, 3 * SIZE + 3, 2, 2 * SIZE + 1),
}
KINDS = pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.name.lower())
METHODS = {Kind.UNARY_STREAM: COUNT, Kind.STREAM_UNARY: COLLECT, Kind.STREAM_STREAM: CHAT}


@KINDS
def test_a_call_is_told_when_it_begins_and_at_its_true_end(world: World, kind: Kind) -> None:
    world.begin(kind)
    world.network.run()
    assert sorted(call.side for call in world.calls.begun) == [Side.CLIENT, Side.SERVER]
    assert world.calls.records == []
    world.network.advance(0.25)
    for record in world.calls.both():
        assert (record.method, record.kind) == (METHODS[kind].path, kind)
        assert (record.code, record.message) == (Code.OK, "")
        assert record.seconds == 0.25
        assert outline(record) == SENT[kind]
        assert (record.attempts, record.known, record.identity) == (1, True, None)
        assert record.peer == (ADDRESS if record.side is Side.CLIENT else "memory")


@KINDS
def test_a_handler_that_fails_ends_the_call_with_its_code(world: World, kind: Kind) -> None:
    world.error = NotFound("nobody")
    world.begin(kind)
    world.network.advance(0.25)
    for record in world.calls.both():
        assert (record.code, record.message) == (Code.NOT_FOUND, "nobody")
        requests, request_bytes, responses, response_bytes = SENT[kind]
        if not kind.response_streaming:
            responses = response_bytes = 0
        assert outline(record) == (requests, request_bytes, responses, response_bytes)


@KINDS
def test_a_caller_that_cancels_ends_the_call_on_both_sides(world: World, kind: Kind) -> None:
    call = world.begin(kind)
    world.network.advance(0.125)
    call.cancel()
    world.network.run()
    for record in world.calls.both():
        assert (record.code, record.seconds) == (Code.CANCELLED, 0.125)


@KINDS
def test_the_deadline_ends_the_call_on_both_sides(world: World, kind: Kind) -> None:
    world.seconds = 60
    if kind is Kind.STREAM_UNARY:
        world.collect([text("x")], timeout=1).addErrback(error_of)
    elif kind is Kind.UNARY_STREAM:
        Reader(world.open("x", timeout=1))
    else:
        Reader(world.chat([text("x")], timeout=1))
    world.network.advance(1.1)
    for record in world.calls.both():
        assert record.code is Code.DEADLINE_EXCEEDED
        assert record.seconds == pytest.approx(1, abs=0.01)


@KINDS
def test_a_channel_that_is_closed_ends_the_call_on_both_sides(world: World, kind: Kind) -> None:
    world.begin(kind)
    world.network.run()
    world.channel.close()
    world.network.advance(0.01)
    for record in world.calls.both():
        assert record.code is Code.CANCELLED


@KINDS
def test_a_server_that_stops_ends_the_call_on_both_sides(world: World, kind: Kind) -> None:
    world.begin(kind)
    world.network.run()
    world.server.stop(0)
    world.network.advance(0.01)
    for record in world.calls.both():
        assert record.code is Code.UNAVAILABLE


@KINDS
def test_a_connection_that_breaks_ends_the_call_on_both_sides(world: World, kind: Kind) -> None:
    world.begin(kind)
    world.network.run()
    world.die()
    world.network.advance(60)
    client, server = world.calls.both()
    assert client.code is Code.UNAVAILABLE
    # The handler of a stream may end before its client is missed.
    assert server.code is (Code.OK if kind.response_streaming else Code.CANCELLED)


def test_a_stream_that_its_reader_forgets_has_ended(world: World) -> None:
    stream = world.open("x")
    world.network.run()
    del stream
    gc.collect()  # PyPy does not count references
    world.network.run()
    for record in world.calls.both():
        assert record.code is Code.CANCELLED


def test_a_unary_call_is_told_with_what_was_sent(echoing: Any) -> None:
    calls = Calls()
    world = echoing(observer=calls)
    assert world.network.result(world.call("x", metadata={"k": "v"})).value == "x"
    for record in calls.both():
        assert (record.method, record.kind) == (ECHO.path, Kind.UNARY_UNARY)
        assert outline(record) == (1, SIZE, 1, SIZE)
        assert record.metadata == (("k", "v"),)
        assert (record.code, record.attempts) == (Code.OK, 1)
        assert record.peer == (ADDRESS if record.side is Side.CLIENT else "memory")
        assert repr(record) == (
            f"<CallRecord {record.side} {ECHO.path} OK 0.000000 s, 1 requests, 1 responses>"
        )


def test_nested_calls_are_calls_of_their_own(echoing: Any) -> None:
    calls = Calls()
    inner = echoing(observer=calls)

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            reply: StringValue = await inner.call("inner")
            return reply

    outer = EchoWorld(Outer())
    done = outer.call("outer")
    for _ in range(3):
        outer.network.run()
        inner.network.run()
    assert outer.network.result(done).value == "inner"
    assert [record.code for record in calls.both()] == [Code.OK, Code.OK]
    outer.close()


# -- what an observer does -----------------------------------------------------------------------


class Broken(Observer):
    """Raises whenever it is told of a call."""

    def call_started(self, source: Watched, call: StartedCall) -> None:
        raise LookupError("started")

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        raise KeyboardInterrupt


def test_an_observer_that_raises_is_logged_now_and_then_and_changes_nothing(
    echoing: Any, logged: Logged
) -> None:
    world = echoing(observer=Broken())
    for _ in range(10):
        assert world.network.result(world.call("x")).value == "x"
    # Each side has a limit of its own.
    failures = [type(failure).__name__ for failure in logged.failures()]
    assert sorted(failures) == ["KeyboardInterrupt"] * 4 + ["LookupError"] * 4


class Closing(Calls):
    """Closes the channel, or stops the server, at the first that it is told."""

    def __init__(self, event: str, side: Side) -> None:
        super().__init__()
        self.when = event, side

    def stopped(self, source: Watched) -> None:
        """In the middle of a call, which ends behind it."""

    def close(self, source: Any, event: str, call: StartedCall) -> None:
        if (event, call.side) == self.when:
            if isinstance(source, Channel):
                source.close()
            else:
                source.stop(0)

    def call_started(self, source: Watched, call: StartedCall) -> None:
        super().call_started(source, call)
        self.close(source, "started", call)

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        super().call_ended(source, record)
        self.close(source, "ended", record)


@pytest.mark.parametrize("event", ["started", "ended"])
@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("style", STYLES)
def test_an_observer_may_close_what_it_watches(event: str, side: Side, style: str) -> None:
    calls = Closing(event, side)
    world = StreamWorld(lambda request, context: [text("y")], observer=calls, **STYLES[style])
    readers = [Reader(world.open("x")) for _ in range(3)]
    world.network.advance(60)
    assert all(reader.has_ended for reader in readers)
    assert world.channel.unary_stream(COUNT, text("x")) is not None
    world.close()
    assert (calls.problems, calls.open) == ([], {})
    assert [record.side for record in calls.records].count(Side.CLIENT) >= 1


def test_an_observer_may_stop_the_server_of_a_unary_call(echoing: Any) -> None:
    for event in ("started", "ended"):
        calls = Closing(event, Side.SERVER)
        world = echoing(Waiting(), observer=calls)
        call = world.call("x").addErrback(error_of)
        world.network.run()
        if event == "ended":
            world.service.results[0].callback(text("y"))
        world.network.advance(1)
        outcome = world.network.result(call)
        expected = Code.OK if event == "ended" else Code.UNAVAILABLE
        assert getattr(outcome, "code", Code.OK) is expected
        assert [record.code for record in calls.both()] == [expected, expected]


# -- who pays ------------------------------------------------------------------------------------


class Uninterested(Observer):
    def started(self, source: Watched) -> None:
        """Told of other things than calls."""


class EndsOnly(Observer):
    def __init__(self) -> None:
        self.records: list[CallRecord] = []

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize(
    "observer", [None, Observer(), Uninterested()], ids=["none", "base", "another"]
)
def test_nothing_is_there_where_nobody_wants_to_know_of_calls(
    echoing: Any, observer: Observer | None
) -> None:
    world: Any = echoing(observer=observer)
    assert type(world.channel._calls) is PlainCalls
    dispatcher = world.server._dispatcher
    assert dispatcher._new_call is ServedCall
    assert dispatcher._watched is None
    # A dictionary of so many attributes is slower, which each call would pay for, 1 % of it.
    assert not hasattr(dispatcher, "__dict__")


def test_an_observer_may_want_one_of_the_two_events(echoing: Any) -> None:
    observer = EndsOnly()
    world = echoing(observer=observer)
    world.network.result(world.call("x"))
    assert sorted(record.side for record in observer.records) == [Side.CLIENT, Side.SERVER]


def test_an_observer_whose_method_is_set_on_the_object_is_told(echoing: Any) -> None:
    observer = Observer()
    records: list[CallRecord] = []

    def note(source: Watched, record: CallRecord) -> None:
        records.append(record)

    observer.call_ended = note  # type: ignore[method-assign]  # as a mock does it
    world = echoing(observer=observer)
    world.network.result(world.call("x"))
    assert len(records) == 2


def test_calls_of_a_closed_channel_are_told_too(echoing: Any) -> None:
    calls = Calls()
    world = echoing(observer=calls)
    world.channel.close()
    call = world.call("x").addErrback(error_of)
    assert world.network.result(call).code is Code.UNAVAILABLE
    record = calls.take(Side.CLIENT)
    assert (record.code, record.attempts) == (Code.UNAVAILABLE, 0)
