"""Messages that stay bytes: what goes in comes out, in calls of all kinds."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tests.rpc.ends import Outcome
from tests.rpc.raw_calls import (
    CHAT,
    COLLECT,
    ECHOES,
    METHODS,
    SHARED,
    STREAM,
    UNARY,
    Raw,
    RawWorld,
    answering,
    called,
)
from tests.rpc.service import ADDRESS, ECHO, World, made, text
from tests.support import Logged, Loop, examples
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    IdempotencyLevel,
    Internal,
    Kind,
    Method,
    MethodHandler,
    RawMessage,
    ReplyCacheLimits,
    ResourceExhausted,
    ResponseMetadata,
    Server,
    ServerLimits,
    ServerProceed,
    StreamWriter,
    raw_method,
)
from txzmq.rpc._server.status import WrongResult, is_source
from txzmq.rpc.reflection import Reflection
from txzmq.testing import FakeCaller

Make = Callable[..., RawWorld]
#: A message that our StringValue is; with a field that nobody knows, and with known ones out of
#: order, twice, and not as a serialiser writes them.
UNKNOWN = b"\xfa\x3f\x03abc" + text("x").SerializeToString() + b"\x0a\x81\x80\x00y"
#: No message at all.
NONSENSE = b"\xff\xff\xff"


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(RawWorld)


# -- the class ----------------------------------------------------------------------------------


@given(st.binary())
def test_it_is_the_bytes_that_it_is_made_of(data: bytes) -> None:
    for made_of in (data, bytearray(data), memoryview(data)):
        for message in (RawMessage(made_of), RawMessage.FromString(made_of)):
            assert type(message) is RawMessage
            assert message == data
            for deterministic in (False, True):
                out = message.SerializeToString(deterministic=deterministic)
                assert (type(out), out) == (bytes, data)
            assert pickle.loads(pickle.dumps(message)) == message  # its own


def test_its_text_is_its_size() -> None:
    message = RawMessage(b"secret")
    assert f"{message} {message!r}" == "<RawMessage of 6 bytes> <RawMessage of 6 bytes>"
    assert str(RawMessage()) == "<RawMessage of 0 bytes>"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "not 5"),  # of which bytes() would make five zeros
        ("text", "not 'text'"),
        ([1, 2], "not an object of type list"),
        (None, "not None"),
        (text("x"), "not an object of type StringValue; pass its SerializeToString()"),
    ],
)
def test_it_is_made_of_nothing_but_bytes(value: Any, said: str) -> None:
    for make in (RawMessage, RawMessage.FromString):
        with pytest.raises(TypeError) as raised:
            make(value)
        assert str(raised.value) == f"data must be bytes, {said}"


def test_a_raw_method_says_what_its_proto_says() -> None:
    level = IdempotencyLevel.IDEMPOTENT
    method = raw_method("/a.B/GetIt", Kind.STREAM_UNARY, idempotency_level=level)
    assert (method.name, method.kind, method.idempotency_level) == ("GetIt", method.kind, level)
    assert method.request_type is method.response_type is RawMessage
    for path in ("a.B/C", "/a.B/", "/a.B", ""):
        with pytest.raises(ValueError, match=r"path must be /package\.Service/Method"):
            raw_method(path)


# -- calls of all kinds ---------------------------------------------------------------------------

BYTES = st.one_of(
    st.sampled_from([b"", UNKNOWN, NONSENSE]),
    st.binary(max_size=50),
    st.just(bytes(range(256)) * 20),
)


@pytest.mark.parametrize("by_fallback", [False, True], ids=["service", "fallback"])
@pytest.mark.parametrize("intercepted", [False, True], ids=["plain", "intercepted"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes_out_are_bytes_in(
    world: Make, method: Raw, by_fallback: bool, intercepted: bool
) -> None:
    def passing(request: Any, context: Context, proceed: ServerProceed) -> Any:
        return proceed(request)

    def passing_on(call: ClientCall, proceed: ClientProceed) -> Any:
        return proceed(call)

    w = world(
        by_fallback=by_fallback,
        interceptors=[passing] if intercepted else [],
        client_interceptors=[passing_on] if intercepted else [],
    )

    @settings(max_examples=examples(5))
    @given(st.lists(BYTES, min_size=1, max_size=1 if not method.kind.request_streaming else 9))
    def holds(items: list[bytes]) -> None:
        w.service.seen.clear()
        got = w.result(method, *items)
        assert [type(item) for item in [*got, *w.service.seen]] == [RawMessage] * (
            len(got) + len(w.service.seen)
        )
        assert w.service.seen == items
        if method is COLLECT:
            items = [b"".join(items)]
        elif method.kind is Kind.UNARY_STREAM:
            items = items * 2
        assert got == items

    holds()


@pytest.mark.parametrize("method", [UNARY, STREAM, COLLECT, CHAT], ids=lambda method: method.name)
def test_four_mebibytes_pass_and_one_byte_more_does_not(world: Make, method: Raw) -> None:
    w = world()
    largest = bytes(range(256)) * 2**14
    assert b"".join(w.result(method, largest))[: 2**22] == largest
    outcome = Outcome(w.call(method, largest + b"x"))
    w.network.advance(1)
    assert type(outcome.end) is ResourceExhausted


def test_large_messages_pass_through_sockets(one_loop: Loop) -> None:
    """Where a large body may come as another kind of buffer than a small one."""

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        world = RawWorld()
        server = Server(factory, [world.service])
        channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        for size in (0, 1, 2**16, 2**22):
            for method in (UNARY, STREAM, COLLECT, CHAT):
                world.service.seen.clear()
                item = RawMessage(b"\xff" * size)
                got = await called(channel, method, [item])
                assert got == [item] * (2 if method is STREAM else 1)
        channel.close()
        await server.stop(0)
        factory.shutdown()
        world.close()

    one_loop.run(main)


@pytest.mark.parametrize("raw_client", [False, True])
def test_the_other_side_may_have_messages(raw_client: bool) -> None:
    w = World()
    method: Any = raw_method(ECHO.path) if raw_client else ECHO
    request: Any = RawMessage(UNKNOWN) if raw_client else text("y")
    reply = w.network.result(w.channel.unary_unary(method, request))
    assert StringValue.FromString(reply.SerializeToString()).value == "y"
    w.close()


def test_one_direction_may_be_raw() -> None:
    w = World()
    method = Method(ECHO.path, "echo", RawMessage, StringValue)
    reply = w.network.result(w.channel.unary_unary(method, RawMessage(UNKNOWN)))
    assert reply == text("y")
    w.close()


# -- what is no raw message -----------------------------------------------------------------------


@pytest.mark.parametrize("intercepted", [False, True])
def test_a_request_must_be_a_raw_message(world: Make, intercepted: bool) -> None:
    def passing(call: ClientCall, proceed: ClientProceed) -> Any:
        return proceed(call)

    w = world(client_interceptors=[passing] if intercepted else [])
    plain: Any = b"secret"
    with pytest.raises(TypeError) as raised:
        w.channel.unary_unary(UNARY, plain)
    assert (
        str(raised.value) == f"{UNARY.path} takes RawMessage, not bytes; wrap it, RawMessage(...)"
    )
    message: Any = text("x")
    with pytest.raises(TypeError, match=r"takes RawMessage, not StringValue$"):
        w.channel.unary_stream(STREAM, message)
    one: Any = RawMessage(b"secret")
    with pytest.raises(
        TypeError, match="an iterable of requests, not RawMessage; put it in a list"
    ):
        w.channel.stream_unary(COLLECT, one)
    with pytest.raises(TypeError, match="an iterable of requests, not bytes"):
        w.channel.stream_stream(CHAT, plain)


def test_a_raw_message_is_no_other_message(world: Make) -> None:
    wrong: Any = RawMessage()
    with pytest.raises(TypeError, match=r"takes StringValue, not RawMessage$"):
        world().channel.unary_unary(ECHO, wrong)


def test_an_item_must_be_a_raw_message(world: Make) -> None:
    w = world()
    items: Any = [RawMessage(b"x"), b"y"]
    outcome = Outcome(w.channel.stream_unary(COLLECT, items))
    w.network.advance(1)
    assert str(outcome.end) == f"{COLLECT.path} takes RawMessage, not bytes"


@pytest.mark.parametrize("intercepted", [False, True])
@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        (UNARY, b"secret", "returned bytes, not RawMessage; wrap it, RawMessage(...)"),
        (UNARY, bytearray(3), "returned bytearray, not RawMessage; wrap it, RawMessage(...)"),
        (UNARY, text("x"), "returned StringValue, not RawMessage"),
        (
            STREAM,
            RawMessage(b"secret"),
            (
                "returned RawMessage, not an iterable of RawMessage; a handler of a stream yields "
                "its messages, or returns a list of them"
            ),
        ),
        (
            STREAM,
            b"secret",
            "returned bytes, not an iterable of RawMessage; wrap it, RawMessage(...)",
        ),
        (STREAM, [b"secret"], "gave an item of type bytes, not RawMessage"),
        (SHARED, RawMessage(b"secret"), "returned RawMessage, not an iterable of RawMessage"),
    ],
)
def test_a_handler_that_returns_something_else(
    world: Make, logged: Logged, method: Raw, value: Any, said: str, intercepted: bool
) -> None:
    def passing(request: Any, context: Context, proceed: ServerProceed) -> Any:
        return proceed(request)

    def handler(request: Any, context: Context) -> Any:
        return value

    find = answering(MethodHandler(method, handler))
    w = world(fallback=find, interceptors=[passing] if intercepted else [])
    outcome = Outcome(w.call(method, b"x"))
    w.network.advance(1)
    assert type(outcome.end) is Internal
    (line,) = [event for event in logged if "what" in event]
    assert line["what"].startswith(said)
    assert "secret" not in str(line["what"])
    assert not logged.failures()


def test_bytes_give_no_items() -> None:
    for value in (RawMessage(b"xy"), b"xy", bytearray(b"xy"), memoryview(b"xy"), ListValue()):
        assert not is_source(value)
    assert is_source([RawMessage()])


def test_required_fields_are_those_of_messages() -> None:
    assert WrongResult.incomplete(RawMessage(NONSENSE)) is None


def test_an_interceptor_that_passes_on_something_else(world: Make, logged: Logged) -> None:
    def replacing(request: Any, context: Context, proceed: ServerProceed) -> Any:
        return proceed(bytes(request))

    w = world(interceptors=[replacing])
    outcome = Outcome(w.call(UNARY, b"secret"))
    w.network.advance(1)
    assert type(outcome.end) is Internal
    (line,) = [event for event in logged if "what" in event]
    assert line["what"] == "passed on bytes, not RawMessage"


def test_interceptors_see_and_change_raw_messages(world: Make) -> None:
    def client(call: ClientCall, proceed: ClientProceed) -> Any:
        assert type(call.request) is RawMessage
        return proceed(call.replace(request=RawMessage(call.request + b"c")))

    async def server(request: Any, context: Context, proceed: ServerProceed) -> Any:
        response = await proceed(RawMessage(request + b"s"))
        return RawMessage(response + b"r")

    w = world(interceptors=[server], client_interceptors=[client])
    assert w.result(UNARY, b"x") == [b"xcsr"]


def test_an_interceptor_that_waits_goes_on_with_the_same_bytes(world: Make) -> None:
    waiting: list[Deferred[None]] = []

    async def client(call: ClientCall, proceed: ClientProceed) -> Any:
        waiting.append(Deferred())
        await waiting[-1]
        return await proceed(call)

    w = world(client_interceptors=[client])
    call = w.call(UNARY, NONSENSE)
    w.network.advance(1)
    waiting[0].callback(None)
    assert w.network.result(call) == [NONSENSE]


def test_rules_of_protos_hold_for_messages_only(world: Make) -> None:
    pytest.importorskip("protovalidate", reason="protovalidate is not installed: PyPy has no wheel")
    validation = importlib.import_module("txzmq.rpc.validation")
    w = world(
        interceptors=[validation.ServerValidationInterceptor()],
        client_interceptors=[validation.ClientValidationInterceptor()],
    )
    for method in ECHOES.values():
        w.service.seen.clear()
        w.result(method, NONSENSE)
        assert w.service.seen == [NONSENSE]


# -- what is kept, shared and made again ----------------------------------------------------------


def test_calls_share_a_run_where_their_bytes_are_equal(world: Make) -> None:
    w = world()
    calls = [w.call(SHARED, item) for item in (UNKNOWN, UNKNOWN, NONSENSE)]
    w.network.advance(1)
    assert [w.network.result(call)[0] for call in calls] == [UNKNOWN, UNKNOWN, NONSENSE]
    assert w.service.seen == [UNKNOWN, NONSENSE]


def test_a_stream_writer_takes_raw_messages(world: Make) -> None:
    writer: StreamWriter[RawMessage] = StreamWriter()
    for item in (UNKNOWN, b"", NONSENSE):
        writer.write(RawMessage(item))
    writer.finish()
    w = world()
    outcome = Outcome(w.channel.stream_unary(COLLECT, writer))
    w.network.advance(1)
    assert outcome.end == UNKNOWN + NONSENSE
    assert [type(item) for item in w.service.seen] == [RawMessage] * 3


POLICIES: dict[str, dict[str, Any]] = {
    "retries": {
        "retryPolicy": {
            "maxAttempts": 3,
            "initialBackoff": "1s",
            "maxBackoff": "1s",
            "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    },
    "hedging": {"hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "1s"}},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reply_cache", [False, True])
def test_each_attempt_has_the_same_bytes(policy: str, reply_cache: bool) -> None:
    w = RawWorld(limits=ServerLimits(reply_cache=ReplyCacheLimits() if reply_cache else None))
    level = IdempotencyLevel.IDEMPOTENT
    method = raw_method(UNARY.path, idempotency_level=level)
    w.channel.close()
    config: dict[str, Any] = {"methodConfig": [{"name": [{}], **POLICIES[policy]}]}
    w.channel = Channel(w.network, ADDRESS, service_config=config)
    w.network.result(w.call(method, b""))
    w.service.seen.clear()
    call = w.call(method, UNKNOWN)
    w.network.cut(ADDRESS)
    w.network.advance(5)
    assert w.network.result(call) == [UNKNOWN]
    assert set(w.service.seen) == {UNKNOWN}
    w.close()


def test_metadata_and_errors_are_those_of_any_call(world: Make) -> None:
    async def failing(request: RawMessage, context: Context) -> RawMessage:
        context.send_initial_metadata({"first": "1"})
        raise ResourceExhausted("no", details=[text("why")], metadata={"last": "2"})

    w = world(fallback=answering(MethodHandler(UNARY, failing)))
    with ResponseMetadata() as metadata, pytest.raises(ResourceExhausted) as raised:
        w.result(UNARY, b"x")
    assert (metadata.initial, metadata.trailing) == ((("first", "1"),), (("last", "2"),))
    assert raised.value.details_of(StringValue) == (text("why"),)


# -- fakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
def test_a_fake_answers_raw_calls(kind: Kind) -> None:
    method = ECHOES[kind]
    answer: Any = RawMessage(NONSENSE)
    fake = FakeCaller({method.name: [answer, answer] if kind.response_streaming else answer})
    outcome = Outcome(called(fake, method, [RawMessage(UNKNOWN)]))
    assert outcome.end == [answer] * (2 if kind.response_streaming else 1)
    (call,) = fake.recorded
    assert call.requests == ([] if kind.request_streaming else [UNKNOWN])


def test_a_fake_takes_no_raw_message_for_a_stream() -> None:
    fake = FakeCaller({STREAM.name: RawMessage(b"xy")})
    with pytest.raises(TypeError, match="must be an iterable of RawMessage"):
        fake.unary_stream(STREAM, RawMessage())


def test_raw_services_stand_beside_reflection(world: Make) -> None:
    """Which cannot describe them: nobody knows their messages here."""
    w = world()
    server = Server(w.network, [w.service, Reflection()])
    channel = Channel(w.network, server.listen("inproc://described"))
    call = called(channel, UNARY, [RawMessage(UNKNOWN)])
    assert w.network.result(call) == [UNKNOWN]
    channel.close()
    server.stop(0)
