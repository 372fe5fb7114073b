"""Services of a Twisted application with sockets: whose factory it is, and when ports are free."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from twisted.internet.error import CannotListenError

from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop
from txzmq import ZmqFactory, factory
from txzmq.rpc.application import ChannelService, OrderedMultiService, ServerService

ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, one_loop: Loop) -> list[ZmqFactory]:
    """The factories that are made; the process's reactor is that of the test."""
    monkeypatch.setattr(factory, "default_reactor", lambda: one_loop.reactor)
    made: list[ZmqFactory] = []
    make: Callable[..., None] = ZmqFactory.__init__

    def note(self: ZmqFactory, *args: Any) -> None:
        make(self, *args)
        made.append(self)

    monkeypatch.setattr(ZmqFactory, "__init__", note)
    return made


def test_a_service_of_its_own_factory_comes_back_at_its_port(
    one_loop: Loop, made: list[ZmqFactory]
) -> None:
    async def main() -> None:
        first = ServerService([Echo()], ANYWHERE)
        first.startService()
        [address] = first.endpoints
        await first.stopService()
        parent = OrderedMultiService()
        channel = ChannelService(address, wait_for_ready=True)  # it starts first
        server = ServerService([Echo()], address)
        for service in (channel, server):
            service.setServiceParent(parent)
        for _ in range(3):
            parent.startService()
            called = channel.channel.unary_unary(ECHO, text("x"), timeout=10)
            assert (await called).value == "x"
            await parent.stopService()
        assert len(made) == 7
        assert all(each.closed for each in made)

    one_loop.run(main)


def test_a_port_in_use_leaves_nothing_open(one_loop: Loop, made: list[ZmqFactory]) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
            service = ServerService([Echo()], [ANYWHERE, taken])
            with pytest.raises(CannotListenError, match="is in use by another socket"):
                service.startService()
        assert [each.closed for each in made] == [True]
        assert service.running == 0
        await service.stopService()
        service.startService()
        assert service.endpoints[1] == taken
        await service.stopService()

    one_loop.run(main)


def test_a_channel_that_cannot_be_made_leaves_nothing_open(
    one_loop: Loop, made: list[ZmqFactory]
) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="backlog"):
            ChannelService(ANYWHERE.replace("*", "1"), backlog=-1).startService()
        assert [each.closed for each in made] == [True]

    one_loop.run(main)


def test_a_factory_that_was_given_stays_open(one_loop: Loop) -> None:
    async def main() -> None:
        shared = ZmqFactory()
        server = ServerService([Echo()], "inproc://shared", factory=shared)
        channel = ChannelService("inproc://shared", factory=shared)
        for service in (server, channel):
            service.startService()
        assert (await channel.channel.unary_unary(ECHO, text("x"), timeout=10)).value == "x"
        await channel.stopService()
        await server.stopService()
        assert not shared.closed
        assert shared.connections == set()
        shared.shutdown()

    one_loop.run(main)


def test_a_factory_that_was_shut_down_ends_the_service(one_loop: Loop) -> None:
    async def main() -> None:
        shared = ZmqFactory()
        service = ServerService([Echo()], ANYWHERE, factory=shared)
        channel = ChannelService("tcp://127.0.0.1:1", factory=shared)
        service.startService()
        channel.startService()
        shared.shutdown()
        await service.stopService()
        await channel.stopService()
        for each in (service, channel):
            with pytest.raises(zmq.ZMQError, match="shut down"):
                each.startService()
            assert each.running == 0

    one_loop.run(main)
