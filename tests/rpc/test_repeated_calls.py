"""Calls that are made again by a service config's retry and hedging policies, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.retried_calls import HEDGE, IDEMPOTENT, PLAIN, RETRY, Field, config
from tests.rpc.service import Echo, Waiting, text
from txzmq.rpc import (
    Aborted,
    Channel,
    ClientCall,
    ClientProceed,
    Code,
    Context,
    DeadlineExceeded,
    ResponseMetadata,
    RpcError,
    Server,
    UnaryResult,
    Unavailable,
)
from txzmq.rpc._wire.headers import ResponseHead, decode_request, encode_response
from txzmq.testing import MemoryNetwork


class Failing(Echo):
    """Fails so many times before it answers."""

    def __init__(self, failures: float, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.failures = failures
        self.error = error

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        self.note(request, context)
        if len(self.seen) <= self.failures:
            raise self.error()
        return text(request.value)


def unavailable() -> Exception:
    return Unavailable("not now")


def attempts_before(service: Echo) -> list[str]:
    metadata = [dict(context.metadata) for context in service.contexts]
    return [str(pairs.get("grpc-previous-rpc-attempts", "")) for pairs in metadata]


def test_c12_an_idempotent_call_is_repeated_until_it_succeeds() -> None:
    field = Field([Failing(2, unavailable)], config(RETRY))
    answer = field.call(metadata={"k": "v"})
    field.network.run()
    assert field.seen == 1
    field.network.advance(1)
    assert field.network.result(answer) == text("x")
    assert attempts_before(field.services[0]) == ["", "1", "2"]
    assert all(("k", "v") in context.metadata for context in field.services[0].contexts)
    assert field.channel.counters["retry"] == 2
    field.close()


def test_an_attempt_says_once_how_many_there_were_also_where_its_call_is_such_a_one() -> None:
    """A relay passes on what its caller's attempt says."""
    field = Field([Failing(1, unavailable)], config(RETRY))
    answer = field.call(metadata=[("grpc-previous-rpc-attempts", "3"), ("k", "v")])
    field.network.advance(1)
    assert field.network.result(answer) == text("x")
    assert [context.metadata for context in field.services[0].contexts] == [
        (("grpc-previous-rpc-attempts", "3"), ("k", "v")),
        (("k", "v"), ("grpc-previous-rpc-attempts", "1")),
    ]
    field.close()


def test_c12_attempts_end_at_the_limit_with_the_last_error() -> None:
    numbers = itertools.count(1)
    field = Field(
        [Failing(99, lambda: RpcError(Code.UNAVAILABLE, f"{next(numbers)}"))], config(RETRY)
    )
    answer = field.call()
    field.network.advance(5)
    assert field.network.result(answer).message == "4"
    field.close()


def test_c12_a_server_that_always_fails_gets_few_attempts_more_than_calls() -> None:
    field = Field([Failing(10**9, unavailable)], config(RETRY))
    for _ in range(100):
        field.call()
        field.network.advance(1)
    assert field.seen <= 120
    print(f"{field.seen / 100:.2f} attempts per call")
    field.close()


@pytest.mark.parametrize("policy", [RETRY, HEDGE], ids=["retry", "hedge"])
def test_c13_what_may_have_been_executed_is_not_repeated_unless_it_is_idempotent(
    policy: dict[str, Any],
) -> None:
    field = Field([Waiting()], config(policy))
    answer = field.call(PLAIN, timeout=10)
    field.network.advance(2)
    field.network.cut(field.addresses[0])
    field.network.advance(5)
    assert isinstance(field.network.result(answer), Unavailable)
    assert field.seen == 1
    field.close()


def test_a_lost_connection_is_a_reason_to_repeat_on_another_server() -> None:
    field = Field([Waiting(), Waiting()], config(RETRY))
    answer = field.call()
    field.network.run()
    first = next(index for index, service in enumerate(field.services) if service.seen)
    field.network.cut(field.addresses[first])
    field.network.advance(0.2)
    second = field.services[1 - first]
    second.results[0].callback(text("second"))
    assert field.network.result(answer) == text("second")
    keys = {context.metadata for service in field.services for context in service.contexts}
    assert keys == {(), (("grpc-previous-rpc-attempts", "1"),)}
    field.close()


@pytest.mark.parametrize("with_config", [True, False])
def test_what_a_server_refused_unexecuted_goes_to_another_one(with_config: bool) -> None:
    waiting = Waiting()
    field = Field([waiting, Echo()], config(RETRY) if with_config else None)
    blocked = field.call(PLAIN)
    field.network.run()
    while not waiting.seen:  # whose turn it is at first is random
        blocked = field.call(PLAIN)
        field.network.run()
    field.servers[0].stop(30)  # drains: it goes on with what it has, and refuses the rest
    answers = [field.call(PLAIN) for _ in range(4)]
    field.network.run()
    assert [field.network.result(answer) for answer in answers] == [text("x")] * 4
    assert field.channel.counters["sent again"] >= 1
    waiting.results[0].callback(text("done"))
    assert field.network.result(blocked) == text("done")
    field.close()


class Refusing:
    """A server that executes nothing, and does not say that it shuts down (a ServerHandler)."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.refused = 0
        self.transport = network.listen("inproc://refusing", self, {})

    def received(self, message: list[bytes]) -> None:
        self.refused += 1
        head = ResponseHead(Code.UNAVAILABLE, "it was not executed", not_executed=True)
        self.transport.send_message([*message[:3], encode_response(head), b""])

    def peer_lost(self, peer: bytes) -> None:
        pass

    def flush(self) -> None:
        pass

    def closed(self) -> None:
        pass


@pytest.mark.parametrize("with_config", [True, False])
def test_a_server_that_refuses_again_is_believed(with_config: bool) -> None:
    network = MemoryNetwork()
    server = Refusing(network)
    policy = {**RETRY["retryPolicy"], "retryableStatusCodes": ["ABORTED"]}
    service_config = config({"retryPolicy": policy}) if with_config else None
    channel = Channel(network, "inproc://refusing", service_config=service_config)
    with pytest.raises(Unavailable, match="it was not executed"):
        network.result(channel.unary_unary(PLAIN, text("x")))
    assert server.refused == 2
    assert channel.counters["sent again"] == 1
    channel.close()


@pytest.mark.parametrize(
    ("pushback", "after", "attempts"), [("2000", 1.9, 1), ("2000", 2.1, 2), ("-1", 60, 1)]
)
def test_a_server_says_when_to_try_again(pushback: str, after: float, attempts: int) -> None:
    def error() -> Exception:
        return Unavailable("busy", metadata=[("grpc-retry-pushback-ms", pushback)])

    field = Field([Failing(9, error)], config(RETRY))
    field.call(timeout=100)
    field.network.advance(after)
    assert field.seen == attempts
    field.close()


def test_a_retry_that_would_be_too_late_is_not_waited_for() -> None:
    def error() -> Exception:
        return Unavailable("busy", metadata=[("grpc-retry-pushback-ms", "5000")])

    field = Field([Failing(9, error)], config(RETRY))
    assert isinstance(field.network.result(field.call(timeout=3)), Unavailable)
    field.close()


def test_the_deadline_ends_all_attempts() -> None:
    field = Field([Waiting(), Waiting(), Waiting()], config(HEDGE))
    answer = field.call(timeout=2)
    field.network.advance(2.1)
    assert isinstance(field.network.result(answer), DeadlineExceeded)
    assert [len(service.seen) for service in field.services] == [1, 1, 1]
    assert all(service.results[0].called for service in field.services)
    left = [service.contexts[0].time_remaining() for service in field.services]
    assert all(seconds is not None and seconds <= 0 for seconds in left)
    field.close()


def test_attempts_that_meet_at_one_server_share_one_run() -> None:
    field = Field([Waiting()], config(HEDGE))
    answer = field.call(timeout=9)
    field.network.advance(2)
    assert (field.seen, field.channel.counters["hedge"]) == (1, 2)
    assert field.servers[0].counters["repeated request"] == 2
    field.services[0].results[0].callback(text("done"))
    assert field.network.result(answer) == text("done")
    field.close()


def test_the_deadline_ends_the_run_that_attempts_share() -> None:
    field = Field([Waiting()], config(HEDGE))
    answer = field.call(timeout=2)
    field.network.advance(2.1)
    assert isinstance(field.network.result(answer), DeadlineExceeded)
    assert field.seen == 1
    assert field.services[0].results[0].called
    assert (field.servers[0].running, field.servers[0].queued) == (0, 0)
    field.close()


def test_cancelling_ends_the_run_that_attempts_share() -> None:
    field = Field([Waiting()], config(HEDGE))
    answer = field.call(timeout=9)
    field.network.advance(2)
    answer.cancel()
    field.network.run()
    assert isinstance(field.network.result(answer), CancelledError)
    assert field.services[0].contexts[0].cancelled.called
    assert field.servers[0].running == 0
    field.close()


def test_a_retry_after_an_answer_of_the_server_is_executed_anew() -> None:
    # A server that says UNAVAILABLE, or whatever the policy repeats, is asked again, not quoted.
    policy = {"retryPolicy": {**RETRY["retryPolicy"], "retryableStatusCodes": ["NOT_FOUND"]}}
    field = Field([Failing(2, lambda: RpcError(Code.NOT_FOUND, "not yet"))], config(policy))
    answer = field.call()
    field.network.advance(1)
    assert field.network.result(answer) == text("x")
    assert field.seen == 3
    assert field.servers[0].counters["repeated request"] == 0
    field.close()


@pytest.mark.parametrize("policy", [RETRY, HEDGE], ids=["retry", "hedge"])
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.7])
def test_a_cancelled_call_is_not_repeated(policy: dict[str, Any], moment: float) -> None:
    field = Field([Failing(99, unavailable)], config(policy))
    answer = field.call(timeout=10)
    field.network.advance(moment)
    seen = field.seen
    answer.cancel()
    field.network.advance(10)
    assert isinstance(field.network.result(answer), CancelledError | Unavailable)
    assert field.seen == seen
    field.close()


def test_closing_the_channel_ends_a_call_between_two_attempts() -> None:
    field = Field([Failing(99, unavailable)], config(RETRY))
    answer = field.call()
    field.network.run()
    field.channel.close()
    assert isinstance(field.network.result(answer), CancelledError)
    field.close()


def test_a_hedge_goes_to_another_server_and_the_first_answer_wins() -> None:
    field = Field([Waiting(), Waiting(), Waiting()], config(HEDGE))
    answer = field.call()
    field.network.advance(0.4)
    assert field.seen == 1
    field.network.advance(0.7)
    assert [len(service.seen) for service in field.services] == [1, 1, 1]
    field.services[1].results[0].callback(text("second"))
    assert field.network.result(answer) == text("second")
    field.network.run()
    assert all(service.results[0].called for service in field.services), "the others go on"
    assert field.channel.counters["hedge"] == 2
    field.close()


def test_without_a_delay_all_servers_are_asked_at_once() -> None:
    policy = {**HEDGE["hedgingPolicy"], "hedgingDelay": "0s"}
    field = Field([Waiting(), Waiting(), Waiting()], config({"hedgingPolicy": policy}))
    answer = field.call()
    field.network.run()
    assert [len(service.seen) for service in field.services] == [1, 1, 1]
    field.services[2].results[0].callback(text("third"))
    assert field.network.result(answer) == text("third")
    field.network.run()
    assert all(service.results[0].called for service in field.services), "the others go on"
    assert field.channel.counters["hedge"] == 2
    field.close()


def test_a_fatal_answer_ends_the_hedges() -> None:
    field = Field([Waiting(), Waiting()], config(HEDGE))
    answer = field.call()
    field.network.advance(0.6)
    field.services[0].results[0].errback(Aborted("no"))
    assert isinstance(field.network.result(answer), Aborted)
    field.network.run()
    assert field.services[1].results[0].called
    field.close()


def test_the_response_metadata_is_that_of_the_attempt_that_counts() -> None:
    class Service(Failing):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            context.set_trailing_metadata({"attempt": str(len(self.seen))})
            return super().echo(request, context)

    field = Field([Service(1, unavailable)], config(RETRY))
    with ResponseMetadata() as response:
        answer = field.call()
    field.network.advance(1)
    field.network.result(answer)
    assert response.trailing == (("attempt", "1"),)
    field.close()


def test_attempts_have_one_key_until_one_is_answered() -> None:
    keys: list[bytes] = []
    network = MemoryNetwork()
    connect = network.connect

    def spying(address: str, handler: Any, options: Any) -> Any:
        line = connect(address, handler, options)
        send = line.send_message

        def send_message(message: list[bytes]) -> Any:
            head = decode_request(message[2])
            if head.path.endswith("Echo"):
                keys.append(head.request_key)
            return send(message)

        line.send_message = send_message  # type: ignore[method-assign]  # the spy
        return line

    network.connect = spying  # type: ignore[method-assign]  # the spy
    service = Waiting()
    Server(network, [service]).listen("inproc://x")
    channel = Channel(network, "inproc://x", service_config=config(RETRY), batching=False)
    answer = channel.unary_unary(IDEMPOTENT, text("x"))
    network.run()
    network.cut("inproc://x")
    network.advance(1)
    service.results[-1].errback(Unavailable("not now"))
    network.advance(1)
    service.results[-1].callback(text("y"))
    assert network.result(answer) == text("y")
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]
    assert all(len(key) == 16 for key in keys)
    channel.unary_unary(PLAIN, text("x")).addErrback(lambda _: None)
    network.run()
    assert keys[3] == b""
    channel.close()
    network.run()


def test_interceptors_see_one_call() -> None:
    seen: list[ClientCall] = []

    def note(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        seen.append(call)
        return proceed(call)

    network = MemoryNetwork()
    service = Failing(2, unavailable)
    Server(network, [service]).listen("inproc://x")
    channel = Channel(network, "inproc://x", service_config=config(RETRY), interceptors=[note])
    answer = channel.unary_unary(IDEMPOTENT, text("x"))
    network.advance(2)
    assert network.result(answer) == text("x")
    assert (len(seen), len(service.seen)) == (1, 3)
    channel.close()
    network.run()


def test_a_repeated_call_ends_with_the_handler_that_made_it() -> None:
    inner = Field([Waiting()], config(RETRY))

    class Outer(Echo):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            return inner.channel.unary_unary(IDEMPOTENT, request)

    outer = Field([Outer()], None)
    answer = outer.call()
    outer.network.run()
    inner.network.run()
    answer.cancel()
    outer.network.run()
    inner.network.run()
    assert inner.services[0].results[0].called
    inner.close()
    outer.close()
