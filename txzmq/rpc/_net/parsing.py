"""The one parser of ZeroMQ's addresses, for whatever they are given as."""

from __future__ import annotations

import difflib
import os
import re
import sys
from enum import Enum
from typing import Final, NamedTuple

from txzmq.rpc._net.addresses import ANY_IPC, SUFFIX, WILDCARDS, split_group, split_scheme
from txzmq.rpc._net.reading import Reading, ip_of

__all__ = ["Address", "Use", "parse_address", "parse_group"]

#: Bytes that the path of an ipc address may have: those of ``sun_path`` without the last, a NUL.
_PATH_BYTES: Final = 107 if sys.platform.startswith("linux") else 103
_GROUP_SCHEMES: Final = ("epgm", "pgm")
_RIGHT_GROUP: Final = "epgm://INTERFACE;GROUP:PORT, such as epgm://eth0;239.192.1.1:5555"
#: What is no ZeroMQ address, and what to do with it.
_ELSEWHERE: Final = {
    "epgm": "a multicast group is for Server.listen(multicast=...), which tells the clients of it",
    "pgm": "a multicast group is for Server.listen(multicast=...), which tells the clients of it",
    "http": "txzmq speaks ZeroMQ there, not HTTP",
    "https": "txzmq speaks ZeroMQ there, not HTTP",
}


class Use(Enum):
    """What an address is for; the value says which forms are right."""

    #: The endpoint of a channel.
    ENDPOINT = (
        "tcp://host:port, ipc:///path or inproc://name, or dns:///host:port for all addresses of "
        "a name"
    )
    #: To connect to, other than the endpoint of a channel.
    CONNECT = "tcp://host:port, ipc:///path or inproc://name"
    #: To listen at.
    LISTEN = "tcp://127.0.0.1:* (any free port), tcp://ip:port, ipc:///path or inproc://name"
    #: What clients are told of an address to connect to.
    ADVERTISE = "tcp://ip:port, where 0.0.0.0 is the host that they have reached"

    @property
    def connects(self) -> bool:
        """Whether a socket is to connect to it."""
        return self in (Use.ENDPOINT, Use.CONNECT)


class Address(NamedTuple):
    """An address, parsed.

    :ivar scheme: ``tcp``, ``ipc`` or ``inproc``; another of a network that is not ZeroMQ's.
    :ivar rest: what follows ``://``; with tcp, without the port.
    :ivar ports: with tcp, the port or a range of them; ``*`` is 0. Empty if there is none.
    """

    scheme: str
    rest: str
    ports: range

    @property
    def each(self) -> list[str]:
        """The addresses that a range of ports stands for; one for any other address."""
        base = f"{self.scheme}://{self.rest}"
        return [f"{base}:{port}" for port in self.ports] if self.ports else [base]


def parse_address(
    given: object,
    use: Use,
    parameter: str,
    *,
    foreign: bool = False,
    room: int = 0,
    right: str = "",
) -> Address:
    """Parse an address.

    :param parameter: what the user has passed it as, for the errors.
    :param foreign: whether it may be for a network that is not ZeroMQ's: with another scheme, or
        without a port.
    :param room: bytes that must be left for what is put behind the path of ipc.
    :param right: forms that are right, where they are not those of the use.
    :raises TypeError: if it is no str.
    :raises ValueError: if it is wrong. The message names it, and says what is wrong and what would
        be right.
    """
    reading = Reading(given, parameter, right or use.value)
    scheme, rest = split_scheme(reading.text)
    if "://" not in reading.text:
        reading.refuse(_no_scheme(reading.text))
    if not rest:
        reading.refuse(f"nothing follows {scheme}://")
    if scheme == "tcp":
        return _tcp(reading, rest, use, foreign=foreign)
    if scheme == "ipc":
        _check_path(reading, rest, use, room)
    elif scheme != "inproc":
        known = _ELSEWHERE.get(scheme)
        if known is not None or not foreign:
            reading.refuse(known or _no_such_scheme(scheme))
    return Address(scheme, rest, range(0))


def _no_scheme(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    if text.startswith(("/", "./")):
        return f"it has no scheme; ipc://{text} perhaps"
    if colon and scheme in ("tcp", "ipc", "inproc"):
        right = rest.lstrip("/")
        if scheme == "ipc" and rest.startswith("/"):
            right = f"/{right}"  # an absolute path
        return f"two slashes must follow the colon; {scheme}://{right} perhaps"
    if colon and scheme in ("dns", "dns+srv"):
        return "a name that is looked up is for the endpoint of a channel"
    if re.fullmatch(r"[^/]+:[0-9*-]+", text):
        return f"it has no scheme; tcp://{text} perhaps"
    return "it has no scheme, such as tcp://"


def _no_such_scheme(scheme: str) -> str:
    near = difflib.get_close_matches(scheme.lower(), ("tcp", "ipc", "inproc"), 1)
    what = f"the scheme {scheme!r} is none of tcp, ipc and inproc"
    return f"{what}; {near[0]} perhaps" if near else what


# -- tcp --------------------------------------------------------------------------------------


def _tcp(reading: Reading, rest: str, use: Use, *, foreign: bool) -> Address:
    source, semicolon, destination = rest.rpartition(";")
    if semicolon:
        if not use.connects:
            reading.refuse("the address to connect from, before a semicolon, is for clients")
        _check_source(reading, source)
    host, port = reading.split(destination)
    where = rest.removesuffix(f":{port}") if port is not None else rest
    if not host:
        reading.refuse("the host is missing")
    if host == "*" and use.connects:
        reading.refuse("'*' as host is for listening; name the host to connect to")
    if host not in WILDCARDS:
        reading.host(host)
    if port is None and foreign:
        return Address("tcp", where, range(0))
    return Address("tcp", where, _ports(reading, port, use))


def _check_source(reading: Reading, source: str) -> None:
    """Check the address to connect from: an IP address or an interface, and a port."""
    host, port = reading.split(source)
    if host != "*":
        reading.host(host)
    if port not in ("*", "0"):
        reading.port(port)


def _ports(reading: Reading, port: str | None, use: Use) -> range:
    if use is Use.LISTEN and port in ("*", "0"):
        return range(1)
    if port == "*":
        reading.refuse("'*' as port is for listening, where it means any that is free")
    if use is Use.ENDPOINT:
        return reading.ports(port)
    if port is not None and re.fullmatch("[0-9]+-[0-9]+", port):
        reading.refuse(
            "a range of ports is for clients; a server listens at one port: call listen() for each"
            if use is Use.LISTEN
            else "a range of ports is for the endpoint of a channel"
        )
    number = reading.port(port)
    return range(number, number + 1)


# -- ipc --------------------------------------------------------------------------------------


def _check_path(reading: Reading, path: str, use: Use, room: int) -> None:
    if path == "*":
        if use is not Use.LISTEN:
            reading.refuse(f"{ANY_IPC} is for listening; connect to what listen() has returned")
        return
    if path == "@":
        reading.refuse("a name must follow the @ of an abstract socket")
    if path.startswith("~"):
        home = path.partition("/")[0]
        reading.refuse(f"{home!r} is no folder here; use os.path.expanduser({path!r})")
    if path.endswith("/"):
        reading.refuse("the path ends with a slash; the name of the socket is missing")
    if not path.startswith(("/", "@")) and not _has_current_folder():
        reading.refuse(
            "its path is relative, and the current folder was removed; give an absolute path"
        )
    size = len(path.encode())  # as pyzmq encodes it
    if size + room > _PATH_BYTES:
        behind = f", and {SUFFIX!r} behind it for the publisher of streams" if room else ""
        reading.refuse(
            f"the path is too long: it has {size} bytes{behind}, and the system's limit is "
            f"{_PATH_BYTES}"
        )


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


# -- multicast groups ---------------------------------------------------------------------------


def parse_group(given: object, parameter: str) -> None:
    """Check the address of a multicast group.

    :raises TypeError: if it is no str.
    :raises ValueError: if it is none; the message says what is right.
    """
    reading = Reading(given, parameter, _RIGHT_GROUP)
    parts = split_group(reading.text)
    if parts is None:
        reading.refuse("it is no multicast group")
    host, port = reading.split(parts[2])
    ip = ip_of(host)
    if ip is None or not ip.is_multicast:
        reading.refuse(f"it is no multicast group: {host!r} is no multicast address")
    reading.port(port)
    if parts[1] == "":
        reading.refuse("the interface before the semicolon is missing")
