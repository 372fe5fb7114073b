"""The rounds of a soak: processes, faults, and what must hold when they are over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from tests.field.network import QuickNetwork
from tests.field.proxy import ProxiedPublishers, Proxy
from tests.field.soak.history import REPEATED, Checked, History, check
from tests.field.soak.processes import Processes, ServerProcess, WorkerProxy
from tests.field.soak.state import resident, resources
from tests.field.soak.traffic import Traffic, left_over
from tests.programs import Program
from tests.support import Loop, gather
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor

#: Seconds of calls and faults in a round.
ROUND = 15.0
#: Memory may grow so much, from the first third of the rounds to the last: a share, and KiB.
GROWTH, GROWTH_KIB = 0.10, 8 * 1024
#: In so many faults, something of every kind happens; a machine that is busy needs longer for them.
_ENOUGH = 150


class Network(ProxiedPublishers, QuickNetwork):
    """Notices losses quickly, and reaches publishers through proxies."""


class Soak:
    """A whole soak; :meth:`run`, then :meth:`check`.

    Multicast groups are not part of it: pyzmq's wheels have no PGM. ``make test-multicast`` plays
    its games with them.

    :ivar wrong: what did not hold, besides what the histories say.
    """

    def __init__(self, loop: Loop, folder: Path, seed: int) -> None:
        self.loop = loop
        self.folder = folder
        self.executions = folder / "executions"
        self.executions.touch()
        self.processes = Processes(loop)
        self.wrong = self.processes.wrong
        self._seed = seed
        self._random = random.Random(seed)
        self._clients: list[tuple[str, Program]] = []
        self._client_count = 0
        self._killed: set[str] = set()
        self._servers = [self._server("steady"), self._server("mortal", "--intercept")]
        self._worker_proxy = WorkerProxy(self.processes)
        self._workers: list[ServerProcess] = []
        self._memory: dict[str, list[int]] = {"main": [], "steady": [], "steady worker": []}
        self._faults = 0
        #: Responses that a server's interceptor had marked.
        self._marks = 0
        self._history = History(folder / "main.history")
        self._network: Network
        self._traffic: Traffic
        #: Between clients and the workers' proxy.
        self._wire_to_workers: Proxy | None = None

    def _server(self, name: str, *options: str, **more: str) -> ServerProcess:
        return ServerProcess(self.processes, name, self.executions, *options, **more)

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
            self.processes.close()
            globalLogPublisher.removeObserver(observer)
        self.wrong += await left_over(self.loop, "main", before)
        self._history.close()
        self.wrong += grown(self._memory)

    async def _run(self, seconds: float) -> None:
        await self._start_servers()
        factory = ZmqFactory(self.loop.reactor)
        self._network = Network(factory)
        reactor = self.loop.reactor
        endpoints = [server.behind(reactor) for server in self._servers]
        self._wire_to_workers = Proxy(reactor, self._worker_proxy.clients)
        workers = self._wire_to_workers.endpoint
        self._traffic = Traffic(
            self.loop, self._seed, "main", self._history, self._network, endpoints, workers
        )
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                await self._round(min(ROUND, left))
            self._traffic.close()
            self._marks = self._traffic.interceptor.echoes
            await self._end_servers()
        finally:
            self._traffic.close()
            factory.shutdown()
            for proxy in self._proxies():
                await proxy.close()
        self.wrong += self._traffic.wrong

    async def _start_servers(self) -> None:
        for server in self._servers:
            await server.start()
        await self._worker_proxy.start()
        for name in ("steady worker", "mortal worker"):
            address = self._worker_proxy.workers
            worker = self._server(name, "--connect", "--intercept", address=address)
            self._workers.append(worker)
            await worker.start()

    async def _end_servers(self) -> None:
        """All clients have gone; so does the proxy, to which workers have connections."""
        self._worker_proxy.kill()
        for server in (*self._servers, *self._workers):
            await server.settle(self.loop)
            await server.end()

    async def _round(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._start_client(seconds)
        faults: list[Deferred[None]] = [
            Deferred.fromCoroutine(self._break(kinds, end))
            for kinds in (
                self._faults_of_wires(),
                self._faults_of_processes(),
                self._faults_of_workers(),
            )
        ]
        await self._traffic.run(seconds)
        await gather(list(faults))
        for name, client in self._clients:
            await self.processes.ended(name, client)
        self._clients.clear()
        self._memory["main"].append(resident())
        for steady in (self._servers[0], self._workers[0]):
            self._memory[steady.name].append((await steady.state())["memory"])

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

    def _faults_of_workers(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [self._stop_worker, self._kill_worker, self._restart_worker, self._kill_proxy]

    def _proxies(self) -> list[Proxy]:
        before = [*(server.proxy for server in self._servers), self._wire_to_workers]
        return [*filter(None, before), *self._network.proxies.values()]

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
        await self.loop.sleep(self._while())
        for proxy in proxies:
            proxy.latency = proxy.jitter = proxy.slice_size = 0

    async def _black_hole(self) -> None:
        proxy = self._random.choice(self._used_proxies())
        proxy.black_hole = True
        await self.loop.sleep(self._while())
        proxy.black_hole = False

    async def _stop(self) -> None:
        await self._stopped(self._random.choice(self._servers).program)

    async def _stop_client(self) -> None:
        if self._clients:
            await self._stopped(self._random.choice(self._clients)[1])

    async def _stop_worker(self) -> None:
        programs = [self._worker_proxy.program, *(worker.program for worker in self._workers)]
        await self._stopped(self._random.choice(programs))

    async def _stopped(self, program: Program) -> None:
        await self.processes.stopped(program, self._while())

    async def _kill_server(self) -> None:
        await self._killed_for_a_while(self._servers[1])

    async def _kill_worker(self) -> None:
        await self._killed_for_a_while(self._workers[1])

    async def _killed_for_a_while(self, mortal: ServerProcess) -> None:
        mortal.kill()
        await self.loop.sleep(self._while())
        await mortal.start()

    async def _restart(self) -> None:
        await self._servers[1].end()
        await self._servers[1].start()

    async def _restart_worker(self) -> None:
        await self._workers[1].end()
        await self._workers[1].start()

    async def _kill_proxy(self) -> None:
        self._worker_proxy.kill()
        await self.loop.sleep(self._while())
        await self._worker_proxy.start()

    async def _kill_client(self) -> None:
        if self._clients and self._clients[0][1].process.poll() is None:
            name, client = self._clients.pop(0)
            self._killed.add(name)
            client.kill()
            self.processes.look(name, client)
            self._start_client(5)

    def _while(self) -> float:
        """Seconds that a fault lasts: mostly less than it takes to be noticed."""
        return self._random.choice([0.1, 0.5, 1, 4])

    def _start_client(self, seconds: float) -> None:
        name = f"client{self._client_count}"
        self._client_count += 1
        proxy = self._servers[1].proxy
        assert proxy is not None
        client = self.processes.start(
            "tests.field.soak.client",
            *(name, str(self._seed), str(seconds), self.folder / f"{name}.history"),
            self._worker_proxy.clients,
            # One that may be cut, and one that may not.
            *(self._servers[0].address, proxy.endpoint),
        )
        self._clients.append((name, client))

    def _observe(self, event: LogEvent) -> None:
        failure: Any = event.get("log_failure")
        if failure is not None:
            self.wrong.append(f"main logged: {failure.getTraceback()}")

    # -- what came of it -------------------------------------------------------------------------

    def check(self) -> list[str]:
        """What did not hold, each in a sentence."""
        return [*self.wrong, *self._checked().wrong, *self._not_tried()]

    def _not_tried(self) -> list[str]:
        """A soak that is long enough and did not do all that it is for proves nothing."""
        if self._faults < _ENOUGH:
            return []
        missing = sorted(REPEATED - self._checked().again.keys())
        wrong = [f"Of all calls, none that is {kind} was executed again." for kind in missing]
        return wrong if self._marks else [*wrong, "No mark of an interceptor came back."]

    def _checked(self) -> Checked:
        histories: dict[str, Iterable[str]] = {
            path.stem: path.read_text().splitlines(keepends=True)
            for path in sorted(self.folder.glob("*.history"))
        }
        return check(histories, self.executions.read_text().splitlines(), self._killed)

    def summary(self) -> str:
        """What was done, in a few lines."""
        ends = ", ".join(f"{end} {times}" for end, times in sorted(self._history.ends.items()))
        again = self._checked().again.items()
        repeated = ", ".join(f"{kind} {times}" for kind, times in sorted(again))
        memory = ", ".join(f"{who} {kib}" for who, kib in self._memory.items())
        return (
            f"{self._faults} faults, {self._client_count} client processes of which "
            f"{len(self._killed)} were killed\ncalls of this process: {ends}\n"
            f"calls that were executed again: {repeated}; {self._marks} marks of interceptors "
            f"came back\nKiB: {memory}"
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
