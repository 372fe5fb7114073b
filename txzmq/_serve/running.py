"""``txzmq serve`` as a whole: sockets, processes, signals, systemd, until all has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._reactor import default_reactor, monotonic
from txzmq._serve.addresses import each_address, publishers_of
from txzmq._serve.control import Start
from txzmq._serve.log import begin_logging
from txzmq._serve.processes import WorkerProcess, spawn
from txzmq._serve.reloading import FileWatcher
from txzmq._serve.sockets import ListeningSocket, open_all
from txzmq._serve.supervisor import Supervisor, Watching
from txzmq._serve.systemd import Systemd, ToSystemd
from txzmq._serve.worker_state import Limits, Worker
from txzmq.rpc._net.addresses import beside, split_scheme, tcp_address
from txzmq.rpc._net.reading import Reading, is_ip

if TYPE_CHECKING:
    from txzmq._serve.metrics import FigureKeeper

__all__ = ["Leftovers", "Settings", "metrics_address", "run"]

_log = Logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says; see ``txzmq serve --help``."""

    services: Sequence[str]
    listen: Sequence[str]
    publisher: Sequence[str] = ()
    options: str = ""
    keys: str = ""
    allow_group: bool = False
    clients: str = ""
    insecure: bool = False
    admin: bool = False
    limits: Limits
    metrics: str = ""
    access_log: bool = False
    log: str = "text"
    log_level: str = "info"
    reload: bool = False


def run(settings: Settings) -> None:
    """Serve until a signal says otherwise.

    :raises ValueError: if an address is wrong.
    :raises CannotListenError: if one is in use, or cannot be listened at.
    :raises NotStarted: if a worker cannot serve.
    """
    systemd = Systemd()
    addresses = each_address(settings.listen)
    sockets = open_all(addresses, systemd.passed)
    publishers: list[ListeningSocket] = []
    try:
        pairs = publishers_of(settings.publisher, len(sockets))
        publishers = open_all([address for pair in pairs for address in pair], {})
        # What Twisted says of ports, which no service can have meant here.
        quiet = ("log_legacy", "twisted.web.server", "txzmq.rpc._exposition")
        begin_logging("supervisor", format=settings.log, level=settings.log_level, quiet=quiet)
        _Running(settings, sockets, publishers, systemd).run()
    finally:
        for one in (*sockets, *publishers):
            one.close()
    systemd.tell(STATUS="ended")


class _Running:
    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[ListeningSocket],
        publishers: Sequence[ListeningSocket],
        systemd: Systemd,
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._publishers = publishers
        self._systemd = systemd
        # Any: Twisted's reactor, of which txzmq knows slices.
        self._reactor: Any = default_reactor()
        clock = monotonic(self._reactor)
        watching: list[Watching] = [ToSystemd(systemd), Leftovers(sockets)]
        self._files = FileWatcher(clock, self._roll_at_change)
        if settings.reload:
            watching.append(self._files)
        self._keeper: FigureKeeper | None = None
        if settings.metrics:
            # Here: it needs an extra.
            from txzmq._serve.metrics import FigureKeeper

            self._keeper = FigureKeeper(clock)
            watching.append(self._keeper)
        self._supervisor = Supervisor(
            clock,
            [one.address for one in sockets],
            self._launch,
            settings.limits,
            watching,
            Random(),
        )
        self._failure: Failure | None = None
        self._port: Any = None  # an IListeningPort
        if self._keeper is not None:
            self._listen(self._keeper)

    def _listen(self, keeper: FigureKeeper) -> None:
        """Serve the metrics.

        :raises CannotListenError: if the port is in use.
        :raises ValueError: if the address is wrong.
        """
        from txzmq._serve.metrics import operations_site

        host, port = metrics_address(self._settings.metrics)
        site = operations_site(self._supervisor, keeper)
        self._port = self._reactor.listenTCP(port, site, interface=host)

    def _roll_at_change(self) -> None:
        self._supervisor.roll()

    def _launch(self, worker: Worker) -> WorkerProcess:
        """A process for a worker.

        :raises OSError: if the system has none.
        """
        settings = self._settings
        listens = self._sockets[worker.number - 1]
        publisher: ListeningSocket | None = None
        if self._publishers:
            publisher = self._publishers[2 * (worker.number - 1) + worker.slot]
        start = Start(
            number=worker.number,
            address=listens.address,
            publisher="" if publisher is None else publisher.address,
            publisher_given=publisher is not None,
            services=[*settings.services],
            options=settings.options,
            keys=settings.keys,
            allow_group=settings.allow_group,
            clients=settings.clients,
            insecure=settings.insecure,
            grace=settings.limits.grace,
            admin=settings.admin,
            figures=bool(settings.metrics),
            access_log=settings.access_log,
            log=settings.log,
            log_level=settings.log_level,
        )
        descriptors = [listens.fileno()]
        if publisher is not None:
            descriptors.append(publisher.fileno())
        return spawn(self._reactor, start, descriptors, worker.received, worker.exited)

    def run(self) -> None:
        """Until all workers have ended.

        :raises NotStarted: if a worker cannot serve.
        """
        self._reactor.callWhenRunning(self._begin)
        self._reactor.run()
        if self._failure is not None:
            self._failure.raiseException()

    def _begin(self) -> None:
        supervisor = self._supervisor
        # The reactor has installed its own for the first two.
        for number, told in (
            (signal.SIGINT, supervisor.stop),
            (signal.SIGTERM, supervisor.stop),
            (signal.SIGHUP, supervisor.reload_keys),
            (signal.SIGUSR2, supervisor.roll),
        ):
            signal.signal(number, self._handler(told))
        _log.info(
            "serves {services} by a process each at {addresses}",
            services=", ".join(self._settings.services),
            addresses=" ".join(one.address for one in self._sockets),
        )
        if self._port is not None:
            place = self._port.getHost()
            _log.info(
                "metrics at {address}/metrics, and /healthz and /readyz",
                address=tcp_address(place.host, place.port).replace("tcp", "http", 1),
            )
        if self._settings.reload:
            self._files.start()
        self._watchdog()
        supervisor.run().addErrback(self._failed).addBoth(lambda _: self._reactor.stop())

    def _handler(self, told: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda number, frame: self._reactor.callFromThread(told)

    def _failed(self, failure: Failure) -> None:
        self._failure = failure

    def _watchdog(self) -> None:
        """Tell systemd again and again that the reactor turns, if it wants to know."""
        if self._systemd.watchdog:
            self._systemd.tell(WATCHDOG="1")
            self._reactor.callLater(self._systemd.watchdog / 2, self._watchdog)


def metrics_address(given: str) -> tuple[str, int]:
    """Host and port of ``--metrics``; without a host, only this machine reaches it.

    :raises ValueError: if it is none.
    """
    reading = Reading(given, "--metrics", "127.0.0.1:9090, or 0.0.0.0:9090 for all who can connect")
    host, port = reading.split(given)
    if port == "0":
        number = 0
    else:
        number = reading.port(port)
    host = {"": "127.0.0.1", "localhost": "127.0.0.1", "*": "0.0.0.0"}.get(host, host)  # noqa: S104 - asked for
    if not is_ip(host):
        reading.refuse(f"{host!r} is no IP address")
    return host, number


class Leftovers(Watching):
    """Removes the paths at which workers have published that were killed."""

    def __init__(self, sockets: Sequence[ListeningSocket]) -> None:
        self._sockets = sockets

    def gone(self, worker: Worker) -> None:
        """See :class:`~txzmq._serve.supervisor.Watching`."""
        scheme, path = split_scheme(
            beside(self._sockets[worker.number - 1].address, f".{worker.pid}")
        )
        if scheme == "ipc" and not path.startswith("@"):
            with suppress(OSError):
                os.unlink(path)
