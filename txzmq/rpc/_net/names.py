"""Endpoints whose host is a name: looked up by the reactor, never by libzmq.

libzmq looks a name up in its only I/O thread, and the connections of the whole process wait for the
DNS meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from twisted.logger import Logger

from txzmq._escape import escaped
from txzmq._reactor import Clock
from txzmq.rpc._net.addresses import named_host, split_tcp
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.resolvers import (
    DnsResolver,
    ResolvedAddress,
    Resolver,
    ResolverListener,
    check_resolved,
    unresolved,
)

__all__ = ["NamedAddresses", "check_numeric", "dns_target"]

_log = Logger()
#: Makes the resolver for a target such as ``dns:///host:5000``; a test makes another.
_MakeResolver: TypeAlias = Callable[[str], Resolver]

_SOURCE_HINT: Final = "give the IP address of the host after the semicolon"


def dns_target(address: str) -> str | None:
    """What to look up for a ``tcp://`` address: ``dns:///host:port``.

    :return: None if the address needs no lookup.
    :raises ValueError: if it says where to connect from, and names where to connect to.
    """
    named = named_host(address)
    if named is None:
        return None
    tcp = split_tcp(address)
    if tcp is not None and ";" in tcp[0]:
        raise ValueError(f"{address!r} names a host: {_SOURCE_HINT}")
    return f"dns:///{named[0]}:{named[1]}"


def check_numeric(address: str) -> None:
    """Refuse what libzmq would have to look up.

    :raises ValueError: if the host of a ``tcp://`` address is a name.
    """
    named = named_host(address)
    if named is not None:
        raise ValueError(
            f"{address!r} names the host {named[0]!r}, where an IP address is needed: "
            "libzmq would look it up in its I/O thread"
        )


class NamedAddresses:
    """Looks up the names in the addresses of another resolver (a Resolver and its listener).

    Each name has a :class:`~txzmq.rpc.DnsResolver`. The addresses of a name stand where the name
    stood, with its priority and weight; a name that is not resolved yet holds up no other address.
    """

    def __init__(self, resolver: Resolver, make: _MakeResolver = DnsResolver) -> None:
        """
        :param resolver: of the channel's endpoints.
        :param make: makes the resolver for a name.
        """
        self._resolver = resolver
        self._make = make
        self._clock: Clock
        self._listener: ResolverListener
        # What the resolver has told of last.
        self._given: tuple[ResolvedAddress, ...] = ()
        # By host, for those that are names; one lookup for all ports.
        self._names: dict[str, _Name] = {}
        # What the listener was told of; None before the first time.
        self._told: tuple[ResolvedAddress, ...] | None = None
        self._starting = True
        self._closed = False

    # -- Resolver ------------------------------------------------------------------------------

    def start(self, clock: Clock, listener: ResolverListener) -> None:
        """See :class:`~txzmq.rpc.Resolver`.

        :raises ValueError: if an address has a malformed name.
        """
        self._clock = clock
        self._listener = listener
        self._resolver.start(clock, self)
        self._starting = False

    def resolve_now(self) -> None:
        """See :class:`~txzmq.rpc.Resolver`."""
        self._resolver.resolve_now()
        for name in list(self._names.values()):
            name.resolver.resolve_now()

    def close(self) -> None:
        """See :class:`~txzmq.rpc.Resolver`."""
        self._closed = True
        self._resolver.close()
        names, self._names = self._names, {}
        for name in names.values():
            name.resolver.close()
        self._given = ()
        self._told = None

    @property
    def unresolved(self) -> list[str]:
        """What there is no answer for yet, in words for an error."""
        reasons = unresolved(self._resolver, told=bool(self._given))
        for name in self._names.values():
            if name.error is not None:
                reasons.append(name.error.message)
            elif name.waits:
                reasons += unresolved(name.resolver, told=False)
        return reasons

    # -- ResolverListener ----------------------------------------------------------------------

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        """Begin to look up the names that are new, and forget those that are no more.

        :raises TypeError: if these are no ``ResolvedAddress``.
        """
        check_resolved(addresses)
        before, self._names = self._names, {}
        new: list[_Name] = []
        self._given = tuple(given for given in addresses if self._take(given.address, before, new))
        for name in before.values():
            name.resolver.close()
        for name in new:
            # What the listener does with the addresses of one may change the others.
            if not self._closed and name in self._names.values():
                name.resolver.start(self._clock, name)
        self._tell()

    def _take(self, address: str, before: dict[str, _Name], new: list[_Name]) -> bool:
        """Have a name looked up; whether the address can be used."""
        try:
            parse_address(address, Use.CONNECT, "endpoint")
            target, named = dns_target(address), named_host(address)
        except (TypeError, ValueError):
            if self._starting:
                raise
            # One address that is none does not keep the others from being used.
            _log.failure("{address}, which was resolved, is none", address=address)
            return False
        if target is not None and named is not None and named[0] not in self._names:
            host = named[0]
            name = before.pop(host, None)
            if name is None:
                name = _Name(self._make(target), partial(self._changed_name, host))
                new.append(name)
            self._names[host] = name
        return True

    def not_resolved(self, error: Unavailable) -> None:
        """The names of the hosts are not known themselves.

        :raises TypeError: if *error* is none: the listener looks.
        """
        self._listener.not_resolved(error)

    # -- names ---------------------------------------------------------------------------------

    def _changed_name(self, host: str) -> None:
        """There is news of a name."""
        name = self._names[host]
        if name.error is not None and self._addresses():
            _log.warn("{error}; the others are used", error=escaped(name.error.message))
        self._tell()

    def _addresses(self) -> tuple[ResolvedAddress, ...]:
        """All that are known, each once."""
        known: dict[str, ResolvedAddress] = {}
        for given in self._given:
            for address in self._addresses_of(given.address):
                known.setdefault(address, given._replace(address=address))
        return tuple(known.values())

    def _addresses_of(self, address: str) -> list[str]:
        """The addresses that stand for one that was given: itself, or its host's at its port."""
        named = named_host(address)
        if named is None:
            return [address]
        return [f"tcp://{ip}:{named[1]}" for ip in self._names[named[0]].ips]

    def _tell(self) -> None:
        """Tell the listener what is known now, or why nothing is."""
        addresses = self._addresses()
        names = self._names.values()
        if self._closed or (not addresses and any(name.waits for name in names)):
            return
        if addresses or not self._given or self._told is not None:
            if addresses != self._told:
                self._told = addresses
                self._listener.resolved(addresses)
        else:
            errors = [name.error.message for name in names if name.error is not None]
            self._listener.not_resolved(Unavailable("; ".join(errors)))


class _Name:
    """One name, and what is known of it (a ResolverListener)."""

    def __init__(self, resolver: Resolver, changed: Callable[[], None]) -> None:
        """:param changed: called when something was told."""
        self.resolver = resolver
        #: IP addresses, as they stand in addresses.
        self.ips: list[str] = []
        #: Why there is no address; None before the first answer, and after a good one.
        self.error: Unavailable | None = None
        self._changed = changed

    @property
    def waits(self) -> bool:
        """Whether the lookup has not ended yet."""
        return not self.ips and self.error is None

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        found = (split_tcp(address.address) for address in addresses)
        self.ips = [tcp[0] for tcp in found if tcp is not None]
        self.error = None
        self._changed()

    def not_resolved(self, error: Unavailable) -> None:
        self.error = error
        self._changed()
