"""Generated clients over a channel of gRPC's, to servers of grpcio's own services."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from tests.grpc_channel.support import Rig, served
from tests.support import Loop
from txzmq.rpc import NotFound
from txzmq.rpc._services.grpc.reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from txzmq.rpc._services.grpc.reflection.v1alpha.reflection_txzmq import ServerReflectionClient
from txzmq.rpc.health import HealthCheckRequest, HealthClient, ServingStatus

pytest.importorskip("grpc_health.v1.health", reason="no grpcio-health-checking")
pytest.importorskip("grpc_reflection.v1alpha.reflection", reason="no grpcio-reflection")
# Any: neither package has types.
health: Any = import_module("grpc_health.v1.health")
health_grpc: Any = import_module("grpc_health.v1.health_pb2_grpc")
reflection: Any = import_module("grpc_reflection.v1alpha.reflection")


class Standard(Rig):
    """A rig whose server has gRPC's health and reflection as well."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.health: Any = health.aio.HealthServicer()

    def prepare(self, server: Any) -> None:
        health_grpc.add_HealthServicer_to_server(self.health, server)
        reflection.enable_server_reflection(["grpc.health.v1.Health"], server)


def test_health_of_a_server_of_grpcio(grpc_loop: Loop) -> None:
    async def main() -> None:
        async with served(grpc_loop, Standard) as rig:
            client = HealthClient(rig.channel())
            response = await client.check(HealthCheckRequest(), timeout=5)
            assert response.status == int(ServingStatus.SERVING)
            with pytest.raises(NotFound):
                await client.check(HealthCheckRequest(service="of nobody"))
            async with client.watch(HealthCheckRequest(service="shop")) as statuses:
                assert (await anext(statuses)).status == int(ServingStatus.SERVICE_UNKNOWN)
                await rig.run(rig.health.set("shop", ServingStatus.NOT_SERVING))
                assert (await anext(statuses)).status == int(ServingStatus.NOT_SERVING)

    grpc_loop.run(main)


def test_reflection_of_a_server_of_grpcio(grpc_loop: Loop) -> None:
    async def main() -> list[str]:
        async with served(grpc_loop, Standard) as rig:
            with pytest.warns(DeprecationWarning, match="v1alpha"):  # grpcio has no other
                client = ServerReflectionClient(rig.channel())  # pyright: ignore[reportDeprecated]
            stream = client.server_reflection_info([ServerReflectionRequest(list_services="")])
            (response,) = [response async for response in stream]
        return [service.name for service in response.list_services_response.service]

    assert grpc_loop.run(main) == ["grpc.health.v1.Health"]
