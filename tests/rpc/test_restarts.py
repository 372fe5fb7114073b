"""Server processes that are told to end: row P3 of reliability's table."""

from __future__ import annotations

import ast
import contextlib
import os
import socket
import sys
import time

import pytest

from tests.programs import Program, running, started
from tests.rpc.service import ECHO, OTHER, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Unavailable

#: ``make test-restarts`` does more.
RESTARTS = int(os.environ.get("TXZMQ_RESTARTS", "10"))
ANY_PORT = "tcp://127.0.0.1:*"


class Restartable:
    """A server process and its successors, all at one endpoint."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.program = self._start(ANY_PORT)

    def _start(self, address: str) -> Program:
        program = self._stack.enter_context(running("-m", "tests.rpc.draining_server", address))
        self.endpoint: str = program.expect("listening at (.*)")[1]
        return program

    def restart(self) -> None:
        """End it, wait until it has ended, and start another; returns when that is used."""
        assert self.program.terminate() == 0
        assert self.program.output[-1] == "stopped"

        self.program = self._start(self.endpoint)
        self.program.expect("serving")


def test_p3_a_rolling_restart_under_load_loses_no_call() -> None:
    with contextlib.ExitStack() as stack:
        servers = [Restartable(stack), Restartable(stack)]
        endpoints = [server.endpoint for server in servers]
        client = stack.enter_context(running("-m", "tests.rpc.load_client", *endpoints))
        for server in servers:
            server.program.expect("serving")
        for number in range(RESTARTS):
            servers[number % 2].restart()
        assert client.terminate() == 0
        ends = ast.literal_eval(client.output[-1].removeprefix("ends: "))
        assert ends.keys() == {"answered"}, client
        assert ends["answered"] > 20 * RESTARTS
        print(f"{RESTARTS} restarts, {ends['answered']} calls, all answered")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can leave connections to others")
@pytest.mark.parametrize("count", [1, 2])
def test_p3_processes_that_hand_over_under_load_fail_no_call(count: int) -> None:
    """Also where there is one endpoint, and without a retry: no call is idempotent."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        endpoints = [f"tcp://127.0.0.1:{made.getsockname()[1]}" for made in sockets]
        fds = [made.fileno() for made in sockets]

        def start(number: int) -> Program:
            command = [sys.executable, "-u", "-m", "tests.rpc.draining_server", endpoints[number]]
            fd = fds[number]
            program = stack.enter_context(started(*command, env={"FD": str(fd)}, fds=[fd]))
            program.expect("listening at .*")
            return program

        servers = [start(number) for number in range(count)]
        client = stack.enter_context(running("-m", "tests.rpc.load_client", *endpoints))
        for server in servers:
            server.expect("serving")
        for roll in range(RESTARTS // 2):
            number = roll % count
            successor = start(number)
            assert servers[number].terminate() == 0
            servers[number] = successor
            successor.expect("serving")
        assert client.terminate() == 0
        ends = ast.literal_eval(client.output[-1].removeprefix("ends: "))
        assert ends.keys() == {"answered"}, client
        assert ends["answered"] > 10 * RESTARTS


def test_p3_sigterm_lets_a_call_finish(one_loop: Loop) -> None:
    with running("-m", "tests.rpc.draining_server", ANY_PORT, "0.5") as program:
        endpoint = program.expect("listening at (.*)")[1]

        async def main() -> None:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, endpoint)
            assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
            answer = channel.unary_unary(OTHER, text("y"))
            await one_loop.sleep(0.1)
            program.process.terminate()
            assert (await answer).value == "y"
            factory.shutdown()

        one_loop.run(main)
        began = time.monotonic()
        assert program.wait() == 0
        # It does not wait for its whole grace, nor for a client that has gone.
        assert time.monotonic() - began < 5
        assert program.output[-1] == "stopped"


def test_p3_sigterm_ends_what_takes_longer_than_the_grace(
    one_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRACE", "0.5")
    with running("-m", "tests.rpc.draining_server", ANY_PORT, "3600") as program:
        endpoint = program.expect("listening at (.*)")[1]

        async def main() -> None:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, endpoint)
            assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
            answer = channel.unary_unary(OTHER, text("y"), timeout=60)
            await one_loop.until(lambda: program.has_said("executing y"))
            program.process.terminate()
            # A second one, of an impatient supervisor, changes nothing.
            await one_loop.sleep(0.1)
            program.process.terminate()
            with pytest.raises(Unavailable, match="may have been executed"):
                await answer
            factory.shutdown()

        one_loop.run(main)
        assert program.wait() == 0
        assert program.output[-1] == "stopped"


def test_p3_sigterm_ends_a_server_without_clients_at_once() -> None:
    with running("-m", "tests.rpc.draining_server", ANY_PORT) as program:
        program.expect("listening at (.*)")
        began = time.monotonic()
        assert program.terminate() == 0
        assert time.monotonic() - began < 5
        assert program.output[-1] == "stopped"
