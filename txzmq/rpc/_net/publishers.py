"""Which publishers a client connects to beside its servers' own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, cast

from twisted.logger import Logger

from txzmq._check import shown
from txzmq.rpc._net.addresses import (
    SUFFIX,
    announced,
    ip_of,
    is_ip,
    named_host,
    reachable,
    split_group,
    split_scheme,
    split_tcp,
    tcp_address,
)
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc._net.reading import Reading, printable

__all__ = ["PublisherRule", "Publishers", "publisher_for", "publisher_rule"]

#: Publishers that a client may connect to beside its servers' own: addresses, or a function of the
#: publisher's address and the server's endpoint.
Publishers: TypeAlias = str | Iterable[str] | Callable[[str, str], bool]
#: Whether a client may connect to a publisher, by its address and the server's endpoint.
PublisherRule: TypeAlias = Callable[[str, str], bool]

_log = Logger()
#: Of the process of a server, in the name of its publisher.
_NUMBER: Final = re.compile(r"(\.[0-9]{1,10})?")
_RIGHT = "tcp://10.0.0.7 (any port), tcp://10.0.0.7:5001, tcp://10.0.0.7:5001-5004 or ipc:///path"


# -- which publishers a client connects to ------------------------------------------------------


def publisher_rule(publishers: Publishers) -> PublisherRule:
    """The rule for what a user allows of publishers that are not at their server's host.

    :param publishers: addresses such as ``tcp://10.0.0.7`` (any port of that host),
        ``tcp://10.0.0.7:5001``, ``ipc:///run/streams``; or a function, which is the rule.
    :raises ValueError: if an address is malformed, or names a host instead of its IP address.
    :raises TypeError: if it is no str.
    """
    if not isinstance(publishers, str | bytes) and callable(publishers):
        return publishers
    exact: set[str] = set()
    hosts: set[str] = set()
    for given in _each(publishers):
        reading = Reading(given, "publishers", _RIGHT)
        if split_scheme(given)[0] == "tcp":
            host, ports = reading.split(split_scheme(given)[1])
            ip = str(ip_of(host))
            if not is_ip(host):
                reading.refuse(f"{host!r} is no IP address")
            if ports is None:
                hosts.add(ip)
            else:
                exact.update(tcp_address(ip, port) for port in reading.ports(ports))
        else:
            parse_address(given, Use.CONNECT, "publishers", right=_RIGHT)
            exact.add(given)

    def allows(publisher: str, endpoint: str) -> bool:
        tcp = split_tcp(publisher)
        if tcp is None:
            return publisher in exact
        ip = ip_of(tcp[0])
        return ip is not None and (str(ip) in hosts or tcp_address(str(ip), int(tcp[1])) in exact)

    return allows


def _each(publishers: object) -> Iterable[str]:
    if isinstance(publishers, str):
        return [publishers]
    if isinstance(publishers, bytes) or not isinstance(publishers, Iterable):
        raise TypeError(
            "publishers must be addresses or a function, "
            f"not {type(publishers).__name__} ({printable(publishers)}). Use {_RIGHT}"
        )
    return cast("Iterable[str]", publishers)


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
    group = split_group(publisher)
    if group is not None:
        ip = ip_of(group[2].rpartition(":")[0])
        if ip is None or not ip.is_multicast:
            raise _refusal(publisher, server, "it is no multicast group")
        # An interface is the client's own affair, and may be a name.
        return reachable(announced(publisher), server)
    address = _beside(publisher, server)
    if address:
        return address
    try:
        parse_address(publisher, Use.ADVERTISE, "publisher")
    except ValueError as error:
        raise _refusal(publisher, server, f"it is malformed: {error}") from None
    address = reachable(publisher, server)
    if _same_host(address, server):
        return address
    if named_host(address) is not None:
        raise _refusal(publisher, server, "its host is a name, where an IP address is needed")
    if not _allows(allowed, address, server):
        hint = f"publishers=[{printable(address)}] would allow it"
        raise _refusal(publisher, server, f"it is not at the server's own host; {hint}")
    return address


def _beside(publisher: str, server: str) -> str:
    """The address of a publisher beside its server, by ipc or inproc; empty if it is not there.

    Its name is the server's with the suffix, which has a number before it where the server is one
    of several processes. The folder may have another name for the client: by a link, or in a
    container.
    """
    scheme = split_scheme(server)[0]
    if scheme == "tcp" or split_scheme(publisher)[0] != scheme:
        return ""
    name = publisher
    own = server
    if scheme == "ipc":
        name, own = publisher.rpartition("/")[2], server.rpartition("/")[2]
    number = name.removeprefix(own).removesuffix(SUFFIX)
    if name != own + number + SUFFIX or not _NUMBER.fullmatch(number):
        return ""
    return server + number + SUFFIX


def _same_host(publisher: str, server: str) -> bool:
    one, other = split_tcp(publisher), split_tcp(server)
    if one is None or other is None or not (one[1].isascii() and one[1].isdecimal()):
        return False
    host = other[0].rpartition(";")[2]
    ip = ip_of(one[0])
    return one[0] in (other[0], host) or (ip is not None and ip == ip_of(host))


def _allows(allowed: PublisherRule, publisher: str, server: str) -> bool:
    """Ask the rule; only True means yes: a coroutine, which is true as well, says nothing."""
    try:
        # Any: the function is a user's, and need not keep to its type.
        answer: Any = allowed(publisher, server)
    except BaseException:  # noqa: BLE001 - the rule is a user's: only the stream ends
        text = "{rule} of publishers= failed: {address}"
        _log.failure(text, rule=allowed, address=printable(publisher))
        return False
    if isinstance(answer, bool):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()  # or it would be said that nobody awaits it
    _log.error(
        "{rule} of publishers= must return True or False, not {answer}: {address} is not allowed",
        rule=allowed,
        answer=shown(answer),
        address=printable(publisher),
    )
    return False


def _refusal(publisher: str, server: str, why: str) -> ValueError:
    return ValueError(
        f"{server} says that its streams are at {printable(publisher)}, and the channel does not "
        f"connect there: {why} (see Channel's publishers=)"
    )
