"""In what order the peers are measured, and what is kept of it.

For each load, each peer's server and client are started anew, so that their memory is of that load
alone, and have some time in which nobody counts. Then the peers take turns,
round after round, and another begins each round. A ratio is of two turns of one round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from benchmarks.native.loads import Answer, Load
from benchmarks.native.peers import Peer
from benchmarks.process import START, Child, StackError

__all__ = ["Figures", "Plan", "Results", "cpu_seconds", "order_of", "peak_of", "run"]

#: Seconds that an order may take beyond what it says.
_PATIENCE: Final = 60.0
#: Seconds of calls that nobody counts, before each turn.
_WAKE_UP: Final = 0.05


@dataclass(frozen=True, kw_only=True)  # no slots: a default is read from the class
class Plan:
    """What is to be measured.

    :ivar unix: over a Unix socket (ipc) instead of TCP on 127.0.0.1.
    :ivar seconds: of one turn.
    :ivar warm_up: seconds of the load that nobody counts, at most; a peer says what it needs.
    """

    loads: Sequence[Load]
    seconds: float = 1.0
    rounds: int = 5
    warm_up: float = 10.0
    unix: bool = False


class Figures(NamedTuple):
    """What one turn came to; times are in seconds, processor time and latency per call or item."""

    rate: float
    p50: float
    p90: float
    p99: float
    p999: float
    client_cpu: float
    server_cpu: float
    #: Peak resident bytes until then.
    client_memory: int
    server_memory: int


@dataclass(slots=True)
class Results:
    """What came out.

    :ivar samples: one entry per round, by load and peer.
    :ivar versions: by peer, what it is made of.
    :ivar failures: by peer, why it was left out, from then on.
    """

    samples: dict[Load, dict[str, list[Figures]]] = field(
        default_factory=dict[Load, dict[str, list[Figures]]]
    )
    versions: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    failures: dict[str, str] = field(default_factory=dict[str, str])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of all its threads, those that ended included.

    Linux makes the number of a process's clock from its id: clock_getcpuclockid(3).
    """
    return time.clock_gettime((~pid << 3) | 2)


def peak_of(status: str) -> int:
    """The peak of resident memory in bytes, from the text of ``/proc/PID/status``.

    :raises ValueError: if it is not there.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            number, unit = value.split()
            if unit != "kB":
                raise ValueError(f"VmHWM in {unit}")
            return int(number) * 1024
    raise ValueError("no VmHWM in the status")


def order_of(names: Sequence[str], number: int) -> Iterator[str]:
    """Whose turn it is in a round: another is the first each time.

    :param number: of the round, from 0.
    """
    first = number % len(names) if names else 0
    yield from names[first:]
    yield from names[:first]


class _Pair:
    """Server and client of a peer, connected."""

    def __init__(self, peer: Peer, build: Path, listen: str, ends: ExitStack) -> None:
        self._name = peer.name
        self._server = self._start(peer, build, "server", listen, ends)
        told = self._server.answer(START)
        self.versions: dict[str, str] = told["versions"]
        self._client = self._start(peer, build, "client", told["address"], ends)
        self._client.answer(START)

    def _start(self, peer: Peer, build: Path, role: str, address: str, ends: ExitStack) -> Child:
        child = Child(
            f"{peer.name}, {role}", [*peer.command(build), role, address, *peer.arguments]
        )
        ends.callback(child.end)
        return child

    def measure(self, load: Load, seconds: float) -> Figures:
        """:raises StackError: if it fails."""
        self._client.ask(str(load.order(seconds)), _PATIENCE)  # it has begun
        before = cpu_seconds(self._server.pid)
        answered = self._client.answer(seconds + _PATIENCE)
        server_cpu = cpu_seconds(self._server.pid) - before
        try:
            answer = Answer.parse(answered)
        except ValueError as error:
            raise StackError(f"{self._name}, {load}: {error}") from error
        return Figures(
            rate=answer.count / answer.seconds,
            p50=answer.p50,
            p90=answer.p90,
            p99=answer.p99,
            p999=answer.p999,
            client_cpu=answer.cpu / answer.count,
            server_cpu=server_cpu / answer.count,
            client_memory=_peak(self._client.pid),
            server_memory=_peak(self._server.pid),
        )


def _peak(pid: int) -> int:
    return peak_of(Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))


def run(
    peers: Mapping[str, Peer], plan: Plan, build: Path, progress: Callable[[str], None]
) -> Results:
    """Measure; a peer that fails is left out from then on, with the reason.

    :param build: where the peers are built.
    :param progress: told what is being done.
    """
    results = Results()
    for peer in peers.values():
        reason = peer.missing(build)
        if reason:
            results.failures[peer.name] = f"{peer.name}: {reason}"
    for load in plan.loads:
        with ExitStack() as ends:
            folder = Path(ends.enter_context(TemporaryDirectory()))  # its user's only
            pairs = _start(peers, plan, load, build, folder, ends, results)
            for number in range(plan.rounds):
                progress(f"{load}, round {number + 1} of {plan.rounds}")
                for name in order_of(list(pairs), number):
                    _take_turn(pairs, name, plan, load, results)
            # A peer that failed has no pair of turns to compare.
            results.samples[load] = {
                name: several
                for name, several in results.samples.get(load, {}).items()
                if name in pairs
            }
    return results


def _start(
    peers: Mapping[str, Peer],
    plan: Plan,
    load: Load,
    build: Path,
    folder: Path,
    ends: ExitStack,
    results: Results,
) -> dict[str, _Pair]:
    pairs: dict[str, _Pair] = {}
    for name, peer in peers.items():
        if name in results.failures:
            continue
        listen = f"unix:{folder / name}" if plan.unix else "127.0.0.1:0"
        try:
            pair = _Pair(peer, build, listen, ends)
            pair.measure(load, min(peer.warm_up, plan.warm_up))
        except StackError as error:
            results.failures[name] = str(error)
        else:
            results.versions[name] = pair.versions
            pairs[name] = pair
    return pairs


def _take_turn(
    pairs: dict[str, _Pair], name: str, plan: Plan, load: Load, results: Results
) -> None:
    try:
        pairs[name].measure(load, _WAKE_UP)
        figures = pairs[name].measure(load, plan.seconds)
    except StackError as error:
        results.failures[name] = str(error)
        del pairs[name]
    else:
        results.samples.setdefault(load, {}).setdefault(name, []).append(figures)
