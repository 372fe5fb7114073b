"""Which method is at a path: by services, by descriptors, and by what servers tell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodOptions
from google.protobuf.message_factory import GetMessageClass
from twisted.internet.defer import Deferred, fail, succeed

from tests.rpc.ends import Outcome
from tests.rpc.service import ADDRESS, ECHO, WATCH, Echo, made
from tests.services.reflected import file, pool_of
from tests.support import Logged
from txzmq.rpc import (
    Channel,
    ClientCall,
    ClientProceed,
    Context,
    IdempotencyLevel,
    Internal,
    Kind,
    Method,
    NotFound,
    Server,
    Service,
    Unavailable,
    Unimplemented,
)
from txzmq.rpc._descriptors import to_method
from txzmq.rpc.authorization import permissions
from txzmq.rpc.health import Health
from txzmq.rpc.method_sources import (
    DescribedMethods,
    FirstOf,
    Found,
    ReflectedMethods,
    ServedMethods,
    standard_methods,
)
from txzmq.rpc.reflection import (
    Reflection,
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from txzmq.testing import MemoryNetwork

PLACE, WATCH_ORDERS, ADDED = (f"/acme.Orders/{name}" for name in ("Place", "Watch", "Added"))


def orders_file(*more: str, kind: Kind = Kind.UNARY_STREAM) -> FileDescriptorProto:
    """A file with a service."""
    proto = file("orders.proto")
    service = proto.service.add(name="Orders")
    for name in ("Place", "Watch", *more):
        method = service.method.add(name=name, input_type=".acme.Morders")
        method.output_type = ".acme.Morders"
        if name == "Watch":
            method.client_streaming, method.server_streaming = kind.value
        elif name == "Place":
            method.options.idempotency_level = MethodOptions.IDEMPOTENT
    return proto


def handler(*more: str, kind: Kind = Kind.UNARY_STREAM) -> Any:
    """What serves it; nobody calls it."""
    pool = pool_of(orders_file(*more, kind=kind))
    described = pool.FindServiceByName("acme.Orders")
    methods = tuple(to_method(method, pool) for method in described.methods)

    def unused(self: object, request: object, context: Context) -> None:
        raise AssertionError("it is not called")

    names: dict[str, Any] = {method.name: unused for method in methods}
    service = Service("acme.Orders", methods)
    return type("Orders", (), {"__txzmq_service__": service, **names})()


class World:
    """Servers one after the other at one address, and what their reflection is asked."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.asked: list[str] = []
        self.server: Server | None = None
        self.channel = Channel(self.network, ADDRESS, interceptors=[self._note])
        self.methods = ReflectedMethods(self.channel, now=self.network.clock.seconds)

    def _note(self, call: ClientCall, proceed: ClientProceed) -> Any:
        self.asked.append(call.method.path.split("/")[1])
        return proceed(call)

    def serve(self, *services: Any, reflects: bool = True, **options: Any) -> None:
        """Have another server instead of the one that there is."""
        self.stop()
        given = [*services, Reflection()] if reflects else services
        self.server = Server(self.network, given, **options)
        self.server.listen(ADDRESS)
        self.network.advance(1)

    def stop(self) -> None:
        if self.server is not None:
            stopped = self.server.stop(0)
            self.network.advance(3)
            assert stopped.called

    def find(self, path: str) -> Method[Any, Any] | None:
        found = self.methods.find(path)
        if not isinstance(found, Deferred):
            return found
        return self.network.result(found)

    def error(self, path: str, seconds: float = 1) -> Any:
        found = self.methods.find(path)
        assert isinstance(found, Deferred)
        outcome = Outcome(found)
        self.network.advance(seconds)
        return outcome.end

    def close(self) -> None:
        self.channel.close()
        self.stop()
        self.network.advance(1)
        assert not self.network.clock.getDelayedCalls()


@pytest.fixture
def world() -> Iterator[Callable[[], World]]:
    yield from made(World)


# -- of this process, and of files ----------------------------------------------------------------


def test_services_of_this_process_are_known() -> None:
    for given in (Echo, Echo(), Echo.__txzmq_service__):
        methods = ServedMethods([given])
        assert methods.find(ECHO.path) is ECHO
        assert methods.find(WATCH.path) is WATCH
        assert methods.find("/test.Echo/Missing") is None
    with pytest.raises(TypeError, match="services"):
        ServedMethods([object()])  # type: ignore[list-item]  # that is the test


def test_standard_services_are_known() -> None:
    methods = standard_methods()
    for path, kind in (
        ("/grpc.health.v1.Health/Check", Kind.UNARY_UNARY),
        ("/grpc.health.v1.Health/Watch", Kind.UNARY_STREAM),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Kind.STREAM_STREAM),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Kind.STREAM_STREAM),
    ):
        found = methods.find(path)
        assert found is not None
        assert found.kind is kind


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_descriptors_say_kind_and_options(tmp_path: Path, kind: Kind) -> None:
    files = [orders_file(kind=kind)]
    (tmp_path / "set").write_bytes(FileDescriptorSet(file=files).SerializeToString())
    for methods in (
        DescribedMethods(pool_of(*files)),
        DescribedMethods.from_files(files),
        DescribedMethods.from_file(tmp_path / "set"),
    ):
        place, watch = methods.find(PLACE), methods.find(WATCH_ORDERS)
        assert place is not None
        assert watch is not None
        assert (place.path, watch.path) == (PLACE, WATCH_ORDERS)
        assert (place.kind, watch.kind) == (Kind.UNARY_UNARY, kind)
        assert place.idempotency_level is IdempotencyLevel.IDEMPOTENT
        assert methods.find(PLACE) is place
        # A message, a service, and what is no path.
        for path in (ADDED, "/acme.Morders/text", "/acme/Orders", "acme.Orders/Place", "", "/"):
            assert methods.find(path) is None


def test_what_is_no_descriptor_set_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"syntax = 'proto3';"):
        (tmp_path / "set").write_bytes(content)
        with pytest.raises(ValueError, match="is no descriptor set"):
            DescribedMethods.from_file(tmp_path / "set")
    with pytest.raises(ValueError, match=r"base\.proto is imported"):
        DescribedMethods.from_files([file("top.proto", "base.proto")])


class Given:
    """A source that answers with what it was given."""

    def __init__(self, answer: Callable[[], Found]) -> None:
        self._answer = answer

    def find(self, path: str, /) -> Found:
        return self._answer()


def test_the_first_source_that_knows_decides() -> None:
    nothing: list[Callable[[], Found]] = [lambda: None, lambda: succeed(None)]
    there: list[Callable[[], Found]] = [lambda: ECHO, lambda: succeed(ECHO)]
    for none in nothing:
        for one in there:
            sources = FirstOf(Given(none), Given(one), Given(lambda: WATCH))
            found = sources.find(ECHO.path)
            assert (Outcome(found).end if isinstance(found, Deferred) else found) is ECHO
        found = FirstOf(Given(none), Given(none)).find(ECHO.path)
        assert (Outcome(found).end if isinstance(found, Deferred) else found) is None
    found = FirstOf(Given(lambda: fail(NotFound("x"))), Given(lambda: ECHO)).find(ECHO.path)
    assert isinstance(found, Deferred)
    assert isinstance(Outcome(found).end, NotFound)


# -- by reflection --------------------------------------------------------------------------------


def test_servers_tell_their_methods_and_are_asked_once(world: Callable[[], World]) -> None:
    w = world()
    w.serve(handler())
    place = w.find(PLACE)
    assert place is not None
    assert place.idempotency_level is IdempotencyLevel.IDEMPOTENT
    asked = len(w.asked)
    assert asked == 2  # which services there are, and the one
    watch = w.find(WATCH_ORDERS)
    assert watch is not None
    assert watch.kind is Kind.UNARY_STREAM
    assert w.find(PLACE) is place
    assert len(w.asked) == asked
    # Of the standard services, too.
    assert w.find("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") is not None


def test_calls_at_one_time_wait_for_one_answer(world: Callable[[], World]) -> None:
    w = world()
    w.serve(handler())
    finding = [w.methods.find(path) for path in [PLACE, WATCH_ORDERS, "/other.Service/X"] * 10]
    outcomes = [Outcome(found) for found in finding if isinstance(found, Deferred)]
    cancelled = finding[0]
    assert isinstance(cancelled, Deferred)
    cancelled.cancel()
    w.network.advance(1)
    assert len(outcomes) == 30
    assert [outcome.end is None for outcome in outcomes[1:]] == [
        *[False, True],
        *[False, False, True] * 9,
    ]
    assert len(w.asked) == 2


def test_strangers_cannot_make_it_ask_all_the_time(world: Callable[[], World]) -> None:
    w = world()
    w.serve(handler())
    assert w.find(PLACE) is not None
    asked = len(w.asked)
    for number in range(200):
        for path in (f"/stranger{number}.X/Y", f"/acme.Orders/X{number}", f"x{number}"):
            assert w.find(path) is None
    assert len(w.asked) == asked
    for _ in range(10):
        w.network.advance(5)
        for number in range(200):
            assert w.find(f"/stranger{number}.X/Y") is None
            assert w.find(f"/acme.Orders/X{number}") is None
    # Each time: which services there are, and the one of which a method is not known.
    assert len(w.asked) == asked + 20
    assert len(w.methods.__dict__["_services"]) == 1


def test_a_method_that_servers_get_later_is_found(world: Callable[[], World]) -> None:
    w = world()
    w.serve()
    assert w.find(PLACE) is None
    w.serve(handler())
    w.network.advance(5)
    assert w.find(PLACE) is not None
    assert w.find(ADDED) is None
    w.serve(handler("Added"))
    w.network.advance(5)
    assert w.find(ADDED) is not None
    assert w.find(PLACE) is not None


def test_what_is_known_is_renewed_while_calls_go_on(world: Callable[[], World]) -> None:
    w = world()
    w.serve(handler())
    first = w.find(WATCH_ORDERS)
    assert first is not None
    w.serve(handler(kind=Kind.STREAM_STREAM))
    w.network.advance(60)
    assert w.methods.find(WATCH_ORDERS) is first  # at once
    w.network.advance(1)
    renewed = w.methods.find(WATCH_ORDERS)
    assert isinstance(renewed, Method)
    assert renewed.kind is Kind.STREAM_STREAM
    # A server without it, as in the middle of a rolling restart, takes nothing away.
    w.serve()
    w.network.advance(60)
    assert w.methods.find(WATCH_ORDERS) is renewed
    w.network.advance(1)
    assert w.methods.find(WATCH_ORDERS) is renewed
    # Nor does one that does not answer.
    w.stop()
    w.server = None
    w.network.advance(60)
    assert w.methods.find(WATCH_ORDERS) is renewed
    w.network.advance(10)
    assert w.methods.find(WATCH_ORDERS) is renewed


def test_it_waits_for_a_server_and_says_so_in_the_end(
    world: Callable[[], World], logged: Logged
) -> None:
    """Where the servers are is for the log: callers may be anybody."""
    w = world()
    for _ in range(2):
        error = w.error(PLACE, 9)
        assert type(error) is Unavailable
        assert error.message == (
            "the servers behind do not tell which methods they have: none of them can be asked; "
            "the call was not executed"
        )
    (line,) = [event for event in logged.warnings() if "left_out" in event]
    assert ADDRESS in str(line["reason"])
    found = w.methods.find(PLACE)
    assert isinstance(found, Deferred)
    outcome = Outcome(found)
    w.network.advance(2)
    assert outcome.ends == []
    w.serve(handler())
    w.network.advance(5)
    assert isinstance(outcome.end, Method)


@pytest.mark.parametrize(
    ("options", "expected", "said"),
    [
        ({"reflects": False}, Unimplemented, "no reflection service"),
        ({"authorize": permissions({"/x.Y/*": {"staff"}})}, Internal, "is not for everybody"),
    ],
)
def test_servers_that_do_not_tell_are_asked_once_in_a_while(
    world: Callable[[], World], options: dict[str, Any], expected: type[Exception], said: str
) -> None:
    w = world()
    w.serve(handler(), **options)
    for _ in range(20):
        error = w.error(PLACE, 0.1)
        assert type(error) is expected
        assert said in str(error)
    asked = len(w.asked)
    assert asked <= 2
    w.serve(handler(), Health())
    w.network.advance(5)
    assert w.find(PLACE) is not None


class Broken(Reflection):
    """Tells of services, or of one alone, what is no descriptor, or lacks something."""

    def __init__(self, data: bytes, only: str = "") -> None:
        super().__init__()
        self._data = data
        self._only = only

    def _answer(
        self,
        request: ServerReflectionRequest,
        response: ServerReflectionResponse,
        sent: dict[str, bytes],
    ) -> None:
        is_list = request.WhichOneof("message_request") == "list_services"
        if is_list or self._only not in ("", request.file_containing_symbol):
            super()._answer(request, response, sent)
        else:
            response.file_descriptor_response.file_descriptor_proto.append(self._data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "with what is no descriptor"),
        (file("a.proto", "missing.proto").SerializeToString(), "does not tell missing.proto"),
        pytest.param(
            FileDescriptorProto(name="a.proto", syntax="x").SerializeToString(),
            "protobuf refuses",
            marks=pytest.mark.skipif(
                sys.implementation.name == "pypy", reason="protobuf in Python takes any syntax"
            ),
        ),
    ],
)
def test_malformed_descriptors_are_internal(
    world: Callable[[], World], data: bytes, said: str
) -> None:
    w = world()
    w.serve(handler(), Broken(data), reflects=False)
    error = w.error(PLACE)
    assert type(error) is Internal
    assert said in error.message
    asked = len(w.asked)
    assert type(w.error(PLACE)) is Internal
    assert len(w.asked) == asked


def test_a_service_that_cannot_be_described_is_in_the_way_of_no_other(
    world: Callable[[], World],
) -> None:
    """Or a stranger who calls it would keep the others from being found."""
    w = world()
    w.serve(handler(), Health(), Broken(b"\xff", "acme.Orders"), reflects=False)
    for _ in range(3):
        assert type(w.error(PLACE)) is Internal
        assert w.find("/grpc.health.v1.Health/Check") is not None
        asked = len(w.asked)
        assert type(w.error(PLACE)) is Internal
        assert w.find("/grpc.health.v1.Health/Watch") is not None
        assert len(w.asked) == asked
        w.network.advance(5)


def test_wrong_values_are_refused(world: Callable[[], World]) -> None:
    w = world()
    wrong: list[dict[str, Any]] = [{"timeout": 0}, {"interval": -1}, {"max_age": -1}]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            ReflectedMethods(w.channel, **options)


def test_message_classes_are_those_of_the_servers(world: Callable[[], World]) -> None:
    """A gateway makes JSON of them."""
    w = world()
    w.serve(handler())
    place = w.find(PLACE)
    assert place is not None
    own = GetMessageClass(pool_of(orders_file()).FindMessageTypeByName("acme.Morders"))
    request = place.request_type.FromString(own(text="x").SerializeToString())
    assert request.text == "x"
    assert place.request_type is not own
