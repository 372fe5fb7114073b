"""What clients are told to do that connect, and what comes out.

A client is a channel of its own with a connection of its own. It has connected when its first call
has been answered.
"""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence
from typing import Final, TypedDict

from benchmarks.figures import percentile

__all__ = ["AT_ONCE", "METHOD", "SERVICE", "TIMEOUT", "Connected", "Order", "connected"]

SERVICE: Final = "txzmq.benchmarks.v1.Connecting"
METHOD: Final = f"/{SERVICE}/Echo"
#: Clients that connect at one time, where the rate is measured.
AT_ONCE: Final = 32
#: Seconds that a call may take, connecting included.
TIMEOUT: Final = 60.0


class Order(TypedDict):
    """What the clients are to do."""

    #: ``rate``: connect, call and leave, for so many seconds. ``hold``: so many clients connect and
    #: stay. ``again``: each of those calls until it is answered: its server was started anew.
    what: str
    seconds: float
    clients: int


class Connected(TypedDict):
    """What came out."""

    count: int
    #: Until the last one had its answer; until half, and 99 %, of them had theirs.
    seconds: float
    p50: float
    p99: float
    #: Of processor time, of the clients.
    cpu: float


def connected(times: Sequence[float], seconds: float, cpu: float) -> Connected:
    """What came out.

    :param times: seconds that each of the clients took.
    """
    ordered = array("d", sorted(times))
    return Connected(
        count=len(ordered),
        seconds=seconds,
        p50=statistics.median(ordered),
        p99=percentile(ordered, 99),
        cpu=cpu,
    )
