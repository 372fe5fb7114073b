"""The rounds of a soak: processes, faults, and what must hold when they are over."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from tests.field.network import QuickNetwork
from tests.field.proxy import ProxiedPublishers, Proxy
from tests.field.soak.history import History, check
from tests.field.soak.state import more, resident, resources
from tests.field.soak.traffic import Traffic, left_over
from tests.field.support import QUICK
from tests.programs import Program, running
from tests.support import Loop, gather
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Channel

#: Seconds of calls and faults in a round.
ROUND = 15.0
#: Seconds that a server may take, after all clients have gone, until it is as it was at its start.
_SETTLING = 20.0
#: Memory may grow so much, from the first third of the rounds to the last: a share, and KiB.
GROWTH, GROWTH_KIB = 0.10, 8 * 1024


class Network(ProxiedPublishers, QuickNetwork):
    """Notices losses quickly, and reaches publishers through proxies."""


class ServerProcess:
    """A server process and its successors, all at one endpoint behind a proxy."""

    def __init__(self, soak: Soak, name: str) -> None:
        self._soak = soak
        self.name = name
        self.address = "tcp://127.0.0.1:*"
        self.program: Program
        self.proxy: Proxy
        self.start_state: dict[str, Any] = {}
        self._states = 0

    async def start(self) -> None:
        """Start a process, and remember its state."""
        soak = self._soak
        self.program = soak.stack.enter_context(
            running("-m", "tests.field.soak.server", self.address, str(soak.executions))
        )
        self.address = (await soak.heard(self.program, "listening at "))[0]
        self._states = 0
        self.start_state = await self.state()

    async def state(self) -> dict[str, Any]:
        """Ask the process for its state."""
        self._states += 1
        self.program.process.send_signal(signal.SIGUSR1)
        lines = await self._soak.heard(self.program, "state ", self._states)
        state: dict[str, Any] = json.loads(lines[-1])
        return state

    async def end(self) -> None:
        """Tell it to end, wait for that, and look at what it leaves."""
        self.program.process.terminate()
        await self._soak.ended(self.name, self.program)

    def kill(self) -> None:
        """``kill -9``."""
        self.program.kill()
        self._soak.look(self.name, self.program)


class Soak:
    """A whole soak; :meth:`run`, then :meth:`check`.

    :ivar wrong: what did not hold, besides what the histories say.
    """

    def __init__(self, loop: Loop, folder: Path, seed: int) -> None:
        self.loop = loop
        self.folder = folder
        self.executions = folder / "executions"
        self.executions.touch()
        self.wrong: list[str] = []
        self.stack = contextlib.ExitStack()
        self._seed = seed
        self._random = random.Random(seed)
        self._clients: list[tuple[str, Program]] = []
        self._client_count = 0
        self._killed: set[str] = set()
        self._servers = [ServerProcess(self, "steady"), ServerProcess(self, "mortal")]
        self._memory: dict[str, list[int]] = {"main": [], "steady": []}
        self._faults = 0
        self._history = History(folder / "main.history")
        self._network: Network
        self._traffic: Traffic

    async def run(self, seconds: float) -> None:
        """Soak for about so long."""
        observer: Any = self._observe
        globalLogPublisher.addObserver(observer)
        # Twisted makes and keeps descriptors for its endpoints and its first port.
        default_reactor()
        await Proxy(self.loop.reactor, "tcp://127.0.0.1:1").close()
        await self.loop.sleep(0)  # the loop itself has a delayed call from then on
        before = resources(self.loop.reactor)
        try:
            await self._run(seconds)
        finally:
            self.stack.close()
            globalLogPublisher.removeObserver(observer)
        self.wrong += await left_over(self.loop, "main", before)
        self._history.close()
        self.wrong += grown(self._memory)

    async def _run(self, seconds: float) -> None:
        for server in self._servers:
            await server.start()
            server.proxy = Proxy(self.loop.reactor, server.address)
        factory = ZmqFactory(self.loop.reactor)
        self._network = Network(factory)
        endpoints = [server.proxy.endpoint for server in self._servers]
        self._traffic = Traffic(
            self.loop,
            self._seed,
            "main",
            self._history,
            lambda: Channel(self._network, endpoints, liveness=QUICK, stream_window=64),
        )
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                await self._round(min(ROUND, left))
            self._traffic.close()
            for server in self._servers:
                await self._as_at_the_start(server)
                await server.end()
        finally:
            self._traffic.close()
            factory.shutdown()
            for proxy in self._proxies():
                await proxy.close()
        self.wrong += self._traffic.wrong

    async def _round(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._start_client(seconds)
        faults: list[Deferred[None]] = [
            Deferred.fromCoroutine(self._break(kinds, end))
            for kinds in (self._faults_of_wires(), self._faults_of_processes())
        ]
        await self._traffic.run(seconds)
        await gather(list(faults))
        for name, client in self._clients:
            await self.ended(name, client)
        self._clients.clear()
        steady = self._servers[0]
        self._memory["main"].append(resident())
        self._memory["steady"].append((await steady.state())["memory"])

    # -- faults ----------------------------------------------------------------------------------

    async def _break(
        self, kinds: list[Callable[[], Coroutine[Any, Any, None]]], end: float
    ) -> None:
        """Break one thing after the other; each is mended before the next one comes."""
        while True:
            await self.loop.sleep(self._random.uniform(0.2, 2))
            if time.monotonic() > end:
                return
            self._faults += 1
            await self._random.choice(kinds)()

    def _faults_of_wires(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [self._cut, self._cut, self._slow_wire, self._black_hole]

    def _faults_of_processes(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [self._stop, self._kill_server, self._restart, self._stop_client, self._kill_client]

    def _proxies(self) -> list[Proxy]:
        return [
            *(server.proxy for server in self._servers if hasattr(server, "proxy")),
            *self._network.proxies.values(),
        ]

    def _used_proxies(self) -> list[Proxy]:
        """Those that have connections, or all: those of publishers that are gone have none."""
        proxies = self._proxies()
        return [proxy for proxy in proxies if proxy.connections] or proxies

    async def _cut(self) -> None:
        for proxy in self._used_proxies():
            if self._random.random() < 0.5:
                self._random.choice([proxy.cut, proxy.reset])()

    async def _slow_wire(self) -> None:
        proxies = self._used_proxies()
        for proxy in proxies:
            proxy.latency = self._random.uniform(0, 0.1)
            proxy.jitter = self._random.uniform(0, 0.1)
            proxy.slice_size = self._random.choice([0, 0, 100, 1000])
        await self._while()
        for proxy in proxies:
            proxy.latency = proxy.jitter = proxy.slice_size = 0

    async def _black_hole(self) -> None:
        proxy = self._random.choice(self._used_proxies())
        proxy.black_hole = True
        await self._while()
        proxy.black_hole = False

    async def _stop(self) -> None:
        await self._stopped(self._random.choice(self._servers).program)

    async def _stop_client(self) -> None:
        if self._clients:
            await self._stopped(self._random.choice(self._clients)[1])

    async def _stopped(self, program: Program) -> None:
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGSTOP)
            await self._while()
            program.process.send_signal(signal.SIGCONT)

    async def _kill_server(self) -> None:
        mortal = self._servers[1]
        mortal.kill()
        await self._while()
        await mortal.start()

    async def _restart(self) -> None:
        mortal = self._servers[1]
        await mortal.end()
        await mortal.start()

    async def _kill_client(self) -> None:
        if self._clients and self._clients[0][1].process.poll() is None:
            name, client = self._clients.pop(0)
            self._killed.add(name)
            client.kill()
            self.look(name, client)
            self._start_client(5)

    async def _while(self) -> None:
        """Wait as long as a fault lasts: mostly less than it takes to be noticed."""
        await self.loop.sleep(self._random.choice([0.1, 0.5, 1, 4]))

    # -- processes -------------------------------------------------------------------------------

    def _start_client(self, seconds: float) -> None:
        name = f"client{self._client_count}"
        self._client_count += 1
        client = self.stack.enter_context(
            running(
                *("-m", "tests.field.soak.client", name, str(self._seed), str(seconds)),
                self.folder / f"{name}.history",
                # One that may be cut, and one that may not.
                self._servers[0].address,
                self._servers[1].proxy.endpoint,
            )
        )
        self._clients.append((name, client))

    async def heard(self, program: Program, start: str, count: int = 1) -> list[str]:
        """Wait until a program has printed *count* lines that begin so; the rest of each."""
        patience = time.monotonic() + 120
        while True:
            program.has_said("")
            lines = [line for line in program.output if line.startswith(start)]
            if len(lines) >= count:
                return [line.removeprefix(start) for line in lines]
            assert time.monotonic() < patience, f"no line {start!r}: {program!r}"
            assert program.process.poll() is None or time.monotonic() < patience - 110, program
            await self.loop.sleep(0.02)

    async def ended(self, name: str, program: Program) -> None:
        """Wait until a program has ended by itself, and note what it leaves."""
        left = (await self.heard(program, "left "))[0]
        self.wrong += [f"{name}, at its end: {each}" for each in json.loads(left)]
        await self.loop.until(lambda: program.process.poll() is not None)
        if program.process.returncode:
            self.wrong.append(f"{name} ended with status {program.process.returncode}.")
        self.look(name, program)

    def look(self, name: str, program: Program) -> None:
        """Let go of a program that has ended, and note what it has printed and should not have."""
        program.close()
        known = ("listening at ", "state ", "left ", "begins")
        self.wrong += [
            f"{name} said: {line}" for line in program.output if not line.startswith(known)
        ]

    async def _as_at_the_start(self, server: ServerProcess) -> None:
        """Wait until a server has no more than when it started."""
        patience = time.monotonic() + _SETTLING
        while True:
            state = await server.state()
            wrong = [*state["left"], *more(state["numbers"], server.start_state["numbers"])]
            if not wrong or time.monotonic() > patience:
                break
            await self.loop.sleep(0.5)
        self.wrong += [f"{server.name}, without a client, has {each}." for each in wrong]

    def _observe(self, event: LogEvent) -> None:
        failure: Any = event.get("log_failure")
        if failure is not None:
            self.wrong.append(f"main logged: {failure.getTraceback()}")

    # -- what came of it -------------------------------------------------------------------------

    def check(self) -> list[str]:
        """What did not hold, each in a sentence."""
        histories: dict[str, Iterable[str]] = {
            path.stem: path.read_text().splitlines(keepends=True)
            for path in sorted(self.folder.glob("*.history"))
        }
        executions = self.executions.read_text().splitlines()
        return [*self.wrong, *check(histories, executions, self._killed)]

    def summary(self) -> str:
        """What was done, in a few lines."""
        ends = ", ".join(f"{end} {times}" for end, times in sorted(self._history.ends.items()))
        memory = ", ".join(f"{who} {kib}" for who, kib in self._memory.items())
        return (
            f"{self._faults} faults, {self._client_count} client processes of which "
            f"{len(self._killed)} were killed\ncalls of this process: {ends}\nKiB: {memory}"
        )


def grown(memory: dict[str, list[int]]) -> list[str]:
    """Which process's memory has grown, from the first third of its rounds to the last.

    The first round is left out: code and buffers are still being loaded.
    """
    wrong: list[str] = []
    for who, samples in memory.items():
        third = (len(samples) - 1) // 3
        if not third:
            continue
        first = sum(samples[1 : 1 + third]) / third
        last = sum(samples[-third:]) / third
        if last > first * (1 + GROWTH) + GROWTH_KIB:
            wrong.append(f"{who}: {last:.0f} KiB in the last third, and {first:.0f} in the first.")
    return wrong
