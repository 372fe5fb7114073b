"""Where ``txzmq serve`` is told to listen: addresses, ranges of ports, what systemd has passed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from txzmq.rpc._net.addresses import ANY_IPC, is_multicast, split_scheme
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc._net.reading import Reading

__all__ = ["SYSTEMD", "each_address", "publishers_of"]

#: In place of an address: the sockets that systemd has passed; with a colon and a name, some.
SYSTEMD: Final = "systemd"
_RANGE: Final = re.compile(r"(tcp://.*):([0-9]+-[0-9]+)")
_RIGHT: Final = (
    "tcp://127.0.0.1:5000, tcp://127.0.0.1:5000-5003 for four processes, ipc:///path, or systemd"
)
_RIGHT_PUBLISHER: Final = "tcp://127.0.0.1:6000-6001, with two ports for each process"


def each_address(given: Iterable[str], option: str = "--listen") -> list[str]:
    """The addresses that these stand for, each of one port; what systemd has passed is left.

    :param option: which they were given by, for the errors.
    :raises ValueError: if one is wrong, or there are two of the same.
    """
    addresses = [address for one in given for address in _expanded(one, option)]
    seen: set[str] = set()
    for address in addresses:
        if address in seen and not address.endswith((":*", ":0")):
            raise ValueError(f"{option}: {address} is given twice; each is for one process")
        seen.add(address)
    return addresses


def _expanded(given: str, option: str) -> list[str]:
    if given == SYSTEMD or given.startswith(f"{SYSTEMD}:"):
        return [given]
    reading = Reading(given, option, _RIGHT)
    found = _RANGE.fullmatch(given)
    if found is None:
        return [_checked(given, option)]
    return [_checked(f"{found[1]}:{port}", option) for port in reading.ports(found[2])]


def _checked(address: str, option: str) -> str:
    parsed = parse_address(address, Use.LISTEN, option, right=_RIGHT)
    if parsed.scheme == "inproc":
        raise ValueError(f"{option}={address}: inproc is for one process; use ipc:///path")
    if address == ANY_IPC:
        raise ValueError(f"{option}={address}: name the path, so that clients know it")
    return address


def publishers_of(given: Iterable[str], addresses: int) -> list[tuple[str, str]]:
    """The addresses of publishers: two for each process, for an old one and a new one in turn.

    :param addresses: how many processes there are.
    :raises ValueError: if there are not two for each.
    """
    found = each_address(given, "--publisher")
    for address in found:
        if address.startswith(SYSTEMD) or is_multicast(address):
            raise ValueError(
                f"--publisher={address}: it must be an address. Use {_RIGHT_PUBLISHER}"
            )
        if split_scheme(address)[0] == "ipc":
            raise ValueError(
                f"--publisher={address}: by ipc, each process chooses a path beside its own address"
            )
    if found and len(found) != 2 * addresses:
        raise ValueError(
            f"--publisher has {len(found)} ports, and {addresses} processes need {2 * addresses}: "
            f"each two, since an old and a new process run at a time. Use {_RIGHT_PUBLISHER}"
        )
    return list(zip(found[::2], found[1::2], strict=True))
