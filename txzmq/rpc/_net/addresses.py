"""Addresses of ZeroMQ: how they are taken apart and put together."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from twisted.logger import Logger

__all__ = [
    "ANY_IPC",
    "PublisherRule",
    "Publishers",
    "announced",
    "beside",
    "ip_of",
    "is_ip",
    "is_multicast",
    "named_host",
    "on_interface",
    "publisher_for",
    "publisher_rule",
    "reachable",
    "split_scheme",
    "split_tcp",
    "tcp_address",
]

#: Publishers that a client may connect to beside its servers' own: addresses, or a function of the
#: publisher's address and the server's endpoint.
Publishers: TypeAlias = str | Iterable[str] | Callable[[str, str], bool]
#: Whether a client may connect to a publisher, by its address and the server's endpoint.
PublisherRule: TypeAlias = Callable[[str, str], bool]

#: Where libzmq makes a folder, and a socket in it.
ANY_IPC: Final = "ipc://*"
_log = Logger()
_SUFFIX: Final = ".streams"
_PORT_DIGITS: Final = 5
_MULTICAST: Final = ("epgm://", "pgm://")
#: Hosts that mean all addresses of a machine.
_WILDCARDS: Final = ("*", "0.0.0.0", "[::]", "::")  # noqa: S104 - recognised, not bound

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


def _split_group(address: str) -> tuple[str, str | None, str] | None:
    """Scheme, interface (None if it has none), and group with port of a multicast address.

    :return: None for another scheme.
    """
    if not address.startswith(_MULTICAST):
        return None
    scheme, rest = split_scheme(address)
    interface, semicolon, group = rest.partition(";")
    return (scheme, interface, group) if semicolon else (scheme, None, rest)


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is, with or without brackets; None if it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_ip(host: str, version: int | None = None) -> bool:
    """Whether a host is an IP address without brackets, of the version 4 or 6 if one is given."""
    ip = None if host.startswith("[") else ip_of(host)
    return ip is not None and version in (None, ip.version)


def named_host(address: str) -> tuple[str, str] | None:
    """Host and port of a ``tcp://`` address whose host is a name, not an IP address.

    :return: None for any other address. A wildcard and the empty host are no names.
    """
    tcp = split_tcp(address)
    if tcp is None:
        return None
    host, port = tcp[0].rpartition(";")[2], tcp[1]  # after the address to connect from
    return None if not host or host in _WILDCARDS or ip_of(host) is not None else (host, port)


def is_multicast(address: str) -> bool:
    """Whether an address is a multicast group, whose members nobody knows."""
    return _split_group(address) is not None


# -- putting together -----------------------------------------------------------------------------


def tcp_address(ip: str, port: int) -> str:
    """The address of a port at an IP address, which has no brackets here."""
    return f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}"


def on_interface(address: str, interface: str) -> str:
    """The address of a multicast group with the interface on which to join it."""
    group = _split_group(address)
    return address if group is None else f"{group[0]}://{interface};{group[2]}"


def announced(address: str) -> str:
    """A publisher's address for clients: of a multicast group, without the server's interface."""
    group = _split_group(address)
    return address if group is None else f"{group[0]}://{group[2]}"


def beside(address: str) -> str:
    """Where the publisher of a server that is bound to *address* listens."""
    tcp = split_tcp(address)
    if tcp is not None:
        return f"tcp://{tcp[0]}:*"
    return address + _SUFFIX


def reachable(publisher: str, server: str) -> str:
    """The address of a publisher for a client that is connected to *server*.

    A wildcard host is replaced by the one that the client has reached. A multicast group without
    an interface gets the one that leads to the server.

    :param publisher: the address that the server announces.
    """
    group = _split_group(publisher)
    if group is not None and group[1] is None:
        interface = _interface_towards(server)
        return on_interface(publisher, interface) if interface else publisher
    tcp, reached = split_tcp(publisher), split_tcp(server)
    if tcp is None or reached is None or tcp[0] not in _WILDCARDS:
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


# -- which publishers a client connects to ------------------------------------------------------


def publisher_rule(publishers: Publishers) -> PublisherRule:
    """The rule for what a user allows of publishers that are not at their server's host.

    :param publishers: addresses such as ``tcp://10.0.0.7`` (any port of that host),
        ``tcp://10.0.0.7:5001``, ``ipc:///run/streams``; or a function, which is the rule.
    :raises ValueError: if an address has no scheme, or names a host instead of its IP address.
    """
    if not isinstance(publishers, str) and callable(publishers):
        return publishers
    exact: set[str] = set()
    hosts: set[str] = set()
    for given in [publishers] if isinstance(publishers, str) else publishers:
        if split_scheme(given)[0] == "tcp":
            ip, port = _numeric(given)
            (exact if port else hosts).add(tcp_address(ip, int(port)) if port else ip)
        elif "://" in given:
            exact.add(given)
        else:
            raise ValueError(f"publishers={given!r}: it has no scheme; use tcp://10.0.0.7")

    def allows(publisher: str, endpoint: str) -> bool:
        if split_scheme(publisher)[0] != "tcp":
            return publisher in exact
        try:
            ip, port = _numeric(publisher)
        except ValueError:
            return False
        return bool(port) and (ip in hosts or tcp_address(ip, int(port)) in exact)

    return allows


def _numeric(address: str) -> tuple[str, str]:
    """IP address and port of a ``tcp://`` address; the port is empty if it has none.

    :raises ValueError: if the host is none.
    """
    rest = split_scheme(address)[1]
    ip = ip_of(rest)
    if ip is not None:
        return str(ip), ""
    host, _, port = rest.rpartition(":")
    ip = ip_of(host)
    if ip is None or not (port.isascii() and port.isdecimal() and len(port) <= _PORT_DIGITS):
        raise ValueError(f"{address!r} is no IP address with a port")
    return str(ip), port


def publisher_for(publisher: str, server: str, allowed: PublisherRule) -> str:
    """The address at which a client subscribes to the publisher that a server has told.

    A client follows its server to the server's own host and no further, unless it is told to: a
    server could make it connect to any host, port or file. A name is never accepted, since libzmq
    would look it up in its only I/O thread, and all connections would wait.

    :param publisher: what the server has told.
    :param server: the endpoint that the client is connected to.
    :param allowed: says which other publishers the client may connect to; asked only about others.
    :return: the address to connect to; a wildcard host is replaced as :func:`reachable` does it.
    :raises ValueError: if the client must not connect to it; the message says why.
    """
    group = _split_group(publisher)
    if group is not None:
        ip = ip_of(group[2].rpartition(":")[0])
        if ip is None or not ip.is_multicast:
            raise _refusal(publisher, server, "it is no multicast group")
        # An interface is the client's own affair, and may be a name.
        return reachable(announced(publisher), server)
    if _is_beside(publisher, server):
        return server + _SUFFIX
    address = reachable(publisher, server)
    if _same_host(address, server):
        return address
    if named_host(address) is not None:
        raise _refusal(publisher, server, "its host is a name, where an IP address is needed")
    if not _allows(allowed, address, server):
        why = f"it is not at the server's own host; publishers=[{address!r}] would allow it"
        raise _refusal(publisher, server, why)
    return address


def _is_beside(publisher: str, server: str) -> bool:
    """Whether a publisher's address is the server's with the suffix, by the last name of a path.

    The folder may have another name for the client: by a link, or in a container.
    """
    if split_tcp(server) is not None or split_scheme(publisher)[0] != split_scheme(server)[0]:
        return False
    own = server + _SUFFIX
    if split_scheme(server)[0] != "ipc":
        return publisher == own
    return publisher.rpartition("/")[2] == own.rpartition("/")[2]


def _same_host(publisher: str, server: str) -> bool:
    one, other = split_tcp(publisher), split_tcp(server)
    if one is None or other is None or not (one[1].isascii() and one[1].isdecimal()):
        return False
    host = other[0].rpartition(";")[2]
    ip = ip_of(one[0])
    return one[0] in (other[0], host) or (ip is not None and ip == ip_of(host))


def _allows(allowed: PublisherRule, publisher: str, server: str) -> bool:
    """Ask the rule; an exception means no."""
    try:
        return bool(allowed(publisher, server))
    except BaseException:  # noqa: BLE001 - the rule is a user's: only the stream ends
        _log.failure("{rule} of publishers= failed: {address!r}", rule=allowed, address=publisher)
        return False


def _refusal(publisher: str, server: str, why: str) -> ValueError:
    return ValueError(
        f"{server} says that its streams are at {publisher}, and the channel does not "
        f"connect there: {why} (see Channel's publishers=)"
    )
