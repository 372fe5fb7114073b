"""Worker processes that do what a test says, in virtual time."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support import error_of
from txzmq._serve.control import Drain, Failed, Figures, HandOver, Message, Ping, Pong, Ready
from txzmq._serve.supervisor import Supervisor, Watching
from txzmq._serve.worker_state import Exit, Limits, Worker

__all__ = ["FakeProcess", "House"]


class FakeProcess:
    """A process that ends when it is killed, and otherwise when the test says so."""

    def __init__(self, house: House, worker: Worker, pid: int) -> None:
        self._house = house
        self.worker = worker
        self.pid = pid
        self.sent: list[Message] = []
        self.signals: list[signal.Signals] = []
        self.is_alive = True
        self.is_ready = False
        #: Whether it can answer, and be ended by anything but SIGKILL.
        self.is_stuck = False

    def send(self, message: Message) -> None:
        self.sent.append(message)
        if isinstance(message, Ping) and not self.is_stuck:
            # Not at once: pipes take their time.
            self._house.clock.callLater(0, self.says, Pong())
        if isinstance(message, HandOver):
            self._house.handed_over(self)

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number is signal.SIGKILL or not self.is_stuck:
            self._house.clock.callLater(0, self.exits, f"signal {number.name}")

    @property
    def is_told_to_end(self) -> bool:
        return any(isinstance(message, Drain | HandOver) for message in self.sent)

    def says(self, message: Message) -> None:
        if self.is_alive:
            self.worker.received(message)

    def becomes_ready(self, *files: str) -> None:
        self.is_ready = True
        self.says(Ready(files=[*files]))

    def fails(self, why: str = "shop:Nope: there is no module shop", trace: str = "") -> None:
        self.says(Failed(why=why, traceback=trace, files=[]))
        self.exits("exit status 1")

    def exits(self, how: str = "exit status 0") -> None:
        if self.is_alive:
            self.is_alive = False
            self.worker.exited(Exit(how))


class House(Watching):
    """A supervisor, its fake processes, and what it has told."""

    def __init__(
        self,
        addresses: int = 2,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        no_process: OSError | None = None,
        also: Sequence[Watching] = (),
    ) -> None:
        self.clock = Clock()
        self.limits = limits or Limits(grace=10, start=60, silence=60)
        self.processes: list[FakeProcess] = []
        self.statuses: list[str] = []
        self.files: list[str] = []
        self.told: list[tuple[Worker, Figures]] = []
        #: An error of the system's that starting a process gives.
        self.no_process = no_process
        names = [f"tcp://127.0.0.1:{5000 + number}" for number in range(addresses)]
        self.supervisor = Supervisor(
            self.clock, names, self.launch, self.limits, [self, *also], Random(seed)
        )
        self.ended: list[BaseException | None] = []
        self.supervisor.run().addCallbacks(self.ended.append, self._failed)

    def _failed(self, failure: Failure) -> None:
        self.ended.append(error_of(failure))

    def launch(self, worker: Worker) -> FakeProcess:
        if self.no_process is not None:
            raise self.no_process
        process = FakeProcess(self, worker, 100 + len(self.processes))
        self.processes.append(process)
        return process

    # -- looking ----------------------------------------------------------------------------

    @property
    def alive(self) -> list[FakeProcess]:
        return [process for process in self.processes if process.is_alive]

    @property
    def timers(self) -> list[object]:
        """What the supervisor has left in the reactor."""
        # Any: Twisted's.
        calls: Sequence[Any] = self.clock.getDelayedCalls()
        return [call for call in calls if "FakeProcess" not in call.func.__qualname__]

    def at(self, number: int) -> list[FakeProcess]:
        """Those alive of an address."""
        return [process for process in self.alive if process.worker.number == number]

    def handed_over(self, process: FakeProcess) -> None:
        others = [each for each in self.at(process.worker.number) if each is not process]
        assert any(each.is_ready and not each.is_told_to_end for each in others), (
            "a process hands over where no other is ready"
        )

    # -- doing ------------------------------------------------------------------------------

    def all_ready(self) -> None:
        for process in self.alive:
            if not process.is_ready:
                process.becomes_ready()

    def obey(self) -> None:
        """Those that were told to end, do."""
        for process in self.alive:
            if process.is_told_to_end:
                process.exits()

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps, as pings are answered between them."""
        self.clock.pump([0.0, *[0.25] * round(seconds / 0.25), 0.0])

    # -- as who watches the supervisor --------------------------------------------------------

    def changed(self, supervisor: Supervisor) -> None:
        self.statuses.append(supervisor.status)

    def figures(self, worker: Worker, figures: Figures) -> None:
        self.told.append((worker, figures))

    def imported(self, files: Sequence[str]) -> None:
        self.files += files
