"""The processes of a soak: what they say, and what they leave when they end."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import Any

from tests.field.proxy import Proxy
from tests.field.soak.state import more
from tests.programs import Program, running
from tests.support import Loop

#: Seconds that a program has for a line, on a machine that is busy with something else.
_PATIENCE = 120.0
#: Seconds that a server may take, after all clients have gone, until it is as it was at its start.
_SETTLING = 30.0
#: What programs print and should.
_KNOWN = ("serves at ", "state ", "left ", "begins", "clients at ", "servers at ")


class Processes:
    """Starts programs, hears what they say, and notes what they should not have said.

    :ivar wrong: what did not hold, each in a sentence.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # What ends each; those that have ended are let go, so that memory tells of the library.
        self._running: dict[Program, contextlib.ExitStack] = {}
        self.wrong: list[str] = []

    def start(self, module: str, *arguments: str | Path) -> Program:
        """Start a program; it is ended by :meth:`close` at the latest."""
        stack = contextlib.ExitStack()
        program = stack.enter_context(running("-m", module, *arguments))
        self._running[program] = stack
        return program

    def close(self) -> None:
        """End all of them."""
        with contextlib.ExitStack() as stack:
            for each in self._running.values():
                stack.push(each)

    async def heard(self, program: Program, start: str, count: int = 1) -> list[str]:
        """Wait until a program has printed *count* lines that begin so; the rest of each."""
        patience = time.monotonic() + _PATIENCE
        while True:
            has_ended = program.process.poll() is not None
            program.has_said("")
            lines = [line for line in program.output if line.startswith(start)]
            if len(lines) >= count:
                return [line.removeprefix(start) for line in lines]
            assert time.monotonic() < patience, f"no line {start!r}: {program!r}"
            if has_ended:  # its last lines may still be on their way
                patience = min(patience, time.monotonic() + 10)
            await self._loop.sleep(0.02)

    async def ended(self, name: str, program: Program) -> None:
        """Wait until a program has ended by itself, and note what it leaves."""
        left = (await self.heard(program, "left "))[0]
        self.wrong += [f"{name}, at its end: {each}" for each in json.loads(left)]
        await self._loop.until(lambda: program.process.poll() is not None)
        if program.process.returncode:
            self.wrong.append(f"{name} ended with status {program.process.returncode}.")
        self.look(name, program)

    def look(self, name: str, program: Program) -> None:
        """Let go of a program that has ended, and note what it has printed and should not have."""
        self._running.pop(program).close()
        self.wrong += [
            f"{name} said: {line}" for line in program.output if not line.startswith(_KNOWN)
        ]

    async def stopped(self, program: Program, seconds: float) -> None:
        """Stop a program for a while, if it runs."""
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGSTOP)
            await self._loop.sleep(seconds)
            program.process.send_signal(signal.SIGCONT)


class ServerProcess:
    """A server process and its successors, all at one address.

    :ivar proxy: between it and its clients; None before :meth:`behind`, and of a worker.
    """

    def __init__(
        self,
        processes: Processes,
        name: str,
        executions: Path,
        *options: str,
        address: str = "tcp://127.0.0.1:*",
    ) -> None:
        """
        :param executions: where it writes what it executes.
        :param options: as in ``tests.field.soak.server``.
        :param address: where it is to listen, or to find the proxy that it works for.
        """
        self._processes = processes
        self._arguments = (str(executions), *options)
        self.name = name
        self.address = address
        self.program: Program
        self.proxy: Proxy | None = None
        self._at_the_start: dict[str, Any] = {}
        self._states = 0

    async def start(self) -> None:
        """Start a process, and remember its state."""
        self.program = self._processes.start(
            "tests.field.soak.server", self.address, *self._arguments
        )
        self.address = (await self._processes.heard(self.program, "serves at "))[0]
        self._states = 0
        self._at_the_start = await self.state()

    def behind(self, reactor: Any) -> str:
        """Put a proxy before it; the endpoint."""
        self.proxy = Proxy(reactor, self.address)
        return self.proxy.endpoint

    async def state(self) -> dict[str, Any]:
        """Ask the process for its state."""
        self._states += 1
        self.program.process.send_signal(signal.SIGUSR1)
        lines = await self._processes.heard(self.program, "state ", self._states)
        state: dict[str, Any] = json.loads(lines[-1])
        return state

    async def end(self) -> None:
        """Tell it to end, wait for that, and look at what it leaves."""
        self.program.process.terminate()
        await self._processes.ended(self.name, self.program)

    def kill(self) -> None:
        """``kill -9``."""
        self.program.kill()
        self._processes.look(self.name, self.program)

    async def settle(self, loop: Loop) -> None:
        """Wait until it has no more than when it started; note what it has all the same."""
        patience = time.monotonic() + _SETTLING
        while True:
            state = await self.state()
            wrong = [*state["left"], *more(state["numbers"], self._at_the_start["numbers"])]
            if not wrong or time.monotonic() > patience:
                break
            await loop.sleep(0.5)
        self._processes.wrong += [f"{self.name}, without a client, has {each}." for each in wrong]


class WorkerProxy:
    """ZeroMQ's plain proxy, to which workers connect, and its successors at the same addresses."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        #: Where clients connect, and where workers do.
        self.clients = self.workers = "tcp://127.0.0.1:*"
        self.program: Program

    async def start(self) -> None:
        """Start a process."""
        self.program = self._processes.start("tests.rpc.plain_proxy", self.clients, self.workers)
        (self.clients,) = await self._processes.heard(self.program, "clients at ")
        (self.workers,) = await self._processes.heard(self.program, "servers at ")

    def kill(self) -> None:
        """``kill -9``: it never ends by itself."""
        self.program.kill()
        self._processes.look("the workers' proxy", self.program)
