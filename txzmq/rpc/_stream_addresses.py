"""Where the publisher of a server listens, and where its clients find it."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["beside", "reachable"]

_SUFFIX: Final = ".streams"
_TCP: Final = re.compile(r"(tcp://)(.*)(:[^:]*)")
#: Hosts that mean all of a machine's addresses.
_WILDCARDS: Final = ("*", "0.0.0.0", "[::]", "::")  # noqa: S104 - recognised, not bound


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

    A wildcard becomes the host that the client has reached.
    """
    match, reached = _TCP.fullmatch(publisher), _TCP.fullmatch(server)
    if match is None or reached is None or match[2] not in _WILDCARDS:
        return publisher
    return f"tcp://{reached[2]}{match[3]}"
