"""Calls that never leave the client, or leave it more than once, are one call each."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import Deferred

from tests.rpc.lines import Lines
from tests.rpc.observing import Calls, outline
from tests.rpc.retried_calls import HEDGE, IDEMPOTENT, RETRY, config
from tests.rpc.service import ADDRESS, ECHO, Echo, Waiting, text
from tests.rpc.streaming import COLLECT, COUNT, Reader
from tests.support import error_of
from txzmq.rpc import (
    CallRecord,
    Channel,
    ClientCall,
    ClientProceed,
    Code,
    Kind,
    Method,
    PickFirst,
    Server,
    Side,
    Unavailable,
)
from txzmq.rpc._wire.headers import ResponseHead, encode_response
from txzmq.testing import MemoryNetwork

SIZE = len(text("x").SerializeToString())


def going_on(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    return proceed(call)


class Alone:
    """A channel whose server is not there, or not asked."""

    def __init__(self, **options: Any) -> None:
        self.calls = Calls()
        self.network = MemoryNetwork()
        self.channel = Channel(self.network, ADDRESS, observer=self.calls, **options)

    def ended(self, code: Code, **options: Any) -> CallRecord:
        call = self.channel.unary_unary(ECHO, text("x"), **options).addErrback(error_of)
        self.network.advance(60)
        assert getattr(self.network.result(call), "code", None) in (code, None)
        record = self.calls.take(Side.CLIENT)
        self.channel.close()
        assert (record.code, record.attempts, record.responses) == (code, 0, 0)
        assert (self.calls.open, self.calls.records) == ({}, [])
        return record


@pytest.mark.parametrize(
    ("channel", "call", "code"),
    [
        ({}, {}, Code.UNAVAILABLE),
        ({}, {"wait_for_ready": True, "timeout": 1}, Code.DEADLINE_EXCEEDED),
        ({}, {"timeout": 0}, Code.DEADLINE_EXCEEDED),
        ({"message_size": 1}, {}, Code.RESOURCE_EXHAUSTED),
        ({"metadata_size": 1}, {"metadata": {"k": "v"}}, Code.RESOURCE_EXHAUSTED),
        ({"policy": PickFirst()}, {}, Code.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("intercepted", [False, True])
def test_a_call_that_is_never_sent_has_ended(
    channel: dict[str, Any], call: dict[str, Any], code: Code, intercepted: bool
) -> None:
    more: dict[str, Any] = {"interceptors": [going_on]} if intercepted else {}
    record = Alone(**channel, **more).ended(code, **call)
    assert record.peer == ""


def test_a_policy_that_raises_ends_a_call() -> None:
    class Broken:
        def picker(self, endpoints: Any, ready: Any) -> Any:
            def pick(path: str, metadata: Any, used: Any) -> Any:
                raise LookupError("which")

            return pick

    alone = Alone(policy=Broken())
    call = alone.channel.unary_unary(ECHO, text("x"), wait_for_ready=True).addErrback(error_of)
    alone.network.run()
    assert isinstance(alone.network.result(call), LookupError)
    record = alone.calls.take(Side.CLIENT)
    assert (record.code, record.message) == (Code.UNKNOWN, "LookupError: which")
    alone.channel.close()


@pytest.mark.parametrize("intercepted", [False, True])
def test_what_the_caller_has_done_wrong_is_unknown(intercepted: bool) -> None:
    wrong: Any = BytesValue()
    more: dict[str, Any] = {"interceptors": [going_on]} if intercepted else {}
    alone = Alone(**more)
    for make in (alone.channel.unary_unary, alone.channel.unary_stream):
        method: Any = ECHO if make == alone.channel.unary_unary else COUNT
        with pytest.raises(TypeError, match="takes StringValue"):
            make(method, wrong)
        record = alone.calls.take(Side.CLIENT)
        assert record.code is Code.UNKNOWN
        assert record.message.startswith("TypeError: /test.")
    with pytest.raises(ValueError, match="timeout"):
        alone.channel.unary_unary(ECHO, text("x"), timeout=float("nan"))
    with pytest.raises(TypeError, match="method"):
        alone.channel.unary_unary(wrong, text("x"))
    assert alone.calls.records == []  # what is no call at all
    alone.channel.close()


# -- attempts ------------------------------------------------------------------------------------


class Flaky(Echo):
    """Fails so often."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def echo(self, request: StringValue, context: Any) -> StringValue:
        self.note(request, context)
        if len(self.seen) <= self.failures:
            raise Unavailable("not yet")
        return request


class Field:
    """Servers, and a channel to all of them, which are observed."""

    def __init__(self, services: list[Echo], policy: dict[str, Any], **options: Any) -> None:
        self.calls = Calls()
        self.network = MemoryNetwork()
        self.servers = [
            Server(self.network, [service], observer=self.calls) for service in services
        ]
        addresses = [
            server.listen(f"inproc://{number}") for number, server in enumerate(self.servers)
        ]
        self.channel = Channel(
            self.network,
            addresses,
            observer=self.calls,
            service_config=config(policy),
            **options,
        )
        self.network.run()

    def call(self) -> Deferred[Any]:
        return self.channel.unary_unary(IDEMPOTENT, text("x")).addErrback(error_of)

    def close(self) -> None:
        self.channel.close()
        for server in self.servers:
            server.stop(0)
        self.network.advance(1)
        assert (self.calls.problems, self.calls.open) == ([], {})


INTERCEPTED = pytest.mark.parametrize(
    "options", [{}, {"interceptors": [going_on]}], ids=["plain", "more"]
)


@INTERCEPTED
def test_a_call_that_is_retried_is_one_call_of_several_attempts(options: dict[str, Any]) -> None:
    field = Field([Flaky(2)], RETRY, **options)
    call = field.call()
    field.network.advance(5)
    assert field.network.result(call).value == "x"
    record = field.calls.take(Side.CLIENT)
    assert (record.code, record.attempts, record.peer) == (Code.OK, 3, "inproc://0")
    assert outline(record) == (1, SIZE, 1, SIZE)
    assert [(record.code, record.attempts) for record in field.calls.records] == [
        (Code.UNAVAILABLE, 1),
        (Code.UNAVAILABLE, 2),
        (Code.OK, 3),
    ]
    field.close()


@INTERCEPTED
def test_hedges_are_attempts_and_the_peer_is_who_answered(options: dict[str, Any]) -> None:
    services: list[Echo] = [Waiting(), Echo()]
    field = Field(services, HEDGE, **options)
    call = field.call()
    field.network.advance(1)
    assert field.network.result(call).value == "x"
    record = field.calls.take(Side.CLIENT)
    (winner,) = [record for record in field.calls.records if record.code is Code.OK]
    assert record.attempts == len(services[0].seen) + len(services[1].seen)
    assert record.attempts == len(field.calls.records)
    assert record.peer == "inproc://1"
    assert winner.code is Code.OK
    field.close()


@INTERCEPTED
@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT], ids=lambda method: method.name)
def test_a_request_that_is_sent_again_is_another_attempt(
    options: dict[str, Any], method: Method[StringValue, StringValue]
) -> None:
    network, calls = Lines(), Calls()
    channel = Channel(
        network, ["tcp://a", "tcp://b"], policy=PickFirst(), observer=calls, **options
    )
    one, two = network.made
    one.handler.connected()
    two.handler.connected()
    made: Deferred[Any]
    if method is COUNT:
        made = Reader(channel.unary_stream(method, text("x"))).done
    elif method is COLLECT:
        made = channel.stream_unary(method, [text("x")])
        made.addErrback(error_of)
    else:
        made = channel.unary_unary(method, text("x"))
        made.addErrback(error_of)
    network.run()
    for line, again in ((one, True), (two, False)):
        refusal = ResponseHead(Code.UNAVAILABLE, "not here", not_executed=again)
        header = encode_response(refusal._replace(draining=again))
        line.handler.received([line.requests[0][0], b"", header, b""])
        network.run()
    assert made.called
    record = calls.take(Side.CLIENT)
    assert (record.code, record.attempts, record.peer) == (Code.UNAVAILABLE, 2, "tcp://b")
    assert outline(record) == (1, SIZE, 0, 0)
    channel.close()


@pytest.mark.parametrize(
    ("value", "attempts"),
    [("1", 2), ("0", 1), ("", 1), ("-1", 1), ("x", 1), ("9" * 7, 1), ("²", 1)],
)
def test_a_server_believes_a_number_of_attempts_and_nothing_else(value: str, attempts: int) -> None:
    record = CallRecord(
        Side.SERVER, "/a/b", Kind.UNARY_UNARY, 0.0, (("grpc-previous-rpc-attempts", value),)
    )
    assert record.attempts == attempts
