"""A fake of the DNS, a resolver that asks it, and what the resolver told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSQueryTimeoutError

from txzmq.rpc import DnsResolver, ResolvedAddress, Unavailable

names: Any = dns  # twisted.names is untyped in parts
timed_out: Any = partial(DNSQueryTimeoutError, 1)  # Any: as above
Result = Sequence[Any] | Exception | None


class FakeDns:
    """Answers what the test has set, at once; what is set to None when the test says so."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, int], Result] = {}
        self.additional: list[Any] = []
        self.asked: list[tuple[str, int]] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0

    def lookupAddress(self, name: str) -> Deferred[Any]:
        return self._answer(name, dns.A)

    def lookupIPV6Address(self, name: str) -> Deferred[Any]:
        return self._answer(name, dns.AAAA)

    def lookupService(self, name: str) -> Deferred[Any]:
        return self._answer(name, dns.SRV)

    def _answer(self, name: str, kind: int) -> Deferred[Any]:
        self.asked.append((name, kind))
        result = self.zone.get((name, kind), DNSNameError(name))
        if result is None:
            waiting: Deferred[Any] = Deferred(self._cancel)
            self.waiting.append(waiting)
            return waiting
        if isinstance(result, Exception):
            return fail(result)
        return succeed((result, [], self.additional))

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled += 1

    def set_ips(self, name: str, *ips: str, ttl: int = 60) -> None:
        """The addresses of a name, which may be a list of none."""
        self.zone[name, dns.A] = [a(name, ip, ttl) for ip in ips if ":" not in ip]
        self.zone[name, dns.AAAA] = [a(name, ip, ttl) for ip in ips if ":" in ip]

    def set_services(self, name: str, *services: tuple[str, int, int, int], ttl: int = 60) -> None:
        """Host, port, priority, weight."""
        self.zone[name, dns.SRV] = [
            names.RRHeader(
                name.encode(), dns.SRV, dns.IN, ttl, names.Record_SRV(priority, weight, port, host)
            )
            for host, port, priority, weight in services
        ]


def a(name: str, ip: str, ttl: int) -> Any:
    kind, payload = (dns.AAAA, names.Record_AAAA(ip)) if ":" in ip else (dns.A, names.Record_A(ip))
    return names.RRHeader(name.encode(), kind, dns.IN, ttl, payload)


class Noted:
    """What a resolver told."""

    def __init__(self) -> None:
        self.told: list[list[ResolvedAddress]] = []
        self.errors: list[str] = []
        self.then: Callable[[], object] = lambda: None

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        self.told.append(list(addresses))
        self.then()

    def not_resolved(self, error: Unavailable) -> None:
        self.errors.append(error.message)
        self.then()

    @property
    def addresses(self) -> list[str]:
        """Those told last."""
        return [address.address for address in self.told[-1]]


class World:
    """A resolver with its surroundings."""

    def __init__(self, target: str = "dns:///h:80", **options: Any) -> None:
        self.clock: Any = Clock()  # Any: its calls are typed with a zope interface
        self.dns = FakeDns()
        self.noted = Noted()
        self.resolver = DnsResolver(target, client=self.dns, **options)

    def start(self) -> None:
        self.resolver.start(self.clock, self.noted)

    def next_question_in(self) -> float:
        (call,) = self.clock.getDelayedCalls()
        return float(call.getTime() - self.clock.seconds())

    def rounds(self) -> int:
        return sum(kind == dns.A for _, kind in self.dns.asked)

    def end(self) -> None:
        self.resolver.close()
        assert self.clock.getDelayedCalls() == []
