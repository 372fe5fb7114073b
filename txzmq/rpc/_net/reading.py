"""How addresses and targets are read: characters, hosts, ports, and what is said of wrong ones."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NoReturn

__all__ = ["MAX_PORTS", "Reading", "ip_of", "is_ip", "printable"]

#: How many ports one range may have.
MAX_PORTS: Final = 256
_MAX_PORT: Final = 65_535
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_MAX_NAME: Final = 253
#: What nobody would take for a name: ``127.1``, ``300.1.1.1``.
_NUMBERS: Final = re.compile(r"[0-9.]+")
_NUMBER: Final = re.compile(r"[0-9]+")
#: Characters of a wrong address that are shown.
_SHOWN: Final = 300


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


def printable(given: object) -> str:
    """How a wrong value is shown: as its repr, and no longer than a line or two."""
    shown = repr(given)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)} characters)"


class Reading:
    """The reading of one address or target.

    Its errors name the parameter, the address, what is wrong with it, and what would be right.

    :ivar text: the address.
    """

    def __init__(self, given: object, parameter: str, right: str) -> None:
        """
        :param given: what the user has passed.
        :param parameter: as what.
        :param right: forms that are right, for the errors.
        :raises TypeError: if it is no str.
        :raises ValueError: if it is empty, or has characters that no address has.
        """
        self._parameter = parameter
        self._right = right
        if not isinstance(given, str):
            raise TypeError(
                f"{parameter} must be a str, not {type(given).__name__} ({printable(given)}). "
                f"Use {right}"
            )
        self.text = given
        if not given:
            self.refuse("it is empty")
        for character in given:
            if not character.isprintable():
                self.refuse(f"it contains {character!r}")
        if given != given.strip():
            self.refuse("it begins or ends with a space")

    def use(self, right: str) -> None:
        """From now on, errors say that these forms are right."""
        self._right = right

    def refuse(self, reason: str) -> NoReturn:
        """Say what is wrong.

        :raises ValueError: always.
        """
        if len(reason) > 2 * _SHOWN:  # it shows a long part of the text, and says more behind it
            reason = f"{reason[:_SHOWN]}...{reason[-_SHOWN:]}"
        raise ValueError(f"{self._parameter}={printable(self.text)}: {reason}. Use {self._right}")

    # -- hosts ---------------------------------------------------------------------------------

    def split(self, text: str) -> tuple[str, str | None]:
        """Host, without brackets, and what follows the colon; None if nothing does."""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")) or not is_ip(host, 6):
                self.refuse(f"{text!r} is no IPv6 address in brackets")
            return host, rest[1:] if rest else None
        host, colon, port = text.partition(":")
        if ":" in port:
            self.refuse("an IPv6 address needs brackets, as in [::1]:5000")
        return host, port if colon else None

    def name(self, name: str) -> str:
        """Check a host name; it may end with a dot, which says that it is complete."""
        if not name:
            self.refuse("the name is missing")
        if not name.isascii():
            self.refuse(f"the name {name!r} is not in ASCII; use its xn-- form")
        if _NUMBERS.fullmatch(name):
            self.refuse(f"{name!r} is no IP address, and no host name")
        bare = name.removesuffix(".")
        if len(bare) > _MAX_NAME or not all(_LABEL.fullmatch(part) for part in bare.split(".")):
            self.refuse(f"{name!r} is no host name")
        return name

    def host(self, host: str) -> str:
        """Check an IP address without brackets, or a name."""
        return host if is_ip(host) else self.name(host)

    # -- ports ---------------------------------------------------------------------------------

    def port(self, text: str | None) -> int:
        """The number of a port."""
        if text is None:
            self.refuse("the port is missing")
        if not _NUMBER.fullmatch(text) or not text.strip("0"):
            self.refuse(f"{printable(text)} is no port, a number from 1 to {_MAX_PORT}")
        # By its digits first: int() has an error of its own for thousands of them.
        if len(text) > len(str(_MAX_PORT)) or int(text) > _MAX_PORT:
            self.refuse(f"{printable(text)} is no port: it is over {_MAX_PORT}")
        return int(text)

    def ports(self, text: str | None) -> range:
        """One port, or a range of them: ``5000-5003``."""
        first, dash, last = (text or "").partition("-")
        if not dash or text is None:
            port = self.port(text)
            return range(port, port + 1)
        ports = range(self.port(first), self.port(last) + 1)
        if not ports:
            self.refuse(f"the range of ports {text} is reversed: use {last}-{first}")
        if len(ports) > MAX_PORTS:
            self.refuse(f"the range {text} has {len(ports)} ports, and may have {MAX_PORTS}")
        return ports
