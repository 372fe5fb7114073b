"""Targets that are looked up in the DNS: ``dns:///host:port``, ``dns+srv:_service._tcp.host``."""

from __future__ import annotations

from typing import Final, NamedTuple

from txzmq.rpc._net.reading import Reading, is_ip

__all__ = ["DnsTarget", "is_dns", "parse_dns_target"]

_SCHEMES: Final = ("dns", "dns+srv")
_RIGHT: Final = {
    "dns": "dns:///host:port, dns:host:port or dns://server/host:port, server being the address "
    "of a DNS server",
    "dns+srv": "dns+srv:_service._tcp.example.org or dns+srv://server/_service._tcp.example.org, "
    "server being the address of a DNS server",
}
_DNS_PORT: Final = 53


class DnsTarget(NamedTuple):
    """A target, parsed.

    :ivar scheme: ``dns`` or ``dns+srv``.
    :ivar server: address and port of the DNS server to ask; None for the system's.
    :ivar host: a name, or an IP address without brackets (never with ``dns+srv``).
    :ivar ports: of the service; none with ``dns+srv``, whose records name the ports.
    """

    scheme: str
    server: tuple[str, int] | None
    host: str
    ports: range


def is_dns(target: str) -> bool:
    """Whether a target is to be looked up in the DNS."""
    return target.partition(":")[0].lower() in _SCHEMES


def parse_dns_target(target: str, parameter: str = "target") -> DnsTarget:
    """Parse a target by gRPC's rules for names (doc/naming.md).

    :param parameter: what the user has passed it as, for the errors.
    :raises ValueError: if it is malformed; the message names the target and says what is right.
    :raises TypeError: if it is no str.
    """
    reading = Reading(target, parameter, f"{_RIGHT['dns']}; {_RIGHT['dns+srv']}")
    scheme, _, rest = target.partition(":")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        reading.refuse("it is no target for DNS")
    reading.use(_RIGHT[scheme])
    server = None
    if rest.startswith("//"):
        authority, slash, rest = rest[2:].partition("/")
        if not slash:
            reading.refuse("a slash and a name must follow the DNS server; dns:/// names no server")
        server = _server(reading, authority) if authority else None
    if scheme == "dns+srv":
        if ":" in rest:
            reading.refuse("SRV records name the ports themselves; leave the port out")
        return DnsTarget(scheme, server, reading.name(rest), range(0))
    host, ports = reading.split(rest)
    if ports is None:
        reading.refuse("the port is missing")
    return DnsTarget(scheme, server, reading.host(host), reading.ports(ports))


def _server(reading: Reading, authority: str) -> tuple[str, int]:
    host, port = reading.split(authority)
    if not is_ip(host):
        reading.refuse(f"the DNS server {host!r} is no IP address")
    return host, _DNS_PORT if port is None else reading.port(port)
