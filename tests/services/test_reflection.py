"""The reflection service: which services a server has, and the protos of its messages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import api_implementation

from tests.programs import ROOT
from tests.rpc.service import Echo
from tests.services.reflected import (
    Request,
    World,
    diamond,
    file,
    names,
    orders,
    pool_of,
)
from txzmq.rpc import (
    Code,
    Method,
    Server,
    ServerLimits,
    Unauthenticated,
)
from txzmq.rpc._services.grpc.reflection.v1alpha import reflection_pb2 as alpha_pb2
from txzmq.rpc.authorization import permissions
from txzmq.rpc.health import Health
from txzmq.rpc.method import Kind
from txzmq.rpc.reflection import (
    SERVICE_NAMES,
    ExtensionRequest,
    Reflection,
    ServerReflectionRequest,
)
from txzmq.rpc.v1 import control_pb2, header_pb2

# Any: it has no types. An option of somebody else's, in the default pool.
annotations_pb2: Any = import_module("google.api.annotations_pb2")


@pytest.fixture
def pool() -> DescriptorPool:
    return pool_of(*diamond())


@pytest.fixture
def world(pool: DescriptorPool) -> Iterator[World]:
    """A server of a service in a pool of its own, one without a proto, and health."""
    world = World(orders(pool), Echo(), Health())
    yield world
    world.close()


# -- what is answered -----------------------------------------------------------------------------


def test_all_services_of_the_server_are_listed(world: World) -> None:
    (response,) = world.ask(Request(list_services="*"))
    listed = [service.name for service in response.list_services_response.service]
    assert listed == sorted(["acme.Orders", "test.Echo", "grpc.health.v1.Health", *SERVICE_NAMES])
    assert response.original_request == Request(list_services="*")


@pytest.mark.parametrize(
    "symbol",
    ["acme.Orders", "acme.Orders.Place", "acme.Mtop", "acme.Mtop.text"],
)
def test_the_file_of_a_symbol_comes_with_what_it_imports(world: World, symbol: str) -> None:
    files = world.files(Request(file_containing_symbol=symbol))
    assert files == ["top.proto", "left.proto", "right.proto", "base.proto"]


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("grpc.health.v1.Health.Check", "grpc/health/v1/health.proto"),
        ("grpc.health.v1.HealthCheckResponse.SERVING", "grpc/health/v1/health.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
        ("grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"),
        (
            "grpc.reflection.v1.ServerReflectionRequest.message_request",
            "grpc/reflection/v1/reflection.proto",
        ),
        ("acme.e100", "more.proto"),
    ],
)
def test_symbols_of_other_files_are_found(world: World, symbol: str, name: str) -> None:
    assert world.files(Request(file_containing_symbol=symbol))[0] == name


def test_what_is_in_the_default_pool_is_found(world: World) -> None:
    """Which is the pool of a service whose messages are in it."""
    assert control_pb2.DESCRIPTOR.pool is header_pb2.DESCRIPTOR.pool is descriptor_pool.Default()
    symbol = "txzmq.rpc.v1.Control.Ping"
    assert world.files(Request(file_containing_symbol=symbol)) == ["txzmq/rpc/v1/control.proto"]
    name = "txzmq/rpc/v1/header.proto"
    imported = "google/protobuf/any.proto"
    assert world.files(Request(file_by_filename=name)) == [name, imported]


def test_a_file_is_found_by_its_name(world: World) -> None:
    assert world.files(Request(file_by_filename="left.proto")) == ["left.proto", "base.proto"]


def test_what_is_told_is_what_the_pool_has(world: World, pool: DescriptorPool) -> None:
    (response,) = world.ask(Request(file_by_filename="top.proto", host="here"))
    assert response.valid_host == "here"
    again = DescriptorPool()
    for data in reversed(response.file_descriptor_response.file_descriptor_proto):
        again.AddSerializedFile(data)
    service = again.FindServiceByName("acme.Orders")
    assert service.file.serialized_pb == pool.FindFileByName("top.proto").serialized_pb


def test_extensions_are_found_by_number(world: World) -> None:
    for number in (100, 101):
        asked = ExtensionRequest(containing_type="acme.Mbase", extension_number=number)
        files = world.files(Request(file_containing_extension=asked))
        assert files == ["more.proto", "base.proto"]
    (response,) = world.ask(Request(all_extension_numbers_of_type="acme.Mbase"))
    answer = response.all_extension_numbers_response
    assert (answer.base_type_name, [*answer.extension_number]) == ("acme.Mbase", [100, 101])
    (response,) = world.ask(Request(all_extension_numbers_of_type="acme.Mtop"))
    answer = response.all_extension_numbers_response
    assert (answer.base_type_name, [*answer.extension_number]) == ("acme.Mtop", [])


def test_extensions_of_the_default_pool_are_found(world: World) -> None:
    method_options = "google.protobuf.MethodOptions"
    (response,) = world.ask(Request(all_extension_numbers_of_type=method_options))
    number = annotations_pb2.http.number
    assert number in response.all_extension_numbers_response.extension_number
    asked = ExtensionRequest(containing_type=method_options, extension_number=number)
    files = world.files(Request(file_containing_extension=asked))
    assert files[0] == "google/api/annotations.proto"


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (Request(file_by_filename="no.proto"), Code.NOT_FOUND, "no file has this name"),
        (Request(file_by_filename=""), Code.NOT_FOUND, "no file has this name"),
        (Request(file_containing_symbol="acme"), Code.NOT_FOUND, "no file has this symbol"),
        (Request(file_containing_symbol=""), Code.NOT_FOUND, "no file has this symbol"),
        (
            Request(file_containing_symbol="acme.Orders.Plac"),
            Code.NOT_FOUND,
            "no file has this symbol",
        ),
        (
            Request(file_containing_symbol="test.Echo"),  # it was never in a proto
            Code.NOT_FOUND,
            "no file has this symbol",
        ),
        (
            Request(
                file_containing_extension=ExtensionRequest(
                    containing_type="acme.Mbase", extension_number=102
                )
            ),
            Code.NOT_FOUND,
            "no extension of the message has this number",
        ),
        (
            Request(file_containing_extension=ExtensionRequest(containing_type="acme.No")),
            Code.NOT_FOUND,
            "no message has this name",
        ),
        (
            Request(all_extension_numbers_of_type="acme.Orders"),
            Code.NOT_FOUND,
            "no message has this name",
        ),
        (Request(), Code.INVALID_ARGUMENT, "the request asks for nothing that is known"),
    ],
)
def test_what_is_not_there_is_an_error_in_the_answer(
    world: World, request_: ServerReflectionRequest, code: Code, message: str
) -> None:
    assert world.error(request_) == (code, message)


def test_a_stream_goes_on_after_an_error_and_answers_in_order(world: World) -> None:
    asked = [
        Request(file_by_filename="no.proto"),
        Request(list_services=""),
        Request(),
        Request(file_by_filename="base.proto"),
    ]
    responses = world.ask(*asked)
    assert [response.original_request for response in responses] == asked
    assert [response.WhichOneof("message_response") for response in responses] == [
        "error_response",
        "list_services_response",
        "error_response",
        "file_descriptor_response",
    ]


# -- how much is told -----------------------------------------------------------------------------


def test_a_file_is_sent_along_once_in_a_stream_and_again_if_it_is_asked_for(world: World) -> None:
    left, right, top, base = (
        Request(file_by_filename=f"{name}.proto") for name in ("left", "right", "top", "base")
    )
    responses = world.ask(left, right, top, base, top)
    assert list(map(names, responses)) == [
        ["left.proto", "base.proto"],
        ["right.proto"],
        ["top.proto"],
        ["base.proto"],
        ["top.proto"],
    ]
    assert world.files(right) == ["right.proto", "base.proto"]  # another stream


def test_what_does_not_fit_into_a_response_is_left_for_another_question() -> None:
    small, large = file("small.proto", "large.proto", "other.proto"), file("large.proto", size=3000)
    pool = pool_of(large, file("other.proto"), small)
    world = World(
        Echo(), reflection=Reflection(pools=[pool]), limits=ServerLimits(message_size=2048)
    )
    by_name = {name: Request(file_by_filename=f"{name}.proto") for name in ("small", "large")}
    assert world.files(by_name["small"]) == ["small.proto"]
    code, message = world.error(by_name["large"])
    assert code is Code.RESOURCE_EXHAUSTED
    assert message == (
        f"the file has {len(pool.FindFileByName('large.proto').serialized_pb)} bytes, more than a "
        "response of the server may have (ServerLimits.message_size)"
    )
    world.close()


def test_a_response_is_never_larger_than_the_limit() -> None:
    for size in range(0, 400, 31):
        files = [file(f"f{number}.proto", size=size) for number in range(5)]
        first = file("first.proto", *(one.name for one in files))
        world = World(
            Echo(),
            reflection=Reflection(pools=[pool_of(*files, first)]),
            limits=ServerLimits(message_size=1200),
        )
        (response,) = world.ask(Request(file_by_filename="first.proto", host="h" * 40))
        assert response.ByteSize() <= 1200
        assert names(response)[0] == "first.proto"
        world.close()


# -- the older version, who may ask, what is wrong ------------------------------------------------

ALPHA: Method[Any, Any] = Method(
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "server_reflection_info",
    alpha_pb2.ServerReflectionRequest,
    alpha_pb2.ServerReflectionResponse,
    kind=Kind.STREAM_STREAM,
)


def test_clients_of_the_older_version_are_answered(world: World) -> None:
    requests: Sequence[Any] = [
        alpha_pb2.ServerReflectionRequest(file_containing_symbol="acme.Orders"),
        alpha_pb2.ServerReflectionRequest(list_services=""),
    ]
    stream = world.channel.stream_stream(ALPHA, requests)
    responses: list[Any] = []
    stream.each(responses.append)
    world.network.run()
    first, second = responses
    assert len(first.file_descriptor_response.file_descriptor_proto) == 4
    assert second.list_services_response.service[0].name == "acme.Orders"
    assert second.original_request == requests[1]


def test_reflection_is_authorized_as_any_other_call() -> None:
    table = {"/test.Echo/*": {"anybody"}, f"/{SERVICE_NAMES[0]}/*": {"anybody"}}
    world = World(Echo(), authorize=permissions(table))
    assert world.files(Request(file_containing_symbol=SERVICE_NAMES[0]))
    world.close()
    del table[f"/{SERVICE_NAMES[0]}/*"]
    world = World(Echo(), authorize=permissions(table))
    with pytest.raises(Unauthenticated):
        world.ask(Request(list_services=""))
    world.close()


def test_one_reflection_is_for_one_server(world: World) -> None:
    with pytest.raises(ValueError, match="this Reflection is another server's; make one for each"):
        Server(world.network, [world.reflection])


def test_wrong_pools_are_told() -> None:
    with pytest.raises(TypeError, match="pools must be a sequence of descriptor pools, not an obj"):
        Reflection(pools=descriptor_pool.Default())  # type: ignore[arg-type]  # what is tried
    with pytest.raises(TypeError, match=r"pools\[0\] must be a DescriptorPool, not an object"):
        Reflection(pools=[DescriptorProto()])  # type: ignore[list-item]  # what is tried


def test_all_of_it_works_with_protobuf_in_python() -> None:
    """As PyPy has it."""
    if api_implementation.Type() == "python":
        pytest.skip("this is it")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
