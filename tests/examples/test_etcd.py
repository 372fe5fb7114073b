"""The example of servers that register in etcd, against a real one that breaks and comes back."""

from __future__ import annotations

import contextlib
import shutil
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from examples import etcd as etcd_example
from examples.etcd import Etcd, EtcdRegistration, EtcdResolver
from tests.programs import Program, started
from tests.rpc.service import ECHO, Echo, text
from tests.support import Logged, Loop
from txzmq import factory
from txzmq.rpc import ResolvedAddress, Resolver, Unavailable
from txzmq.rpc.application import ChannelService, OrderedMultiService, ServerService

NEEDS_ETCD = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="etcd is not installed (Debian's package etcd-server)"
)
A, B = "tcp://192.0.2.1:5000", "tcp://192.0.2.2:5000"


class Member:
    """A cluster of one member, which is killed and started again with what it had."""

    def __init__(self, loop: Loop, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:  # its gateway cannot have any port
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.loop = loop
        self.folder = folder
        self.client = Etcd(loop.reactor, self.url)
        self.running = contextlib.ExitStack()
        self.program: Program | None = None

    def start(self) -> None:
        urls = ("listen-client", "advertise-client")
        peers = ("listen-peer", "initial-advertise-peer")
        program = started(
            "etcd",
            f"--data-dir={self.folder}",
            *("--name=alone", "--initial-cluster=alone=http://127.0.0.1:0"),
            *(f"--{name}-urls={self.url}" for name in urls),
            *(f"--{name}-urls=http://127.0.0.1:0" for name in peers),
            *("--heartbeat-interval=20", "--election-timeout=200"),  # so leases may be short
        )
        self.program = self.running.enter_context(program)

    def kill(self) -> None:
        self.running.close()

    async def ready(self) -> None:
        while True:
            assert self.program is not None
            assert self.program.process.poll() is None, self.program
            try:
                await self.client.ask("/v3/kv/range", {"key": encoded("ready")})
            except CancelledError:
                raise
            except Exception:  # noqa: BLE001 - it starts
                await self.loop.sleep(0.02)
            else:
                return

    async def put(self, name: str, value: str) -> int:
        """The revision that this makes."""
        pair = {"key": encoded(f"services/greeter/{name}"), "value": encoded(value)}
        answer = await self.client.ask("/v3/kv/put", pair)
        return int(answer["header"]["revision"])

    async def put_server(self, address: str) -> int:
        return await self.put(address, f'{{"address": "{address}"}}')


def encoded(value: str) -> str:
    return b64encode(value.encode()).decode()


class Noted:
    """Who listens to a resolver."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.errors: list[str] = []

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        self.told.append([address.address for address in addresses])

    def not_resolved(self, error: Unavailable) -> None:
        self.errors.append(error.message)


@pytest.fixture
def member(one_loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    monkeypatch.setattr(etcd_example, "RETRY", (0.02, 0.05))
    monkeypatch.setattr(factory, "default_reactor", lambda: one_loop.reactor)
    member = Member(one_loop, tmp_path / "etcd")
    yield member
    member.kill()


@contextlib.contextmanager
def watched(member: Member) -> Generator[tuple[Noted, Resolver]]:
    noted = Noted()
    resolver: Resolver = EtcdResolver("greeter", etcd=[member.url])
    resolver.start(member.loop.reactor, noted)
    try:
        yield noted, resolver
    finally:
        resolver.close()


class Asked:
    """Which paths etcd was asked for; a watch waits at the gate, while that is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.gate: Deferred[None] | None = None
        self.waiting = 0
        follow, ask = Etcd.follow, Etcd.ask

        async def followed(etcd: Etcd, path: str, question: Any, told: Any) -> None:
            self.paths.append(path)
            if self.gate is not None:
                self.waiting += 1
                await self.gate
            await follow(etcd, path, question, told)

        async def asked(etcd: Etcd, path: str, question: Any) -> Any:
            if question.get("key") != encoded("ready"):
                self.paths.append(path)
            return await ask(etcd, path, question)

        monkeypatch.setattr(Etcd, "follow", followed)
        monkeypatch.setattr(Etcd, "ask", asked)

    def close(self) -> None:
        self.gate = Deferred()

    def open(self) -> None:
        gate, self.gate = self.gate, None
        assert gate is not None
        gate.callback(None)

    def count(self, path: str) -> int:
        return self.paths.count(path)


@NEEDS_ETCD
def test_servers_register_and_are_called_and_go(
    member: Member, one_loop: Loop, logged: Logged
) -> None:
    member.start()

    async def main() -> None:
        await member.ready()
        groups: list[OrderedMultiService] = []
        addresses: list[str] = []
        for _ in range(2):
            group = OrderedMultiService()
            server = ServerService([Echo()], "tcp://127.0.0.1:*")
            registration: Any = EtcdRegistration(
                server, "greeter", etcd=member.url, ttl=1, reactor=one_loop.reactor
            )
            server.setServiceParent(group)
            registration.setServiceParent(group)
            group.startService()
            groups.append(group)
            addresses += server.endpoints
        channel = ChannelService(
            lambda: EtcdResolver("greeter", etcd=member.url), wait_for_ready=True
        )
        channel.startService()
        with watched(member) as (noted, _):
            assert (await channel.channel.unary_unary(ECHO, text("x"), timeout=10)).value == "x"
            await one_loop.until(lambda: noted.told and noted.told[-1] == sorted(addresses))
            await one_loop.sleep(1.2)  # a lease would have run out by then
            assert noted.told[-1] == sorted(addresses)
            # The lease is revoked before the server drains.
            stopped = groups[0].stopService()
            await one_loop.until(lambda: noted.told[-1] == addresses[1:])
            await stopped
            await channel.stopService()
            await groups[1].stopService()
            await one_loop.until(lambda: noted.told[-1] == [])
        member.kill()

    one_loop.run(main)
    registered = [event for event in logged if "registered" in str(event.get("log_format"))]
    assert len(registered) == 2
    assert logged.failures() == []


@NEEDS_ETCD
def test_a_lease_that_runs_out_takes_a_server_out(member: Member, one_loop: Loop) -> None:
    member.start()

    async def main() -> None:
        await member.ready()
        granted = await member.client.ask("/v3/lease/grant", {"TTL": 1})
        await member.client.ask(
            "/v3/kv/put",
            {
                "key": encoded(f"services/greeter/{A}"),
                "value": encoded(f'{{"address": "{A}"}}'),
                "lease": granted["ID"],
            },
        )
        await member.put_server(B)
        with watched(member) as (noted, _):
            await one_loop.until(lambda: len(noted.told) == 2)
            assert noted.told == [[A, B], [B]]

    one_loop.run(main)


@NEEDS_ETCD
def test_the_watch_goes_on_from_its_revision_when_etcd_comes_back(
    member: Member, one_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    member.start()

    async def main() -> None:
        await member.ready()
        await member.put_server(A)
        with watched(member) as (noted, _):
            await one_loop.until(lambda: noted.told == [[A]])
            listed = asked.count("/v3/kv/range")
            asked.close()
            member.kill()
            await one_loop.until(lambda: asked.waiting)
            member.start()
            await member.ready()
            await member.put_server(B)  # while nobody watches
            asked.open()
            await one_loop.until(lambda: noted.told == [[A], [A, B]])
            assert asked.count("/v3/kv/range") == listed

    one_loop.run(main)


@NEEDS_ETCD
def test_what_is_compacted_meanwhile_is_listed_anew(
    member: Member, one_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    member.start()

    async def main() -> None:
        await member.ready()
        await member.put_server(A)
        with watched(member) as (noted, _):
            await one_loop.until(lambda: noted.told == [[A]])
            asked.close()
            member.kill()
            await one_loop.until(lambda: asked.waiting)
            member.start()
            await member.ready()
            await member.client.ask("/v3/kv/deleterange", {"key": encoded(f"services/greeter/{A}")})
            revision = await member.put_server(B)
            await member.client.ask("/v3/kv/compaction", {"revision": revision})
            listed = asked.count("/v3/kv/range")
            asked.open()
            await one_loop.until(lambda: len(noted.told) == 2)
            assert noted.told == [[A], [B]]
            assert asked.count("/v3/kv/range") == listed + 1

    one_loop.run(main)


@NEEDS_ETCD
def test_an_etcd_that_comes_back_without_its_data_is_listed_anew(
    member: Member, one_loop: Loop
) -> None:
    """And servers that live register there again, since their leases are unknown."""
    member.start()

    async def main() -> None:
        await member.ready()
        await member.put_server(A)
        server = ServerService([Echo()], "tcp://127.0.0.1:*")
        server.startService()
        registration = EtcdRegistration(
            *(server, "greeter"), etcd=member.url, ttl=1, reactor=one_loop.reactor, address=B
        )
        registration.startService()
        with watched(member) as (noted, _):
            await one_loop.until(lambda: noted.told and noted.told[-1] == [A, B])
            member.kill()
            shutil.rmtree(member.folder)
            member.start()
            await one_loop.until(lambda: noted.told[-1] == [B])
            await registration.stopService()
            await server.stopService()

    one_loop.run(main)


@NEEDS_ETCD
def test_what_is_no_server_keeps_no_other_out(
    member: Member, one_loop: Loop, logged: Logged
) -> None:
    member.start()

    async def main() -> None:
        await member.ready()
        for number, value in enumerate(["{", "5", '{"address": 5}', '{"weight": 1}']):
            await member.put(str(number), value)
        await member.put("a", f'{{"address": "{A}", "weight": 3}}')
        with watched(member) as (noted, _):
            await one_loop.until(lambda: noted.told)
            await member.put("a", "nonsense now")
            await one_loop.until(lambda: len(noted.told) == 2)
            assert noted.told == [[A], []]

    one_loop.run(main)
    assert len(logged.warnings()) == 5
    assert logged.failures() == []


def test_an_etcd_that_is_not_there_is_told_and_asked_again(
    one_loop: Loop, member: Member, logged: Logged
) -> None:
    async def main() -> None:
        server = ServerService([Echo()], "tcp://127.0.0.1:*")
        server.startService()
        registration = EtcdRegistration(
            server, "greeter", etcd=member.url, reactor=one_loop.reactor
        )
        assert registration.stopService().called
        registration.startService()
        with watched(member) as (noted, resolver):
            await one_loop.until(lambda: len(noted.errors) > 1)
            assert "greeter: Connection was refused" in noted.errors[0]
            with pytest.raises(RuntimeError, match="a resolver serves one channel"):
                resolver.start(one_loop.reactor, noted)
        await registration.stopService()
        await server.stopService()

    one_loop.run(main)
    assert len(logged.warnings()) == 1
    assert logged.failures() == []


@pytest.mark.parametrize("end", ["the resolver", "the registration"])
def test_what_is_closed_while_it_connects_leaves_nothing(one_loop: Loop, end: str) -> None:
    """In any state: the end of a connection attempt is another error than that of a wait."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question, says nothing
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for turns in range(4):
                close: Callable[[], Awaitable[None] | None]
                if end == "the resolver":
                    resolver = EtcdResolver("greeter", etcd=url)
                    resolver.start(one_loop.reactor, Noted())
                    close = resolver.close
                else:
                    server = ServerService([Echo()], "tcp://127.0.0.1:*")
                    registration = EtcdRegistration(
                        *(server, "greeter"), etcd=url, address=A, reactor=one_loop.reactor
                    )
                    registration.startService()
                    close = registration.stopService
                for _ in range(turns):
                    await one_loop.sleep(0)
                closed = close()
                if closed is not None:
                    await closed
                await one_loop.sleep(0.01)
                assert len(one_loop.reactor.getDelayedCalls()) == 1  # the time limit of the test

    run: Callable[[], Coroutine[Deferred[Any], Any, None]] = main
    one_loop.run(run)
