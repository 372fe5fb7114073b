"""Admin and the access log over real sockets: a process of its own, and callers with keys."""

from __future__ import annotations

import json

import pytest

import txzmq
from tests.auth.support import ALICE, BOB
from tests.programs import running
from tests.rpc.observing import Calls
from tests.rpc.service import ECHO, Echo, text
from tests.rpc.trusted import Trusted
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import Identity
from txzmq.rpc import Channel, PermissionDenied
from txzmq.rpc.admin import (
    SERVICE_NAME,
    Admin,
    AdminClient,
    GetLimitsRequest,
    ListMethodsRequest,
    ListPeersRequest,
)
from txzmq.rpc.authorization import permissions


def test_a_process_tells_who_is_connected_and_logs_their_calls(one_loop: Loop) -> None:
    with running("-m", "tests.services.admin_server", "tcp://127.0.0.1:*") as server:
        endpoint = server.expect("ready at (.*)")[1]

        async def ask() -> None:
            factory = ZmqFactory(one_loop.reactor)
            calls = Calls()
            channel = Channel(factory, endpoint, observer=calls, wait_for_ready=True)
            await channel.unary_unary(ECHO, text("x"), metadata={"traceparent": "00-ab-cd-01"})
            admin = AdminClient(channel)
            (peer,) = (await admin.list_peers(ListPeersRequest())).peers
            assert (peer.id, peer.address, peer.endpoint) == (1, "127.0.0.1", endpoint)
            assert peer.user_agent == f"txzmq/{txzmq.__version__}"
            assert peer.calls_started == 2
            listed = await admin.list_methods(ListMethodsRequest())
            (echo,) = [one for one in listed.methods if one.path == ECHO.path]
            assert (dict(echo.ended), echo.in_flight) == ({"OK": 1}, 0)
            assert 0 < echo.seconds_p50 < 5
            limits = (await admin.get_limits(GetLimitsRequest())).limits
            assert {limit.name for limit in limits} >= {"running", "streams", "backlog_per_peer"}
            line = json.loads(server.expect(r"(\{.*Echo.*\})")[1])
            ours = calls.records[0]
            assert (line["call_id"], line["method"]) == (ours.request_id.hex(), ECHO.path)
            assert line["metadata"] == {"traceparent": "00-ab-cd-01"}
            assert 0 <= line["seconds"] <= ours.seconds
            channel.close()
            factory.shutdown()

        one_loop.run(ask)


def test_keys_say_who_is_connected_and_who_may_ask(one_loop: Loop) -> None:
    rule = permissions({f"/{SERVICE_NAME}/*": {"staff"}, "/test.Echo/*": {"*"}})
    trusted = Trusted(one_loop, [Echo(), Admin()], authorize=rule)
    trusted.clients[ALICE.public_key] = Identity("alice", groups=frozenset({"staff"}))

    async def ask() -> None:
        alice, bob = trusted.channel(ALICE), trusted.channel(BOB)
        await bob.unary_unary(ECHO, text("x"), wait_for_ready=True)
        question = ListPeersRequest()
        peers = (await AdminClient(alice).list_peers(question, wait_for_ready=True)).peers
        assert [peer.identity for peer in peers] == ["bob", "alice"]
        assert [peer.public_key for peer in peers] == [BOB.public_key, ALICE.public_key]
        with pytest.raises(PermissionDenied):
            await AdminClient(bob).list_peers(question)

    trusted.run(ask)


def test_ports_of_all_interfaces_are_not_the_machines_own(one_loop: Loop) -> None:
    trusted = Trusted(one_loop, [Echo(), Admin()])

    async def ask() -> None:
        port = trusted.endpoint.rpartition(":")[2]
        trusted.endpoint = f"tcp://127.0.0.1:{port}"
        channel = trusted.channel(ALICE)
        with pytest.raises(PermissionDenied, match="the server's own machine"):
            await AdminClient(channel).list_peers(ListPeersRequest(), wait_for_ready=True)

    trusted.run(ask, "tcp://0.0.0.0:*")
