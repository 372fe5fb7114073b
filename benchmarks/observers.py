"""``python -m benchmarks.observers``: what a call costs more where it is observed, on each side.

Client and server are in one process, in memory and in virtual time, so that only Python's own time
counts. Times are CPU time, each the least of several runs: a shared machine adds to them, and takes
nothing away.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, ClassVar, Final

from google.protobuf.wrappers_pb2 import BytesValue
from twisted.internet.defer import Deferred

from txzmq.rpc import Channel, Context, Method, Observer, Server, Service
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.records import CallRecord, StartedCall
from txzmq.rpc.watching import Watched
from txzmq.testing import MemoryNetwork

ECHO: Final = Method("/bench.Echo/Echo", "echo", BytesValue, BytesValue)
#: Calls of a round, all made in one turn of the reactor.
_ROUND: Final = 100


class _Echo:
    __txzmq_service__: ClassVar[Service] = Service("bench.Echo", (ECHO,))

    def echo(self, request: BytesValue, context: Context) -> BytesValue:
        return request


class Nothing(Observer):
    """Is told of calls, and does nothing."""

    def call_started(self, source: Watched, call: StartedCall) -> None:
        """Nothing."""

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        """Nothing."""


class Stage:
    """A server and a channel, of which each may have an observer."""

    def __init__(self, client: Observer | None, server: Observer | None) -> None:
        self._network = MemoryNetwork()
        self._server = Server(self._network, [_Echo()], observer=server)
        endpoint = self._server.listen("inproc://bench")
        self._channel = Channel(self._network, endpoint, observer=client)
        self._network.run()

    def play(self, rounds: int) -> float:
        """Seconds of CPU for each call."""
        request = BytesValue(value=b"\xa5" * 94)
        begun = time.process_time()
        for _ in range(rounds):
            calls: list[Deferred[Any]] = [
                self._channel.unary_unary(ECHO, request) for _ in range(_ROUND)
            ]
            self._network.run()
            assert all(call.called for call in calls)
        return (time.process_time() - begun) / rounds / _ROUND

    def close(self) -> None:
        """Leave nothing behind."""
        self._channel.close()
        self._server.stop(0)
        self._network.advance(1)


def measure(rounds: int, runs: int) -> dict[str, float]:
    """Microseconds of a call, both sides together, by who observes it."""
    stages = {
        "nobody": Stage(None, None),
        "an observer that does nothing, on the client": Stage(Nothing(), None),
        "an observer that does nothing, on the server": Stage(None, Nothing()),
        "Metrics on the client": Stage(Metrics(), None),
        "Metrics on the server": Stage(None, Metrics()),
    }
    best = dict.fromkeys(stages, float("inf"))
    for _ in range(runs):  # in turn, so that a busy moment is not one stage's alone
        for name, stage in stages.items():
            best[name] = min(best[name], stage.play(rounds))
    for stage in stages.values():
        stage.close()
    return {name: 1e6 * seconds for name, seconds in best.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of 100 calls (%(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="the best counts (%(default)s)")
    given = parser.parse_args()
    figures = measure(given.rounds, given.runs)
    alone = figures["nobody"]
    print(f"{'observed by':<48}{'us a call':>10}{'more':>8}")
    for name, figure in figures.items():
        print(f"{name:<48}{figure:>10.2f}{figure - alone:>8.2f}")


if __name__ == "__main__":
    main()
