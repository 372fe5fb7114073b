"""Networks that break, lose and delay; by the rows of reliability's table of failures."""

from __future__ import annotations

import pytest

from tests.field.namespaces import Wire
from tests.field.proxy import Proxy
from tests.field.support import History, channel_in, echo_server
from tests.rpc.service import Echo
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server

HOUR = 3600


@pytest.mark.parametrize(
    ("row", "inbound", "outbound"),
    [("n5", True, True), ("n6 requests lost", True, False), ("n6 replies lost", False, True)],
)
def test_a_partition_is_noticed_on_both_sides_and_heals(
    one_loop: Loop, hosts: Wire, row: str, inbound: bool, outbound: bool
) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            calls.call_many(20, answered=False, timeout=HOUR)
            await calls.call(timeout=HOUR)
            hosts.server.drop(inbound=inbound, outbound=outbound)
            await one_loop.until(lambda: calls.ends == calls.made)
            calls.check_lost(20)
            for number in range(20):
                server.program.expect(f"{number}: the client has gone")
            hosts.server.heal()
            await calls.call_until_answered()
            calls.check()
            calls.close()

        one_loop.run(main)


def test_n5_calls_made_during_a_partition_end_too(one_loop: Loop, hosts: Wire) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            await calls.call(timeout=HOUR)
            hosts.server.drop(inbound=True, outbound=True)
            calls.call_many(20, timeout=HOUR)  # sent: the loss is not known yet
            await one_loop.until(lambda: calls.ends == calls.made)
            calls.check()
            calls.check_lost(20)
            calls.close()

        one_loop.run(main)


def test_n9_resets_again_and_again(one_loop: Loop, hosts: Wire) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            for _ in range(3):
                await calls.call_until_answered()
                calls.call_many(20, answered=False, timeout=HOUR)
                hosts.server.reset()
                calls.call_many(20, timeout=HOUR)
                await one_loop.until(lambda: calls.ends == calls.made)
                calls.check()
                hosts.server.heal()
            await calls.call_until_answered()
            assert len(calls.errors) >= 60
            calls.close()

        one_loop.run(main)


def test_n10_loss_costs_time_and_no_call(one_loop: Loop, hosts: Wire) -> None:
    with (
        echo_server(hosts) as server,
        channel_in(one_loop, hosts.client, server.endpoint, quick=False) as calls,
    ):

        async def main() -> None:
            await calls.call()
            hosts.server.lose(5)
            for _ in range(20):
                calls.call_many(50)
                await one_loop.until(lambda: calls.ends == calls.made)
            calls.check()
            assert len(calls.answers) == 1001
            calls.close()

        one_loop.run(main)


class Proxied:
    """A server and a channel to it through a proxy."""

    def __init__(self, loop: Loop) -> None:
        self.factory = ZmqFactory(loop.reactor)
        self.server = Server(self.factory, [Echo()])
        self.proxy = Proxy(loop.reactor, self.server.listen("tcp://127.0.0.1:*"))
        self.calls = History(loop, Channel(self.factory, self.proxy.endpoint))
        self._loop = loop

    async def close(self) -> None:
        self.calls.check()
        self.factory.shutdown()
        await self.proxy.close()
        await self._loop.sleep(0.01)


def test_n10_latency_and_jitter(loop: Loop) -> None:
    async def main() -> None:
        world = Proxied(loop)
        world.proxy.latency, world.proxy.jitter = 0.02, 0.02
        world.calls.call_many(200)
        await loop.until(lambda: world.calls.ends == 200)
        assert len(world.calls.answers) == 200
        await world.close()

    loop.run(main)


@pytest.mark.parametrize("size", [1, 7])
def test_n10_slices_of_a_few_bytes(loop: Loop, size: int) -> None:
    async def main() -> None:
        world = Proxied(loop)
        world.proxy.slice_size = size  # of the handshake, too
        world.calls.call_many(20)
        await loop.until(lambda: world.calls.ends == 20)
        assert len(world.calls.answers) == 20
        await world.close()

    loop.run(main)


@pytest.mark.parametrize("end", [Proxy.cut, Proxy.reset])
def test_n9_a_connection_that_is_cut_is_made_anew(loop: Loop, end: object) -> None:
    async def main() -> None:
        world = Proxied(loop)
        for _ in range(3):
            await world.calls.call_until_answered()
            world.proxy.black_hole = True
            world.calls.call_many(20, timeout=HOUR)
            await loop.sleep(0.01)
            assert callable(end)
            end(world.proxy)
            world.proxy.black_hole = False
            await loop.until(lambda: world.calls.ends == world.calls.made)
        await world.calls.call_until_answered()
        world.calls.check_lost(len(world.calls.errors))
        assert len(world.calls.errors) >= 60
        await world.close()

    loop.run(main)


def test_a_pause_of_the_network_costs_time_and_no_call(one_loop: Loop) -> None:
    async def main() -> None:
        world = Proxied(one_loop)
        await world.calls.call()
        world.proxy.black_hole = True
        world.calls.call_many(20)
        await one_loop.sleep(0.1)
        assert world.calls.ends == 1
        world.proxy.black_hole = False
        await one_loop.until(lambda: world.calls.ends == 21)
        assert len(world.calls.answers) == 21
        await world.close()

    one_loop.run(main)
