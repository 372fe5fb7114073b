"""Who may ask a server what it has: callers on its machine, and those whom a rule names."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rpc.identified import by_name
from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, OTHER, Waiting, text
from tests.support import Logged, error_of
from txzmq.auth import Identity
from txzmq.rpc import Channel, Code, RpcError, Server, ServerLimits
from txzmq.rpc._wire.headers import RequestHead, decode_response, encode_request
from txzmq.rpc.admin import SERVICE_NAME, Admin, AdminClient, ListPeersRequest, ListPeersResponse
from txzmq.rpc.authorization import permissions
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.v1.admin_txzmq import AdminMethods
from txzmq.testing import MemoryNetwork

FAR = "tcp://10.0.0.7:5000"


class Far:
    """A server that listens near and far, and channels to both."""

    def __init__(self, **server: Any) -> None:
        self.network = MemoryNetwork()
        self.server = Server(self.network, [Waiting(), Admin()], **server)
        self.server.listen(ADDRESS)
        self.server.listen(FAR, insecure=True)
        self.near = Channel(self.network, ADDRESS)
        self.far = Channel(self.network, FAR)
        self.network.run()

    def ask(self, channel: Channel, **options: Any) -> object:
        made = AdminClient(channel).list_peers(ListPeersRequest(), **options)
        answers: list[object] = []
        made.addErrback(error_of).addCallback(answers.append)
        self.network.run()
        (answer,) = answers
        return answer

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.server.stop(0)
        self.network.advance(1)


def is_denied(answer: object) -> bool:
    if isinstance(answer, ListPeersResponse):
        return False
    assert isinstance(answer, RpcError)
    assert answer.code is Code.PERMISSION_DENIED
    return True


def test_only_callers_on_the_machine_may_ask(logged: Logged) -> None:
    world = Far()
    assert not is_denied(world.ask(world.near))
    answer = world.ask(world.far)
    assert is_denied(answer)
    assert "is for callers on the server's own machine" in str(answer)
    assert world.server.counters["request denied"] == 1
    (event,) = [event for event in logged.warnings() if "public_key" in event]
    assert (event["method"], event["code"]) == (AdminMethods.list_peers.path, "PERMISSION_DENIED")
    made = world.far.unary_unary(OTHER, text("x"))  # everything else is as ever
    assert world.network.result(made).value == "other x"
    world.close()


def test_who_comes_through_a_proxy_is_from_anywhere() -> None:
    world = Far()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    head = RequestHead(AdminMethods.list_peers.path, None, ())
    direct = [raw.id_of(1), b"", encode_request(head), b""]
    behind = [b"client", raw.id_of(2), b"", encode_request(head), b""]
    for message in (direct, behind):
        raw.transport.send_message(message)
    world.network.run()
    codes = [decode_response(message[-2]).code for message in raw.messages]
    assert codes == [Code.OK, Code.PERMISSION_DENIED]
    raw.transport.close()
    world.close()


class Proxied(MemoryNetwork):
    """What comes to a server that connects to a proxy, in memory."""

    def dial_out(self, address: str, handler: Any, options: Any) -> Any:
        return self.listen(address, handler, options)


def test_a_server_that_connects_to_a_proxy_does_not_know_who_is_behind_it() -> None:
    network = Proxied()
    server = Server(network, [Waiting(), Admin()])
    server.connect(ADDRESS)
    raw = RawClient(network, ADDRESS)
    network.run()
    number = raw.request(RequestHead(AdminMethods.list_peers.path, None, ()))
    network.run()
    assert raw.replies()[number][0].code is Code.PERMISSION_DENIED
    raw.transport.close()
    server.stop(0)
    network.advance(1)


BOB = {"authorization": "Bearer bob"}


@pytest.mark.parametrize(
    ("table", "far", "near"),
    [
        ({"*": {"anybody"}}, False, True),  # a row for all others names nobody for it
        ({"*": {"anybody"}, f"/{SERVICE_NAME}/*": {"*"}}, True, True),
        ({AdminMethods.list_peers.path: {"*"}}, True, True),
        ({f"/{SERVICE_NAME}/*": {"staff"}}, False, False),
        ({"/test.Echo/*": {"anybody"}}, False, False),  # what is not in a table is denied
    ],
)
def test_a_table_of_a_server_that_knows_who_calls(table: Any, far: bool, near: bool) -> None:
    world = Far(authenticate=by_name, authorize=permissions(table))
    assert is_denied(world.ask(world.far, metadata=BOB)) is not far
    assert is_denied(world.ask(world.near, metadata=BOB)) is not near
    world.close()


def test_a_function_of_a_server_that_knows_who_calls() -> None:
    def only_bob(identity: Identity | None, method: str, metadata: Metadata) -> bool:
        return identity is not None and identity.name == "bob"

    world = Far(authenticate=by_name, authorize=only_bob)
    assert not is_denied(world.ask(world.far, metadata=BOB))
    assert is_denied(world.ask(world.far, metadata={"authorization": "Bearer eve"}))
    world.close()


def test_a_rule_of_a_server_that_knows_nobody_lets_nobody_in_from_afar() -> None:
    world = Far(authorize=permissions({f"/{SERVICE_NAME}/*": {"anybody"}}))
    assert not is_denied(world.ask(world.near))
    assert is_denied(world.ask(world.far))
    world.close()


def test_who_calls_is_known_and_nobody_says_what_they_may() -> None:
    world = Far(authenticate=by_name)
    assert is_denied(world.ask(world.far, metadata=BOB))
    world.close()


def test_a_connection_that_is_too_old_may_ask_no_more_than_before() -> None:
    limits = ServerLimits(connection_age=10, connection_age_grace=5)
    world = Far(limits=limits)
    raw = RawClient(world.network, FAR)
    world.network.run()
    raw.request(RequestHead(OTHER.path, None, ()))
    world.network.advance(16.5)
    asked = raw.request(RequestHead(AdminMethods.list_peers.path, None, (), request_key=b"k" * 16))
    world.network.run()
    assert raw.replies()[asked][0].code is Code.PERMISSION_DENIED
    raw.transport.close()
    world.close()
