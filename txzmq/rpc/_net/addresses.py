"""Addresses of ZeroMQ that were checked: how they are taken apart and put together."""

from __future__ import annotations

import socket
from typing import Final

from txzmq.rpc._net.reading import ip_of, is_ip

__all__ = [
    "ANY_IPC",
    "SUFFIX",
    "WILDCARDS",
    "announced",
    "beside",
    "ip_of",
    "is_ip",
    "is_multicast",
    "named_host",
    "on_interface",
    "reachable",
    "split_group",
    "split_scheme",
    "split_tcp",
    "tcp_address",
]

#: Where libzmq makes a folder, and a socket in it.
ANY_IPC: Final = "ipc://*"
#: What the address of a publisher has behind that of its server, by ipc and inproc.
SUFFIX: Final = ".streams"
_MULTICAST: Final = ("epgm://", "pgm://")
#: Hosts that mean all addresses of a machine.
WILDCARDS: Final = ("*", "0.0.0.0", "[::]", "::")  # noqa: S104 - recognised, not bound

# -- taking apart -------------------------------------------------------------------------------


def split_scheme(address: str) -> tuple[str, str]:
    """The scheme, and what follows ``://``; without that, the whole address and nothing."""
    scheme, _, rest = address.partition("://")
    return scheme, rest


def split_tcp(address: str) -> tuple[str, str] | None:
    """Host and port of a ``tcp://`` address, as they are written: an IPv6 address has its brackets.

    :return: None for another scheme, and for an address without a colon before the port.
    """
    scheme, rest = split_scheme(address)
    host, colon, port = rest.rpartition(":")
    return (host, port) if scheme == "tcp" and colon else None


def split_group(address: str) -> tuple[str, str | None, str] | None:
    """Scheme, interface (None if it has none), and group with port of a multicast address.

    :return: None for another scheme.
    """
    if not address.startswith(_MULTICAST):
        return None
    scheme, rest = split_scheme(address)
    interface, semicolon, group = rest.partition(";")
    return (scheme, interface, group) if semicolon else (scheme, None, rest)


def named_host(address: str) -> tuple[str, str] | None:
    """Host and port of a ``tcp://`` address whose host is a name, not an IP address.

    :return: None for any other address. A wildcard and the empty host are no names.
    """
    tcp = split_tcp(address)
    if tcp is None:
        return None
    host, port = tcp[0].rpartition(";")[2], tcp[1]  # after the address to connect from
    return None if not host or host in WILDCARDS or ip_of(host) is not None else (host, port)


def is_multicast(address: str) -> bool:
    """Whether an address is a multicast group, whose members nobody knows."""
    return split_group(address) is not None


# -- putting together -----------------------------------------------------------------------------


def tcp_address(ip: str, port: int) -> str:
    """The address of a port at an IP address, which has no brackets here."""
    return f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}"


def on_interface(address: str, interface: str) -> str:
    """The address of a multicast group with the interface on which to join it."""
    group = split_group(address)
    return address if group is None else f"{group[0]}://{interface};{group[2]}"


def announced(address: str) -> str:
    """A publisher's address for clients: of a multicast group, without the server's interface."""
    group = split_group(address)
    return address if group is None else f"{group[0]}://{group[2]}"


def beside(address: str, own: str = "") -> str:
    """Where the publisher of a server that is bound to *address* listens.

    :param own: tells it from that of another server there, by ipc and inproc.
    """
    tcp = split_tcp(address)
    if tcp is not None:
        return f"tcp://{tcp[0]}:*"
    return address + own + SUFFIX


def reachable(publisher: str, server: str) -> str:
    """The address of a publisher for a client that is connected to *server*.

    A wildcard host is replaced by the one that the client has reached. A multicast group without
    an interface gets the one that leads to the server.

    :param publisher: the address that the server announces.
    """
    group = split_group(publisher)
    if group is not None and group[1] is None:
        interface = _interface_towards(server)
        return on_interface(publisher, interface) if interface else publisher
    tcp, reached = split_tcp(publisher), split_tcp(server)
    if tcp is None or reached is None or tcp[0] not in WILDCARDS:
        return publisher
    return f"tcp://{reached[0]}:{tcp[1]}"


def _interface_towards(server: str) -> str:
    """The local IP address from which *server* is reached; empty if that is not known.

    It is not known for a host name, since to look one up may take long.
    """
    tcp = split_tcp(server)
    host = None if tcp is None else ip_of(tcp[0])
    if host is None:
        return ""
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    try:
        # Sends nothing: the kernel only looks at its routes.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(host), 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
