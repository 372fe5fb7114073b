"""Calls of all kinds whose requests are checked by the rules in their protos, on both sides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("protovalidate", reason="protovalidate is not installed: PyPy has no wheel")
pytest.importorskip("grpc_tools", reason="the protos with rules are compiled by grpcio-tools")

import protovalidate
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.service import ADDRESS
from tests.rpc.validated import (
    WRONG,
    Accounts,
    ValidatedWorld,
    account,
    accounts,
    found,
    on_client,
    on_paths,
    on_server,
    request_for,
)
from tests.support import Logged
from txzmq.rpc import Channel, Code, Context, InvalidArgument, Method, RpcError, Service, Unknown
from txzmq.rpc.validation import (
    ClientValidationInterceptor,
    ServerValidationInterceptor,
)

ONE_BY_ONE = [Accounts.CREATE, Accounts.FIND, Accounts.WATCH]
STREAMED = [Accounts.MANY, Accounts.EACH]


# -- the server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ONE_BY_ONE, ids=lambda method: method.name)
def test_a_server_refuses_a_request_that_breaks_a_rule(method: Method[Any, Any]) -> None:
    world = on_server()
    with pytest.raises(InvalidArgument) as raised:
        world.call(method, request_for(method, wrong=True))
    assert len(found(raised.value)) == 1
    assert "sent" not in raised.value.message
    assert world.service.seen == []


@pytest.mark.parametrize("method", ONE_BY_ONE, ids=lambda method: method.name)
@pytest.mark.parametrize("made", [on_server, on_client], ids=["server", "client"])
def test_a_request_that_keeps_its_rules_goes_on_unchanged(
    made: Any, method: Method[Any, Any]
) -> None:
    world = made()
    request = request_for(method, wrong=False)
    assert world.call(method, request) == ["1"]
    assert world.service.seen == [request]


def test_who_would_share_a_stream_is_checked_for_each_call() -> None:
    class Endless(Accounts):
        async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
            self.seen.append(request)
            await Deferred[None]()
            yield

    world = ValidatedWorld(Endless(), server=[ServerValidationInterceptor()])
    good = request_for(Accounts.WATCH, wrong=False)
    stream = world.channel.unary_stream(Accounts.WATCH, good)
    other = world.channel.unary_stream(Accounts.WATCH, good)
    world.network.run()
    with pytest.raises(InvalidArgument):
        world.call(Accounts.WATCH, request_for(Accounts.WATCH, wrong=True))
    assert world.service.seen == [good]
    for each in (stream, other):
        each.cancel()
        with pytest.raises(CancelledError):
            world.network.result(each.ended())
    world.network.run()


@pytest.mark.parametrize("method", STREAMED, ids=lambda method: method.name)
@pytest.mark.parametrize("made", [on_server, on_client], ids=["server", "client"])
def test_a_stream_that_keeps_the_rules_arrives_as_it_is(
    made: Any, method: Method[Any, Any]
) -> None:
    world = made()
    emails = [f"a{number}@example.org" for number in range(3)]
    ids = world.call(method, [account(email=email) for email in emails])
    assert ids[-1] == "3"
    assert world.emails() == emails


@pytest.mark.parametrize("method", STREAMED, ids=lambda method: method.name)
def test_a_stream_is_refused_at_the_first_item_that_breaks_a_rule(
    method: Method[Any, Any],
) -> None:
    world = on_server()
    with pytest.raises(InvalidArgument) as raised:
        world.call(method, [account(email="a@b.org"), account(**WRONG), account()])
    assert raised.value.message == (
        "accounts.v1.CreateRequest (item 2 of the stream) breaks a rule: "
        "email: must be a valid email address"
    )
    assert found(raised.value) == [("email", "string.email")]
    assert world.emails() == ["a@b.org"]


def test_what_was_answered_before_a_wrong_item_arrives() -> None:
    world = on_server()
    stream = world.channel.stream_stream(Accounts.EACH, [account(), account(**WRONG)])
    answered: list[str] = []
    with pytest.raises(InvalidArgument):
        world.network.result(stream.each(lambda response: answered.append(response.id)))
    assert answered == ["1"]


def test_a_handler_that_reads_on_gets_nothing_behind_a_wrong_item() -> None:
    class ReadsOn(Accounts):
        async def create_many(self, requests: Any, context: Context) -> Any:
            for _ in range(3):
                try:
                    self.seen.append(await anext(requests))
                except InvalidArgument as error:
                    self.refused.append(error)
            return accounts("CreateResponse")(id="done")

    world = ValidatedWorld(ReadsOn(), server=[ServerValidationInterceptor()])
    assert world.call(Accounts.MANY, [account(**WRONG), account()]) == ["done"]
    assert world.service.seen == []
    said = (
        "INVALID_ARGUMENT: accounts.v1.CreateRequest (item 1 of the stream) breaks a rule: "
        "email: must be a valid email address"
    )
    assert [str(error) for error in world.service.refused] == [said] * 3


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("Root", "a: 'x' quotient: 0", protovalidate.EvaluationError),
        ("Broken", "value: 1", protovalidate.CompilationError),
    ],
)
def test_a_rule_that_does_not_work_is_the_fault_of_the_server(
    logged: Logged, name: str, fields: str, error: type[Exception]
) -> None:
    request = on_paths(name, fields)
    method: Method[Any, Any] = Method("/p.P/Do", "do", type(request), type(request))
    world = ValidatedWorld(served(method), server=[ServerValidationInterceptor()])
    with pytest.raises(Unknown, match="the server logged it as"):
        world.call(method, request)
    assert [type(failure) for failure in logged.failures()] == [error]


def test_a_rule_that_does_not_work_fails_a_clients_call() -> None:
    request = on_paths("Broken", "value: 1")
    method: Method[Any, Any] = Method("/p.P/Do", "do", type(request), type(request))
    world = ValidatedWorld(served(method), client=[ClientValidationInterceptor()])
    with pytest.raises(protovalidate.CompilationError):
        world.call(method, request)


def served(method: Method[Any, Any]) -> Any:
    """A service with one method, which nothing is to reach."""

    class One:
        __txzmq_service__ = Service(method.path.split("/")[1], (method,))

        def do(self, request: Any, context: Context) -> Any:
            raise AssertionError("the handler was called")

    return One()


# -- the client ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ONE_BY_ONE, ids=lambda method: method.name)
def test_a_client_refuses_a_request_before_it_is_sent(method: Method[Any, Any]) -> None:
    world = on_client()
    with pytest.raises(InvalidArgument) as raised:
        world.call(method, request_for(method, wrong=True))
    assert " (it was not sent) breaks a rule: " in raised.value.message
    assert len(found(raised.value)) == 1
    assert world.service.seen == []


class Source:
    """Accounts, one after the other, and whether it was closed."""

    def __init__(self, *requests: Any) -> None:
        self.requests = requests
        self.closed = 0

    def plain(self) -> Iterator[Any]:
        try:
            yield from self.requests
        finally:
            self.closed += 1

    async def asynchronous(self) -> AsyncIterator[Any]:
        try:
            for request in self.requests:
                yield request
        finally:
            self.closed += 1


@pytest.mark.parametrize("method", STREAMED, ids=lambda method: method.name)
@pytest.mark.parametrize("how", ["plain", "asynchronous"])
def test_a_client_ends_a_stream_at_an_item_that_breaks_a_rule(
    method: Method[Any, Any], how: str
) -> None:
    world = on_client()
    source = Source(account(), account(**WRONG), account())
    with pytest.raises(InvalidArgument) as raised:
        world.call(method, getattr(source, how)())
    world.network.run()
    assert " (item 2 of the stream; it was not sent) breaks a rule: " in raised.value.message
    assert found(raised.value) == [("email", "string.email")]
    assert len(world.service.seen) <= 1
    assert source.closed == 1


@pytest.mark.parametrize("how", ["plain", "asynchronous"])
def test_a_source_is_closed_when_the_call_ends_before_it(how: str) -> None:
    class Impatient(Accounts):
        async def create_many(self, requests: Any, context: Context) -> Any:
            await anext(requests)
            raise RpcError(Code.ABORTED, "enough")

    world = ValidatedWorld(Impatient(), client=[ClientValidationInterceptor()])
    source = Source(*[account()] * 5000)
    with pytest.raises(RpcError, match="enough"):
        world.call(Accounts.MANY, getattr(source, how)())
    world.network.run()
    assert source.closed == 1


@pytest.mark.parametrize("method", [Accounts.CREATE, Accounts.MANY], ids=lambda each: each.name)
def test_what_a_handlers_own_call_refuses_is_not_its_callers_fault(
    method: Method[Any, Any], logged: Logged
) -> None:
    class Front(Accounts):
        channel: Channel

        async def create(self, request: Any, context: Context) -> Any:
            wrong = account(**WRONG)
            if method is Accounts.CREATE:
                return await self.channel.unary_unary(method, wrong)
            return await self.channel.stream_unary(method, [wrong])

    front = Front()
    world = ValidatedWorld(front)
    front.channel = Channel(world.network, ADDRESS, interceptors=[ClientValidationInterceptor()])
    with pytest.raises(Unknown, match="the server logged it as"):
        world.call(Accounts.CREATE, account())
    assert [type(failure) for failure in logged.failures()] == [InvalidArgument]


@pytest.mark.parametrize(
    ("method", "request_of_wrong_type", "said"),
    [
        (Accounts.CREATE, None, "takes CreateRequest, not NoneType"),
        (Accounts.MANY, ["x"], "takes CreateRequest, not str"),
        (Accounts.MANY, 3, "takes a stream of CreateRequest"),
    ],
)
def test_a_request_of_a_wrong_type_is_refused_as_without_rules(
    method: Method[Any, Any], request_of_wrong_type: Any, said: str
) -> None:
    texts: list[str] = []
    for world in (ValidatedWorld(), on_client()):
        with pytest.raises(TypeError) as raised:
            world.call(method, request_of_wrong_type)
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
