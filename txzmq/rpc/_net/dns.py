"""A client of the Domain Name System that can be stopped, over :mod:`twisted.names.dns`.

``twisted.names.client.Resolver`` lacks what a long-lived channel needs: its timers cannot be
cancelled, it waits until the timeout when a port refuses, and it ignores ``search`` in
``/etc/resolv.conf``, without which Kubernetes' short names do not resolve.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, cast

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.names import dns, hosts
from twisted.names.common import ResolverBase
from twisted.names.error import (
    AuthoritativeDomainError,
    DNSNameError,
    DNSQueryTimeoutError,
    DomainError,
)
from twisted.python.filepath import FilePath

__all__ = ["Answer", "SystemDns", "is_absence"]

# twisted.names is typed in part, and its payloads by a zope interface: one name of type Any is
# simpler than a cast at each use.
_names: Any = dns
_hosts: Any = hosts
#: Answers, authorities and additional records, as the lookups of twisted.names return them.
Answer: TypeAlias = tuple[Sequence[Any], Sequence[Any], Sequence[Any]]

#: Seconds to wait for each server, in the first, second and third round.
_PATIENCE: Final = (1.0, 2.0, 4.0)
#: How many name servers of resolv.conf(5) are used.
_MAX_SERVERS: Final = 3
#: The time to live of an address in /etc/hosts, in seconds.
_TTL_OF_FILE: Final = 60


def is_absence(error: BaseException) -> bool:
    """Whether an error is a server's answer that there is no such name or record."""
    return isinstance(error, DNSNameError | AuthoritativeDomainError) or type(error) is DomainError


class _Config(NamedTuple):
    """The contents of resolv.conf(5)."""

    servers: list[str]
    search: list[str]
    ndots: int

    @classmethod
    def read(cls, path: Path) -> _Config:
        servers: list[str] = []
        search: list[str] = []
        ndots = 1
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            match line.split():
                case ["nameserver", address, *_]:
                    servers.append(address)
                case ["search" | "domain", *names]:
                    search = names
                case ["options", *options]:
                    for option in options:
                        name, _, value = option.partition(":")
                        if name == "ndots" and value.isdecimal():
                            ndots = int(value)
                case _:
                    pass
        return cls(servers[:_MAX_SERVERS] or ["127.0.0.1"], search, ndots)


class _Datagrams(dns.DNSDatagramProtocol):
    """One query to one server."""

    noisy = False  # or Twisted logs that it begins and ends

    def connectionRefused(self) -> None:
        waiting: dict[int, Any] = dict(self.liveMessages)
        self.liveMessages.clear()
        for deferred, timer in waiting.values():
            timer.cancel()
            deferred.errback(ConnectionRefusedError("nothing listens there"))

    def stopProtocol(self) -> None:
        # Reactors on poll and epoll close the socket of a refused query, and do not report it.
        self.connectionRefused()
        super().stopProtocol()


class _Connections(Factory):
    """One query to one server, where the answer is long."""

    noisy = False  # as above


_build_datagrams: Any = _Datagrams  # Any: its __init__, Twisted's, is untyped
_exception_for: Any = ResolverBase().exceptionForCode  # type: ignore[no-untyped-call]  # as it


class SystemDns:
    """Looks names up in ``/etc/hosts``, then asks the servers of ``/etc/resolv.conf``.

    It knows ``localhost`` also where the file does not have it.

    It reads the files for each lookup. A Deferred that is cancelled leaves no timer and no
    descriptor behind.
    """

    def __init__(
        self,
        # Any: IReactorTime, IReactorUDP and IReactorTCP are zope interfaces.
        reactor: Any,
        server: tuple[str, int] | None = None,
        *,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        hosts_file: Path = Path("/etc/hosts"),
        port: int = dns.PORT,
    ) -> None:
        """
        :param server: address and port of the only server to ask; then no file is read, and names
            are taken as complete. None for the files.
        :param resolv_conf: the file with the servers and the domains to search.
        :param hosts_file: the file with addresses of names, for which no server is asked.
        :param port: the port of the servers in *resolv_conf*.
        """
        self._reactor = reactor
        self._server = server
        self._resolv_conf = resolv_conf
        self._hosts_file = hosts_file
        self._port = port

    def lookupAddress(self, name: str) -> Deferred[Answer]:
        """The A records of a name."""
        return Deferred.fromCoroutine(self._look_up(name, dns.A))

    def lookupIPV6Address(self, name: str) -> Deferred[Answer]:
        """The AAAA records of a name."""
        return Deferred.fromCoroutine(self._look_up(name, dns.AAAA))

    def lookupService(self, name: str) -> Deferred[Answer]:
        """The SRV records of a name."""
        return Deferred.fromCoroutine(self._look_up(name, dns.SRV))

    async def _look_up(self, name: str, kind: int) -> Answer:
        if self._server is not None:
            return await self._ask(name.removesuffix("."), kind, [self._server])
        if kind != dns.SRV and (addresses := self._from_file(name)):
            return _records_of(name, kind, addresses), (), ()
        config = _Config.read(self._resolv_conf)
        servers = [(address, self._port) for address in config.servers]
        absence: Exception = DNSNameError(name)
        for candidate in _candidates(name, config):
            try:
                # A name that exists ends the search even if it has no records of this kind. Else
                # the A records could be those of one name, and the AAAA records of another.
                return await self._ask(candidate, kind, servers)
            except DNSNameError as error:
                absence = error
        raise absence

    def _from_file(self, name: str) -> list[str]:
        path = FilePath(os.fspath(self._hosts_file))
        host = name.removesuffix(".")
        found = cast(list[str], _hosts.searchFileForAll(path, host.encode("ascii")))
        # RFC 6761: no server is asked for localhost, whatever the file says.
        return found or (["127.0.0.1", "::1"] if host.lower() == "localhost" else [])

    async def _ask(self, name: str, kind: int, servers: Sequence[tuple[str, int]]) -> Answer:
        query = dns.Query(name.encode("ascii"), kind, dns.IN)
        last: Exception = _names.DNSQueryTimeoutError(0)
        for seconds in _PATIENCE:
            for server in servers:
                try:
                    message = await self._exchange(query, server, seconds)
                except (DNSQueryTimeoutError, ConnectError, OSError) as error:
                    last = error
                    continue
                if message.rCode == dns.OK:
                    return message.answers, message.authority, message.additional
                last = _exception_for(message.rCode)(message)
                if message.rCode == dns.ENAME:
                    raise last
                # Another server may know the name, or be allowed to answer.
            if not isinstance(last, DNSQueryTimeoutError):
                break  # the last one has answered, and would at once answer the same
        raise last

    async def _exchange(self, query: dns.Query, server: tuple[str, int], seconds: float) -> Any:
        message = await self._by_udp(query, server, seconds)
        if message.trunc:
            message = await self._by_tcp(query, server, seconds)
        return message

    async def _by_udp(self, query: dns.Query, server: tuple[str, int], seconds: float) -> Any:
        protocol: Any = _build_datagrams(_NoController(), reactor=self._reactor)
        # The kernel chooses the port at random. A connected socket receives only the server's
        # datagrams, and learns that the port refuses.
        port = self._reactor.listenUDP(
            0, protocol, interface="::" if isIPv6Address(server[0]) else "", maxPacketSize=65_535
        )
        try:
            protocol.transport.connect(*server)
            return await protocol.query(server, [query], seconds)
        finally:
            _forget_queries(protocol)
            port.stopListening()

    async def _by_tcp(self, query: dns.Query, server: tuple[str, int], seconds: float) -> Any:
        # Any: its timeout is typed as a whole number, though the reactor accepts fractions.
        build_endpoint: Any = TCP6ClientEndpoint if isIPv6Address(server[0]) else TCP4ClientEndpoint
        endpoint = build_endpoint(self._reactor, *server, timeout=seconds)
        build: Any = partial(_names.DNSProtocol, _NoController(), reactor=self._reactor)
        factory: Any = _Connections.forProtocol(build)
        protocol = await endpoint.connect(factory)
        try:
            return await protocol.query([query], seconds)
        finally:
            _forget_queries(protocol)
            protocol.transport.abortConnection()


class _NoController:
    """The controller that a protocol of twisted.names must have; one query needs none."""

    def connectionMade(self, protocol: object) -> None:
        """Ignore it."""

    def connectionLost(self, protocol: object) -> None:
        """Ignore it: a query that waits fails with its timeout."""

    def messageReceived(self, message: object, protocol: object, address: object = None) -> None:
        """Ignore an answer that was not asked for."""


def _forget_queries(protocol: Any) -> None:
    live: dict[int, Any] = protocol.liveMessages
    for _, timer in live.values():
        timer.cancel()
    live.clear()


def _records_of(name: str, kind: int, addresses: list[str]) -> list[Any]:
    record = _names.Record_AAAA if kind == dns.AAAA else _names.Record_A
    return [
        _names.RRHeader(name.encode("ascii"), kind, dns.IN, _TTL_OF_FILE, record(address))
        for address in addresses
        if isIPv6Address(address) == (kind == dns.AAAA)
    ]


def _candidates(name: str, config: _Config) -> Iterator[str]:
    """The complete names to try for a name, by the rules of resolv.conf(5)."""
    if name.endswith("."):
        yield name[:-1]
        return
    as_it_is_first = name.count(".") >= config.ndots
    if as_it_is_first:
        yield name
    for domain in config.search:
        yield f"{name}.{domain}".removesuffix(".")
    if not as_it_is_first:
        yield name
