"""``/metrics``, ``/healthz`` and ``/readyz`` of a supervisor, for all its workers.

It needs the extra ``txzmq[prometheus]``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from txzmq._reactor import Clock
from txzmq._serve.control import Figures, GetFigures
from txzmq._serve.figures import FigureReader, Total
from txzmq._serve.supervisor import Supervisor, Watching
from txzmq._serve.worker_state import State, Worker
from txzmq.rpc import _exposition

if TYPE_CHECKING:
    from twisted.web.http import Request

__all__ = ["PATIENCE", "FigureKeeper", "operations_site"]

_log = Logger()
#: Seconds that workers have to tell their metrics; of those that do not, the last ones count.
PATIENCE: Final = 2.0


class FigureKeeper(Watching):
    """Keeps the metrics of all workers, and asks for new ones.

    :ivar total: of all.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.total = Total()
        # Who waits, and for whose answers.
        self._waiting: dict[Deferred[None], set[Worker]] = {}

    def ask(self, workers: Sequence[Worker]) -> Deferred[None]:
        """Ask for new ones.

        :return: fires when all that serve have answered, or have had their time.
        """
        asked = {worker for worker in workers if worker.state in (State.READY, State.LEAVING)}
        answered: Deferred[None] = Deferred()
        self._waiting[answered] = asked
        for worker in asked:
            worker.send(GetFigures())
        # Whatever it is that has made it fire.
        late = self._clock.callLater(PATIENCE, self._give_up, answered)
        answered.addCallback(lambda _: late.active() and late.cancel())
        self._look()
        return answered.addCallback(lambda _: None)

    def _give_up(self, answered: Deferred[None]) -> None:
        self._waiting[answered].clear()
        self._look()

    def _look(self) -> None:
        for answered in [each for each, asked in self._waiting.items() if not asked]:
            del self._waiting[answered]
            answered.callback(None)

    def _heard(self, worker: Worker) -> None:
        for asked in self._waiting.values():
            asked.discard(worker)
        self._look()

    def figures(self, worker: Worker, figures: Figures) -> None:
        """See :class:`~txzmq._serve.supervisor.Watching`."""
        self.total.set(worker, figures.families)
        if figures.asked:
            self._heard(worker)

    def gone(self, worker: Worker) -> None:
        """See :class:`~txzmq._serve.supervisor.Watching`."""
        self.total.end(worker)
        self._heard(worker)


class _SupervisorCollector(Collector):
    """What a supervisor has, and has done."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """All families."""
        supervisor = self._supervisor
        processes = GaugeMetricFamily(
            "txzmq_supervisor_processes", "Worker processes, by state.", labels=["state"]
        )
        for state in (State.STARTING, State.READY, State.LEAVING):
            processes.add_metric([state.value], supervisor.number_of(state))
        yield processes
        yield GaugeMetricFamily(
            "txzmq_supervisor_listeners",
            "Addresses, at each of which a process is to be ready.",
            value=len(supervisor.listeners),
        )
        yield CounterMetricFamily(
            "txzmq_supervisor_restarts_total",
            "Worker processes that have ended by themselves, so that others were started.",
            value=supervisor.counts["restarts"],
        )
        rolls = CounterMetricFamily(
            "txzmq_supervisor_rolls_total",
            "Times that all worker processes were replaced, or were to be, by result.",
            labels=["result"],
        )
        rolls.add_metric(["done"], supervisor.counts["rolls"])
        rolls.add_metric(["given_up"], supervisor.counts["rolls_given_up"])
        yield rolls


class _MetricsPage(_exposition.Page):
    """What Prometheus scrapes: the workers are asked each time."""

    def __init__(self, supervisor: Supervisor, keeper: FigureKeeper) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._keeper = keeper
        process = f"{socket.gethostname()}:{os.getpid()}"
        self._own = FigureReader(_SupervisorCollector(supervisor), process)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(keeper.total)

    # Any: Twisted takes bytes, or that they come later.
    def render_GET(self, request: Request) -> Any:
        """The metrics, when the workers have told theirs."""
        is_there = True

        def left(_: object) -> None:
            nonlocal is_there
            is_there = False

        def tell(_: object) -> None:
            if is_there:
                self._keeper.total.set(self, self._own.read())
                end(_exposition.exposed(request, self._registry))

        def failed(failure: Failure) -> None:
            _log.failure("the metrics of the workers cannot be told", failure)
            if is_there:
                request.setResponseCode(500)
                request.setHeader("content-type", "text/plain; charset=utf-8")  # type: ignore[no-untyped-call]  # Twisted's
                end(b"the metrics cannot be told; the log says why\n")

        def end(body: bytes) -> None:
            request.setHeader("content-length", str(len(body)))  # type: ignore[no-untyped-call]  # Twisted's
            request.write(body)  # type: ignore[no-untyped-call]  # Twisted's
            request.finish()  # type: ignore[no-untyped-call]  # Twisted's

        request.notifyFinish().addErrback(left)
        self._keeper.ask(self._supervisor.workers).addCallback(tell).addErrback(failed)
        return NOT_DONE_YET

    def render_HEAD(self, request: Request) -> Any:
        """The same; Twisted leaves the body out."""
        return self.render_GET(request)


def operations_site(supervisor: Supervisor, keeper: FigureKeeper) -> Site:
    """A site with ``/metrics``, ``/healthz`` and ``/readyz``, as one process alone has it."""
    # Any: Twisted types resources with zope interfaces.
    root: Any = Resource()  # type: ignore[no-untyped-call]  # Twisted's
    root.putChild(b"metrics", _MetricsPage(supervisor, keeper))
    root.putChild(b"healthz", _exposition.State(lambda: ""))
    root.putChild(b"readyz", _exposition.State(lambda: supervisor.why_not_ready))
    return _exposition.OperationsSite(root)  # type: ignore[no-untyped-call]  # Twisted's
