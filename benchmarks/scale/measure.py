"""In what order the points of an axis are measured, and what is kept of it.

Each round has processes of its own and measures every point, so that what disturbs the machine for
a while disturbs one round of all points rather than all rounds of one. The medians are kept.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Sample
from benchmarks.process import START, Child, python
from benchmarks.scale.axes import Axis, Point, Setup
from benchmarks.workload import TIMEOUT, Order

__all__ = ["Cost", "Plan", "Row", "added", "growth", "measure", "median"]

#: The module of the processes that are measured.
_CHILD = "benchmarks.scale.child"


class Cost(NamedTuple):
    """What calls cost at one point."""

    calls_per_second: float
    #: CPU seconds per call, of all threads of all processes of that side.
    client_cpu: float
    server_cpu: float


class Row(NamedTuple):
    """A point of an axis, measured."""

    value: int
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long to measure."""

    #: Of one measurement.
    seconds: float = 0.5
    rounds: int = 3
    #: Of calls that nobody counts, before each measurement: enough to call 10,000 methods once.
    warm_up: float = 0.5


def added(samples: Sequence[Sample], server_cpu: float) -> Cost:
    """What the samples of several client processes, taken at the same time, come to."""
    calls = sum(sample.calls for sample in samples)
    return Cost(
        # The sum of each one's rate: they do not begin and end at the same instant.
        calls_per_second=sum(sample.calls / sample.elapsed for sample in samples),
        client_cpu=sum(sample.client_cpu for sample in samples) / calls,
        server_cpu=server_cpu / calls,
    )


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def growth(costs: Sequence[float]) -> float:
    """How many times the lowest before it the last of *costs* is: about 1 where they stay flat.

    :raises ValueError: if there are fewer than two.
    """
    *before, last = costs
    if not before:
        raise ValueError("one cost alone does not grow")
    return last / min(before)


class _World:
    """A server and its clients."""

    def __init__(self, server: Child, clients: Sequence[Child]) -> None:
        self._server = server
        self._clients = clients

    def follow(self, order: Order) -> Cost:
        """Have each client process follow *order*, all at the same time.

        :raises benchmarks.process.StackError: if one fails.
        """
        before = self._server_cpu()
        for client in self._clients:
            client.send(asdict(order))
        patience = order.seconds + 2 * TIMEOUT
        samples = [Sample(**client.answer(patience)) for client in self._clients]
        return added(samples, self._server_cpu() - before)

    def _server_cpu(self) -> float:
        cpu: float = self._server.ask({}, TIMEOUT)["cpu"]
        return cpu


@contextmanager
def _world(setup: Setup, build: Path) -> Generator[_World]:
    """Start what *setup* says, connected; it is ended afterwards."""
    arguments = (json.dumps(asdict(setup)), str(build))
    children: list[Child] = []
    try:
        server = Child("server", python(_CHILD, "server", *arguments))
        children.append(server)
        addresses = server.answer(START)
        clients: list[Child] = []
        for number in setup.processes():
            client = Child("client", python(_CHILD, "client", *arguments))
            children.append(client)
            clients.append(client)
            client.send({**addresses, "clients": number})
        for client in clients:
            client.answer(START)
        yield _World(server, clients)
    finally:
        for child in reversed(children):
            child.end()


def _round(axis: Axis, plan: Plan, build: Path) -> Iterator[tuple[Point, Cost]]:
    """Measure each point once; those with the same processes one after another."""
    for setup, points in groupby(axis.points, lambda point: point.setup):
        with _world(setup, build) as world:
            for point in points:
                for seconds in (plan.warm_up, plan.seconds):
                    cost = world.follow(
                        Order(
                            in_flight=point.in_flight,
                            seconds=seconds,
                            message_bytes=point.message_bytes,
                        )
                    )
                yield point, cost


def measure(axis: Axis, plan: Plan, build: Path, progress: Callable[[str], None]) -> list[Row]:
    """The points of *axis*, each with the medians of its rounds.

    :param build: the folder with the generated modules.
    :param progress: told what is being done, in a few words.
    :raises benchmarks.process.StackError: if a process fails; the message says which, and why.
    """
    costs: dict[int, list[Cost]] = {point.value: [] for point in axis.points}
    for number in range(1, plan.rounds + 1):
        progress(f"{axis.title}, round {number} of {plan.rounds}")
        for point, cost in _round(axis, plan, build):
            costs[point.value].append(cost)
            progress(f"{axis.title}, round {number} of {plan.rounds}, {point.value:,}")
    return [Row(value, median(several)) for value, several in costs.items()]
