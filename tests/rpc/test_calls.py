"""Unary calls from end to end, in memory and in virtual time: answers, connections, metadata."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

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
    Worlds,
    made,
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
    Unavailable,
    Unimplemented,
    Unknown,
)
from txzmq.testing import Faults


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def make(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    yield from made(partial(World, batching=request.param))


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


def test_a_method_is_called_as_what_it_is(make: Worlds) -> None:
    world: World = make()
    as_unary = world.call(method=WATCH)  # what a client does whose proto does not stream
    with pytest.raises(Unimplemented, match="streams"):
        world.network.result(as_unary)
    stream = world.channel.unary_stream(ECHO, text("x"))
    with pytest.raises(Unimplemented, match="does not stream"):
        world.network.result(stream.each(print))


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
    with pytest.raises(TypeError, match="takes StringValue, not Int64Value"):
        world.channel.unary_unary(ECHO, Int64Value(value=1))  # type: ignore[misc]  # that is what is tried


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


def test_two_services_cannot_have_one_method() -> None:
    with pytest.raises(ValueError, match="two services"):
        Server(World().network, [Echo(), Echo()])


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
