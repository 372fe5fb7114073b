"""Names looked up at a real DNS server, Debian's dnsmasq-base."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import DatagramProtocol
from twisted.names.error import DNSNameError, DNSQueryRefusedError

from tests.rpc.dns_server import NEEDS_DNSMASQ, dnsmasq, free_port
from tests.rpc.service import ECHO, Echo, text
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, DnsResolver, ResolvedAddress, Server, Unavailable
from txzmq.rpc._net.dns import SystemDns

pytestmark = NEEDS_DNSMASQ


class Noted:
    """What a resolver told."""

    def __init__(self) -> None:
        self.told: list[list[ResolvedAddress]] = []
        self.errors: list[str] = []

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        self.told.append(list(addresses))

    def not_resolved(self, error: Unavailable) -> None:
        self.errors.append(error.message)

    @property
    def addresses(self) -> list[str]:
        return [address.address for address in self.told[-1]] if self.told else []


class Watch:
    """A resolver of a DNS server on a port of this machine."""

    def __init__(self, loop: Loop, target: str) -> None:
        self.noted = Noted()
        self.resolver = DnsResolver(target, min_interval=0.05, max_interval=0.1)
        self.resolver.start(loop.reactor, self.noted)


def test_addresses_of_both_families_and_their_changes(loop: Loop) -> None:
    port = free_port()

    async def main() -> None:
        with dnsmasq(port, "--host-record=a.test,192.0.2.1,2001:db8::1,60"):
            watch = Watch(loop, f"dns://127.0.0.1:{port}/a.test:80")
            await loop.until(lambda: watch.noted.told)
            assert watch.noted.addresses == ["tcp://192.0.2.1:80", "tcp://[2001:db8::1]:80"]
        with dnsmasq(port, "--host-record=a.test,192.0.2.2,60"):
            await loop.until(lambda: len(watch.noted.told) > 1)
        assert watch.noted.addresses == ["tcp://192.0.2.2:80"]
        assert watch.noted.errors == []  # while the server was away, the last answer stayed
        watch.resolver.close()

    loop.run(main)


def test_services_with_ports_priorities_and_weights(one_loop: Loop) -> None:
    port = free_port()
    hosts = ["--host-record=a.test,192.0.2.1,60", "--host-record=b.test,192.0.2.2,::1,60"]
    srv = "--srv-host=_rpc._tcp.test,"

    async def main() -> None:
        with dnsmasq(port, *hosts, f"{srv}a.test,5001,10,3", f"{srv}b.test,5002,5,0"):
            watch = Watch(one_loop, f"dns+srv://127.0.0.1:{port}/_rpc._tcp.test")
            await one_loop.until(lambda: watch.noted.told)
            assert watch.noted.told == [
                [
                    ResolvedAddress("tcp://192.0.2.2:5002", 5, 0),
                    ResolvedAddress("tcp://[::1]:5002", 5, 0),
                    ResolvedAddress("tcp://192.0.2.1:5001", 10, 3),
                ]
            ]
        with dnsmasq(port, *hosts, f"{srv}a.test,5003,10,3"):
            await one_loop.until(lambda: len(watch.noted.told) > 1)
        assert watch.noted.addresses == ["tcp://192.0.2.1:5003"]
        watch.resolver.close()

    one_loop.run(main)


def test_answers_too_long_for_a_datagram_come_by_tcp(loop: Loop) -> None:
    port = free_port()
    expected = [f"tcp://192.0.2.{i}:80" for i in range(1, 101)]

    async def main() -> None:
        with dnsmasq(port, *(f"--host-record=a.test,192.0.2.{i}" for i in range(1, 101))):
            watch = Watch(loop, f"dns://127.0.0.1:{port}/a.test:80")
            await loop.until(lambda: watch.noted.told)
        assert watch.noted.addresses == expected
        watch.resolver.close()
        await loop.sleep(0.01)  # the reactor forgets an aborted connection in its next turn

    loop.run(main)


def test_a_hosts_file_that_changes(one_loop: Loop, tmp_path: Path) -> None:
    port = free_port()
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 a.test\n")

    async def main() -> None:
        with dnsmasq(port, f"--addn-hosts={hosts}") as server:
            watch = Watch(one_loop, f"dns://127.0.0.1:{port}/a.test:80")
            await one_loop.until(lambda: watch.noted.addresses == ["tcp://192.0.2.1:80"])
            hosts.write_text("192.0.2.1 a.test\n192.0.2.2 a.test\n")
            server.hang_up()
            await one_loop.until(lambda: len(watch.noted.addresses) == 2)
        watch.resolver.close()

    one_loop.run(main)


def test_a_channel_asks_the_server(loop: Loop) -> None:
    dns_port = free_port()

    async def main() -> str:
        factory = ZmqFactory(loop.reactor)
        server = Server(factory, [Echo()])
        port = server.listen("tcp://127.0.0.1:*").rpartition(":")[2]
        with dnsmasq(dns_port, "--host-record=greeter.test,127.0.0.1"):
            channel = Channel(factory, f"dns://127.0.0.1:{dns_port}/greeter.test:{port}")
            reply = await channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
            channel.close()
        await server.stop(0)
        factory.shutdown()
        return reply.value

    assert loop.run(main) == "x"


def test_a_name_that_is_not_there_and_then_is(one_loop: Loop) -> None:
    port = free_port()

    async def main() -> None:
        with dnsmasq(port):
            watch = Watch(one_loop, f"dns://127.0.0.1:{port}/a.test:80")
            await one_loop.until(lambda: watch.noted.errors)
        with dnsmasq(port, "--host-record=a.test,192.0.2.1"):
            await one_loop.until(lambda: watch.noted.told)
        assert "a.test has no A or AAAA record" in watch.noted.errors[0]
        assert watch.noted.addresses == ["tcp://192.0.2.1:80"]
        watch.resolver.close()

    one_loop.run(main)


def test_no_server_listens_is_known_at_once(loop: Loop) -> None:
    port = free_port()

    async def main() -> None:
        began = loop.reactor.seconds()
        watch = Watch(loop, f"dns://127.0.0.1:{port}/a.test:80")
        await loop.until(lambda: watch.noted.errors)
        assert "no DNS server can be reached (nothing listens there)" in watch.noted.errors[0]
        assert loop.reactor.seconds() - began < 0.9  # less than the first timeout
        watch.resolver.close()

    loop.run(main)


def test_closing_during_a_question_leaves_nothing_behind(loop: Loop) -> None:
    async def main() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            watch = Watch(loop, f"dns://127.0.0.1:{silent.getsockname()[1]}/a.test:80")
            await loop.sleep(0.01)
            watch.resolver.close()
            await loop.sleep(0)

    loop.run(main)  # which looks for timers and readers that are left


def test_closing_during_a_question_by_tcp_leaves_nothing_behind(loop: Loop) -> None:
    port = free_port()

    async def main() -> None:
        with dnsmasq(port, *(f"--host-record=a.test,192.0.2.{i}" for i in range(1, 101))):
            for i in range(10):
                watch = Watch(loop, f"dns://127.0.0.1:{port}/a.test:80")
                await loop.sleep(i * 0.001)
                watch.resolver.close()
        await loop.sleep(0.01)

    loop.run(main)


class System:
    """The system's files, as a test has them, with the port of its own server."""

    def __init__(self, loop: Loop, tmp_path: Path, port: int) -> None:
        self.hosts = tmp_path / "hosts"
        self.resolv_conf = tmp_path / "resolv.conf"
        self.client = SystemDns(
            loop.reactor, resolv_conf=self.resolv_conf, hosts_file=self.hosts, port=port
        )

    async def ips(self, name: str) -> list[str]:
        answers: Sequence[Any] = (await self.client.lookupAddress(name))[0]
        return [record.payload.dottedQuad() for record in answers]


def test_the_systems_files(one_loop: Loop, tmp_path: Path) -> None:
    port = free_port()
    system = System(one_loop, tmp_path, port)
    system.hosts.write_text("192.0.2.77 inhosts other  # a remark\n::7 inhosts\n")
    # Nobody listens at the first server.
    system.resolv_conf.write_text(
        "# a remark\nnameserver 127.0.0.2\nnameserver 127.0.0.1\n"
        "search ns.svc.test svc.test\noptions timeout:1 ndots:5\n"
    )
    records = [
        "--host-record=b.ns.svc.test,192.0.2.1",
        "--host-record=b.svc.test,192.0.2.2",
        "--host-record=c.svc.test,192.0.2.3",
        "--host-record=d.test,192.0.2.4",
        "--host-record=e.ns.svc.test,::5",
        "--host-record=e.svc.test,192.0.2.5",
    ]

    async def main() -> None:
        with dnsmasq(port, *records):
            assert await system.ips("inhosts") == ["192.0.2.77"]
            assert await system.ips("INHOSTS.") == ["192.0.2.77"]
            assert len((await system.client.lookupIPV6Address("inhosts"))[0]) == 1
            assert list((await system.client.lookupIPV6Address("other"))[0]) == []
            assert await system.ips("b") == ["192.0.2.1"]
            assert await system.ips("c") == ["192.0.2.3"]
            assert await system.ips("d.test") == ["192.0.2.4"]
            assert await system.ips("b.svc.test.") == ["192.0.2.2"]
            assert await system.ips("e") == []  # the name exists, and the search is over
            with pytest.raises(DNSNameError):
                await system.ips("nothing.test")
            with pytest.raises(DNSNameError):
                await system.ips("b.test.")

    one_loop.run(main)


def test_a_server_that_refuses_is_not_asked_again(one_loop: Loop, tmp_path: Path) -> None:
    port = free_port()
    system = System(one_loop, tmp_path, port)

    async def main() -> None:
        # Without a resolv.conf, this machine's own server is asked.
        with dnsmasq(port), pytest.raises(DNSQueryRefusedError):
            await system.ips("example.org")

    one_loop.run(main)


def test_a_server_with_an_ipv6_address(loop: Loop) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    port = free_port()

    async def main() -> None:
        records = [f"--host-record=a.test,192.0.2.{i}" for i in range(1, 101)]
        with dnsmasq(port, *records, address="::1"):
            watch = Watch(loop, f"dns://[::1]:{port}/a.test:80")
            await loop.until(lambda: len(watch.noted.addresses) == 100)
        watch.resolver.close()
        await loop.sleep(0.01)

    loop.run(main)


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_garbage_for_an_answer_is_waited_out(one_loop: Loop, logged: Logged) -> None:
    class Garbage(DatagramProtocol):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            port.write(b"garbage", addr)
            port.write(datagram[:2] + b"\xff" * 40, addr)

    port = one_loop.reactor.listenUDP(0, Garbage(), interface="127.0.0.1")

    async def main() -> None:
        watch = Watch(one_loop, f"dns://127.0.0.1:{port.getHost().port}/a.test:80")
        await one_loop.until(lambda: logged or watch.noted.errors)
        assert watch.noted.told == []
        watch.resolver.close()
        await port.stopListening()

    one_loop.run(main)
