"""Addresses of clients and proxies, as HTTP's headers have them, and which of them are trusted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias, cast

from txzmq import _check

__all__ = [
    "INPROC",
    "UNIX",
    "UNKNOWN",
    "IPAddress",
    "Networks",
    "chain_of",
    "parse_address",
    "parse_entry",
]

IPAddress: TypeAlias = IPv4Address | IPv6Address

#: In place of an address: who is connected by a Unix socket, as nginx writes it.
UNIX: Final = "unix:"
#: In place of an address: who is in the same process.
INPROC: Final = "inproc:"
#: In place of an address: nobody knows it, as RFC 7239 has it.
UNKNOWN: Final = "unknown"

#: An address in a header: of IPv4, perhaps with a port; of IPv6 by itself; or in brackets, perhaps
#: with a port.
_ENTRY: Final = re.compile(
    r"(?P<v4>[0-9.]+)(?::(?P<port4>[0-9]{1,5}))?"
    r"|(?P<v6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)"
    r"|\[(?P<bracketed>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\](?::(?P<port6>[0-9]{1,5}))?",
    re.ASCII,
)
_MAX_PORT: Final = 65_535


class Networks:
    """Networks of proxies or gateways, named by whoever trusts them."""

    def __init__(self, name: str, networks: object, words: Sequence[str] = (UNIX,)) -> None:
        """
        :param name: of the parameter, for errors.
        :param networks: such as ``10.0.0.0/8`` or ``2001:db8::7``, or one of the words.
        :param words: what may stand for those without an address: :data:`UNIX`, :data:`INPROC`.
        :raises ValueError: for a network that is none, and so TypeError.
        """
        what = "a collection of networks, such as ['10.0.0.0/8']"
        if isinstance(networks, str | bytes) or not isinstance(networks, Iterable):
            raise _check.wrong_type(name, networks, what)
        given = tuple(cast("Iterable[object]", networks))
        for network in given:
            if not isinstance(network, str):
                raise _check.wrong_type(name, network, "networks as str")
        texts = cast("tuple[str, ...]", given)
        self._words = frozenset(texts).intersection(words)
        self._networks = tuple(_network(name, text) for text in texts if text not in self._words)
        # Those who call are mostly the same.
        self._known = lru_cache(maxsize=1_024)(self._has)

    def __bool__(self) -> bool:
        return bool(self._words or self._networks)

    def __contains__(self, address: IPAddress | str) -> bool:
        """Whether an address, or a word for one, is among them; :data:`UNKNOWN` never is."""
        if isinstance(address, str):
            return address in self._words
        return self._known(address)

    def _has(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)


def _network(name: str, text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{name}: {text} is a network of IPv4: write it as such")
    return network


def parse_address(text: str) -> IPAddress | str:
    """The address that a socket tells, without a zone; :data:`UNKNOWN` where it is none.

    An IPv4 address in the form of IPv6, as sockets for both have it, is taken for what it is.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return UNKNOWN
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def parse_entry(text: str) -> IPAddress | str:
    """An entry of ``x-forwarded-for``, without its port: an address or :data:`UNIX`.

    :data:`UNKNOWN` is what everything else is taken for: nothing is guessed.
    """
    if text == UNIX:
        return UNIX
    found = _ENTRY.fullmatch(text)
    if found is None or int(found["port4"] or found["port6"] or 0) > _MAX_PORT:
        return UNKNOWN
    return parse_address(found["v4"] or found["v6"] or found["bracketed"])


def chain_of(
    values: Iterable[str], peer: IPAddress | str, trusted: Networks
) -> tuple[IPAddress | str, ...]:
    """By whom a request has come: the client first, then the proxies, the last one connected here.

    Each proxy has appended who was connected to it. So they are read from the right, as long as who
    says it is trusted: the right-most one that is not is the client. What stands to its left is its
    own word, and is left out.

    :param values: of ``x-forwarded-for``, in their order.
    :param peer: who is connected here.
    """
    chain = [peer]
    if peer in trusted:
        entries = [entry.strip(" \t") for value in values for entry in value.split(",")]
        while entries and chain[-1] in trusted:
            chain.append(parse_entry(entries.pop()))
    return tuple(reversed(chain))
