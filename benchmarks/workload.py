"""The work that every stack does, defined here and nowhere else.

A client builds a request, has the stack carry it, and looks at the reply; a server builds the
reply from what it parsed. A :class:`Window` is one measurement of that: a closed loop with a fixed
number of calls in flight.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from benchmarks.figures import Sample, percentile

if TYPE_CHECKING:
    from google.protobuf.message import Message

    # The message modules are made when the benchmarks run; this is what is in them.
    class EchoRequest(Message):
        sequence: int
        payload: bytes

        def __init__(self, *, sequence: int, payload: bytes) -> None: ...

    class EchoReply(Message):
        sequence: int
        payload: bytes

        def __init__(self, *, sequence: int, payload: bytes) -> None: ...


__all__ = [
    "METHOD",
    "SERVICE",
    "TIMEOUT",
    "Load",
    "Messages",
    "Order",
    "Orders",
    "Window",
]

SERVICE: Final = "txzmq.benchmarks.v1.Bench"
#: The path of the one method, as gRPC spells it.
METHOD: Final = f"/{SERVICE}/Echo"
#: Seconds that every call may take, where the stack can be told so; one that works never needs it.
TIMEOUT: Final = 60.0
#: Bytes of a small message.
SMALL: Final = 100
#: What a message takes besides its payload: two tags, a length, and a sequence number.
_OVERHEAD: Final = 6


class Messages(NamedTuple):
    """The generated message classes; each process has one pair."""

    request: type[EchoRequest]
    reply: type[EchoReply]

    @classmethod
    def load(cls, module: str) -> Messages:
        """The classes in the generated *module*, which must be on ``sys.path``."""
        generated = import_module(module)
        return cls(generated.EchoRequest, generated.EchoReply)

    def answer(self, request: EchoRequest) -> EchoReply:
        """What a server does."""
        return self.reply(sequence=request.sequence, payload=request.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many calls a client has in flight, of which size."""

    in_flight: int
    #: Length of a serialised message, to a few bytes.
    message_bytes: int = SMALL
    #: Make each call once, all at the same time, instead of again and again.
    at_once: bool = False

    def __str__(self) -> str:
        size = f"{self.message_bytes:,} bytes"
        if self.message_bytes >= 1 << 20:
            size = f"{self.message_bytes / (1 << 20):g} MiB"
        when = "at once" if self.at_once else "in flight"
        return f"{self.in_flight:,} {when}, {size}"

    def order(self, seconds: float) -> Order:
        """Have a client keep it up for so many seconds."""
        return Order(
            in_flight=self.in_flight,
            seconds=0 if self.at_once else seconds,
            message_bytes=self.message_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a client is told to do.

    With 0 seconds every one of the calls in flight is made once, all at the same time.
    """

    in_flight: int
    #: No call is begun later than this many seconds after the first one.
    seconds: float
    #: Length of a serialised message, to a few bytes.
    message_bytes: int


class Orders(Protocol):
    """Where a client gets its orders from."""

    def receive(self) -> Order | None:
        """Block until the next order; None when there is none to come."""
        ...

    def report(self, sample: Sample) -> None:
        """Answer the last order."""
        ...


class WrongReplyError(Exception):
    """A stack delivered another reply than the call's own."""


class Window:
    """One measurement: hands out requests until the time is over, and takes the replies.

    It is begun by making it, and each call in flight goes round ::

        started, request = window.issue()
        reply = ...
        if window.complete(started, request, reply): again
    """

    __slots__ = ("_began", "_clock", "_cpu", "_ended", "_latencies", "_over", "_payload",
                 "_request", "_sequence")  # fmt: skip

    def __init__(self, messages: Messages, order: Order) -> None:
        self._request = messages.request
        self._payload = b"\xa5" * max(0, order.message_bytes - _OVERHEAD)
        self._sequence = 0
        self._latencies = array("d")
        self._clock = time.perf_counter
        self._cpu = time.process_time()
        self._began = self._ended = self._clock()
        self._over = self._began + order.seconds

    def issue(self) -> tuple[float, EchoRequest]:
        """When the next call begins, and its request."""
        started = self._clock()
        self._sequence = sequence = self._sequence + 1
        return started, self._request(sequence=sequence, payload=self._payload)

    def complete(self, started: float, request: EchoRequest, reply: EchoReply) -> bool:
        """Note the end of a call.

        :returns: whether another call should follow it.
        :raises WrongReplyError: if the reply is not the request's.
        """
        if reply.sequence != request.sequence or len(reply.payload) != len(self._payload):
            raise WrongReplyError(f"call {request.sequence} was answered with {reply.sequence}")
        self._ended = now = self._clock()
        self._latencies.append(now - started)
        return now < self._over

    def latencies(self) -> list[float]:
        """Seconds of each call, in ascending order, once the last one in flight is complete."""
        return sorted(self._latencies)

    def sample(self) -> Sample:
        """What was measured, once the last call in flight is complete."""
        cpu = time.process_time() - self._cpu
        latencies = self.latencies()
        return Sample(
            calls=len(latencies),
            elapsed=self._ended - self._began,
            p50=percentile(latencies, 50),
            p99=percentile(latencies, 99),
            client_cpu=cpu,
        )
