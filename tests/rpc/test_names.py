"""Endpoints with host names: looked up in the reactor, alone and among other addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.rpc.fake_dns import FakeDns, Noted
from tests.rpc.service import ECHO, Echo, text
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    DnsResolver,
    ResolvedAddress,
    ResolverListener,
    Server,
    StaticResolver,
    Unavailable,
)
from txzmq.rpc._net.dns import SystemDns
from txzmq.rpc._net.names import NamedAddresses, check_numeric, dns_target
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc.transport import SendResult

# -- which addresses have names ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("tcp://host:5000", "dns:///host:5000"),
        ("tcp://localhost:5000", "dns:///localhost:5000"),
        ("tcp://10.0.0.7:5000", None),
        ("tcp://[::1]:5000", None),
        ("tcp://10.0.0.1:0;10.0.0.7:5000", None),
        ("tcp://*:5000", None),
        ("tcp://host", None),
        ("ipc://host:5000", None),
        ("inproc://host", None),
        ("", None),
    ],
)
def test_what_is_looked_up(address: str, target: str | None) -> None:
    assert dns_target(address) == target
    if target is None:
        check_numeric(address)
    else:
        with pytest.raises(ValueError, match=r"names the host '(local)?host'"):
            check_numeric(address)


def test_a_name_after_the_address_to_connect_from_is_refused() -> None:
    with pytest.raises(ValueError, match="the host after the semicolon"):
        dns_target("tcp://10.0.0.1:0;host:5000")


# -- names among addresses, in virtual time ----------------------------------------------------


class Changing:
    """A resolver that tells what the test says."""

    def __init__(self, *addresses: str) -> None:
        self.first = addresses
        self.closed = False

    def start(self, clock: Any, listener: ResolverListener) -> None:
        self.listener = listener
        if self.first:
            self.tell(*self.first)

    def tell(self, *addresses: str) -> None:
        self.listener.resolved([ResolvedAddress(address, 1, 2) for address in addresses])

    def resolve_now(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class World:
    """The names of some addresses, looked up in a fake of the DNS."""

    def __init__(self) -> None:
        self.clock: Any = Clock()  # Any: its calls are typed with a zope interface
        self.dns = FakeDns()
        self.noted = Noted()

    def start(self, resolver: Any) -> None:
        self.names = NamedAddresses(resolver, lambda target: DnsResolver(target, client=self.dns))
        self.names.start(self.clock, self.noted)

    def end(self) -> None:
        self.names.close()
        self.names.close()
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.end()


def test_numbers_are_told_at_once_and_nothing_is_asked(world: World) -> None:
    world.start(StaticResolver(["tcp://10.0.0.7:1", "ipc:///x"]))
    assert world.noted.addresses == ["tcp://10.0.0.7:1", "ipc:///x"]
    assert not world.dns.asked
    assert not world.clock.getDelayedCalls()


def test_a_names_addresses_stand_in_its_place(world: World) -> None:
    world.dns.set_ips("h", "10.0.0.2", "10.0.0.1")
    world.start(Changing("tcp://h:5", "tcp://10.0.0.7:1", "tcp://10.0.0.2:5"))
    assert world.noted.told[-1] == [
        ResolvedAddress(address, 1, 2)
        for address in ("tcp://10.0.0.1:5", "tcp://10.0.0.2:5", "tcp://10.0.0.7:1")
    ]
    world.dns.set_ips("h", "10.0.0.3")
    world.clock.advance(70)
    assert world.noted.addresses == ["tcp://10.0.0.3:5", "tcp://10.0.0.7:1", "tcp://10.0.0.2:5"]


def test_a_name_that_is_not_answered_holds_up_no_other(world: World, logged: Logged) -> None:
    world.dns.zone["slow", 1] = world.dns.zone["slow", 28] = None
    world.start(StaticResolver(["tcp://slow:1", "tcp://10.0.0.7:1"]))
    assert world.noted.addresses == ["tcp://10.0.0.7:1"]
    world.clock.advance(31)
    assert len(world.noted.told) == 1
    assert not world.noted.errors
    (warning,) = logged.warnings()
    assert "slow" in str(warning["error"])


def test_why_nothing_is_known_names_each_host(world: World) -> None:
    world.dns.zone["slow", 1] = world.dns.zone["slow", 28] = None
    world.start(StaticResolver(["tcp://slow:1", "tcp://missing:2"]))
    assert not world.noted.errors  # one of them is not answered
    world.clock.advance(31)
    assert "slow:1 cannot be resolved" in world.noted.errors[-1]
    assert "missing has no A or AAAA record" in world.noted.errors[-1]
    world.dns.set_ips("missing", "10.0.0.9")
    world.clock.advance(5)
    assert world.noted.addresses == ["tcp://10.0.0.9:2"]


def test_names_come_and_go_with_the_resolver_of_a_user(world: World, logged: Logged) -> None:
    world.dns.set_ips("a", "10.0.0.1")
    world.dns.set_ips("b", "10.0.0.2")
    changing = Changing("tcp://a:1")
    world.start(changing)
    asked = len(world.dns.asked)
    changing.tell("tcp://a:1", "tcp://b:1")
    assert len(world.dns.asked) == asked + 2  # a is not asked for again
    assert world.noted.addresses == ["tcp://10.0.0.1:1", "tcp://10.0.0.2:1"]
    changing.tell("tcp://b:1", "tcp://b b:1")
    assert world.noted.addresses == ["tcp://10.0.0.2:1"]
    assert [type(failure) for failure in logged.failures()] == [ValueError]
    changing.tell()
    assert world.noted.addresses == []
    assert not world.clock.getDelayedCalls()
    world.names.close()
    assert changing.closed


@pytest.mark.parametrize("then", ["close", "tell"])
def test_the_listener_may_close_or_lead_to_other_addresses(world: World, then: str) -> None:
    world.dns.set_ips("a", "10.0.0.1")
    world.dns.set_ips("b", "10.0.0.2")
    changing = Changing()
    world.start(changing)

    def act() -> None:
        world.noted.then = lambda: None
        if then == "close":
            world.names.close()
        else:
            changing.tell("tcp://10.0.0.3:1")

    world.noted.then = act
    changing.tell("tcp://a:1", "tcp://b:1")
    assert world.noted.addresses == ["tcp://10.0.0.1:1" if then == "close" else "tcp://10.0.0.3:1"]
    assert not world.clock.getDelayedCalls()


def test_the_last_addresses_stay_until_a_new_name_is_answered(world: World) -> None:
    world.dns.zone["slow", 1] = world.dns.zone["slow", 28] = None
    changing = Changing("tcp://10.0.0.7:1")
    world.start(changing)
    changing.tell("tcp://slow:1")
    assert world.noted.addresses == ["tcp://10.0.0.7:1"]
    world.clock.advance(31)
    assert world.noted.addresses == []


def test_what_cannot_be_told_about_the_names_themselves_is_passed_on(world: World) -> None:
    changing = Changing()
    world.start(changing)
    changing.listener.not_resolved(Unavailable("no registry"))
    assert world.noted.errors == ["no registry"]


# -- with sockets ------------------------------------------------------------------------------


class Asked(SystemDns):
    """Fails the test when a server would be asked."""

    async def _ask(self, name: str, kind: int, servers: Sequence[tuple[str, int]]) -> Any:
        raise AssertionError(f"a server was asked for {name}")


def test_localhost_needs_no_dns(one_loop: Loop, tmp_path: Any) -> None:
    (tmp_path / "hosts").write_text("127.0.0.9 greeter\n")
    client = Asked(one_loop.reactor, hosts_file=tmp_path / "hosts")

    async def main() -> list[str]:
        found: list[str] = []
        for name in ("localhost", "LOCALHOST.", "greeter"):
            for lookup in (client.lookupAddress, client.lookupIPV6Address):
                answer, _, _ = await lookup(name)
                found += [record.payload.dottedQuad() for record in answer if record.type == 1]
                found += [record.name.name.decode() for record in answer if record.type != 1]
        return found

    assert one_loop.run(main) == [
        "127.0.0.1",
        "localhost",
        "127.0.0.1",
        "LOCALHOST.",
        "127.0.0.9",
    ]


def test_a_channel_to_localhost(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        port = server.listen("tcp://127.0.0.1:*").rpartition(":")[2]
        for endpoint in (
            f"tcp://localhost:{port}",
            ["tcp://127.0.0.1:1", f"tcp://localhost:{port}"],
        ):
            channel = Channel(factory, endpoint)
            reply: Deferred[StringValue] = channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
            assert (await reply).value == "x"
            channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_libzmq_is_never_given_a_name(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        network = ZmqNetwork(factory)
        handler: Any = None
        with pytest.raises(ValueError, match="names the host 'somehost'"):
            network.connect("tcp://somehost:1", handler, {})
        with pytest.raises(ValueError, match="names the host 'somehost'"):
            network.subscribe("tcp://somehost:1", handler, {})
        assert not factory.connections
        with pytest.raises(ValueError, match="is no host name"):
            Channel(factory, "tcp://some host:1")
        assert not factory.connections
        factory.shutdown()

    one_loop.run(main)


def test_a_name_that_is_none_does_not_stop_the_reactor(one_loop: Loop) -> None:
    async def main() -> str:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        other = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        channel = Channel(factory, "tcp://no-such-host.invalid:1")
        call = channel.unary_unary(ECHO, text("x"))
        for _ in range(20):
            await other.unary_unary(ECHO, text("x"), timeout=2)
        try:
            await call
        except Unavailable as error:
            return error.message
        finally:
            channel.close()
            other.close()
            await server.stop(0)
            factory.shutdown()
        return ""

    message = one_loop.run(main)
    assert "no-such-host.invalid:1 cannot be resolved" in message
    assert "the call was not sent" in message


class Noting:
    """A worker's handler that notes why its connection failed, and that it was closed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def failed(self, reason: str) -> None:
        self.told.append(reason)

    def closed(self) -> None:
        self.told.append("closed")

    def received(self, message: list[bytes]) -> None:
        raise AssertionError(message)

    def peer_lost(self, peer: bytes) -> None:
        raise AssertionError(peer)

    def flush(self) -> None:
        pass


def test_before_the_name_of_a_proxy_is_known_nobody_can_be_sent_anything(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    handler = Noting()

    async def main() -> None:
        worker = ZmqNetwork(factory).dial_out("tcp://localhost:1", handler, {})
        assert worker.endpoint == "tcp://localhost:1"
        assert worker.send_message([b"peer", b"id", b"", b"x"]) is SendResult.UNREACHABLE
        assert worker.peer_address(b"peer") == ""
        worker.flush_soon()
        worker.close()
        await one_loop.sleep(0.01)
        factory.shutdown()

    one_loop.run(main)
    assert handler.told == []


@pytest.mark.parametrize("error", [OSError("too many open files"), None])
def test_a_worker_whose_socket_cannot_be_made_fails_later_and_once(
    one_loop: Loop, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """Later, since its owner does not have it yet when numbers are told at once."""
    factory = ZmqFactory(one_loop.reactor)
    handler = Noting()

    def refuse(*_: object, **__: object) -> None:
        assert error is not None
        raise error

    if error is not None:
        monkeypatch.setattr("txzmq.rpc._net.zmq_network._WorkerConnection", refuse)

    async def main() -> None:
        ZmqNetwork(factory).dial_out("tcp://localhost:1", handler, {})
        if error is not None:
            await one_loop.until(lambda: bool(handler.told))
        factory.shutdown()

    one_loop.run(main)
    assert handler.told == (["closed"] if error is None else ["too many open files"])
