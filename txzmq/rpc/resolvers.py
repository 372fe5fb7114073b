"""Finds the addresses of a channel's servers, and tells when they change."""

from __future__ import annotations

import ipaddress
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.names import dns
from twisted.names.error import DNSQueryTimeoutError

from txzmq import _check
from txzmq._escape import escaped
from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._net.addresses import ip_of, is_ip, split_tcp, tcp_address
from txzmq.rpc._net.dns import Answer, SystemDns, is_absence
from txzmq.rpc._net.endpoints import checked_target, static_addresses
from txzmq.rpc._net.targets import DnsTarget, parse_dns_target
from txzmq.rpc.errors import Unavailable

__all__ = [
    "DnsClient",
    "DnsResolver",
    "ResolvedAddress",
    "Resolver",
    "ResolverListener",
    "StaticResolver",
    "check_resolved",
    "resolver_for",
    "unresolved",
]

_log = Logger()

#: Seconds that one resolution may take, with all its queries; as in gRPC.
_PATIENCE: Final = 30.0
#: Seconds until a failed resolution is tried again, as in gRPC's connection backoff.
_BACKOFF: Final = 1.0
_BACKOFF_FACTOR: Final = 1.6
_BACKOFF_MAX: Final = 120.0
_BACKOFF_JITTER: Final = 0.2
#: The part of an interval that is added to it at random at most, so that clients that started
#: together drift apart.
_JITTER: Final = 0.1
#: How many hosts of one SRV answer are looked up at the same time.
_HOSTS_AT_ONCE: Final = 16


class _AddressParts(NamedTuple):
    """What a ResolvedAddress is made of: a NamedTuple itself cannot check what it is given."""

    address: str
    priority: int
    weight: int


class ResolvedAddress(_AddressParts):
    """A server's address, a tuple of these three.

    :ivar address: what a socket connects to, such as ``tcp://127.0.0.1:5000``, ``tcp://[::1]:5000``.
        Whether it is one is for the channel to say, which knows its network.
    :ivar priority: servers of the lowest priority are used as long as any of them works (RFC 2782).
    :ivar weight: the server's share of the load, relative to others of its priority; 0 for hardly
        any.
    """

    __slots__ = ()

    def __new__(cls, address: str, priority: int = 0, weight: int = 1) -> Self:
        """
        :raises TypeError: for a value of a wrong type.
        :raises ValueError: if *address* is empty, or a number is below 0.
        """
        _check.text("address", address)
        _check.integer("priority", priority)
        _check.integer("weight", weight)
        return super().__new__(cls, address, priority, weight)

    @classmethod
    # Both checkers take it for final, and Python does not: a copy is to be checked, too.
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        """As of any named tuple; ``_replace`` calls it."""
        return cls(*iterable)


def check_resolved(addresses: object) -> None:
    """Check what a resolver tells.

    :raises TypeError: for a value of a wrong type.
    """
    expected = "a sequence of ResolvedAddress"
    # One address is a sequence, too: of its three parts.
    one = isinstance(addresses, (str, bytes, ResolvedAddress))
    if one or not isinstance(addresses, Sequence):
        raise _check.wrong_type("addresses", addresses, expected)
    # The cast is for pyright: a sequence of what?
    for index, address in enumerate(cast("Sequence[object]", addresses)):
        if not isinstance(address, ResolvedAddress):
            raise _check.wrong_type(f"addresses[{index}]", address, "a ResolvedAddress")


class ResolverListener(Protocol):
    """What a resolver tells; a channel listens."""

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        """These are all servers now, in place of those told before.

        :param addresses: each once, the lowest priority first, in an order that does not change
            from answer to answer. Empty only if the resolver is sure that there is none.
        """
        ...

    def not_resolved(self, error: Unavailable) -> None:
        """No address is known yet; attempts go on. Not called after :meth:`resolved`."""
        ...


class Resolver(Protocol):
    """Finds the addresses of one channel's servers.

    The channel starts it and closes it. All methods are called in the reactor's thread, and so is
    the listener.
    """

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """Begin to resolve, and tell *listener* of the addresses each time they change.

        The listener may be called before this returns.

        :param clock: the channel's reactor; in tests a clock.
        :raises RuntimeError: if it was started before.
        """
        ...

    def resolve_now(self) -> None:
        """Take a hint that addresses may have changed: one cannot be reached any more, for example.

        A channel may give it often; the resolver decides how often it looks.
        """
        ...

    def close(self) -> None:
        """Stop; the listener is not called any more. May be called again, and from the listener."""
        ...


def unresolved(resolver: Resolver, *, told: bool) -> list[str]:
    """What a resolver has no answer for yet, in words for an error.

    :param told: whether it has told of any address.
    """
    # Only those of txzmq say it; it is not asked of a user's.
    waiting: list[str] | None = getattr(resolver, "unresolved", None)
    if waiting is None:
        return [] if told else ["the resolver has told no address yet"]
    return waiting


class DnsClient(Protocol):
    """The part of ``twisted.names.client.Resolver`` that asks the DNS."""

    def lookupAddress(self, name: str) -> Deferred[Answer]:
        """Look up the A records of a name."""
        ...

    def lookupIPV6Address(self, name: str) -> Deferred[Answer]:
        """Look up the AAAA records of a name."""
        ...

    def lookupService(self, name: str) -> Deferred[Answer]:
        """Look up the SRV records of a name."""
        ...


def resolver_for(target: str | Iterable[str] | Resolver) -> Resolver:
    """The resolver for a target.

    :param target: an address or several, such as ``tcp://127.0.0.1:5000``; or a name that is
        looked up again and again: ``dns:///host:port``, ``dns+srv:_service._tcp.example.org``; or
        a resolver, which is returned as it is. A range of ports, ``tcp://host:5000-5003``, is so
        many addresses, with a name, too.
    :raises ValueError: if it is malformed, or has no address; the message says what to use.
    :raises TypeError: if it is nothing of these.
    """
    checked: Resolver | str | tuple[str, ...] = checked_target(target, "target")
    if isinstance(checked, str):
        return DnsResolver(checked)
    return StaticResolver(checked) if isinstance(checked, tuple) else checked


class StaticResolver:
    """Addresses that do not change (a :class:`Resolver`)."""

    def __init__(self, addresses: str | Iterable[str]) -> None:
        """
        :param addresses: one or many, in the order of preference; duplicates are left out. A range
            of ports, such as ``tcp://10.0.0.7:5000-5003``, is so many addresses.
        :raises ValueError: if there is none, or one is malformed or a DNS name. Whether it needs a
            port and which schemes there are is for the channel's network to say.
        :raises TypeError: if one is no str.
        """
        self._addresses = tuple(map(ResolvedAddress, static_addresses(addresses, "addresses")))
        self._started = False

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """Tell the listener of the addresses, at once."""
        if self._started:
            raise RuntimeError("a resolver serves one channel")
        self._started = True
        listener.resolved(self._addresses)

    @property
    def unresolved(self) -> list[str]:
        """Nothing: there is nothing to look up."""
        return []

    def resolve_now(self) -> None:
        """Do nothing, since the addresses do not change."""

    def close(self) -> None:
        """Do nothing, since nothing is open."""


#: A host name, and the type of the record that is looked up.
_Question: TypeAlias = tuple[str, int]


class _NoAddress(Exception):
    """The DNS answers that there is no address."""


class DnsResolver:
    """Looks a name up in the DNS, again and again (a :class:`Resolver`).

    It looks the name up again when the answer's time to live is over, but not before *min_interval*
    and not after *max_interval*, and up to a tenth later, so that clients that started together
    drift apart. It repeats a failed resolution after 1 s, then each time after 1.6 times as long up
    to 120 s, varied by a fifth.

    The last addresses stay in use while the DNS fails, or answers that there are none: the channel
    notices by its connections when servers are really gone, and an error in a zone should not end
    what works. *trust_empty* changes that for empty answers.
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
            weights; ``dns://192.0.2.53:53/host:port`` asks that DNS server, not the system's. A
            range of ports, ``dns:///host:5000-5003``, is so many addresses of each host.
        :param min_interval: seconds from an answer to the next lookup at least, whatever the time
            to live is, and however often :meth:`resolve_now` is called.
        :param max_interval: seconds from an answer to the next lookup at most, before the tenth.
        :param trust_empty: whether a name without records means that there are no servers any more,
            so that calls fail until there are some; for services that are scaled to zero.
        :param client: asks the DNS; None for a client that uses ``/etc/hosts`` and
            ``/etc/resolv.conf``, or the target's own DNS server.
        :raises ValueError: if the target is malformed, or unless
            0 < *min_interval* <= *max_interval*.
        """
        self.target = target
        self._parsed: DnsTarget = parse_dns_target(target)
        _check.number("min_interval", min_interval, above=True)
        _check.number("max_interval", max_interval, above=True)
        if min_interval > max_interval:
            raise ValueError(
                f"min_interval ({min_interval}) must be at most max_interval ({max_interval})"
            )
        _check.boolean("trust_empty", trust_empty)
        if client is not None and not hasattr(client, "lookupAddress"):
            raise _check.wrong_type("client", client, "a DnsClient or None")
        self._min_interval = min_interval
        self._max_interval = max_interval
        self._trust_empty = trust_empty
        self._given_client = client
        self._client: DnsClient
        self._clock: Clock
        self._listener: ResolverListener | None = None
        self._closed = False
        self._timer: ResettableTimer | None = None  # None until start() gives the clock
        # When the timer runs.
        self._due = 0.0
        self._running: Deferred[Any] | None = None  # Any: its result is not used
        # The addresses that the listener was told of; None before the first.
        self._current: tuple[ResolvedAddress, ...] | None = None
        self._failures = 0
        # When resolve_now() may start a resolution at the earliest; infinite after a failure.
        self._not_before = 0.0
        # By question, the last good addresses, which are used when it fails.
        self._known: dict[_Question, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"DnsResolver({self.target!r})"

    @property
    def unresolved(self) -> list[str]:
        """What it has no answer for yet, in words for an error; empty once it has told of one."""
        return [f"the DNS has not answered for {self.target} yet"] if self._current is None else []

    # -- Resolver ------------------------------------------------------------------------------

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """Look the target up for the first time; see :class:`Resolver`."""
        if self._listener is not None or self._closed:
            raise RuntimeError("a resolver serves one channel")
        self._clock = clock
        self._timer = ResettableTimer(clock, self._resolve)
        self._listener = listener
        self._client = self._given_client or SystemDns(clock, self._parsed.server)
        if is_ip(self._parsed.host):
            self._tell(self._addresses_of([self._parsed.host]))
        else:
            self._resolve()

    def resolve_now(self) -> None:
        """Look it up again, but not before *min_interval*, nor during the backoff of a failure."""
        if self._timer is not None and self._timer.is_running:
            now = self._clock.seconds()
            when = max(now, self._not_before)
            if when < self._due:
                self._due = when
                self._timer.start(when - now)

    def close(self) -> None:
        """Stop; see :class:`Resolver`."""
        self._closed = True
        running, self._running = self._running, None
        if self._timer is not None:
            self._timer.stop()
        if running is not None:
            running.cancel()

    # -- when ----------------------------------------------------------------------------------

    def _resolve(self) -> None:
        look_up = self._look_up_host if self._parsed.ports else self._look_up_services
        running = self._running = Deferred.fromCoroutine(look_up())
        clock: Any = self._clock  # a zope interface in Twisted's types
        running.addTimeout(_PATIENCE, clock)
        running.addCallbacks(self._succeeded, self._failed)
        running.addErrback(lambda failure: _log.failure("a bug in {r!r}", failure, r=self))

    def _succeeded(self, result: tuple[tuple[ResolvedAddress, ...], float]) -> None:
        if self._closed:
            return
        addresses, ttl = result
        if self._failures and self._current is not None:
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
        self._failures = min(self._failures + 1, 100)  # a higher power would overflow
        self._not_before = math.inf
        self._schedule(backoff * random.uniform(1 - _BACKOFF_JITTER, 1 + _BACKOFF_JITTER))
        if self._current is None:
            assert self._listener is not None
            self._listener.not_resolved(error)
        elif self._trust_empty and isinstance(reason, _NoAddress):
            self._tell(())
        elif self._failures == 1:
            _log.warn("{error}; the last answer stays in use", error=escaped(error.message))

    def _schedule(self, delay: float) -> None:
        self._running = None
        self._due = self._clock.seconds() + delay
        assert self._timer is not None
        self._timer.start(delay)

    def _tell(self, addresses: tuple[ResolvedAddress, ...]) -> None:
        if addresses != self._current:
            self._current = addresses
            assert self._listener is not None
            self._listener.resolved(addresses)

    # -- what ----------------------------------------------------------------------------------

    async def _look_up_host(self) -> tuple[tuple[ResolvedAddress, ...], float]:
        host = self._parsed.host
        lookup = _Lookup(self._client, self._known, self._min_interval)
        ips = await lookup.ips(host)
        if lookup.error is not None and (lookup.nothing_answered or not ips):
            raise lookup.error
        if not ips:
            raise _NoAddress(f"{host} has no A or AAAA record")
        self._known = lookup.known
        return self._addresses_of(ips), lookup.ttl

    def _addresses_of(self, ips: Iterable[str]) -> tuple[ResolvedAddress, ...]:
        """Each port of each host."""
        ports = self._parsed.ports
        return _in_order(ResolvedAddress(tcp_address(ip, port)) for ip in ips for port in ports)

    async def _look_up_services(self) -> tuple[tuple[ResolvedAddress, ...], float]:
        name = self._parsed.host
        lookup = _Lookup(self._client, self._known, self._min_interval)
        services, by_host = await lookup.services(name)
        if not services:
            raise _NoAddress(f"{name} has no SRV record")
        semaphore = DeferredSemaphore(_HOSTS_AT_ONCE)

        async def ask(host: str) -> None:
            await semaphore.acquire()
            try:
                by_host[host] = await lookup.ips(host)
            finally:
                semaphore.release()

        hosts = {host for host, *_ in services}.difference(by_host)
        asked = [Deferred.fromCoroutine(ask(host)) for host in sorted(hosts)]
        # Backwards, since they are cancelled in this order: those that wait for the semaphore must
        # be cancelled before those that release it.
        for success, _ in await DeferredList(asked[::-1], consumeErrors=True):
            if not success:
                raise CancelledError  # the time was over before every host was looked up
        addresses = _in_order(
            ResolvedAddress(tcp_address(ip, port), priority, weight)
            for host, port, priority, weight in services
            for ip in by_host[host]
        )
        if not addresses:
            raise lookup.error or _NoAddress(f"no host of {name} has an A or AAAA record")
        self._known = lookup.known
        return addresses, lookup.ttl


class _Lookup:
    """The lookups of one resolution."""

    def __init__(
        self, client: DnsClient, known: dict[_Question, tuple[str, ...]], retry: float
    ) -> None:
        self._client = client
        self._known_before = known
        self._retry = retry
        #: By question, the addresses; for a question that failed, those of the last resolution.
        self.known: dict[_Question, tuple[str, ...]] = {}
        #: Seconds for which all answers are valid.
        self.ttl = math.inf
        #: The last error; None if no question failed.
        self.error: Exception | None = None
        #: Whether no question was answered; "no such name" is an answer.
        self.nothing_answered = True

    async def ips(self, host: str) -> list[str]:
        """Look up the IPv4 and IPv6 addresses of a host; where that fails, those known before."""
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
            # Other answers can still be used, together with the addresses known before.
            self.error = answer.value
            self.ttl = min(self.ttl, self._retry)
            ips = self._known_before.get(question, ())
        self.known[question] = ips
        return ips

    async def services(
        self, name: str
    ) -> tuple[list[tuple[str, int, int, int]], dict[str, list[str]]]:
        """Look up the SRV records of a name.

        :return: host, port, priority and weight of each; and by host, addresses that were sent
            along.
        """
        try:
            answers, _, additional = await self._client.lookupService(name)
        except Exception as error:
            if is_absence(error):
                raise _NoAddress(f"{name} does not exist") from error
            raise
        services: list[tuple[str, int, int, int]] = []
        for record in answers:
            if record.type == dns.SRV:
                payload = record.payload
                host = payload.target.name.decode("ascii", errors="replace").lower()
                # The root as host means that the service is not available (RFC 2782).
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


def _in_order(addresses: Iterable[ResolvedAddress]) -> tuple[ResolvedAddress, ...]:
    """Each address once, at its best place; the order of the records in an answer has no effect.

    IPv4 comes before IPv6: where one of the two does not work, it is more often IPv6.
    """
    best: dict[str, ResolvedAddress] = {}
    for address in sorted(addresses, key=lambda a: (a.priority, -a.weight, _ordinal(a.address))):
        best.setdefault(address.address, address)
    return tuple(best.values())


def _ordinal(address: str) -> tuple[int, bytes, int]:
    host, port = split_tcp(address) or ("", "")
    ip = ip_of(host)
    assert ip is not None, f"{address} has no IP address"
    return ip.version, ip.packed, int(port)


def _describe(error: BaseException) -> str:
    match error:
        case _NoAddress():
            return str(error)
        case DeferredTimeoutError() | DNSQueryTimeoutError():
            return "no DNS server answers"
        case ConnectionError() | OSError():
            return f"no DNS server can be reached ({error})"
        case _:
            # The text of an error of twisted.names is the whole DNS message; its class is enough.
            return f"the DNS server refuses or fails ({type(error).__name__})"
