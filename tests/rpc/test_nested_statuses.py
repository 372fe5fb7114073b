"""What a server tells of the calls to others that its handlers make."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raising import SECRET, Raising, everything, logged_under, outcome
from tests.rpc.service import ECHO, OTHER, Echo, Stubborn, World, closing, made, text
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    NotFound,
    RpcError,
    Server,
    UnaryResult,
    Unavailable,
    Unknown,
)
from txzmq.testing import FakeCaller


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    yield from closing()


class Front(Echo):
    """Asks another server before it answers."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.back: Channel | None = None

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        return self.ask(request) if self.style == "deferred" else self.coroutine(request)

    def ask(self, request: StringValue) -> Deferred[StringValue]:
        assert self.back is not None
        return self.back.unary_unary(ECHO, request, wait_for_ready=request.value == "wait")

    async def coroutine(self, request: StringValue) -> StringValue:
        try:
            return await self.ask(request)
        except RpcError as error:
            if self.style == "passes it on":
                raise RpcError(error.code, error.message, details=error.details) from error
            raise


class Chain:
    """A client's world whose handler calls a second server."""

    def __init__(self, style: str, back: Echo, *, debug: bool = False) -> None:
        self.front = Front(style)
        self.world = World(self.front, debug=debug)
        self.server = Server(self.world.network, [back])
        self.front.back = Channel(self.world.network, self.server.listen("inproc://back"))

    def close(self) -> None:
        assert self.front.back is not None
        self.front.back.close()
        self.server.stop(0)
        self.world.close()


@pytest.fixture
def chain() -> Iterator[Callable[..., Chain]]:
    yield from made(Chain)


def secretive() -> NotFound:
    return NotFound(SECRET, details=[text(SECRET)], metadata={"token": SECRET})


@pytest.mark.parametrize("style", ["deferred", "coroutine"])
def test_the_outcome_of_a_call_to_another_server_does_not_leave(
    chain: Callable[..., Chain], logged: Logged, style: str
) -> None:
    it = chain(style, Raising(secretive))
    error = outcome(it.world)
    assert type(error) is Unknown
    assert SECRET not in everything(error)
    cause = logged_under(logged, error)["log_failure"].value
    assert isinstance(cause, NotFound)
    assert (cause.message, cause.method) == (SECRET, ECHO.path)
    debugged = chain(style, Raising(secretive), debug=True)
    assert f"NotFound: NOT_FOUND: {SECRET}" in outcome(debugged.world).message


def test_a_handler_passes_it_on_by_a_new_error(chain: Callable[..., Chain]) -> None:
    it = chain("passes it on", Raising(secretive))
    error = outcome(it.world)
    assert (type(error), error.message) == (NotFound, SECRET)
    assert error.detail(StringValue) == text(SECRET)
    assert error.metadata == ()


@pytest.mark.parametrize("style", ["deferred", "coroutine"])
def test_where_another_server_is_does_not_leave_either(
    chain: Callable[..., Chain], logged: Logged, style: str
) -> None:
    it = chain(style, Echo())
    it.world.network.run()
    it.server.stop(0)
    it.world.network.advance(1)
    error = outcome(it.world)
    assert type(error) is Unknown, "UNAVAILABLE would say of this server to try again"
    assert "inproc" not in everything(error)
    assert isinstance(logged_under(logged, error)["log_failure"].value, Unavailable)


@pytest.mark.parametrize("style", ["deferred", "coroutine"])
@pytest.mark.parametrize("timeout", [0.25, 1.0, 1 / 3, 2.0005])
@pytest.mark.parametrize("value", ["x", "wait"])
def test_time_that_is_up_is_told_as_such_through_all_hops(
    chain: Callable[..., Chain], style: str, timeout: float, value: str
) -> None:
    it = chain(style, Stubborn())
    it.world.network.run()
    if value == "wait":
        it.server.stop(0)
        it.world.network.advance(0.5)
    # With time of its own, so that the server's answer counts and not the client's deadline.
    patient = it.world.channel
    answer = patient.unary_unary(ECHO, text(value), timeout=timeout)
    it.world.network.advance(timeout + 0.01)
    with pytest.raises(DeadlineExceeded):
        it.world.network.result(answer)


@pytest.mark.parametrize("before", [0.0, 0.001])
def test_the_nested_call_may_notice_first_that_time_is_up(
    worlds: list[World], before: float
) -> None:
    class Late(Echo):
        def echo(self, request: StringValue, context: Context) -> Deferred[StringValue]:
            answer: Deferred[StringValue] = Deferred()
            error = DeadlineExceeded(SECRET)
            error.method = "/other.Service/Method"
            left = context.time_remaining()
            assert left is not None
            world.network.clock.callLater(left - before, answer.errback, error)
            return answer

    world = World(Late())
    worlds.append(world)
    answer = world.call(timeout=1)
    world.network.advance(1)
    with pytest.raises(DeadlineExceeded) as caught:
        world.network.result(answer)
    assert SECRET not in everything(caught.value)


def test_another_servers_deadline_is_not_this_ones(worlds: list[World], logged: Logged) -> None:
    def late() -> DeadlineExceeded:
        error = DeadlineExceeded("it allows a second only")
        error.method = "/other.Service/Method"
        return error

    world = World(Raising(late))
    worlds.append(world)
    assert type(outcome(world, timeout=10)) is Unknown
    assert logged.failures()


def test_a_fake_client_fails_as_a_real_one_does(worlds: list[World], logged: Logged) -> None:
    class Faked(Echo):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            return FakeCaller({"other": secretive()}).unary_unary(OTHER, request)

    world = World(Faked())
    worlds.append(world)
    assert type(outcome(world)) is Unknown
    assert logged.failures()
