"""Health, reflection and watching channels over real sockets."""

from __future__ import annotations

from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ConnectivityState, Server
from txzmq.rpc.health import Health, HealthCheckRequest, HealthClient, ServingStatus
from txzmq.rpc.reflection import Reflection, ServerReflectionClient, ServerReflectionRequest


async def serve_and_watch(loop: Loop) -> None:
    factory = ZmqFactory(loop.reactor)
    healths = [Health(), Health()]
    services = [Echo(), Echo()]
    servers = [
        Server(factory, [service, health, Reflection()])
        for service, health in zip(services, healths, strict=True)
    ]
    channel = Channel(
        factory,
        [server.listen("tcp://127.0.0.1:*") for server in servers],
        service_config={"healthCheckConfig": {"serviceName": "test.Echo"}},
        wait_for_ready=True,
    )
    ready, failed = ConnectivityState.READY, ConnectivityState.TRANSIENT_FAILURE
    await loop.until(lambda: [one.state for one in channel.endpoints] == [ready, ready])
    healths[0].set("test.Echo", ServingStatus.NOT_SERVING)
    await loop.until(lambda: channel.endpoints[0].state is failed)
    for _ in range(10):
        await channel.unary_unary(ECHO, text("x"))
    assert [len(service.seen) for service in services] == [0, 10]
    checked = await HealthClient(channel).check(HealthCheckRequest(service="test.Echo"))
    assert checked.status == 1
    listing = ServerReflectionRequest(list_services="")
    async for response in ServerReflectionClient(channel).server_reflection_info([listing]):
        assert len(response.list_services_response.service) == 4
    watch = HealthClient(channel).watch(HealthCheckRequest())
    assert (await anext(watch)).status == 1
    await servers[1].stop(grace=50)  # who watches is told, and keeps it from nothing
    assert (await anext(watch)).status == 2
    healths[0].set("test.Echo", ServingStatus.SERVING)
    await channel.unary_unary(ECHO, text("x"))
    assert [len(service.seen) for service in services] == [1, 10]
    channel.close()
    await servers[0].stop(0)
    factory.shutdown()


def test_servers_that_do_not_serve_are_left_out(one_loop: Loop) -> None:
    one_loop.run(lambda: serve_and_watch(one_loop))
