"""What is measured, and how a program is asked for it.

A program is called with its role and an address. The server listens on ``127.0.0.1:0`` or
``unix:PATH`` and writes a line of JSON: its ``address``, and the ``versions`` of what it is made
of. The client connects to that address and writes a line. Then it gets orders, a line each::

    LOAD AT_ONCE PAYLOAD_BYTES SECONDS BURST PAUSE

and answers each with two lines of JSON: one when it begins to count, at which the server's CPU time
is read, and an :class:`Answer`. Both end when their input does. A program
that receives something else than it must says so on stderr and ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

__all__ = ["GROUPS", "LOADS", "Answer", "Load", "Order"]

#: What a small message takes besides its payload: two tags, a length, and a sequence number.
_OVERHEAD: Final = 6
#: Events of the fan-out that come together, and milliseconds between them.
_BURST: Final = 100
_PAUSE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a client is to do, as it stands in its line."""

    load: str
    at_once: int
    payload_bytes: int
    seconds: float
    burst: int
    pause: int

    @classmethod
    def parse(cls, line: str) -> Order:
        """:raises ValueError: if the line is no order."""
        load, at_once, payload_bytes, seconds, burst, pause = line.split()
        return cls(
            load=load,
            at_once=int(at_once),
            payload_bytes=int(payload_bytes),
            seconds=float(seconds),
            burst=int(burst),
            pause=int(pause),
        )

    def __str__(self) -> str:
        return " ".join(str(getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an order came to; times are in seconds."""

    #: Calls, items, round trips or deliveries.
    count: int
    seconds: float
    #: Of processor time, of the client: user and system, all threads.
    cpu: float
    #: Nearest-rank percentiles of a call or a round trip; 0 where there is none.
    p50: float
    p90: float
    p99: float
    p999: float

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> Answer:
        """:raises ValueError: if the answer lacks something, or nothing was counted."""
        names = [field.name for field in fields(cls)]
        wrong = [name for name in names if not _is_amount(answer.get(name))]
        if wrong:
            raise ValueError(f"the answer has no number for {', '.join(wrong)}: {dict(answer)}")
        if not answer["count"] or not answer["seconds"]:
            raise ValueError("nothing was counted")
        return cls(**{name: answer[name] for name in names})


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]  # a number, by its type


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One row of a table, for each peer.

    :ivar name: what the programs call it: ``unary``, ``responses`` (a stream of responses),
        ``requests`` (a stream of requests), ``both`` (round trips on a stream both ways), or
        ``fan-out`` (one event to many subscribers, each with a connection of its own).
    :ivar at_once: calls in flight, streams or subscribers.
    :ivar message_bytes: length of a serialised message, to a few bytes.
    """

    name: str
    at_once: int
    message_bytes: int = 100

    def order(self, seconds: float) -> Order:
        """Have a client keep it up for so many seconds."""
        return Order(
            load=self.name,
            at_once=self.at_once,
            payload_bytes=self.message_bytes - _OVERHEAD,
            seconds=seconds,
            burst=_BURST,
            pause=_PAUSE,
        )

    def __str__(self) -> str:
        what = _WHAT[self.name].format(self.at_once)
        if self.message_bytes >= 1 << 20:
            return f"{what}, {self.message_bytes >> 20} MiB"
        if self.message_bytes >= 1 << 10:
            return f"{what}, {self.message_bytes >> 10} KiB"
        return f"{what}, {self.message_bytes} B"


_WHAT: Final = {
    "unary": "{:,} in flight",
    "responses": "responses, {:,} at once",
    "requests": "requests, {:,} at once",
    "both": "both ways, {:,} at once",
    "fan-out": "{:,} subscribers",
}

#: The tables, by their titles.
GROUPS: Final[Mapping[str, tuple[Load, ...]]] = {
    "Unary calls, by how many are in flight": tuple(
        Load(name="unary", at_once=at_once) for at_once in (1, 10, 100, 1_000)
    ),
    "Unary calls, by the size of request and reply": (
        Load(name="unary", at_once=100, message_bytes=1 << 10),
        Load(name="unary", at_once=100, message_bytes=64 << 10),
        Load(name="unary", at_once=4, message_bytes=1 << 20),
    ),
    "Streams: items, or round trips where they go both ways": tuple(
        Load(name=name, at_once=at_once)
        for name in ("responses", "requests", "both")
        for at_once in (1, 100)
    ),
    "One event to many subscribers: deliveries, of 500,000 a second at most": (
        Load(name="fan-out", at_once=50),
    ),
}
#: All of them.
LOADS: Final = tuple(load for loads in GROUPS.values() for load in loads)
