"""Clients that have grpcio's own classes of the standard services, over a channel, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from twisted.internet.defer import Deferred

from tests.codegen.support import python, run
from tests.programs import ROOT
from tests.rpc.service import ADDRESS, Echo
from txzmq.rpc import Channel, Code, Context, Method, RpcError, Server, Service
from txzmq.rpc.health import Health, ServingStatus
from txzmq.rpc.method import Kind
from txzmq.rpc.reflection import SERVICE_NAMES, Reflection
from txzmq.rpc.v1 import control_pb2
from txzmq.testing import MemoryNetwork

#: An option of somebody else's, in the default pool.
annotations_pb2 = pytest.importorskip("google.api.annotations_pb2")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2", reason="no grpcio-health-checking")
health_pb2_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
database = pytest.importorskip(
    "grpc_reflection.v1alpha.proto_reflection_descriptor_database", reason="no grpcio-reflection"
)


class GrpcChannel:
    """A channel as grpcio's stubs use it, for a network in which a test lets time pass."""

    def __init__(self, network: MemoryNetwork, channel: Channel) -> None:
        self._network = network
        self._channel = channel

    def unary_unary(self, path: str, *serializers: Any, **more: Any) -> Callable[[Any], Any]:
        return lambda request: self._network.result(
            self._channel.unary_unary(self._method(path, Kind.UNARY_UNARY), request)
        )

    def unary_stream(self, path: str, *serializers: Any, **more: Any) -> Callable[[Any], Any]:
        return lambda request: self._read(
            self._channel.unary_stream(self._method(path, Kind.UNARY_STREAM), request)
        )

    def stream_stream(self, path: str, *serializers: Any, **more: Any) -> Callable[[Any], Any]:
        def call(requests: Iterable[Any]) -> Iterator[Any]:
            method = self._method(path, Kind.STREAM_STREAM)
            return self._read(self._channel.stream_stream(method, requests))

        return call

    def _method(self, path: str, kind: Kind) -> Method[Any, Any]:
        service, _, name = path[1:].rpartition("/")
        module = {"Health": health_pb2, "ServerReflection": database.ServerReflectionRequest}
        owner = module[service.rpartition(".")[2]]
        file = getattr(owner.DESCRIPTOR, "file", owner.DESCRIPTOR)
        method = file.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
        types = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        return Method(path, name.lower(), *types, kind=kind)

    def _read(self, stream: Any) -> Iterator[Any]:
        while True:
            following: Deferred[Any] = Deferred.fromCoroutine(anext(stream, None))
            response = self._network.result(following)
            if response is None:
                return
            yield response


class World:
    def __init__(self, *services: Any) -> None:
        self.network = MemoryNetwork()
        self.server = Server(self.network, services)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, wait_for_ready=True)
        self.grpc = GrpcChannel(self.network, self.channel)

    def close(self) -> None:
        self.channel.close()
        stopped = self.server.stop(0)
        self.network.advance(1)
        assert stopped.called


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def world(health: Health) -> Iterator[World]:
    world = World(Echo(), health, Reflection())
    yield world
    world.close()


def test_health_is_checked_and_listed_by_their_stub(world: World, health: Health) -> None:
    stub = health_pb2_grpc.HealthStub(world.grpc)
    request = health_pb2.HealthCheckRequest(service="test.Echo")
    assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    health.set("test.Echo", ServingStatus.NOT_SERVING)
    response = stub.Check(request)
    assert type(response) is health_pb2.HealthCheckResponse
    assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
    listed = stub.List(health_pb2.HealthListRequest()).statuses
    assert {name: listed[name].status for name in ("", "test.Echo")} == {"": 1, "test.Echo": 2}
    with pytest.raises(RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code is Code.NOT_FOUND


def test_health_is_watched_by_their_stub(world: World, health: Health) -> None:
    watched = health_pb2_grpc.HealthStub(world.grpc).Watch(
        health_pb2.HealthCheckRequest(service="later")
    )
    statuses = [next(watched).status]
    for status in (ServingStatus.SERVING, ServingStatus.NOT_SERVING):
        health.set("later", status)
        statuses.append(next(watched).status)
    assert statuses == [3, 1, 2]


def test_reflection_feeds_their_database_and_by_it_a_pool(world: World) -> None:
    known = database.ProtoReflectionDescriptorDatabase(world.grpc)
    assert sorted(known.get_services()) == [
        "grpc.health.v1.Health",
        *SERVICE_NAMES,
        "test.Echo",
    ]
    pool = DescriptorPool(known)
    service = pool.FindServiceByName("grpc.health.v1.Health")
    assert [method.name for method in service.methods] == ["Check", "List", "Watch"]
    assert service.file.name == "grpc/health/v1/health.proto"
    # With that pool's messages, a call.
    check = service.methods_by_name["Check"]
    request, response = GetMessageClass(check.input_type), GetMessageClass(check.output_type)
    method: Method[Any, Any] = Method("/grpc.health.v1.Health/Check", "check", request, response)
    answer: Any = world.network.result(world.channel.unary_unary(method, request()))
    assert answer.status == 1
    # Of the default pool, with what it imports; and extensions.
    assert control_pb2.DESCRIPTOR.name == "txzmq/rpc/v1/control.proto"
    assert pool.FindServiceByName("txzmq.rpc.v1.Control").methods_by_name["Ping"]
    options = pool.FindFileByName("google/api/annotations.proto")
    assert "google/protobuf/descriptor.proto" in [file.name for file in options.dependencies]
    numbers = known.FindAllExtensionNumbers("google.protobuf.MethodOptions")
    assert annotations_pb2.http.number in numbers
    with pytest.raises(KeyError):
        known.FindFileContainingSymbol("no.Such")


def test_a_service_of_their_messages_is_reflected_as_theirs() -> None:
    """The user's own file goes before ours, which defines the same names."""
    method: Method[Any, Any] = Method(
        "/grpc.health.v1.Health/Check",
        "check",
        health_pb2.HealthCheckRequest,
        health_pb2.HealthCheckResponse,
    )

    class Own:
        __txzmq_service__: ClassVar[Service] = Service("grpc.health.v1.Health", (method,))

        def check(self, request: Any, context: Context) -> Any:
            return health_pb2.HealthCheckResponse(status=2)

    world = World(Own(), Reflection())
    stub = health_pb2_grpc.HealthStub(world.grpc)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == 2
    known = database.ProtoReflectionDescriptorDatabase(world.grpc)
    found = known.FindFileContainingSymbol("grpc.health.v1.Health")
    assert found.name == "grpc_health/v1/health.proto"
    world.close()


def test_code_that_users_generate_from_the_standard_protos_works(tmp_path: Any) -> None:
    """In the default pool, in a process without grpcio's packages."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    ran = run(ROOT / "third_party", "-o", tmp_path / "made", folder=tmp_path)
    assert ran.status == 0, ran.err
    script = """
import sys
sys.modules["grpc"] = sys.modules["grpc_health"] = None
from txzmq.rpc import Channel, Server
from txzmq.rpc.health import Health, ServingStatus
from txzmq.rpc.reflection import Reflection
from made.grpc.health.v1.health_pb2 import HealthCheckRequest
from made.grpc.health.v1.health_txzmq import HealthClient
from txzmq.testing import MemoryNetwork

network = MemoryNetwork()
health = Health()
server = Server(network, [health, Reflection()])
client = HealthClient(Channel(network, server.listen("inproc://health")))
health.set("a", ServingStatus.NOT_SERVING)
print(network.result(client.check(HealthCheckRequest(service="a"), wait_for_ready=True)).status)
"""
    assert python(script, tmp_path) == "2\n"
