"""Where a channel's servers are, and where they have gone to."""

from __future__ import annotations

import ipaddress
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.names import dns
from twisted.names.error import DNSQueryTimeoutError

from txzmq._reactor import Clock, Timer
from txzmq.rpc._net.addresses import is_ip
from txzmq.rpc._net.dns import Answer, SystemDns, is_absence
from txzmq.rpc._net.targets import DnsTarget, is_dns, parse_dns_target
from txzmq.rpc.errors import Unavailable

__all__ = [
    "DnsClient",
    "DnsResolver",
    "ResolvedAddress",
    "Resolver",
    "ResolverListener",
    "StaticResolver",
    "resolver_for",
]

_log = Logger()

#: Seconds that one resolution may take, with all its questions; gRPC's figure.
_PATIENCE: Final = 30.0
#: Seconds until a failed resolution is tried again: gRPC's connection backoff.
_BACKOFF: Final = 1.0
_BACKOFF_FACTOR: Final = 1.6
_BACKOFF_MAX: Final = 120.0
_BACKOFF_JITTER: Final = 0.2
#: Part of an interval by which it may grow, so that clients that started together drift apart.
_JITTER: Final = 0.1
#: Hosts of one SRV answer that are asked for at one time.
_HOSTS_AT_ONCE: Final = 16


class ResolvedAddress(NamedTuple):
    """A server's address.

    :ivar address: what a socket connects to, such as ``tcp://127.0.0.1:5000``, ``tcp://[::1]:5000``.
    :ivar priority: the lowest ones are to be used while any of them works (RFC 2782).
    :ivar weight: how much of the load it should get, relative to others of its priority; 0 is
        for "hardly any".
    """

    address: str
    priority: int = 0
    weight: int = 1


class ResolverListener(Protocol):
    """What a resolver tells; a channel is one."""

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        """These are all servers now; what was told before is void.

        Without doubles, the lowest priority first, in an order that does not change from answer
        to answer. Empty only where a resolver is sure that there is none.
        """
        ...

    def not_resolved(self, error: Unavailable) -> None:
        """No address is known yet; attempts go on. Not called any more once there was one."""
        ...


class Resolver(Protocol):
    """Watches where the servers of one channel are.

    An object serves one channel, which starts it and closes it. Everything happens in the
    reactor's thread.
    """

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """Begin to watch, and tell *listener* of the addresses each time they change.

        The listener may be called before this returns.

        :param clock: the channel's reactor, or in tests a clock.
        :raises RuntimeError: if it was started before.
        """
        ...

    def resolve_now(self) -> None:
        """A hint that addresses may have changed, such as that one cannot be reached any more.

        It may be given often; how often it makes a resolver look is the resolver's to say.
        """
        ...

    def close(self) -> None:
        """Stop; the listener is not called any more. May be called again, and from the listener."""
        ...


class DnsClient(Protocol):
    """Asks the DNS: the part of ``twisted.names.client.Resolver`` that is used."""

    def lookupAddress(self, name: str) -> Deferred[Answer]:
        """The A records of a name."""
        ...

    def lookupIPV6Address(self, name: str) -> Deferred[Answer]:
        """The AAAA records of a name."""
        ...

    def lookupService(self, name: str) -> Deferred[Answer]:
        """The SRV records of a name."""
        ...


def resolver_for(target: str | Iterable[str] | Resolver) -> Resolver:
    """The resolver that a target asks for.

    :param target: an address or several, such as ``tcp://127.0.0.1:5000``; or a name that is
        looked up and watched: ``dns:///host:port``, ``dns+srv:_service._tcp.example.org``; or a
        resolver, which is returned as it is.
    :raises ValueError: if it is malformed, or names no address; the message says what is right.
    """
    if isinstance(target, str):
        return DnsResolver(target) if is_dns(target) else StaticResolver(target)
    if isinstance(target, Iterable):
        return StaticResolver(target)
    return target


class StaticResolver:
    """Addresses that do not change (a :class:`Resolver`)."""

    def __init__(self, addresses: str | Iterable[str]) -> None:
        """
        :param addresses: one or many, in the order of preference; doubles count once.
        :raises ValueError: if there is none, or one has no scheme or is to be looked up.
        """
        given = [addresses] if isinstance(addresses, str) else list(addresses)
        if not given:
            raise ValueError("a channel needs an endpoint")
        for address in given:
            if is_dns(address):
                raise ValueError(
                    f"{address!r} is looked up, and cannot be one of several addresses; "
                    "a channel has one name or some addresses"
                )
            if "://" not in address:
                raise ValueError(
                    f"{address!r} is no endpoint: tcp://host:port, ipc:///path and inproc://name "
                    "are, and dns:///host:port for all addresses of a name"
                )
        self._addresses = tuple(ResolvedAddress(address) for address in dict.fromkeys(given))
        self._started = False

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """Tell the addresses, at once."""
        if self._started:
            raise RuntimeError("a resolver serves one channel")
        self._started = True
        listener.resolved(self._addresses)

    def resolve_now(self) -> None:
        """Nothing can have changed."""

    def close(self) -> None:
        """Nothing is open."""


#: A host and the kind of record that was asked for.
_Question: TypeAlias = tuple[str, int]


class _Absent(Exception):
    """The DNS says that there is no address."""


class DnsResolver:
    """Looks a name up in the DNS, again and again (a :class:`Resolver`).

    The answer's time to live says when it is asked for anew, within *min_interval* and
    *max_interval*, and up to a tenth later, so that clients that started together drift apart.
    A failed resolution is repeated after 1 s, and then after 1.6 times as long each time up to
    120 s, give or take a fifth.

    What was once resolved stays while the DNS fails or says that there is nothing: servers that
    are really gone are noticed by their connections, and a broken zone should not end what works.
    *trust_empty* has it otherwise.
    """

    def __init__(
        self,
        target: str,
        *,
        min_interval: float = 30.0,
        max_interval: float = 300.0,
        trust_empty: bool = False,
        client: DnsClient | None = None,
    ) -> None:
        """
        :param target: ``dns:///host:port`` for the A and AAAA records of a host,
            ``dns+srv:_service._tcp.example.org`` for SRV records, which have ports, priorities and
            weights; ``dns://192.0.2.53:53/host:port`` asks that DNS server, not the system's.
        :param min_interval: seconds from an answer to the next question, whatever the time to
            live is, and however often :meth:`resolve_now` is called.
        :param max_interval: seconds after which an answer is asked for anew at the latest.
        :param trust_empty: whether a name that has lost all its records means that there are no
            servers any more, so that calls fail until there are; for services that are scaled to
            nothing.
        :param client: asks the DNS; None for a client of ``/etc/hosts`` and ``/etc/resolv.conf``,
            or of the target's own DNS server.
        :raises ValueError: if the target is malformed, or *min_interval* not above 0 or above
            *max_interval*.
        """
        self.target = target
        self._parsed: DnsTarget = parse_dns_target(target)
        if not 0 < min_interval <= max_interval:
            raise ValueError(
                f"min_interval ({min_interval}) must be above 0 and at most max_interval "
                f"({max_interval})"
            )
        self._min_interval = min_interval
        self._max_interval = max_interval
        self._trust_empty = trust_empty
        self._given_client = client
        self._client: DnsClient
        self._clock: Clock
        self._listener: ResolverListener | None = None
        self._closed = False
        self._timer: Timer | None = None
        # When it runs.
        self._due = 0.0
        self._running: Deferred[Any] | None = None  # Any: it ends in nothing
        # What the listener knows; None before it was told of any.
        self._told: tuple[ResolvedAddress, ...] | None = None
        self._failures = 0
        #: When resolve_now may have its way at the earliest; infinite while backing off.
        self._not_before = 0.0
        # The last good addresses by question: one that fails is answered from here.
        self._known: dict[_Question, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"DnsResolver({self.target!r})"

    # -- Resolver ------------------------------------------------------------------------------

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """Ask for the first time; see :class:`Resolver`."""
        if self._listener is not None or self._closed:
            raise RuntimeError("a resolver serves one channel")
        self._clock = clock
        self._listener = listener
        self._client = self._given_client or SystemDns(clock, self._parsed.server)
        if is_ip(self._parsed.host):
            self._tell((ResolvedAddress(_spell(self._parsed.host, self._parsed.port)),))
        else:
            self._resolve()

    def resolve_now(self) -> None:
        """Ask again, but not before *min_interval* is over, nor during the backoff of a failure."""
        if self._timer is not None:
            now = self._clock.seconds()
            when = max(now, self._not_before)
            if when < self._due:
                self._due = when
                self._timer.reset(when - now)

    def close(self) -> None:
        """Stop asking; see :class:`Resolver`."""
        self._closed = True
        timer, self._timer = self._timer, None
        running, self._running = self._running, None
        if timer is not None:
            timer.cancel()
        if running is not None:
            running.cancel()

    # -- when ----------------------------------------------------------------------------------

    def _resolve(self) -> None:
        self._timer = None
        look_up = self._look_up_services if self._parsed.port == 0 else self._look_up_host
        running = self._running = Deferred.fromCoroutine(look_up())
        clock: Any = self._clock  # a zope interface in Twisted's types
        running.addTimeout(_PATIENCE, clock)
        running.addCallbacks(self._succeeded, self._failed)
        running.addErrback(lambda failure: _log.failure("a bug in {r!r}", failure, r=self))

    def _succeeded(self, result: tuple[tuple[ResolvedAddress, ...], float]) -> None:
        if self._closed:
            return
        addresses, ttl = result
        if self._failures and self._told is not None:
            _log.info("{target} can be resolved again", target=self.target)
        self._failures = 0
        interval = min(max(ttl, self._min_interval), self._max_interval)
        self._not_before = self._clock.seconds() + self._min_interval
        self._schedule(interval * (1 + _JITTER * random.random()))
        self._tell(addresses)

    def _failed(self, failure: Any) -> None:  # Any: pyright knows a Failure in parts only
        if self._closed:
            return
        reason: BaseException = failure.value
        error = Unavailable(f"{self.target} cannot be resolved: {_describe(reason)}")
        backoff = min(_BACKOFF * _BACKOFF_FACTOR**self._failures, _BACKOFF_MAX)
        self._failures = min(self._failures + 1, 100)  # the power of more would overflow, in a year
        self._not_before = math.inf
        self._schedule(backoff * random.uniform(1 - _BACKOFF_JITTER, 1 + _BACKOFF_JITTER))
        if self._told is None:
            assert self._listener is not None
            self._listener.not_resolved(error)
        elif self._trust_empty and isinstance(reason, _Absent):
            self._tell(())
        elif self._failures == 1:
            _log.warn("{error}; the last answer stays in use", error=error.message)

    def _schedule(self, delay: float) -> None:
        self._running = None
        self._due = self._clock.seconds() + delay
        self._timer = self._clock.callLater(delay, self._resolve)

    def _tell(self, addresses: tuple[ResolvedAddress, ...]) -> None:
        if addresses != self._told:
            self._told = addresses
            assert self._listener is not None
            self._listener.resolved(addresses)

    # -- what ----------------------------------------------------------------------------------

    async def _look_up_host(self) -> tuple[tuple[ResolvedAddress, ...], float]:
        host, port = self._parsed.host, self._parsed.port
        lookup = _Lookup(self._client, self._known, self._min_interval)
        ips = await lookup.ips(host)
        if lookup.error is not None and (lookup.nothing_answered or not ips):
            raise lookup.error
        if not ips:
            raise _Absent(f"{host} has no A or AAAA record")
        self._known = lookup.known
        return _in_order(ResolvedAddress(_spell(ip, port)) for ip in ips), lookup.ttl

    async def _look_up_services(self) -> tuple[tuple[ResolvedAddress, ...], float]:
        name = self._parsed.host
        lookup = _Lookup(self._client, self._known, self._min_interval)
        services, by_host = await lookup.services(name)
        if not services:
            raise _Absent(f"{name} has no SRV record")
        semaphore = DeferredSemaphore(_HOSTS_AT_ONCE)

        async def ask(host: str) -> None:
            await semaphore.acquire()
            try:
                by_host[host] = await lookup.ips(host)
            finally:
                semaphore.release()

        hosts = {host for host, *_ in services}.difference(by_host)
        asked = [Deferred.fromCoroutine(ask(host)) for host in sorted(hosts)]
        # Backwards, for they are cancelled in this order: those that wait for the semaphore must
        # go before those that give it back.
        for success, _ in await DeferredList(asked[::-1], consumeErrors=True):
            if not success:
                raise CancelledError  # the time was up before every host was asked
        addresses = _in_order(
            ResolvedAddress(_spell(ip, port), priority, weight)
            for host, port, priority, weight in services
            for ip in by_host[host]
        )
        if not addresses:
            raise lookup.error or _Absent(f"no host of {name} has an A or AAAA record")
        self._known = lookup.known
        return addresses, lookup.ttl


class _Lookup:
    """The questions of one resolution."""

    def __init__(
        self, client: DnsClient, known: dict[_Question, tuple[str, ...]], retry: float
    ) -> None:
        self._client = client
        self._known_before = known
        self._retry = retry
        #: The good answers, and those of before where there was none.
        self.known: dict[_Question, tuple[str, ...]] = {}
        #: Seconds for which all that was used is good.
        self.ttl = math.inf
        #: Why the last question failed that did.
        self.error: Exception | None = None
        #: Whether no question was answered, be it with "no such name".
        self.nothing_answered = True

    async def ips(self, host: str) -> list[str]:
        """The addresses of a host, of both families; those of before where asking failed."""
        # Any: a DeferredList holds results and failures alike.
        answers: Any = await DeferredList(
            [self._client.lookupAddress(host), self._client.lookupIPV6Address(host)],
            consumeErrors=True,
        )
        ips: list[str] = []
        for kind, (success, answer) in zip((dns.A, dns.AAAA), answers, strict=True):
            ips += self._take((host, kind), success, answer)
        return ips

    def _take(self, question: _Question, success: bool, answer: Any) -> tuple[str, ...]:
        if success:
            self.nothing_answered = False
            ips = self._read(question[1], answer[0])
        elif is_absence(answer.value):
            self.nothing_answered = False
            ips = ()
        else:
            # What another question says is still of use: the addresses of before go with it.
            self.error = answer.value
            self.ttl = min(self.ttl, self._retry)
            ips = self._known_before.get(question, ())
        self.known[question] = ips
        return ips

    async def services(
        self, name: str
    ) -> tuple[list[tuple[str, int, int, int]], dict[str, list[str]]]:
        """Host, port, priority and weight of each SRV record; and the addresses sent along."""
        try:
            answers, _, additional = await self._client.lookupService(name)
        except Exception as error:
            if is_absence(error):
                raise _Absent(f"{name} does not exist") from error
            raise
        services: list[tuple[str, int, int, int]] = []
        for record in answers:
            if record.type == dns.SRV:
                payload = record.payload
                host = payload.target.name.decode("ascii", errors="replace").lower()
                # The root says that the service is decidedly not there (RFC 2782).
                if host and host.isascii() and payload.port:
                    self.ttl = min(self.ttl, record.ttl)
                    services.append((host, payload.port, payload.priority, payload.weight))
        hosts = {host for host, *_ in services}
        by_host: dict[str, list[str]] = {}
        for record in additional:
            host = record.name.name.decode("ascii", errors="replace").lower()
            if host in hosts and record.type in (dns.A, dns.AAAA):
                by_host.setdefault(host, []).append(_ip_of(record))
                self.ttl = min(self.ttl, record.ttl)
        return services, by_host

    def _read(self, kind: int, records: Sequence[Any]) -> tuple[str, ...]:
        ips: list[str] = []
        for record in records:
            if record.type == kind:
                ips.append(_ip_of(record))
            if record.type in (kind, dns.CNAME):
                self.ttl = min(self.ttl, record.ttl)
        return tuple(ips)


def _ip_of(record: Any) -> str:
    return str(ipaddress.ip_address(record.payload.address))


def _spell(ip: str, port: int) -> str:
    return f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}"


def _in_order(addresses: Iterable[ResolvedAddress]) -> tuple[ResolvedAddress, ...]:
    """Each address once, where it is best; an order that shuffled answers do not change.

    IPv4 comes before IPv6: where one of the two does not work it is oftener the latter.
    """
    best: dict[str, ResolvedAddress] = {}
    for address in sorted(addresses, key=lambda a: (a.priority, -a.weight, _ordinal(a.address))):
        best.setdefault(address.address, address)
    return tuple(best.values())


def _ordinal(address: str) -> tuple[int, bytes, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    ip = ipaddress.ip_address(host.strip("[]"))
    return ip.version, ip.packed, int(port)


def _describe(error: BaseException) -> str:
    match error:
        case _Absent():
            return str(error)
        case DeferredTimeoutError() | DNSQueryTimeoutError():
            return "no DNS server answers"
        case ConnectionError() | OSError():
            return f"no DNS server can be reached ({error})"
        case _:
            # twisted.names carries the whole message; the class says what it was.
            return f"the DNS server refuses or fails ({type(error).__name__})"
