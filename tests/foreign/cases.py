"""What every client is tried with: gRPC's interop cases, and what else has to pass a gateway.

The first are by their published descriptions:
https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from tests.foreign.calls import Call, Outcome, Pairs, message
from tests.foreign.clients import Running
from tests.foreign.served import SOON, Served
from tests.foreign.service import DETAIL, DETAILS, LEFT, NOISE, WAIT
from tests.grpc_gateway.interop import ECHO_INITIAL, ECHO_TRAILING
from txzmq.rpc import Code

MIB: Final = 1024 * 1024
#: Bytes of requests and of responses, as the descriptions have them.
REQUESTS: Final = (27182, 8, 1828, 45904)
RESPONSES: Final = (31415, 9, 2653, 58979)
WORDS: Final = "test status message"
SPECIAL: Final = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
WAITING: Final = ((WAIT, "1"),)


@dataclass(frozen=True)
class World:
    """A client, and the server that it calls.

    :ivar start: starts a call.
    """

    served: Served
    start: Callable[[Call], AbstractContextManager[Running]]

    def run(self, call: Call) -> Outcome:
        """Make a call."""
        with self.start(call) as running:
            return running.outcome()

    def cancelled(self, call: Call) -> None:
        """Wait until the handler has learnt that nobody waits for it."""
        self.served.until(f"{call.name} cancelled", SOON)


@dataclass(frozen=True)
class Case:
    """A case, and what a client has to be able to."""

    name: str
    run: Callable[[World], None]
    needs: frozenset[str]


CASES: Final[list[Case]] = []


def case(*needs: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Add a case."""

    def add(run: Callable[[World], None]) -> Callable[[World], None]:
        CASES.append(Case(run.__name__, run, frozenset(needs)))
        return run

    return add


def payload(size: int) -> Any:
    return message("Payload", body=bytes(size))


def wanted(*sizes: int, request: int = 0, **more: Any) -> Any:
    """A request for responses of these sizes."""
    parameters = [message("ResponseParameters", size=size, **more) for size in sizes]
    made = payload(request) if request else None
    return message("StreamingOutputCallRequest", response_parameters=parameters, payload=made)


def large(response: int = 314159, request: int = 271828) -> Any:
    return message("SimpleRequest", response_size=response, payload=payload(request))


def failing(words: str = WORDS, code: Code = Code.UNKNOWN) -> Any:
    status = message("EchoStatus", code=int(code), message=words)
    return message("SimpleRequest", response_status=status)


def failing_stream(words: str = WORDS, code: Code = Code.UNKNOWN) -> Any:
    status = message("EchoStatus", code=int(code), message=words)
    return message("StreamingOutputCallRequest", response_status=status)


# -- gRPC's interop cases --------------------------------------------------------------------------


@case()
def empty_unary(world: World) -> None:
    empty = message("Empty")
    outcome = world.run(Call(method="EmptyCall", requests=(empty,)))
    assert outcome == Outcome(code=Code.OK, responses=(empty,))


@case()
def large_unary(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(large(),)))
    assert (outcome.code, outcome.sizes) == (Code.OK, [314159])


@case("client streaming")
def client_streaming(world: World) -> None:
    kind = "StreamingInputCallRequest"
    requests = tuple(message(kind, payload=payload(size)) for size in REQUESTS)
    outcome = world.run(Call(method="StreamingInputCall", requests=requests))
    assert outcome.code is Code.OK
    assert [response.aggregated_payload_size for response in outcome.responses] == [74922]


@case()
def server_streaming(world: World) -> None:
    outcome = world.run(Call(method="StreamingOutputCall", requests=(wanted(*RESPONSES),)))
    assert (outcome.code, outcome.sizes) == (Code.OK, list(RESPONSES))


def pings() -> tuple[Any, ...]:
    return tuple(
        wanted(response, request=request)
        for request, response in zip(REQUESTS, RESPONSES, strict=True)
    )


@case("full duplex")
def ping_pong(world: World) -> None:
    outcome = world.run(Call(method="FullDuplexCall", requests=pings(), alternate=True))
    assert (outcome.code, outcome.sizes) == (Code.OK, list(RESPONSES))


@case("half duplex")
def half_duplex(world: World) -> None:
    """The same, with all requests before all responses."""
    outcome = world.run(Call(method="FullDuplexCall", requests=pings()))
    assert (outcome.code, outcome.sizes) == (Code.OK, list(RESPONSES))


@case("half duplex")
def empty_stream(world: World) -> None:
    outcome = world.run(Call(method="FullDuplexCall"))
    assert outcome == Outcome(code=Code.OK)


@case("client streaming", "cancelling requests")
def cancel_after_begin(world: World) -> None:
    request = message("StreamingInputCallRequest", payload=payload(8))
    call = Call(method="StreamingInputCall", requests=(request,), open=True)
    with world.start(call) as running:
        world.served.until(f"{call.name} begun")
        running.cancel()
        assert running.outcome().code is Code.CANCELLED
        world.cancelled(call)


@case("full duplex", "cancelling requests")
def cancel_after_first_response(world: World) -> None:
    request = wanted(RESPONSES[0], request=REQUESTS[0])
    call = Call(method="FullDuplexCall", requests=(request,), open=True, slow=True)
    with world.start(call) as running:
        running.first()
        running.cancel()
        running.go_on()
        outcome = running.outcome()
        assert (outcome.code, outcome.sizes) == (Code.CANCELLED, [RESPONSES[0]])
        world.cancelled(call)


@case("full duplex")
def timeout_on_sleeping_server(world: World) -> None:
    request = wanted(31415, request=27182, interval_us=20_000)
    call = Call(method="FullDuplexCall", requests=(request,), timeout=0.001, open=True)
    outcome = world.run(call)
    assert (outcome.code, outcome.sizes) == (Code.DEADLINE_EXCEEDED, [])


@case()
def status_code_and_message(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(failing(),)))
    assert outcome == Outcome(code=Code.UNKNOWN, message=WORDS)


@case("half duplex")
def status_code_and_message_of_a_stream(world: World) -> None:
    outcome = world.run(Call(method="FullDuplexCall", requests=(failing_stream(),)))
    assert outcome == Outcome(code=Code.UNKNOWN, message=WORDS)


@case()
def special_status_message(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(failing(SPECIAL),)))
    assert outcome == Outcome(code=Code.UNKNOWN, message=SPECIAL)


ECHOED: Final[Pairs] = (
    (ECHO_INITIAL, "test_initial_metadata_value"),
    (ECHO_TRAILING, b"\xab\xab\xab"),
)


@case("metadata")
def custom_metadata(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(large(),), metadata=ECHOED))
    assert (outcome.code, outcome.sizes) == (Code.OK, [314159])
    assert (outcome.initial, outcome.trailing) == (ECHOED[:1], ECHOED[1:])


@case("metadata", "half duplex")
def custom_metadata_of_a_stream(world: World) -> None:
    request = wanted(314159, request=271828)
    outcome = world.run(Call(method="FullDuplexCall", requests=(request,), metadata=ECHOED))
    assert (outcome.code, outcome.sizes) == (Code.OK, [314159])
    assert (outcome.initial, outcome.trailing) == (ECHOED[:1], ECHOED[1:])


@case()
def unimplemented_method(world: World) -> None:
    """The proto has it, and the server has not."""
    outcome = world.run(Call(method="UnimplementedCall", requests=(message("Empty"),)))
    assert outcome.code is Code.UNIMPLEMENTED
    assert outcome.message.startswith("the server has no method /grpc.testing.TestService/")


@case("other types")
def unknown_method(world: World) -> None:
    """The proto has it neither."""
    outcome = world.run(Call(method="NoSuchCall", requests=(message("Empty"),)))
    assert outcome.code is Code.UNIMPLEMENTED
    path = "/grpc.testing.TestService/NoSuchCall"
    assert outcome.message == f"the gateway knows of no method {path}"


@case()
def unimplemented_service(world: World) -> None:
    path = "/grpc.testing.UnimplementedService/UnimplementedCall"
    outcome = world.run(Call(method=path, requests=(message("Empty"),)))
    assert outcome.code is Code.UNIMPLEMENTED
    assert outcome.message == f"the gateway knows of no method {path}"


# -- errors ----------------------------------------------------------------------------------------


@case()
def every_code(world: World) -> None:
    for code in Code:
        if code:
            words = f"code {code.name}"
            outcome = world.run(Call(method="UnaryCall", requests=(failing(words, code),)))
            assert outcome == Outcome(code=code, message=words)


@case("GET")
def get(world: World) -> None:
    """A method without side effects; what is in front of the gateway sees that it is a GET."""
    for requests, expected in [(large(3, 3), Code.OK), (failing("☺"), Code.UNKNOWN)]:
        call = Call(method="CacheableUnaryCall", requests=(requests,), get=True)
        assert world.run(call).code is expected
        world.served.until(f"{call.name} begun")


_DETAILED: Final = ((DETAILS, "1"),)
_DETAIL: Final = ((DETAIL.type_url.rpartition("/")[2], DETAIL.value),)


@case()
def error_with_details(world: World) -> None:
    request = failing("not ☺", Code.NOT_FOUND)
    outcome = world.run(Call(method="UnaryCall", requests=(request,), metadata=_DETAILED))
    assert outcome == Outcome(code=Code.NOT_FOUND, message="not ☺", details=_DETAIL)


@case()
def error_of_a_stream_with_details(world: World) -> None:
    request = failing_stream("not ☺", Code.ABORTED)
    outcome = world.run(Call(method="StreamingOutputCall", requests=(request,), metadata=_DETAILED))
    assert outcome == Outcome(code=Code.ABORTED, message="not ☺", details=_DETAIL)


@case("half duplex")
def error_behind_responses(world: World) -> None:
    requests = (wanted(1, 2, 3), failing_stream("then", Code.DATA_LOSS))
    outcome = world.run(Call(method="FullDuplexCall", requests=requests, metadata=_DETAILED))
    assert (outcome.code, outcome.message) == (Code.DATA_LOSS, "then")
    assert (outcome.sizes, outcome.details) == ([1, 2, 3], _DETAIL)


# -- what passes besides messages ------------------------------------------------------------------

#: Values of a key that comes twice are in order; bytes of every kind.
SENT: Final[Pairs] = (
    (ECHO_INITIAL, "a b"),
    (f"{ECHO_INITIAL}-bin", bytes(range(256))),
    (f"{ECHO_INITIAL}-it", "!~"),
    (ECHO_TRAILING, b""),
    (f"{ECHO_TRAILING[:-4]}-it", "c d"),
)


@case("metadata")
def metadata_both_ways(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(large(1, 1),), metadata=SENT))
    assert outcome.code is Code.OK
    assert (outcome.initial, outcome.trailing) == (SENT[:3], SENT[3:])


@case("metadata")
def metadata_of_responses(world: World) -> None:
    call = Call(method="StreamingOutputCall", requests=(wanted(1, 2),), metadata=SENT)
    outcome = world.run(call)
    assert (outcome.code, outcome.sizes) == (Code.OK, [1, 2])
    assert (outcome.initial, outcome.trailing) == (SENT[:3], SENT[3:])


@case("metadata")
def metadata_of_an_error(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(failing(),), metadata=SENT))
    assert (outcome.code, outcome.message) == (Code.UNKNOWN, WORDS)
    # Some clients do not tell an error's metadata apart.
    assert set(SENT[3:]) <= {*outcome.initial, *outcome.trailing}


@case("deadlines")
def deadline(world: World) -> None:
    call = Call(
        method="UnaryCall",
        requests=(large(1, 1),),
        timeout=1.5,
        metadata=(*WAITING, (LEFT, "1")),
    )
    outcome = world.run(call)
    assert outcome.code is Code.DEADLINE_EXCEEDED
    world.cancelled(call)
    _, has, _ = world.served.said(call.name)
    # What gRPC writes on the wire is rounded up.
    assert 0.1 < float(has.rpartition(" ")[2]) < 1.6


@case("deadlines")
def deadline_of_a_stream(world: World) -> None:
    call = Call(
        method="StreamingOutputCall", requests=(wanted(1, 2),), timeout=1.5, metadata=WAITING
    )
    outcome = world.run(call)
    assert (outcome.code, outcome.sizes) == (Code.DEADLINE_EXCEEDED, [1, 2])
    world.cancelled(call)


@case("cancelling")
def cancel_unary(world: World) -> None:
    call = Call(method="UnaryCall", requests=(large(1, 1),), metadata=WAITING)
    with world.start(call) as running:
        world.served.until(f"{call.name} begun")
        running.cancel()
        assert running.outcome().code is Code.CANCELLED
        world.cancelled(call)


@case("cancelling")
def cancel_responses(world: World) -> None:
    call = Call(method="StreamingOutputCall", requests=(wanted(1),), metadata=WAITING, slow=True)
    with world.start(call) as running:
        running.first()
        running.cancel()
        running.go_on()
        assert running.outcome().code is Code.CANCELLED
        world.cancelled(call)


@case("a process")
def killed_in_a_call(world: World) -> None:
    call = Call(method="UnaryCall", requests=(large(1, 1),), metadata=WAITING)
    with world.start(call):
        world.served.until(f"{call.name} begun")
    world.cancelled(call)


@case("a process")
def killed_in_a_stream(world: World) -> None:
    call = Call(method="StreamingOutputCall", requests=(wanted(1, 2),), metadata=WAITING)
    with world.start(call):
        world.served.until(f"{call.name} gave 2")
    world.cancelled(call)


# -- large, and slow -------------------------------------------------------------------------------


@case()
def a_megabyte(world: World) -> None:
    outcome = world.run(Call(method="UnaryCall", requests=(large(MIB, MIB),)))
    assert (outcome.code, outcome.sizes) == (Code.OK, [MIB])


@case()
def a_stream_of_megabytes(world: World) -> None:
    request = wanted(*[MIB] * 8, request=MIB)
    outcome = world.run(Call(method="StreamingOutputCall", requests=(request,)))
    assert (outcome.code, outcome.sizes) == (Code.OK, [MIB] * 8)


@case("half duplex")
def megabytes_both_ways(world: World) -> None:
    requests = tuple(wanted(MIB, request=MIB) for _ in range(4))
    outcome = world.run(Call(method="FullDuplexCall", requests=requests))
    assert (outcome.code, outcome.sizes) == (Code.OK, [MIB] * 4)


@case("slow reading")
def a_slow_reader(world: World) -> None:
    """It holds up the handler, which has far more to give, and gets everything in the end."""
    count = 800  # 50 MB; the buffers of TCP may take 36
    request = wanted(*[64 * 1024] * count)
    call = Call(
        method="StreamingOutputCall", requests=(request,), slow=True, metadata=((NOISE, "1"),)
    )
    with world.start(call) as running:
        running.first()
        given = world.served.settled(call.name)
        assert 1 <= given < count, given
        running.go_on()
        outcome = running.outcome()
        assert (outcome.code, outcome.count) == (Code.OK, count)
