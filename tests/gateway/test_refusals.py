"""What clients are told of calls that fail behind a gateway, and what the log has."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.rpc.service import ADDRESS, ECHO, Waiting, text
from tests.rpc.streaming import COUNT, Reader
from tests.support import Logged
from txzmq.rpc import Channel, Code, Context, NotFound, RpcError, Server
from txzmq.rpc._gateway.refusals import Refusals
from txzmq.rpc.interceptors import ClientCall, ClientProceed
from txzmq.testing import MemoryNetwork

PATH = "/acme.hello.v1.Hello/SayHello"
NOWHERE = "tcp://10.1.2.3:5000"


@pytest.fixture
def network() -> MemoryNetwork:
    """One in memory."""
    return MemoryNetwork()


def outcome(network: MemoryNetwork, call: Deferred[Any], seconds: float = 60) -> Any:
    """The error that a call ends with."""
    failures: list[Any] = []
    call.addErrback(failures.append)
    network.advance(seconds)
    (failure,) = failures
    return failure.value


def told(error: Exception) -> tuple[Code, str]:
    """The code and the words that a client gets."""
    given = Refusals(Clock()).of(error, PATH)
    return given.code, given.message


def line_of(logged: Logged) -> str:
    """What the log has of the one call that has failed."""
    (event,) = logged.warnings()
    return str(event.get("reason", ""))


def test_no_server_can_be_reached(network: MemoryNetwork, logged: Logged) -> None:
    channel = Channel(network, NOWHERE, timeout=5)
    error = outcome(network, channel.unary_unary(ECHO, text("a")))
    assert NOWHERE in error.message
    assert (error.answered, error.sent) == (False, False)
    logged.clear()
    assert told(error) == (
        Code.UNAVAILABLE,
        "the gateway cannot reach a server of acme.hello.v1.Hello; the call was not sent",
    )
    assert NOWHERE in line_of(logged)


def test_time_that_is_up_while_no_server_is_there(network: MemoryNetwork, logged: Logged) -> None:
    channel = Channel(network, NOWHERE, wait_for_ready=True)
    error = outcome(network, channel.unary_unary(ECHO, text("a"), timeout=1))
    assert NOWHERE in error.message
    logged.clear()
    assert told(error) == (
        Code.DEADLINE_EXCEEDED,
        "the time of the call was up; it was not executed",
    )
    assert NOWHERE in line_of(logged)


def test_a_stream_that_no_server_can_be_reached_for(network: MemoryNetwork, logged: Logged) -> None:
    reader = Reader(Channel(network, NOWHERE).unary_stream(COUNT, text("3")))
    network.advance(5)
    assert isinstance(reader.ended, RpcError)
    assert NOWHERE in reader.ended.message
    assert told(reader.ended)[1] == (
        "the gateway cannot reach a server of acme.hello.v1.Hello; the call was not sent"
    )
    logged.clear()


def test_a_server_that_is_lost(network: MemoryNetwork, logged: Logged) -> None:
    server = Server(network, [Waiting()])
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS)
    call = channel.unary_unary(ECHO, text("a"))
    network.advance(1)
    network.cut(ADDRESS)
    error = outcome(network, call, 0.1)
    assert (error.answered, error.sent) == (False, True)
    logged.clear()
    code, words = told(error)
    assert code is Code.UNAVAILABLE
    assert words == (
        "the gateway has lost the server of acme.hello.v1.Hello; the call was sent, and may have "
        "been executed"
    )
    assert ADDRESS in line_of(logged)


class Refusing(Waiting):
    """Answers with an error of the same code."""

    def echo(self, request: StringValue, context: Context) -> StringValue:
        raise RpcError(Code(int(request.value)), "the server's own words")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_what_a_server_answers_passes(network: MemoryNetwork, logged: Logged, code: Code) -> None:
    Server(network, [Refusing()]).listen(ADDRESS)
    call = Channel(network, ADDRESS).unary_unary(ECHO, text(str(int(code))))
    error = outcome(network, call, 1)
    assert (error.answered, error.sent) == (True, None)
    logged.clear()
    assert told(error) == (code, "the server's own words")
    assert not logged


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_what_an_interceptor_raises_passes(network: MemoryNetwork, kind: str) -> None:
    def refuse(call: ClientCall, proceed: ClientProceed) -> Any:
        raise NotFound("the interceptor's own words")

    channel = Channel(network, NOWHERE, interceptors=[refuse])
    if kind == "unary":
        error = outcome(network, channel.unary_unary(ECHO, text("a")), 1)
    else:
        reader = Reader(channel.unary_stream(COUNT, text("3")))
        network.advance(1)
        assert isinstance(reader.ended, RpcError)
        error = reader.ended
    assert told(error) == (Code.NOT_FOUND, "the interceptor's own words")


def test_what_passes_an_interceptor_is_the_channels(network: MemoryNetwork) -> None:
    def proceed(call: ClientCall, proceed: ClientProceed) -> Any:
        return proceed(call)

    channel = Channel(network, NOWHERE, interceptors=[proceed])
    error = outcome(network, channel.unary_unary(ECHO, text("a")), 5)
    assert told(error)[1].startswith("the gateway cannot reach a server of")


def test_a_limit_of_the_channels(network: MemoryNetwork) -> None:
    channel = Channel(network, NOWHERE, message_size=10)
    error = outcome(network, channel.unary_unary(ECHO, text("a" * 20)), 1)
    code, words = told(error)
    assert code is Code.RESOURCE_EXHAUSTED
    assert words == (
        "the gateway cannot pass the call on: the request has 22 bytes, over the client's limit "
        "of 10 (Channel's message_size)"
    )


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_nothing_of_the_channels_words_passes(logged: Logged, code: Code, sent: bool) -> None:
    error = RpcError(code, f"{NOWHERE} is not there", metadata=(("secret", NOWHERE),))
    error.sent = sent
    given = Refusals(Clock()).of(error, PATH)
    if code is not Code.RESOURCE_EXHAUSTED:  # of which there are only limits of sizes
        assert NOWHERE not in given.message
    assert given.metadata == ()
    assert given.code is (Code.UNAVAILABLE if code is Code.UNAUTHENTICATED else code)


def test_the_gateways_own_errors_pass() -> None:
    error = RpcError(Code.RESOURCE_EXHAUSTED, "too large for the gateway")
    error.sent = True  # it has come back through the channel
    assert Refusals(Clock()).of(error, PATH, [error]) is error


def test_a_channel_that_is_closed() -> None:
    code, words = told(CancelledError("the channel was closed"))
    assert code is Code.UNAVAILABLE
    assert words.startswith("the gateway is shutting down")


def test_the_log_is_kept_short(logged: Logged) -> None:
    clock = Clock()
    refusals = Refusals(clock)

    def fail(number: int) -> None:
        error = RpcError(Code.UNAVAILABLE, f"number {number}")
        error.sent = False
        refusals.of(error, PATH)

    for number in range(100):
        fail(number)
    assert line_of(logged) == "UNAVAILABLE: number 0"
    logged.clear()
    clock.advance(61)
    fail(100)
    (event,) = logged.warnings()
    assert event["left_out"] == 99
