"""Retries against servers that are killed, and how often each call was executed."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from random import Random
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue

from tests.field.support import QUICK, History
from tests.programs import Program, running
from tests.rpc.service import ECHO
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ConnectivityState, Count, IdempotencyLevel, Method, Unavailable

HOUR = 3600
READY = ConnectivityState.READY
IDEMPOTENT = Method(
    "/test.Echo/Echo",
    "echo",
    StringValue,
    StringValue,
    idempotency_level=IdempotencyLevel.IDEMPOTENT,
)
CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{"service": "test.Echo"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # Nothing is to be given up here for too many failures.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
}


class Pair:
    """Two servers, of which one at a time is killed and started again."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.programs: list[Program] = []
        self.endpoints = [self.start("tcp://127.0.0.1:*"), self.start("tcp://127.0.0.1:*")]
        self._live = list(self.programs)

    def start(self, address: str) -> str:
        program = self._stack.enter_context(running("-m", "tests.field.server", address, "--tell"))
        self.programs.append(program)
        return program.expect("listening at (.*)")[1]

    def kill(self, which: int) -> None:
        self._live[which].kill()

    def restart(self, which: int) -> None:
        self.start(self.endpoints[which])
        self._live[which] = self.programs[-1]

    def executions(self) -> list[Counter[int]]:
        """How often each process executed each call; for when they have ended."""
        return [
            Counter(int(line[5:]) for line in program.output if line.startswith("echo "))
            for program in self.programs
        ]


def play(
    loop: Loop, method: Method[StringValue, StringValue], rounds: int = 6
) -> tuple[History, list[Counter[int]]]:
    """Make calls while one server after the other is killed."""
    random = Random(13)

    async def main() -> tuple[History, Pair]:
        with ExitStack() as stack:
            pair = Pair(stack)
            factory = ZmqFactory(loop.reactor)
            channel = Channel(factory, pair.endpoints, liveness=QUICK, service_config=CONFIG)
            calls = History(loop, channel, factory)
            for number in range(rounds):
                await loop.until(lambda: all(one.state is READY for one in channel.endpoints))
                calls.call_many(300, method=method, timeout=HOUR)
                await loop.sleep(
                    random.random() * 0.04
                )  # none is answered so soon, and many are begun
                pair.kill(number % 2)
                calls.call_many(50, method=method, timeout=HOUR)
                await calls.all_ended()
                pair.restart(number % 2)
            calls.check()
            calls.close()
        return calls, pair

    calls, pair = loop.run(main)
    return calls, pair.executions()


def test_c13_calls_are_executed_once_at_most_though_servers_are_killed(one_loop: Loop) -> None:
    calls, executions = play(one_loop, ECHO)
    total = sum(executions, Counter[int]())
    assert set(total.values()) == {1}
    assert calls.answers.keys() <= total.keys()
    assert calls.errors, "no call was lost, and nothing was tried"
    for number, error in calls.errors.items():
        assert isinstance(error, Unavailable)
        assert "may have been executed" in error.message or number not in total
    assert not calls.channel.counters[Count.RETRY]


def test_c12_idempotent_calls_are_all_answered_though_servers_are_killed(one_loop: Loop) -> None:
    calls, executions = play(one_loop, IDEMPOTENT)
    assert not calls.errors
    total = sum(executions, Counter[int]())
    assert total.keys() == calls.answers.keys() == set(range(calls.made))
    assert calls.channel.counters[Count.RETRY]
    # Another process may execute what one that was killed has; none executes a call twice.
    assert all(set(one.values()) <= {1} for one in executions)
