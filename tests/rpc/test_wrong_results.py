"""What is no answer: one status, and one line in the log that names method, handler and what came.

The same for unary, private and shared methods, with interceptors and without. A traceback is logged
only where a user's code raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, ClassVar, Final

import pytest
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from twisted.internet.defer import Deferred, succeed

from tests.rpc.ends import Outcome, read
from tests.rpc.service import ADDRESS, Echo, World, made, text
from tests.rpc.streaming import TICKS, StreamWorld, Worlds, count, texts
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    Context,
    Internal,
    Kind,
    Method,
    Server,
    ServerProceed,
    Service,
    Unavailable,
)
from txzmq.testing import MemoryNetwork


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


def lines(logged: Logged) -> list[str]:
    """What was logged of handlers, as it is shown."""
    return [
        event["log_format"].format(**event)
        for event in logged
        if event["log_namespace"].endswith("_server.status")
    ]


def giving(value: Any) -> Callable[[Any, Context], Any]:
    def handler(request: Any, context: Context) -> Any:
        return value() if callable(value) else value

    return handler


async def proceeding(request: Any, context: Context, proceed: ServerProceed) -> Any:
    return await proceed(request)


def passing_on(request: Any, context: Context, proceed: ServerProceed) -> Any:
    return proceed(request)


async def a_coroutine() -> Any:
    return None


def a_generator() -> Iterator[StringValue]:
    yield text("x")


async def an_async_generator() -> AsyncIterator[StringValue]:
    yield text("x")


INTERCEPTORS: Final = {"none": [], "await": [proceeding], "passing": [passing_on]}
#: What a handler returns, and how the line says it.
ONE: Final[dict[str, tuple[Any, str]]] = {
    "None": (None, "returned None, not StringValue"),
    "a Deferred": (lambda: succeed(None), "returned None, not StringValue"),
    "a coroutine": (a_coroutine, "returned None, not StringValue"),
    "another message": (Int32Value(value=3), "returned Int32Value, not StringValue"),
    "bytes": (b"secret", "returned bytes, not StringValue"),
    "a class": (lambda: StringValue, "returned the class StringValue, not StringValue"),
    "a list": ([text("x")], "returned list, not StringValue"),
    "an asynchronous generator": (
        an_async_generator,
        "returned async_generator, not StringValue; a handler with a yield gives a stream",
    ),
    "a generator": (
        a_generator,
        "returned generator, not StringValue; a handler with a yield gives a stream",
    ),
}


def a_generator_that_returns() -> Generator[StringValue, None, StringValue]:
    yield from ()
    return text("secret")


MANY: Final[dict[str, tuple[Any, str]]] = {
    "None": (None, "returned None, not an iterable of StringValue"),
    "a Deferred": (lambda: succeed(None), "returned None, not an iterable of StringValue"),
    "a message": (
        text("secret"),
        (
            "returned StringValue, not an iterable of StringValue; a handler of a stream yields "
            "its messages, or returns a list of them"
        ),
    ),
    "an iterable message": (ListValue(), "returned ListValue, not an iterable of StringValue"),
    "bytes": (b"secret", "returned bytes, not an iterable of StringValue"),
    "a number": (3, "returned int, not an iterable of StringValue"),
    "None as item": ([None], "gave an item of type None, not StringValue"),
    "text": ("x", "gave an item of type str, not StringValue"),
    "another message as item": (
        [Int32Value(value=3)],
        "gave an item of type Int32Value, not StringValue",
    ),
    "a value after the end": (
        a_generator_that_returns,
        "returned StringValue when its items had ended, which nobody gets; yield it",
    ),
    "a Deferred as item": ([succeed(None)], "gave an item of type None, not StringValue"),
}


@pytest.mark.parametrize("interceptors", INTERCEPTORS)
@pytest.mark.parametrize("what", ONE)
def test_a_response_of_a_wrong_type(
    make: Worlds, logged: Logged, what: str, interceptors: str
) -> None:
    value, said = ONE[what]
    world = make(giving(value), interceptors=INTERCEPTORS[interceptors])
    outcome = Outcome(world.collect(texts(1)))
    world.network.advance(1)
    assert type(outcome.end) is Internal
    assert outcome.end.message == "the handler returned a wrong type"
    assert lines(logged) == [f"/test.Streaming/Collect: Streaming.collect {said}"]
    assert not logged.failures()


@pytest.mark.parametrize("interceptors", INTERCEPTORS)
@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize("what", MANY)
def test_a_stream_of_a_wrong_type(
    make: Worlds, logged: Logged, what: str, interceptors: str, shared: bool
) -> None:
    value, said = MANY[what]
    world = make(giving(value), interceptors=INTERCEPTORS[interceptors])
    opened = world.channel.unary_stream(TICKS, text("1")) if shared else world.open(1)
    outcome = read(opened)
    world.network.advance(1)
    assert type(outcome.end) is Internal
    what_it_did = "gave an item of" if said.startswith("gave") else "returned"
    assert outcome.end.message == f"the handler {what_it_did} a wrong type"
    name = "Ticks" if shared else "Count"
    (line,) = lines(logged)
    assert line.startswith(f"/test.Streaming/{name}: Streaming.{name.lower()} {said}")
    assert "secret" not in line
    assert not logged.failures()


def test_items_before_a_wrong_one_arrive(make: Worlds, logged: Logged) -> None:
    closed: list[bool] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[Any]:
        try:
            yield text("0")
            yield None
        finally:
            closed.append(True)

    world = make(handler)
    reader = world.run()
    world.network.advance(1)
    assert reader.items == ["0"]
    assert type(reader.ended) is Internal
    assert closed == [True]
    assert len(lines(logged)) == 1


@pytest.mark.parametrize("method", ["collect", "count", "ticks"])
def test_what_an_interceptor_returns_is_said_of_it(
    make: Worlds, logged: Logged, method: str
) -> None:
    async def forgets_to_return(request: Any, context: Context, proceed: ServerProceed) -> None:
        await proceed(request)

    handler = giving(text("x")) if method == "collect" else count
    world = make(handler, interceptors=[forgets_to_return])
    if method == "collect":
        outcome = Outcome(world.collect(texts(1)))
    elif method == "count":
        outcome = read(world.open(1))
    else:
        outcome = read(world.channel.unary_stream(TICKS, text("1")))
    world.network.advance(1)
    assert type(outcome.end) is Internal
    assert outcome.end.message == "an interceptor returned a wrong type"
    (line,) = lines(logged)
    assert line.startswith(
        f"/test.Streaming/{method.capitalize()}: an interceptor of Streaming.{method} returned "
        "None, not "
    )


def test_an_interceptor_sees_that_the_handler_was_wrong(make: Worlds, logged: Logged) -> None:
    seen: list[Exception] = []

    async def turning(request: Any, context: Context, proceed: ServerProceed) -> Any:
        try:
            return await proceed(request)
        except Internal as error:
            seen.append(error)
            raise Unavailable("elsewhere") from None

    world = make(giving(None), interceptors=[turning])
    outcome = Outcome(world.collect(texts(1)))
    world.network.run()
    assert type(outcome.end) is Unavailable
    assert [str(error) for error in seen] == ["INTERNAL: the handler returned a wrong type"]


def test_a_wrong_result_after_the_end_is_said_too(make: Worlds, logged: Logged) -> None:
    late: list[Deferred[Any]] = []

    async def handler(request: StringValue, context: Context) -> AsyncIterator[Any]:
        late.append(Deferred(lambda d: d.callback(None)))
        yield await late[0]

    world = make(handler)
    stream = world.open(1)
    outcome = read(stream)
    world.network.run()
    stream.cancel()
    world.network.advance(1)
    assert outcome.ends
    assert not logged.failures()


# -- required fields ---------------------------------------------------------------------------

#: A message of proto2 with required fields, which every runtime of protobuf has.
Part = UninterpretedOption.NamePart
ASK = Method("/test.Old/Ask", "ask", Part, Part)
SEND = Method("/test.Old/Send", "send", Part, Part, kind=Kind.STREAM_UNARY)
TALK = Method("/test.Old/Talk", "talk", Part, Part, kind=Kind.STREAM_STREAM)


def part(name: str) -> UninterpretedOption.NamePart:
    return Part(name_part=name, is_extension=False)


class Old:
    __txzmq_service__: ClassVar[Service] = Service("test.Old", (ASK, SEND, TALK))

    def __init__(self, last: Callable[[], Any]) -> None:
        self.last = last

    def ask(self, request: Any, context: Context) -> Any:
        return self.last()

    async def send(self, requests: Any, context: Context) -> Any:
        return part("".join([request.name_part async for request in requests]))

    async def talk(self, requests: Any, context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            yield request
        yield self.last()


class OldWorld:
    def __init__(self, last: Callable[[], Any] = lambda: part("last")) -> None:
        self.network = MemoryNetwork()
        self.server = Server(self.network, [Old(last)])
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS)

    def close(self) -> None:
        self.channel.close()
        self.server.stop(0)
        self.network.advance(1)


@pytest.fixture
def old() -> Iterator[Callable[..., OldWorld]]:
    yield from made(OldWorld)


def test_requests_with_required_fields_stream(old: Callable[..., OldWorld]) -> None:
    world = old()
    answer = world.channel.stream_unary(SEND, [part("a"), part("b")])
    assert world.network.result(answer).name_part == "ab"
    items: list[str] = []
    done = world.channel.stream_stream(TALK, [part("a")]).each(lambda i: items.append(i.name_part))
    world.network.advance(1)
    assert done.called
    assert items == ["a", "last"]


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_required_fields_that_are_left_out(
    old: Callable[..., OldWorld], logged: Logged, kind: str
) -> None:
    world = old(lambda: Part(name_part="secret"))
    if kind == "unary":
        outcome = Outcome(world.channel.unary_unary(ASK, part("x")))
    else:
        outcome = read(world.channel.stream_stream(TALK, []))
    world.network.advance(1)
    assert type(outcome.end) is Internal
    (line,) = lines(logged)
    assert line.startswith("/test.Old/")
    assert line.endswith(" gave UninterpretedOption.NamePart without is_extension")
    assert not logged.failures()


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_request_without_its_required_fields_fails_the_call(
    old: Callable[..., OldWorld], kind: str
) -> None:
    world = old()
    if kind == "unary":
        outcome = Outcome(world.channel.unary_unary(ASK, Part()))
    else:
        outcome = Outcome(world.channel.stream_unary(SEND, [Part()]))
    world.network.advance(1)
    assert "name_part" in str(outcome.end)


# -- logs --------------------------------------------------------------------------------------

EVIL: Final = "\x1b[2J\n2026-11-30 [audit] root logged in\u202e"
SHOWN: Final = "\\x1b[2J\\n2026-11-30 [audit] root logged in\\u202e"


def test_what_peers_send_is_escaped_in_tracebacks(logged: Logged) -> None:
    class Naive(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise ValueError(f"no user {request.value}")

    world = World(Naive())
    outcome = Outcome(world.call(EVIL))
    world.network.run()
    assert outcome.ends
    (event,) = [event for event in logged if "log_failure" in event]
    traceback = event["log_failure"].getTraceback()
    assert f"builtins.ValueError: no user {SHOWN}" in traceback
    assert traceback.replace("\n", "").isprintable()
    assert "in echo\n" in traceback, "its own lines are lines"
    world.close()


def test_what_peers_send_is_escaped_in_errors() -> None:
    error = Unavailable(EVIL)
    assert str(error) == f"UNAVAILABLE: {SHOWN}"
    assert repr(error) == f"<Unavailable UNAVAILABLE: {SHOWN}>"
    assert error.message == EVIL


class Failing(Echo):
    def echo(self, request: StringValue, context: Context) -> StringValue:
        if request.value == "None":
            return None  # type: ignore[return-value]  # that is what is tried
        raise ValueError(f"reason {request.value}")


def test_the_tracebacks_of_a_method_are_limited(logged: Logged) -> None:
    world = World(Failing())
    outcomes = [Outcome(world.call(str(number))) for number in range(25)]
    world.network.run()
    assert len(logged.failures()) == 10
    said = lines(logged)
    assert len(said) == 25, "each has a line, with the id that its caller got"
    for outcome in outcomes:
        identifier = str(outcome.end).rpartition(" ")[2]
        assert [identifier in line for line in said].count(True) == 1
    assert said[-1].endswith("ValueError: reason 24; its tracebacks are left out for now")
    long = Outcome(world.call("x" * 100_000))
    world.network.run()
    assert long.ends
    assert "(100019 characters)" in lines(logged)[-1]
    assert len(lines(logged)[-1]) < 1_000
    left_out = 16  # of the first minute
    for minute in (1, 2):
        world.network.advance(60)
        before = len(lines(logged))
        many = [Outcome(world.call(f"{minute}.{number}")) for number in range(15)]
        world.network.run()
        assert all(outcome.ends for outcome in many)
        assert len(logged.failures()) == 10 * (minute + 1), "as many as in the first minute"
        first = lines(logged)[before]
        assert first.endswith(f"; {left_out} tracebacks of this method were left out before")
        left_out = 5
    world.close()


def test_wrong_results_leave_room_for_tracebacks_and_these_for_them(logged: Logged) -> None:
    world = World(Failing())
    for request in ("None", "raises"):
        for _ in range(12):
            Outcome(world.call(request))
    world.network.run()
    said = lines(logged)
    assert len(logged.failures()) == 10
    assert len([line for line in said if "returned None" in line]) == 10
    assert len([line for line in said if "tracebacks are left out" in line]) == 2
    world.close()


def test_the_lines_of_wrong_results_are_limited(logged: Logged) -> None:
    world = World(Failing())
    for _ in range(25):
        Outcome(world.call("None"))
    world.network.run()
    assert len(lines(logged)) == 10
    for minute, left_out in ((1, 15), (2, 5)):
        world.network.advance(60)
        before = len(lines(logged))
        for _ in range(15):
            Outcome(world.call("None"))
        world.network.run()
        said = lines(logged)[before:]
        assert len(said) == 10, f"as many as in the first minute, in minute {minute}"
        assert said[0].endswith(f"; {left_out} such lines of this method were left out before")
    world.close()
