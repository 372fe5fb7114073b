"""Methods that no service has: a function says what serves them, for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.ends import Outcome
from tests.rpc.raw_calls import (
    COLLECT,
    ECHOES,
    SHARED,
    STREAM,
    UNARY,
    Asked,
    Echoes,
    Raw,
    RawWorld,
    answering,
    connected,
    each,
    echo,
    end_of,
)
from tests.rpc.service import ECHO, Echo, made, text
from tests.support import Logged
from txzmq.auth import Identity
from txzmq.rpc import (
    CallRecord,
    Channel,
    Code,
    Context,
    Internal,
    Kind,
    MethodHandler,
    NotFound,
    Observer,
    PermissionDenied,
    RawMessage,
    ReplyCacheLimits,
    ResourceExhausted,
    RpcError,
    Server,
    ServerLimits,
    ServerProceed,
    StartedCall,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
    raw_method,
)
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.authorization import permissions
from txzmq.rpc.method import Method
from txzmq.rpc.metrics import UNKNOWN, Metrics

Make = Callable[..., RawWorld]
ALL = [*ECHOES.values(), SHARED]


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(RawWorld)


# -- what it is asked, and what it may answer -----------------------------------------------------


def test_it_is_asked_for_what_no_service_has_once_for_each_call(world: Make) -> None:
    asked = Asked()
    w = world(fallback=asked, services=[Echo()])
    assert w.network.result(w.channel.unary_unary(ECHO, text("x"))) == text("x")
    assert asked.paths == []
    for method in ALL:
        w.result(method, b"x")  # with control calls, by which streams are acknowledged
    w.result(UNARY, b"x")
    assert asked.paths == [*(method.path for method in ALL), UNARY.path]
    assert [context.method for context in asked.service.contexts[:2]] == asked.paths[:2]


def test_where_it_has_no_answer_a_call_ends_as_on_any_server(world: Make) -> None:
    errors: list[Any] = []
    for fallback in (None, answering(None)):
        w = world(fallback=fallback, services=[])
        client = connected(w)
        number = client.request(RequestHead(UNARY.path, None, ()), b"x")
        w.network.run()
        errors.append(client.replies()[number])
        client.transport.close()
    assert errors[0] == errors[1]
    assert errors[0][0].code is Code.UNIMPLEMENTED
    assert errors[0][0].not_executed


def test_its_answers_may_change(world: Make) -> None:
    answers: list[Any] = [None, each(UNARY.path), None]
    w = world(fallback=lambda path: answers.pop(0))  # pyright: ignore[reportUnknownLambdaType]  # a str
    assert type(end_of(w)) is Unimplemented
    assert end_of(w) == [b"x"]
    assert type(end_of(w)) is Unimplemented


def test_it_says_which_kind_a_method_is(world: Make) -> None:
    w = world(by_fallback=True)
    wrong = end_of(w, raw_method(STREAM.path))
    assert (type(wrong), wrong.message) == (
        Unimplemented,
        f"{STREAM.path} streams on this server",
    )
    wrong = end_of(w, raw_method(UNARY.path, Kind.UNARY_STREAM))
    assert wrong.message == f"{UNARY.path} does not stream on this server"
    wrong = end_of(w, raw_method(STREAM.path, Kind.STREAM_STREAM))
    assert wrong.message == f"{STREAM.path} does not stream requests on this server"


def test_its_messages_may_be_of_any_classes(world: Make) -> None:
    w = world(fallback=answering(MethodHandler(ECHO, Echo().echo)))
    assert w.network.result(w.channel.unary_unary(ECHO, text("x"))) == text("x")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (UNARY, "a MethodHandler or None, not an object of type Method"),
        (False, "a MethodHandler or None, not False"),
        (MethodHandler, "a MethodHandler or None, not the class MethodHandler"),
        (each(STREAM.path), f"the method that it is asked for, not {STREAM.path}"),
    ],
)
def test_a_wrong_answer_is_logged_and_refused(
    world: Make, logged: Logged, answer: Any, said: str
) -> None:
    w = world(fallback=answering(answer))
    for _ in range(9):
        wrong = end_of(w)
        assert type(wrong) is Internal
        assert "failed to find out what serves the method" in wrong.message
    lines = [event for event in logged if "due" in event]
    assert 0 < len(lines) <= 5  # whoever may call could fill the log
    assert (lines[0]["due"], lines[0]["path"]) == (said, UNARY.path)


@pytest.mark.parametrize("waits", [False, True])
def test_what_it_raises_refuses(world: Make, logged: Logged, waits: bool) -> None:
    errors: list[BaseException] = []

    def raising(path: str) -> Any:
        raise errors[0]

    async def raising_later(path: str) -> Any:
        raise errors[0]

    w = world(fallback=raising_later if waits else raising)
    errors[:] = [NotFound("no such service here", metadata={"why": "1"})]
    chosen = end_of(w)
    assert (type(chosen), chosen.message) == (NotFound, "no such service here")
    assert chosen.metadata == (("why", "1"),)
    errors[:] = [NotFound("x", metadata={"why": "1" * 10_000})]
    assert type(end_of(w)) is ResourceExhausted
    assert not logged.failures()
    # The outcome of a call that it made itself, and what nobody expects.
    for error in (Unavailable("secret"), ValueError("secret")):
        if isinstance(error, RpcError):
            error.of_call("/other.Service/Method")
        errors[:] = [error]
        wrong = end_of(w)
        assert type(wrong) is Internal
        assert "secret" not in wrong.message
    for _ in range(9):
        end_of(w)
    assert 2 <= len(logged.failures()) <= 5


def test_a_handler_says_its_method_and_takes_two_arguments() -> None:
    wrong: Any = UNARY.path
    with pytest.raises(TypeError, match="method must be a Method"):
        MethodHandler(wrong, echo)

    def short(request: RawMessage) -> RawMessage:
        return request

    for wrong in (None, short, Echoes):
        with pytest.raises(TypeError, match=r"handler must be a function of \(request, context\)"):
            MethodHandler(UNARY, wrong)
    word = Method("/a.B/C", "c", RawMessage, RawMessage, requires="orders.write")
    with pytest.raises(ValueError, match=r"/a\.B/C requires 'orders.write', and who may call it"):
        MethodHandler(word, echo)


# -- who may call -------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
def test_who_may_not_call_has_nobody_asked(world: Make, waits: bool) -> None:
    asked = Asked(waits=waits)

    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
        name = dict(metadata).get("user")
        return Identity(str(name), groups=frozenset({str(name)})) if name else None

    table = permissions({UNARY.path: {"alice"}, "/test.Raw/*": {"*"}})
    w = world(fallback=asked, authenticate=authenticate, authorize=table)
    assert type(end_of(w)) is Unauthenticated
    assert type(end_of(w, metadata={"user": "bob"})) is PermissionDenied
    assert type(end_of(w, raw_method("/other/x"), metadata={"user": "bob"})) is PermissionDenied
    assert asked.paths == []
    calls = [w.call(method, b"x", metadata={"user": "alice"}) for method in (UNARY, STREAM)]
    w.network.advance(1)
    if waits:
        asked.answer()
        w.network.advance(1)
    assert [w.network.result(call)[0] for call in calls] == [b"x", b"x"]
    identities = [context.identity for context in asked.service.contexts]
    assert [it and it.name for it in identities] == ["alice", "alice"]
    assert asked.paths == [UNARY.path, STREAM.path]


def test_a_rule_is_asked_once_for_each_call(world: Make) -> None:
    paths: list[str] = []

    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        paths.append(method)
        return True

    w = world(by_fallback=True, authorize=authorize)
    w.result(UNARY, b"x")
    w.result(COLLECT, b"x")
    assert paths == [UNARY.path, COLLECT.path]


# -- what else holds for calls ------------------------------------------------------------------


def test_limits_hold(world: Make) -> None:
    held: list[Deferred[RawMessage]] = []

    def handler(request: RawMessage, context: Context) -> Deferred[RawMessage]:
        held.append(Deferred())
        return held[-1]

    limits = ServerLimits(
        running_per_method={UNARY.path: 1}, queued_per_method={UNARY.path: 1}, metadata_size=99
    )
    w = world(fallback=answering(MethodHandler(UNARY, handler)), limits=limits)
    outcomes = [Outcome(w.call(UNARY, b"x")) for _ in range(3)]
    w.network.advance(1)
    assert (w.server.running, w.server.queued) == (1, 1)
    assert f"1 calls of {UNARY.path} wait" in str(outcomes[2].end)
    while held:
        held.pop(0).callback(RawMessage(b"y"))
    w.network.advance(1)
    assert [it.end for it in outcomes[:2]] == [[b"y"], [b"y"]]
    assert "metadata of the request" in str(end_of(w, metadata={"key": "x" * 99}))


def test_limits_may_name_methods_that_no_service_has(logged: Logged, world: Make) -> None:
    limits = ServerLimits(running_per_method={UNARY.path: 1})
    world(by_fallback=True, limits=limits)
    assert logged.warnings() == []
    world(limits=ServerLimits(running_per_method={"/test.Raw/UnaryUnarry": 1}))
    assert len(logged.warnings()) == 1


def test_deadlines_and_cancellation_reach_the_handler(world: Make) -> None:
    reasons: list[str] = []

    def handler(request: RawMessage, context: Context) -> Deferred[RawMessage]:
        assert context.time_remaining() == pytest.approx(5, abs=0.1)
        context.cancelled.addCallback(reasons.append)
        return Deferred()

    w = world(fallback=answering(MethodHandler(UNARY, handler)))
    late = Outcome(w.call(UNARY, b"x", timeout=5))
    call = w.call(UNARY, b"x", timeout=5)
    cancelled = Outcome(call)
    w.network.advance(1)
    call.cancel()
    w.network.advance(5)
    assert isinstance(cancelled.end, CancelledError)
    assert len(late.ends) == 1
    assert reasons == ["the client cancelled it", "its deadline has passed"]


KEY = b"sixteen bytes..."


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_that_is_repeated_gets_the_kept_reply(world: Make, waits: bool) -> None:
    asked = Asked()
    answers: list[Any] = [asked, asked, answering(None), answering(Deferred())]

    def find(path: str) -> Any:
        return answers.pop(0)(path)

    w = world(fallback=find, limits=ServerLimits(reply_cache=ReplyCacheLimits()))
    client = connected(w)
    replies: list[int] = []
    for _ in range(4):
        number = client.request(RequestHead(UNARY.path, None, (), request_key=KEY), b"x")
        w.network.advance(1)
        replies.append(number)
    w.network.advance(10)
    got = client.replies()
    assert asked.service.seen == [b"x"]
    assert [got[number][1] for number in replies[:2]] == [b"x", b"x"]
    # It was executed, whatever the fallback says by now.
    heads = [got[number][0] for number in replies[2:]]
    assert [head.code for head in heads] == [Code.UNIMPLEMENTED, Code.UNAVAILABLE]
    assert not any(head.not_executed for head in heads)
    client.transport.close()


# -- observers ------------------------------------------------------------------------------------


class Watching(Observer):
    """Notes calls, as they begin and end."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, bool]] = []
        self.ended: list[tuple[str, bool, Code]] = []

    def call_started(self, source: Any, call: StartedCall) -> None:
        self.begun.append((call.method, call.known))

    def call_ended(self, source: Any, record: CallRecord) -> None:
        self.ended.append((record.method, record.known, record.code))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_observers_are_told_whether_the_name_may_be_a_label(
    world: Make, known: bool, method: Raw
) -> None:
    watching, service = Watching(), Echoes()
    handler = MethodHandler(method, getattr(service, method.name), known)
    limits = ServerLimits(metadata_size=99)
    w = world(fallback=answering(handler), observer=watching, limits=limits)
    w.result(method, b"x")
    w.network.advance(5)
    assert watching.begun == [(method.path, known)]
    assert watching.ended == [(method.path, known, Code.OK)]
    # One that is refused after it is known what would serve it.
    assert type(end_of(w, method, metadata={"k": "x" * 99})) is ResourceExhausted
    assert watching.ended[1:] == [(method.path, known, Code.RESOURCE_EXHAUSTED)]


def test_what_nothing_serves_is_not_known(world: Make) -> None:
    watching = Watching()
    end_of(world(fallback=answering(None), observer=watching))
    assert watching.ended == [(UNARY.path, False, Code.UNIMPLEMENTED)]


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_interceptors_are_told_the_same_without_an_observer(world: Make, method: Raw) -> None:
    records: list[CallRecord] = []

    def watching(request: Any, context: Context, proceed: ServerProceed) -> Any:
        context.ended().addCallback(records.append)
        return proceed(request)

    w = world(by_fallback=True, interceptors=[watching])
    w.result(method, b"x")
    w.network.advance(5)
    (record,) = records
    assert (record.method, record.known, record.code) == (method.path, False, Code.OK)


PATHS = [f"/attack.Service{number}/Method" for number in range(60)]


def test_a_million_paths_take_no_memory(logged: Logged) -> None:
    """Nor fill the log, or the metrics."""

    async def failing(request: RawMessage, context: Context) -> Any:
        if request == b"fails":
            raise ValueError
        return request if request == b"works" else None

    def find(path: str) -> Any:
        return None if path.endswith("0/Method") else MethodHandler(raw_method(path), failing)

    metrics = Metrics()
    w = RawWorld(fallback=find, observer=metrics)
    for path in PATHS:
        for body, expected in {b"fails": Unknown, b"works": list, b"wrong": Internal}.items():
            call = Outcome(w.channel.unary_unary(raw_method(path), RawMessage(body)))
            w.network.run()
            end = call.end
            if path.endswith("0/Method"):
                expected = Unimplemented
            elif expected is list:
                expected = RawMessage
            assert type(end) is expected
    assert len(logged.failures()) == 10
    assert len([event for event in logged if "what" in event]) == 10
    budgets = vars(w.server)["_dispatcher"]._execution._log._limits
    assert len(budgets) == 2
    assert [method.method for method in metrics.methods] == [UNKNOWN]
    w.close()


# -- the server -----------------------------------------------------------------------------------


def test_a_server_without_services_publishes_streams(world: Make) -> None:
    w = world()
    server = Server(w.network, [], fallback=w.service.find)
    address = server.listen("inproc://relay")
    channel = Channel(w.network, address)
    reading = channel.unary_stream(STREAM, RawMessage(b"x")).each(lambda item: None)
    w.network.advance(1)
    w.network.result(reading)
    channel.close()
    server.stop(0)


def test_what_is_no_fallback_is_refused_at_once(world: Make) -> None:
    w = world()
    for wrong in (3, [w.service.find], Echoes, lambda: None):
        value: Any = wrong
        with pytest.raises(TypeError, match=r"fallback must be a function of \(path\)"):
            Server(w.network, [], fallback=value)
