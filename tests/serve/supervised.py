"""A real ``txzmq serve``, its workers, and calls of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Generator
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults

from tests.programs import PATIENCE, ROOT, Program, running
from tests.rpc.service import ECHO, WATCH, text
from tests.serve.shop import ITEMS
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials
from txzmq.rpc import Channel, Resolver, RpcError

ANY_PORT = "tcp://127.0.0.1:*"
SHOP = "tests.serve.shop:Shop"
_PROCESSES = "txzmq_supervisor_processes"
#: Of processes: at first the only one that lasts.
_STATES = ("ready", "starting", "leaving")


class Supervised:
    """A supervisor that runs, and what its log has said so far."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.addresses: list[str] = []
        #: Processes by the number of their worker.
        self.pids: dict[int, int] = {}
        self.metrics = ""

    def wait_until_ready(self) -> None:
        self.addresses = self.program.expect(r".* serves .* at (.*)")[1].split()
        while True:
            line = self.program.expect(r".*\[supervisor .*")[0]
            self._note(line)
            if "workers are ready" in line:
                return

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the supervisor's."""
        while True:
            line = self.program.expect(".*")[0]
            self._note(line)
            if found := re.search(pattern, line):
                return found

    def has_said(self, part: str) -> int:
        """How many lines with this part there are by now; does not wait."""
        before = len(self.program.output)
        self.program.has_said("")
        for line in self.program.output[before:]:
            self._note(line)
        return sum(part in line for line in self.program.output)

    def _note(self, line: str) -> None:
        if found := re.search(r"worker (\d+) is ready at .*: process (\d+)", line):
            self.pids[int(found[1])] = int(found[2])
        if found := re.search(r"metrics at (http:.*)/metrics", line):
            self.metrics = found[1]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.metrics}{path}", timeout=PATIENCE) as response:
            return str(response.read().decode())

    def values(self, name: str) -> float:
        """The sum of a metric's values."""
        lines = self.get("/metrics").splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def wait_until_settled(self, workers: int) -> None:
        """Wait until all *workers* take calls, and no other process is left of a roll or a kill."""
        end = time.monotonic() + PATIENCE
        while [self.values(f'{_PROCESSES}{{state="{state}"}}') for state in _STATES] != [
            workers,
            *(0 for _ in _STATES[1:]),
        ]:
            assert time.monotonic() < end, self.program
            time.sleep(0.01)  # nothing tells of it

    def signal(self, number: signal.Signals) -> None:
        self.program.process.send_signal(number)


@contextlib.contextmanager
def serving(
    *arguments: str | Path, ports: int = 1, service: str = SHOP, cwd: Path = ROOT
) -> Generator[Supervised]:
    """Run ``txzmq serve``; in the end, none of its processes is left."""
    listen = [part for _ in range(ports) for part in ("--listen", ANY_PORT)]
    with started_serving(*listen, *arguments, service=service, cwd=cwd) as supervised:
        supervised.wait_until_ready()
        yield supervised


@contextlib.contextmanager
def started_serving(
    *arguments: str | Path, service: str = SHOP, cwd: Path = ROOT
) -> Generator[Supervised]:
    """As :func:`serving`, without waiting for it to be ready, and listening where one says."""
    with running("-m", "txzmq", "serve", service, *arguments, cwd=cwd) as program:
        supervised = Supervised(program)
        try:
            yield supervised
            if program.process.poll() is None:
                assert program.terminate() == 0, program
        finally:
            left = children_of(program.process.pid)
            program.close()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not left, f"processes are left: {left}"


def children_of(pid: int) -> list[int]:
    """Processes whose parent is this one."""
    found: list[int] = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError, ValueError):
            status = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == pid:
                found.append(int(name))
    return found


def until_gone(pid: int) -> None:
    """Wait until there is no such process; it is nobody's child of ours."""
    end = time.monotonic() + PATIENCE
    while Path("/proc", str(pid)).exists() and not _is_dead(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.01)  # the system tells the end of a process to its parent alone


def _is_dead(pid: int) -> bool:
    """Whether a process is only waited for by a parent that does not care."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Load:
    """Calls all the time, none of which may be made twice; counts who has answered."""

    def __init__(
        self,
        loop: Loop,
        target: list[str] | Resolver,
        credentials: CurveClientCredentials | None = None,
        *,
        callers: int = 20,
        streams: int = 4,
    ) -> None:
        """
        :param callers: calls that are in flight at a time.
        :param streams: streams that are open.
        """
        self.pids: Counter[int] = Counter()
        self.errors: list[str] = []
        self._loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.channel = Channel(self.factory, target, credentials=credentials)
        self._stopped = False
        self.streams = 0
        self._callers = [
            *(Deferred.fromCoroutine(self._call(i)) for i in range(callers)),
            *(Deferred.fromCoroutine(self._stream(i)) for i in range(streams)),
        ]

    async def _call(self, caller: int) -> None:
        number = 0
        while not self._stopped:
            number += 1
            value = f"{caller}.{number}"
            try:
                answer = await self.channel.unary_unary(ECHO, text(value), timeout=30)
            except RpcError as error:
                self.errors.append(str(error))
                await self._loop.sleep(0.05)
            else:
                pid, _, answered = answer.value.partition(" ")
                assert answered == value
                self.pids[int(pid)] += 1
            await self._loop.sleep(0.001)

    async def _stream(self, caller: int) -> None:
        while not self._stopped:
            value = f"stream {caller}"
            try:
                stream = self.channel.unary_stream(WATCH, text(value), timeout=30)
                items = [item.value async for item in stream]
            except RpcError as error:
                self.errors.append(str(error))
                await self._loop.sleep(0.05)
            else:
                assert items == [f"{value} {number}" for number in range(ITEMS)]
                self.streams += 1

    @property
    def ended(self) -> int:
        """Calls that have come to a good end."""
        return self.pids.total() + self.streams

    def stop(self) -> Deferred[list[None]]:
        """Fires when all callers have their last answer."""
        self._stopped = True
        return gatherResults(self._callers)
