"""Targets that are looked up in the DNS: ``dns:///host:port``, ``dns+srv:_service._tcp.host``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NoReturn

from txzmq.rpc._net.addresses import is_ip

__all__ = ["DnsTarget", "is_dns", "parse_dns_target"]

_SCHEMES: Final = ("dns", "dns+srv")
_RIGHT: Final = {
    "dns": "dns:///host:port, dns:host:port or dns://server/host:port, server being the address "
    "of a DNS server",
    "dns+srv": "dns+srv:_service._tcp.example.org or dns+srv://server/_service._tcp.example.org, "
    "server being the address of a DNS server",
}
_DNS_PORT: Final = 53
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_MAX_NAME: Final = 253


class DnsTarget(NamedTuple):
    """A target, parsed.

    :ivar scheme: ``dns`` or ``dns+srv``.
    :ivar server: address and port of the DNS server to ask; None for the system's.
    :ivar host: a name, or an IP address without brackets (never with ``dns+srv``).
    :ivar port: of the service; 0 with ``dns+srv``, whose records name the ports.
    """

    scheme: str
    server: tuple[str, int] | None
    host: str
    port: int


def is_dns(target: str) -> bool:
    """Whether a target is to be looked up in the DNS."""
    return target.partition(":")[0].lower() in _SCHEMES


def parse_dns_target(target: str) -> DnsTarget:
    """Parse a target by gRPC's rules for names (doc/naming.md).

    :raises ValueError: if it is malformed; the message names the target and says what is right.
    """
    scheme, _, rest = target.partition(":")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise ValueError(
            f"{target!r} is no target for DNS: use {_RIGHT['dns']}; {_RIGHT['dns+srv']}"
        )
    parsing = _Parsing(target, scheme)
    server = None
    if rest.startswith("//"):
        authority, slash, rest = rest[2:].partition("/")
        if not slash:
            parsing.refuse("a slash and a name must follow the DNS server; dns:/// names no server")
        server = parsing.server(authority) if authority else None
    if scheme == "dns+srv":
        if ":" in rest:
            parsing.refuse("SRV records name the ports themselves; leave the port out")
        return DnsTarget(scheme, server, parsing.name(rest), 0)
    host, port = parsing.host_and_port(rest)
    return DnsTarget(scheme, server, host, port)


class _Parsing:
    """The steps of parsing, whose errors name the target."""

    def __init__(self, target: str, scheme: str) -> None:
        self._target = target
        self._scheme = scheme

    def refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"{self._target!r}: {reason}. Use {_RIGHT[self._scheme]}")

    def server(self, authority: str) -> tuple[str, int]:
        host, port = self._split(authority)
        if not is_ip(host):
            self.refuse(f"the DNS server {host!r} is no IP address")
        return host, _DNS_PORT if port is None else self._port(port)

    def host_and_port(self, text: str) -> tuple[str, int]:
        host, port = self._split(text)
        if port is None:
            self.refuse("the port is missing")
        return (host if is_ip(host) else self.name(host)), self._port(port)

    def name(self, name: str) -> str:
        """Check a host name; it may end with a dot, which says that it is complete."""
        if not name:
            self.refuse("the name is missing")
        if not name.isascii():
            self.refuse(f"the name {name!r} is not in ASCII; use its xn-- form")
        bare = name.removesuffix(".")
        if len(bare) > _MAX_NAME or not all(_LABEL.fullmatch(part) for part in bare.split(".")):
            self.refuse(f"{name!r} is no host name")
        return name

    def _split(self, text: str) -> tuple[str, str | None]:
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")) or not is_ip(host, 6):
                self.refuse(f"{text!r} is no IPv6 address in brackets")
            return host, rest[1:] if rest else None
        host, colon, port = text.partition(":")
        if ":" in port:
            self.refuse("an IPv6 address needs brackets, as in [::1]:5000")
        return host, port if colon else None

    def _port(self, text: str) -> int:
        # Five digits at most: int() has an error of its own for thousands of digits.
        if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65_536:
            self.refuse(f"{text!r} is no port, a number from 1 to 65535")
        return int(text)
