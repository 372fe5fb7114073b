"""What is varied, one thing at a time, and what must not grow with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.workload import SMALL

__all__ = ["AXES", "Axis", "Point", "Setup"]

#: Calls in flight for each endpoint, or for each client. Were it so many for all of them, each
#: connection would have the fewer the more there are, and fewer calls travel as one message.
_EACH: Final = 10
#: Where neither endpoints, nor clients, nor calls in flight are varied.
_IN_FLIGHT: Final = 100
#: Few, as 100 of the largest messages would be more than a server's limit of waiting replies.
_LARGE_IN_FLIGHT: Final = 4
#: Client processes at most; a client more is then a channel more in one of them.
_PROCESSES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is started: a server process, and processes of clients."""

    #: At which one server process listens.
    endpoints: int = 1
    #: Channels, each with its own connections.
    clients: int = 1
    #: Of the service, each called in turn; 0 for the generated service, which has one.
    methods: int = 0
    #: Of ``txzmq serve``, each with an endpoint; 0 for one process without a supervisor.
    workers: int = 0
    #: Bytes that a message may have; None for the default.
    message_limit: int | None = None

    def processes(self) -> list[int]:
        """How many clients each client process has."""
        number = min(_PROCESSES, self.clients)
        each, more = divmod(self.clients, number)
        return [each + (index < more) for index in range(number)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement."""

    #: The value of what is varied.
    value: int
    setup: Setup
    #: Calls that each client has in flight.
    in_flight: int
    message_bytes: int = SMALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One thing that is varied."""

    #: As on the command line, and in the name of the plot's file.
    name: str
    title: str
    #: What a value counts.
    unit: str
    #: What stays the same.
    fixed: str
    points: Sequence[Point]
    #: Whether it is CPU time per byte that must not grow, instead of per call.
    by_byte: bool = False

    def shortened(self, most: int) -> Axis:
        """The same with *most* points: the first, the last, and some between them."""
        if most < 2:
            raise ValueError(f"{most} points show no growth")
        last = len(self.points) - 1
        kept = sorted({round(number * last / (most - 1)) for number in range(most)})
        return replace(self, points=[self.points[index] for index in kept])


def _sizes() -> list[int]:
    """16 B to 16 MiB."""
    return [16 << shift for shift in range(0, 21, 2)]


#: The client's and the server's limit for the largest message, with what protobuf adds.
_LARGE: Final = (16 << 20) + 65_536

AXES: Final[dict[str, Axis]] = {
    axis.name: axis
    for axis in (
        Axis(
            name="in-flight",
            title="Calls in flight",
            unit="calls in flight",
            fixed=f"one client, one endpoint, messages of {SMALL} bytes",
            points=[
                Point(value=n, setup=Setup(), in_flight=n)
                for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
            ],
        ),
        Axis(
            name="endpoints",
            title="Endpoints of one channel",
            unit="endpoints",
            fixed=(
                f"one client, round robin, {_EACH} calls in flight for each endpoint, one server "
                f"process with a socket for each, messages of {SMALL} bytes"
            ),
            points=[
                Point(value=n, setup=Setup(endpoints=n), in_flight=_EACH * n)
                for n in (1, 2, 4, 8, 16, 32, 64)
            ],
        ),
        Axis(
            name="clients",
            title="Clients of one server",
            unit="clients",
            fixed=(
                f"each client with a connection of its own and {_EACH} calls in flight, in up to "
                f"{_PROCESSES} processes, messages of {SMALL} bytes"
            ),
            points=[
                Point(value=n, setup=Setup(clients=n), in_flight=_EACH)
                for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)
            ],
        ),
        Axis(
            name="size",
            title="Size of messages",
            unit="bytes of a message",
            fixed=f"one client, one endpoint, {_LARGE_IN_FLIGHT} calls in flight, limits raised",
            points=[
                Point(
                    value=n,
                    setup=Setup(message_limit=_LARGE),
                    in_flight=_LARGE_IN_FLIGHT,
                    message_bytes=n,
                )
                for n in _sizes()
            ],
            by_byte=True,
        ),
        Axis(
            name="methods",
            title="Methods of one service",
            unit="methods",
            fixed=(
                f"one client that calls them in turn, one endpoint, {_IN_FLIGHT} calls in flight, "
                f"messages of {SMALL} bytes"
            ),
            points=[
                Point(value=n, setup=Setup(methods=n), in_flight=_IN_FLIGHT)
                for n in (1, 10, 100, 1_000, 10_000)
            ],
        ),
        Axis(
            name="workers",
            title="Processes of txzmq serve",
            unit="processes",
            fixed=(
                f"{_PROCESSES} clients in processes of their own, each connected to all and with "
                f"{_EACH} calls in flight, messages of {SMALL} bytes, and handlers that take 1 ms "
                "of CPU time"
            ),
            points=[
                Point(value=n, setup=Setup(workers=n, clients=_PROCESSES), in_flight=_EACH)
                for n in (1, 2, 3, 4)
            ],
        ),
    )
}
