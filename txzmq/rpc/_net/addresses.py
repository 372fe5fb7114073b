"""Where the publisher of a server listens, and where its clients find it."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final

__all__ = ["announced", "beside", "ip_of", "is_ip", "is_multicast", "reachable"]

_SUFFIX: Final = ".streams"
#: The interface, which each side has its own of, and the group and its port.
_MULTICAST: Final = re.compile(r"(e?pgm://)(?:([^;]*);)?(.*)")
_TCP: Final = re.compile(r"(tcp://)(.*)(:[^:]*)")
#: Hosts that mean all of a machine's addresses.
_WILDCARDS: Final = ("*", "0.0.0.0", "[::]", "::")  # noqa: S104 - recognised, not bound


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is, brackets or not; None where it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_ip(host: str, version: int | None = None) -> bool:
    """Whether a host is an IP address, of a version if one is given; without brackets."""
    ip = None if host.startswith("[") else ip_of(host)
    return ip is not None and version in (None, ip.version)


def beside(address: str) -> str:
    """Where to publish the streams of a server that listens at *address*."""
    match = _TCP.fullmatch(address)
    if match is not None:
        return f"tcp://{match[2]}:*"
    if address in ("ipc://*", "ipc://"):
        return address
    return address + _SUFFIX


def reachable(publisher: str, server: str) -> str:
    """Where a client that is connected to *server* finds a publisher that says it is *publisher*.

    A wildcard becomes the host that the client has reached. A multicast group is joined on the
    interface that leads there.
    """
    group = _MULTICAST.fullmatch(publisher)
    if group is not None and group[2] is None:
        interface = _interface_towards(server)
        return f"{group[1]}{interface};{group[3]}" if interface else publisher
    match, reached = _TCP.fullmatch(publisher), _TCP.fullmatch(server)
    if match is None or reached is None or match[2] not in _WILDCARDS:
        return publisher
    return f"tcp://{reached[2]}{match[3]}"


def is_multicast(address: str) -> bool:
    """Whether what is sent there reaches all at once, and nobody tells who they are."""
    return _MULTICAST.fullmatch(address) is not None


def announced(address: str) -> str:
    """What clients are told of a multicast group: not on which interface the server sends."""
    group = _MULTICAST.fullmatch(address)
    return address if group is None else f"{group[1]}{group[3]}"


def _interface_towards(server: str) -> str:
    """The address of this machine's own by which *server* is reached; empty if that is not known.

    A name would have to be looked up, which may take its time.
    """
    match = _TCP.fullmatch(server)
    if match is None:
        return ""
    host = ip_of(match[2])
    if host is None:
        return ""
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    try:
        # Nothing is sent: the kernel looks at its routes.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(host), 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
