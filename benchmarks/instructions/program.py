"""The fixed run whose instructions are counted: ``program.py SCENARIO ROUNDS FOLDER``.

Client and server are in one process, in memory and in virtual time, so that a run of so many rounds
does the same each time, instruction for instruction, but for what the interpreter does by address.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred

from benchmarks.peers import txzmq_, txzmq_dressed
from benchmarks.peers.txzmq_ import Txzmq, bench_client, bench_service
from benchmarks.workload import Messages
from txzmq.testing import MemoryNetwork

__all__ = ["SCENARIOS", "Scenario", "play"]

_PAYLOAD: Final = b"\xa5" * 94


class Scenario(NamedTuple):
    """What a round is."""

    peer: Txzmq
    #: Calls that are made in one turn of the reactor, and all answered before the next round.
    calls: int


SCENARIOS: Final = {
    "single calls": Scenario(txzmq_.PEER, 1),
    "batches of 100": Scenario(txzmq_.PEER, 100),
    "dressed, batches of 100": Scenario(txzmq_dressed.PEER, 100),
}


def play(scenario: Scenario, rounds: int, messages: Messages) -> int:
    """Make the calls; how many replies there were."""
    network = MemoryNetwork()
    server = scenario.peer.make_server(network, bench_service(messages))
    channel = scenario.peer.make_channel(network, server.listen("inproc://bench"))
    call = scenario.peer.caller(bench_client(channel), network.clock)
    network.run()  # connected
    replies = 0

    def count(reply: Any) -> None:
        nonlocal replies
        replies += 1

    for sequence in range(rounds):
        calls: list[Deferred[Any]] = []
        for _ in range(scenario.calls):
            request = messages.request(sequence=sequence, payload=_PAYLOAD)
            calls.append(call(request).addCallback(count))
        network.run()
    channel.close()
    server.stop(0)
    network.advance(1)
    return replies


def main() -> None:
    """Do what the command line says."""
    name, rounds, folder = sys.argv[1:]
    sys.path.insert(0, folder)
    messages = Messages.load("generated.bench_pb2")
    gc.disable()  # when it runs depends on all that was made before, and not on a call
    scenario = SCENARIOS[name]
    if play(scenario, int(rounds), messages) != int(rounds) * scenario.calls:
        raise AssertionError("a call was not answered")


if __name__ == "__main__":
    main()
