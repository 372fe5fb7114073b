"""Unary calls from end to end, in memory and in virtual time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.python.failure import Failure

from tests.rpc.leftovers import leftovers
from tests.rpc.service import (
    ADDRESS,
    ECHO,
    ECHO_AS_BYTES,
    MISSING,
    OTHER,
    OTHER_AS_ANY,
    WATCH,
    Echo,
    Stubborn,
    Waiting,
    World,
    text,
)
from tests.support import Logged, error_of
from txzmq.rpc import (
    Aborted,
    Channel,
    Code,
    ConnectivityState,
    Context,
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    RpcError,
    Server,
    ServerLimits,
    Unavailable,
    Unimplemented,
    Unknown,
    current_context,
    detached,
)
from txzmq.testing import Faults, MemoryNetwork


class Worlds:
    """Makes worlds and ends them."""

    def __init__(self, batching: bool) -> None:
        self.made: list[World] = []
        self._batching = batching

    def __call__(self, *args: object, **kwargs: object) -> World:
        kwargs["batching"] = self._batching
        world = World(*args, **kwargs)  # type: ignore[arg-type]  # as the caller gives them
        self.made.append(world)
        return world


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def make(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    """Make a server and a channel; at the end nothing of them may be left."""
    worlds = Worlds(request.param)
    yield worlds
    for world in worlds.made:
        world.close()


# -- answers -----------------------------------------------------------------------------------


def test_a_handler_may_return_a_value_a_deferred_or_a_coroutine(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            return succeed(text(f"deferred {request.value}"))

        async def other(self, request: StringValue, context: Context) -> StringValue:
            later: Deferred[str] = Deferred()
            world.network.clock.callLater(1, later.callback, "coroutine")
            return text(f"{await later} {request.value}")

    world: World = make(Service())
    assert world.network.result(world.call("x")).value == "deferred x"
    answer = world.call("x", method=OTHER)
    world.network.advance(1)
    assert world.network.result(answer).value == "coroutine x"
    plain: World = make()
    assert plain.network.result(plain.call("x")).value == "x"


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_a_handler_chooses_the_status(make: Worlds, code: Code) -> None:
    details = [AnyMessage()]
    details[0].Pack(StringValue(value="1"))  # protobuf on PyPy compares only types that exist

    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise RpcError(code, "because", details=details, metadata=[("k", "v")])

    world: World = make(Service())
    with pytest.raises(RpcError) as caught:
        world.network.result(world.call())
    error = caught.value
    assert (error.code, error.message) == (code, "because")
    assert type(error) is type(RpcError(code))
    assert error.details == tuple(details)
    assert error.metadata == (("k", "v"),)


def test_an_unexpected_exception_is_logged_here_and_not_told_there(
    make: Worlds, logged: Logged
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError("cannot even be told")

    raised: list[BaseException] = [
        ValueError("secret"),
        SystemExit("secret"),
        Unspeakable(),
        AssertionError("secret"),
    ]

    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise raised[int(request.value)]

    world: World = make(Service())
    debugged: World = make(Service(), debug=True)
    for index, error in enumerate(raised):
        with pytest.raises(Unknown) as caught:
            world.network.result(world.call(str(index)))
        assert "secret" not in str(caught.value)
        identifier = caught.value.message.split()[-1]
        (event,) = [event for event in logged if event.get("identifier") == identifier]
        assert event["log_failure"].value is error
    with pytest.raises(Unknown, match="ValueError: secret"):
        debugged.network.result(debugged.call("0"))
    with pytest.raises(Unknown, match="Unspeakable"):
        debugged.network.result(debugged.call("2"))


def test_a_wrong_result_is_internal(make: Worlds, logged: Logged) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            return Int64Value(value=1)  # type: ignore[return-value]  # the point of the test

    world: World = make(Service())
    with pytest.raises(Internal, match="wrong type"):
        world.network.result(world.call())


def test_an_unknown_method_is_unimplemented(make: Worlds) -> None:
    world: World = make()
    with pytest.raises(Unimplemented, match=r"/test\.Echo/Missing"):
        world.network.result(world.call(method=MISSING))


def test_streams_are_unimplemented_on_both_sides(make: Worlds) -> None:
    world: World = make()
    as_unary = world.call(method=WATCH)  # what a client does whose proto does not stream
    with pytest.raises(Unimplemented, match="streams"):
        world.network.result(as_unary)
    stream = world.channel.unary_stream(WATCH, text("x"))
    with pytest.raises(Unimplemented, match="streams"):
        world.network.result(Deferred.fromCoroutine(_first(stream)))
    stream.cancel()


async def _first(stream: object) -> object:
    return await stream.__anext__()  # type: ignore[attr-defined]  # of any ResponseStream


def test_what_cannot_be_parsed_is_internal(make: Worlds) -> None:
    class Service(Echo):
        def other(self, request: StringValue, context: Context) -> StringValue:
            return text("\N{SNOWMAN}")

    world: World = make(Service())
    not_text = world.channel.unary_unary(ECHO_AS_BYTES, BytesValue(value=b"\xff"))
    with pytest.raises(Internal, match=r"request to /test\.Echo/Echo cannot be parsed"):
        world.network.result(not_text)
    assert not world.service.seen
    not_a_message = world.channel.unary_unary(OTHER_AS_ANY, StringValue(value="x"))
    with pytest.raises(Internal, match=r"response of /test\.Echo/Other cannot be parsed"):
        world.network.result(not_a_message)


def test_a_request_of_the_wrong_type_is_refused_at_once(make: Worlds) -> None:
    world: World = make()
    wrong = world.channel.unary_unary(ECHO, Int64Value(value=1))  # type: ignore[misc]
    with pytest.raises(TypeError, match="takes StringValue, not Int64Value"):
        world.network.result(wrong)


# -- deadlines ---------------------------------------------------------------------------------


def test_a_call_ends_at_its_deadline_on_both_sides(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call(timeout=1.5)
    world.network.run()
    (context,) = service.contexts
    assert context.time_remaining() == pytest.approx(1.5)
    reasons: list[str] = []
    context.cancelled.addCallback(reasons.append)
    world.network.advance(1.499)
    assert not answer.called
    assert context.time_remaining() == pytest.approx(0.001)
    world.network.advance(0.001)
    with pytest.raises(DeadlineExceeded, match="may have been executed"):
        world.network.result(answer)
    assert reasons == ["its deadline has passed"]
    assert context.time_remaining() == 0
    assert service.results[0].called, "the handler's Deferred was not cancelled"


@pytest.mark.parametrize(("timeout", "expected"), [(None, 30.0), (7.0, 7.0), (math.inf, 3600.0)])
def test_a_call_without_a_timeout_has_the_default(
    make: Worlds, timeout: float | None, expected: float
) -> None:
    world: World = make()
    world.network.result(world.call(timeout=timeout))
    assert world.service.contexts[0].time_remaining() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("default", "timeout", "expected"),
    [
        (None, None, 7.0),
        (30.0, None, 7.0),
        (30.0, math.inf, 7.0),
        (30.0, 8.0, 7.0),
        (30.0, 6.0, 6.0),
        (5.0, None, 5.0),
    ],
)
def test_a_channel_caps_the_time_of_calls(
    make: Worlds, default: float | None, timeout: float | None, expected: float
) -> None:
    world: World = make()
    channel = Channel(world.network, ADDRESS, timeout=default, max_timeout=7.0)
    world.network.result(world.call(timeout=timeout, caller=channel))
    assert world.service.contexts[0].time_remaining() == pytest.approx(expected)
    channel.close()


def test_a_server_caps_and_sets_the_time_of_calls(make: Worlds) -> None:
    limits = ServerLimits(default_timeout=5.0, max_timeout=60.0)
    world: World = make(limits=limits)
    for timeout in (math.inf, 1000.0, 3.0):
        world.network.result(world.call(timeout=timeout))
    left = [context.time_remaining() for context in world.service.contexts]
    assert left == [pytest.approx(5.0), pytest.approx(60.0), pytest.approx(3.0)]
    endless: World = make(limits=ServerLimits(default_timeout=None, max_timeout=None))
    endless.network.result(endless.call(timeout=math.inf))
    assert endless.service.contexts[0].time_remaining() is None


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_a_call_without_time_is_not_made(make: Worlds, timeout: float) -> None:
    world: World = make()
    with pytest.raises(DeadlineExceeded, match="not executed"):
        world.network.result(world.call(timeout=timeout))
    with pytest.raises(ValueError, match="not a number"):
        world.network.result(world.call(timeout=math.nan))
    assert not world.service.seen


@pytest.mark.parametrize("style", ["coroutine", "inlineCallbacks", "plain"])
def test_calls_inherit_what_is_left_of_the_handlers_time(make: Worlds, style: str) -> None:
    inner: World = make()

    class Outer(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            assert current_context() is context
            if style == "coroutine":
                return Deferred.fromCoroutine(self.coroutine())
            if style == "inlineCallbacks":
                return self.generator()
            return inner.call("nested", timeout=100)

        async def coroutine(self) -> StringValue:
            await self.pause()
            return await inner.call("nested", timeout=100)

        @inlineCallbacks
        def generator(self) -> Generator[Deferred[Any], Any, StringValue]:
            yield self.pause()
            answer: StringValue = yield inner.call("nested", timeout=100)
            return answer

        def pause(self) -> Deferred[None]:
            pause: Deferred[None] = Deferred()
            outer.network.clock.callLater(2, pause.callback, None)
            return pause

    outer: World = make(Outer())
    answer = outer.call(timeout=10)
    outer.network.advance(2)
    inner.network.run()
    assert outer.network.result(answer).value == "nested"
    (context,) = inner.service.contexts
    assert context.time_remaining() == pytest.approx(10 if style == "plain" else 8)
    assert current_context() is None


def test_a_detached_call_inherits_nothing(make: Worlds) -> None:
    inner: World = make(Waiting())

    class Outer(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            with detached():
                self.detached = inner.call("detached", timeout=100)
            self.attached = inner.call("attached", timeout=100)
            return Deferred()

    service = Outer()
    outer: World = make(service)
    answer = outer.call(timeout=10)
    outer.network.run()
    inner.network.run()
    made = zip(inner.service.seen, inner.service.contexts, strict=True)
    left = {value: context.time_remaining() for value, context in made}
    assert left == {"detached": pytest.approx(100), "attached": pytest.approx(10)}
    answer.cancel()
    with pytest.raises(CancelledError):
        outer.network.result(answer)
    with pytest.raises(CancelledError):
        inner.network.result(service.attached)
    assert not service.detached.called
    service.detached.cancel()
    with pytest.raises(CancelledError):
        outer.network.result(service.detached)


def test_a_handler_keeps_nothing_of_the_calls_that_it_made(make: Worlds) -> None:
    inner: World = make()
    kept: list[str] = []

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            for number in range(3):
                await inner.call(str(number))
            with pytest.raises(Unimplemented):
                await inner.call(method=MISSING)
            inner.call("cancelled").addErrback(lambda _: None).cancel()
            kept.extend(leftovers(context))
            return request

    outer: World = make(Outer())
    answer = outer.call()
    for _ in range(5):
        outer.network.run()
        inner.network.run()
    outer.network.result(answer)
    assert kept == []


@pytest.mark.parametrize("how", ["cancel", "deadline", "lost", "stop"])
def test_a_handler_whose_call_is_over_makes_no_more_calls(make: Worlds, how: str) -> None:
    inner: World = make()
    ended: list[object] = []

    class Outer(Echo):
        async def echo(self, request: StringValue, context: Context) -> StringValue:
            try:
                return await Deferred[StringValue]()
            finally:
                try:
                    await inner.call("for nobody")
                except (CancelledError, DeadlineExceeded) as error:
                    ended.append(error)
                with detached():
                    await inner.call("clean up")

    outer: World = make(Outer())
    answer = outer.call(timeout=5)
    outer.network.run()
    stopped: Deferred[None] | None = None
    if how == "cancel":
        answer.cancel()
    elif how == "lost":
        outer.network.cut(ADDRESS)
    elif how == "stop":
        stopped = outer.server.stop(0)
    outer.network.advance(5)
    inner.network.run()
    assert len(ended) == 1
    assert inner.service.seen == ["clean up"]
    outer.network.run()
    assert stopped is None or stopped.called
    with suppress(CancelledError, RpcError):
        outer.network.result(answer)
    assert outer.server.running == 0


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_a_caller_does_when_its_time_is_up(make: Worlds, how: str) -> None:
    world: World = make(Waiting())
    first, *others = (world.call(str(number), timeout=1) for number in range(3))
    outcomes: list[Failure] = []

    def ended(failure: Failure) -> None:
        outcomes.append(failure)
        if how == "cancel":
            others[0].cancel()  # its time is up in the same turn
        else:
            world.channel.close()

    first.addErrback(ended)
    for call in others:
        call.addErrback(outcomes.append)
    world.network.advance(1)
    assert [type(error_of(failure)) for failure in outcomes] == {
        "cancel": [DeadlineExceeded, CancelledError, DeadlineExceeded],
        "close": [DeadlineExceeded, CancelledError, CancelledError],
    }[how]


# -- cancelling --------------------------------------------------------------------------------


def test_cancelling_ends_the_handler_too(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call()
    world.network.run()
    answer.cancel()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    assert service.results[0].called, "the handler's Deferred was not cancelled"
    assert world.network.result(service.contexts[0].cancelled) == "the client cancelled it"
    assert not world.server.running


class Deaf:
    """A server's socket whose server never answers."""

    def received(self, message: list[bytes]) -> None:
        """Nothing comes of it."""

    def peer_lost(self, peer: bytes) -> None:
        """Nothing comes of it."""

    def flush(self) -> None:
        """Nothing comes of it."""

    def closed(self) -> None:
        """Nothing comes of it."""


def test_many_calls_are_cancelled_at_a_time(make: Worlds) -> None:
    world: World = make(Waiting(), limits=ServerLimits(running=10))
    calls = [world.call(str(number)) for number in range(2_500)]
    world.network.run()
    assert (world.server.running, world.server.queued) == (10, 2_490)
    errors: list[Any] = []
    for call in calls:
        call.addErrback(errors.append)
        call.cancel()
    world.network.run()
    assert (world.server.running, world.server.queued) == (0, 0)
    assert len(world.service.seen) == 10, "a call that was cancelled was executed"
    assert {error.type for error in errors} == {CancelledError}


@pytest.mark.parametrize("batching", [True, False])
def test_what_waits_for_a_client_that_goes_is_never_executed(batching: bool) -> None:
    world = World(Waiting(), limits=ServerLimits(running=2), batching=batching)
    calls = [world.call(str(number)) for number in range(10)]
    world.network.run()
    world.network.cut(ADDRESS)
    errors: list[Any] = []
    for call in calls:
        call.addErrback(errors.append)
    world.network.run()
    assert (world.server.running, world.server.queued) == (0, 0)
    assert world.service.seen == ["0", "1"]
    assert {error.type for error in errors} == {Unavailable}
    world.close()


def test_a_server_that_answers_no_cancel_costs_no_memory() -> None:
    network = MemoryNetwork()
    network.listen(ADDRESS, Deaf(), {})
    channel = Channel(network, ADDRESS)
    for _ in range(100):
        call = channel.unary_unary(ECHO, text("x"))
        network.run()
        call.cancel()
        with pytest.raises(CancelledError):
            network.result(call)
    network.advance(31)
    assert leftovers(channel) == []
    assert not network.clock.getDelayedCalls()
    channel.close()


def test_a_server_that_answers_no_ping_costs_no_memory() -> None:
    network = MemoryNetwork()
    network.listen(ADDRESS, Deaf(), {})
    channel = Channel(network, ADDRESS)
    call = channel.unary_unary(ECHO, text("x"), timeout=15)
    network.advance(14)
    assert channel.counters["ping"] == 1
    network.advance(2)
    with pytest.raises(DeadlineExceeded):
        network.result(call)
    network.advance(31)
    assert leftovers(channel) == []
    assert not network.clock.getDelayedCalls()
    channel.close()


def test_a_queued_call_that_is_cancelled_is_never_sent(make: Worlds) -> None:
    world: World = make(serve=False)
    answer = world.call(wait_for_ready=True)
    world.network.advance(1)
    answer.cancel()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    world.server.listen(ADDRESS)
    world.network.advance(1)
    assert not world.service.seen


def test_a_call_that_waits_on_the_server_and_is_cancelled_is_never_executed(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running=1))
    calls = [world.call(str(number)) for number in range(4)]
    world.network.run()
    assert (world.server.running, world.server.queued) == (1, 3)
    calls[2].cancel()
    world.network.run()
    with pytest.raises(CancelledError):
        world.network.result(calls[2])
    assert (world.server.running, world.server.queued) == (1, 2)
    for number in range(3):
        service.results[number].callback(text("done"))
        world.network.run()
    assert service.seen == ["0", "1", "3"]
    assert all(call.called for call in calls)


def test_a_place_is_free_when_the_handler_has_really_ended(make: Worlds) -> None:
    service = Stubborn()
    world: World = make(service, limits=ServerLimits(running=1))
    first = world.call("first")
    world.network.run()
    first.cancel()
    second = world.call("second")
    with pytest.raises(CancelledError):
        world.network.result(first)
    assert (world.server.running, service.seen) == (1, ["first"])
    service.results[-1].callback(text("late"))
    world.network.run()
    assert service.seen == ["first", "second"]
    service.results[-1].callback(text("done"))
    assert world.network.result(second).value == "done"


def test_closing_the_channel_cancels_what_waits(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call()
    world.network.run()
    world.channel.close()
    world.channel.close()
    with pytest.raises(CancelledError):
        world.network.result(answer)
    assert service.results[0].called, "the handler's Deferred was not cancelled"
    with pytest.raises(Unavailable, match="closed"):
        world.network.result(world.call())


# -- connections -------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable(make: Worlds) -> None:
    world: World = make(serve=False)
    for _ in range(2):  # the first finds it out, the second is told at once
        with pytest.raises(Unavailable, match=f"not sent .*{ADDRESS}"):
            world.network.result(world.call())


def test_a_call_may_wait_for_the_server(make: Worlds) -> None:
    world: World = make(serve=False)
    patient = world.call("patient", timeout=10, wait_for_ready=True)
    hasty = world.call("hasty", timeout=1, wait_for_ready=True)
    world.network.advance(1)
    with pytest.raises(DeadlineExceeded, match="was not executed"):
        world.network.result(hasty)
    world.server.listen(ADDRESS)
    world.network.advance(1)
    assert world.network.result(patient).value == "patient"
    assert world.service.seen == ["patient"]
    assert world.service.contexts[0].time_remaining() == pytest.approx(8, abs=0.2)


def test_a_lost_connection_ends_the_calls_on_it(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call()
    world.network.run()
    world.network.cut(ADDRESS)
    with pytest.raises(Unavailable, match="may have been executed"):
        world.network.result(answer)
    assert world.network.result(service.contexts[0].cancelled) == "the client has gone"
    assert service.results[0].called, "the handler's Deferred was not cancelled"
    again = world.call("again")
    world.network.advance(1)
    service.results[1].callback(text("again"))
    assert world.network.result(again).value == "again"


def test_calls_go_to_the_endpoints_that_are_there_in_turn(make: Worlds) -> None:
    world: World = make()
    second = Echo()
    server = Server(world.network, [second])
    server.listen("inproc://second")
    channel = Channel(world.network, [ADDRESS, "inproc://second", "inproc://nobody"])
    world.network.run()
    for _ in range(10):
        world.network.result(world.call(caller=channel))
    assert (len(world.service.seen), len(second.seen)) == (5, 5)
    server.stop(0)
    world.network.advance(1)
    for _ in range(10):
        world.network.result(world.call(caller=channel))
    assert (len(world.service.seen), len(second.seen)) == (15, 5)
    channel.close()
    assert ConnectivityState.READY.name == "READY"


@pytest.mark.parametrize("how", ["cut", "close", "unreachable", "deadline"])
@pytest.mark.parametrize("blocked", [0.0, 1.0])
def test_c11_callers_end_other_calls_when_theirs_ends(
    make: Worlds, how: str, blocked: float
) -> None:
    world: World = make(Waiting(), serve=how != "unreachable", faults=Faults(blocked=blocked))
    channel = Channel(world.network, ADDRESS, interceptors=[lambda call, proceed: proceed(call)])
    calls: list[Deferred[StringValue]] = []
    outcomes: list[Failure] = []
    problems: list[Failure] = []

    def ended(failure: Failure) -> None:
        outcomes.append(failure)
        for call in calls:
            call.cancel()

    for number in range(9):
        call = world.call(timeout=1, caller=channel if number % 2 else world.channel)
        calls.append(call)
        call.addErrback(ended)
        call.addErrback(problems.append)
    if how != "unreachable":
        world.network.run()
    if how == "cut":
        world.network.cut(ADDRESS)
    elif how == "close":
        channel.close()
        world.channel.close()
    world.network.advance(2)
    assert len(outcomes) == len(calls)
    assert (
        sum(isinstance(error_of(outcome), CancelledError) for outcome in outcomes) >= len(calls) - 1
    )
    assert not problems
    assert not world.service.seen or not blocked
    channel.close()


def test_a_channel_needs_an_endpoint(make: Worlds) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        Channel(make().network, [])


# -- metadata ----------------------------------------------------------------------------------


def test_metadata_reaches_the_handler(make: Worlds) -> None:
    world: World = make()
    world.network.result(world.call(metadata={"tenant": "a", "trace-bin": b"\0\xff"}))
    assert world.service.contexts[0].metadata == (("tenant", "a"), ("trace-bin", b"\0\xff"))


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"Tenant": "a"}, ValueError),
        ({"": "a"}, ValueError),
        ({"txzmq-x": "a"}, ValueError),
        ({"a": "ü"}, ValueError),
        ({"a": b"bytes"}, TypeError),
        ({"a-bin": "text"}, TypeError),
        ({"a": "x" * 9000}, ResourceExhausted),
    ],
)
def test_bad_metadata_is_refused_before_it_is_sent(
    make: Worlds, metadata: dict[str, str | bytes], error: type[Exception]
) -> None:
    world: World = make()
    with pytest.raises(error):
        world.network.result(world.call(metadata=metadata))
    assert not world.service.seen


def test_trailing_metadata_goes_with_an_error(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.send_initial_metadata({"first": "1"})
            context.set_trailing_metadata({"last-bin": b"\0"})
            raise Aborted("again", metadata=[("more", "2")])

    world: World = make(Service())
    with pytest.raises(Aborted) as caught:
        world.network.result(world.call())
    assert caught.value.metadata == (("last-bin", b"\0"), ("more", "2"))


# -- limits ------------------------------------------------------------------------------------


def test_message_size_is_limited_on_each_side_both_ways(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            return text("x" * int(request.value or 0))

    world: World = make(Service(), limits=ServerLimits(message_size=1000))
    small = Channel(world.network, ADDRESS, message_size=500)
    with pytest.raises(ResourceExhausted, match=r"request.*client's limit of 500"):
        world.network.result(world.call("1" * 600, caller=small))
    with pytest.raises(ResourceExhausted, match=r"response.*client's limit of 500"):
        world.network.result(world.call("600", caller=small))
    with pytest.raises(ResourceExhausted, match=r"request.*server.*message_size"):
        world.network.result(world.call("0" * 1001))
    with pytest.raises(ResourceExhausted, match=r"response.*server.*message_size"):
        world.network.result(world.call("1001"))
    assert len(world.network.result(world.call("900")).value) == 900
    small.close()


def test_metadata_is_limited_by_the_server_both_ways(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.set_trailing_metadata({"a": "x" * 100})
            return text("")

    world: World = make(Service(), limits=ServerLimits(metadata_size=100))
    for what, metadata in (("request", {"a": "x" * 100}), ("response", {})):
        with pytest.raises(ResourceExhausted, match=f"{what}.*metadata_size"):
            world.network.result(world.call(metadata=dict(metadata)))


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(running=2, queued=3), "ServerLimits.queued\\)"),
        (ServerLimits(running_per_peer=2, queued_per_peer=3), "ServerLimits.queued_per_peer"),
        (
            ServerLimits(running_per_method={ECHO.path: 2}, queued_per_method={ECHO.path: 3}),
            "ServerLimits.queued_per_method",
        ),
    ],
)
def test_calls_past_a_limit_wait_and_past_the_next_are_shed(
    make: Worlds, limits: ServerLimits, name: str
) -> None:
    service = Waiting()
    world: World = make(service, limits=limits)
    calls = [world.call(str(i)) for i in range(6)]
    world.network.run()
    assert service.seen == ["0", "1"]
    with pytest.raises(ResourceExhausted, match=name):
        world.network.result(calls[5])
    for i in range(5):
        service.results[i].callback(text(str(i)))
        world.network.run()
        assert world.network.result(calls[i]).value == str(i)
    assert service.seen == ["0", "1", "2", "3", "4"]


def test_what_waits_too_long_is_never_executed(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running=1))
    first, second = world.call("first", timeout=10), world.call("second", timeout=1)
    world.network.advance(1)
    with pytest.raises(DeadlineExceeded):
        world.network.result(second)
    service.results[0].callback(text(""))
    world.network.result(first)
    assert service.seen == ["first"]


def test_a_method_at_its_limit_keeps_up_no_other(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running_per_method={ECHO.path: 1}))
    calls = [world.call(str(number)) for number in range(3)]
    world.network.run()
    assert (service.seen, world.server.queued) == (["0"], 2)
    other = world.call("other", method=OTHER)
    assert world.network.result(other).value == "other other"
    for number in range(3):
        service.results[number].callback(text(""))
        world.network.run()
    assert service.seen == ["0", "other", "1", "2"]
    assert all(call.called for call in calls)


def test_peers_take_turns(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service, limits=ServerLimits(running=1))
    other = Channel(world.network, ADDRESS)
    calls = [world.call(f"greedy {i}") for i in range(4)]
    world.network.run()
    calls += [world.call(f"modest {i}", caller=other) for i in range(2)]
    for i in range(6):
        world.network.run()
        service.results[i].callback(text(""))
    world.network.run()
    assert service.seen == ["greedy 0", "greedy 1", "modest 0", "greedy 2", "modest 1", "greedy 3"]
    other.close()


# -- stopping ----------------------------------------------------------------------------------


def test_stopping_lets_calls_finish_and_takes_no_more(make: Worlds) -> None:
    service = Waiting()
    world: World = make(service)
    answer = world.call("x")
    world.network.run()
    stopped, again = world.server.stop(5), world.server.stop(5)
    refused = world.call("y")
    world.network.advance(1)
    assert service.seen == ["x"]
    assert not service.results[0].called
    assert [stopped.called, again.called] == [False, False]
    service.results[0].callback(text("done"))
    assert world.network.result(answer).value == "done"
    assert [stopped.called, again.called] == [True, True]
    world.network.advance(1)
    with pytest.raises(Unavailable, match="not sent"):
        world.network.result(refused)
    with pytest.raises(RuntimeError):
        world.server.listen(ADDRESS)


def test_stopping_ends_what_does_not_finish_in_time(make: Worlds) -> None:
    service = Stubborn()
    world: World = make(service)
    answer = world.call("x")
    world.network.run()
    stopped = world.server.stop(5)
    world.network.advance(5)
    with pytest.raises(Unavailable, match="may have been executed"):
        world.network.result(answer)
    assert stopped.called


def test_two_services_cannot_have_one_method() -> None:
    with pytest.raises(ValueError, match="two services"):
        Server(World().network, [Echo(), Echo()])


def test_errors_are_told_apart_by_class(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            raise NotFound("no such thing")

    world: World = make(Service())
    trapped: list[object] = []

    def trap(failure: Failure) -> None:
        trapped.append(failure.trap(NotFound))  # type: ignore[no-untyped-call]  # Twisted's

    answer = world.call()
    answer.addErrback(trap)
    world.network.run()
    assert trapped == [NotFound]
