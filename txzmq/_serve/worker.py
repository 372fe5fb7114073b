"""A worker process: ``python -m txzmq._serve.worker``, started by a supervisor alone."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, Final

from twisted.internet import stdio
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._escape import text_of
from txzmq._guard import never_mind_the_reactor
from txzmq._reactor import default_reactor
from txzmq._serve.control import (
    Drain,
    Draining,
    Failed,
    Figures,
    GetFigures,
    HandOver,
    KeysReloaded,
    Message,
    MessageReader,
    Ping,
    Pong,
    Ready,
    ReloadKeys,
    Start,
    encode,
)
from txzmq._serve.log import begin_logging
from txzmq._serve.processes import COMMANDS, EVENTS, LISTENS, PUBLISHES
from txzmq._serve.services import LoadError, load_options, load_services, said_by_options
from txzmq._timer import ResettableTimer
from txzmq.auth import ClientKeys, CurveKeyPair, CurveServerCredentials
from txzmq.factory import ZmqFactory
from txzmq.rpc.access_log import AccessLog
from txzmq.rpc.admin import Admin
from txzmq.rpc.health import Health
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.reflection import Reflection
from txzmq.rpc.server import Server
from txzmq.rpc.watching import Observer, Observers

__all__ = ["main"]

_log = Logger()
#: Seconds between two times that metrics are told, at least; and how many times as long as
#: reading them has taken.
_FIGURES: Final = 1.0
_SHARE: Final = 50.0
#: Seconds that the last messages may take to leave.
_LAST_MESSAGES: Final = 2.0
#: What stands in messages of a server in place of its arguments.
_BY_OPTIONS: Final = "--keys and --clients"


class CannotServe(Exception):
    """What was asked for cannot be served; the message says why, the cause has a traceback."""


def main() -> int:
    """Serve until the supervisor says otherwise; the exit status."""
    if not _has_supervisor():
        sys.stderr.write("txzmq serve starts this; it is no program of its own\n")
        return 2
    faulthandler.enable()
    for fd in (COMMANDS, EVENTS, LISTENS, PUBLISHES):
        _keep_from_children(fd)
    # A terminal sends them to all; the supervisor says what is to be done.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, _ignore)
    reader = MessageReader()
    start = _first(reader)
    if start is None:  # the supervisor has ended
        return 1
    who = f"worker {start.number} {start.address}"
    fields: dict[str, object] = {"worker": start.number, "address": start.address}
    begin_logging(who, format=start.log, level=start.log_level, fields=fields)
    try:
        _Serving(start, load_services(start.services)).run(reader)
    except (LoadError, CannotServe) as error:
        return _fail(str(error), error.__cause__)
    except Exception as error:  # noqa: BLE001 - whatever a user's code raises is told
        why = traceback.format_exception_only(error)[-1].strip()
        return _fail(f"the server cannot be made: {why}", error)
    return 0


def _has_supervisor() -> bool:
    try:
        os.fstat(EVENTS)
        os.fstat(LISTENS)
    except OSError:
        return False
    return True


def _keep_from_children(fd: int) -> None:
    """What a service starts gets neither the supervisor's pipes nor sockets that listen."""
    try:
        os.set_inheritable(fd, False)
    except OSError:
        pass  # a worker without a publisher of its own


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which what a service starts would inherit."""


def _first(reader: MessageReader) -> Start | None:
    """What to serve."""
    while data := os.read(COMMANDS, 65_536):
        for message in reader.feed(data):
            assert isinstance(message, Start), f"{message} comes first"
            return message
    return None


def _fail(why: str, cause: BaseException | None) -> int:
    """Tell the supervisor why nothing can be served; the exit status."""
    never_mind_the_reactor()
    trace = "" if cause is None else "".join(traceback.format_exception(cause))
    message = encode(Failed(why=why, traceback=trace, files=[*_files(cause)]))
    os.set_blocking(EVENTS, True)
    try:
        while message:
            message = message[os.write(EVENTS, message) :]
    except BrokenPipeError:
        pass  # the supervisor has ended, too
    return 1


def _files(cause: BaseException | None = None) -> Iterable[str]:
    """The files below the current folder that were imported, or that *cause* came from."""
    found = [getattr(module, "__file__", None) for module in [*sys.modules.values()]]
    while cause is not None:
        if isinstance(cause, SyntaxError):
            found.append(cause.filename)
        found += [frame.filename for frame in traceback.extract_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    here = os.path.join(os.getcwd(), "")
    installed = os.path.join(sys.prefix, "")
    paths = {os.path.abspath(path) for path in found if isinstance(path, str)}
    return sorted(
        path
        for path in paths
        if path.startswith(here)
        and "site-packages" not in path.split(os.sep)
        # An environment in the current folder.
        and (not path.startswith(installed) or here.startswith(installed))
    )


class _Serving:
    """A server, and what the supervisor is told of it."""

    def __init__(self, start: Start, services: Sequence[ServiceHandler]) -> None:
        """
        :raises CannotServe: if an option is wrong.
        :raises LoadError: if the options cannot be loaded.
        """
        self._start = start
        options: dict[str, Any] = {}  # Any: arguments of a server, which looks at them
        if start.options:
            options = load_options(start.options)
        self._credentials = _credentials(start, options)
        options["credentials"] = self._credentials
        self._read_figures: Callable[[], list[Any]] | None = None
        options["observer"] = self._observer(options.get("observer"))
        # After the user's modules, which may install another reactor. Any: Twisted's.
        self._reactor: Any = default_reactor()
        self._factory = ZmqFactory(self._reactor)
        self._control = _Control(self)
        self._figures_timer = ResettableTimer(self._reactor, self._tell_figures)
        self._is_ending = False
        self._server = Server(self._factory, _with_standard(services, start.admin), **options)
        self._failure: Exception | None = None

    def _observer(self, given: Observer | None) -> Observer | None:
        observers = [] if given is None else [given]
        if self._start.access_log:
            observers.append(AccessLog())
        if self._start.figures:
            from txzmq._serve.figures import FigureReader
            from txzmq.rpc.metrics import Metrics
            from txzmq.rpc.prometheus import MetricsCollector

            metrics = Metrics()
            observers.append(metrics)
            self._metrics = metrics
            self._read_figures = FigureReader(MetricsCollector(metrics), metrics.instance).read
        if not observers:
            return None
        return observers[0] if len(observers) == 1 else Observers(*observers)

    def _listen(self) -> None:
        start = self._start
        try:
            self._server.listen(
                start.address,
                fd=LISTENS,
                publisher=start.publisher or None,
                publisher_fd=PUBLISHES if start.publisher_given else None,
                insecure=start.insecure,
            )
        except ValueError as error:  # InsecureBindError among them
            raise CannotServe(said_by_options(error, _BY_OPTIONS)) from None

    def run(self, reader: MessageReader) -> None:
        """Serve, until the supervisor says otherwise, or has ended.

        :raises CannotServe: if it cannot listen.
        """
        self._control.reader = reader
        self._reactor.callWhenRunning(self._begin)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
        self._reactor.run()
        if self._failure is not None:
            raise self._failure

    def _begin(self) -> None:
        try:
            self._listen()
        except Exception as error:  # noqa: BLE001 - run() raises it
            self._failure = error
            self._is_ending = True
            self._reactor.stop()
            return
        # The reactor has installed its own.
        signal.signal(signal.SIGTERM, self._terminated)
        signal.signal(signal.SIGINT, _ignore)
        # Any: its types are those of another class, which has its name on Windows.
        pipes: Any = stdio.StandardIO
        pipes(self._control, stdin=COMMANDS, stdout=EVENTS, reactor=self._reactor)
        if self._read_figures is not None:
            self._metrics.watch_reactor(self._reactor)
            self._figures_timer.start(_FIGURES)
        self._control.send(Ready(files=[*_files()]))
        self._control.feed(b"")  # what came with the first message

    # -- its end -----------------------------------------------------------------------------

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._leave)

    def supervisor_ended(self) -> None:
        """Nobody would start another one, nor end this one."""
        if not self._is_ending:
            _log.error("the supervisor has ended; the worker drains and ends, too")
            self.end(self._server.stop(self._start.grace))

    def _leave(self) -> None:
        """Drain without having been told to."""
        if not self._is_ending:
            self._control.send(Draining())
            self.end(self._server.stop(self._start.grace))

    def end(self, stopped: Deferred[None]) -> None:
        """Have the process end when the server has stopped."""
        if not self._is_ending:
            self._is_ending = True
            stopped.addCallback(lambda _: self._stop_reactor())

    def _stop_reactor(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass  # a service has stopped it

    def _shut_down(self) -> Deferred[None]:
        """Before the reactor stops, whoever has had it stopped."""
        if not self._is_ending:
            self._control.send(Draining())
            self._is_ending = True
        stopped = self._server.stop(self._start.grace)
        return stopped.addCallback(lambda _: self._last_messages())

    def _last_messages(self) -> Deferred[None]:
        self._figures_timer.stop()
        if self._read_figures is not None:
            self._metrics.stop_watching_reactor()
            self._control.send(Figures(families=self._read_figures(), asked=False))
        self._factory.shutdown()
        return self._control.close(self._reactor)

    # -- what the supervisor says ------------------------------------------------------------

    def received(self, message: Message) -> None:
        """Do what it says."""
        if isinstance(message, Ping):
            self._control.send(Pong())
        elif isinstance(message, Drain):
            self.end(self._server.stop(message.grace))
        elif isinstance(message, HandOver):
            self.end(self._server.hand_over(message.grace))
        elif isinstance(message, ReloadKeys):
            self._control.send(self._reload_keys())
        else:
            assert isinstance(message, GetFigures), f"no supervisor says {message}"
            families = [] if self._read_figures is None else self._read_figures()
            self._control.send(Figures(families=families, asked=True))

    def _reload_keys(self) -> KeysReloaded:
        if self._credentials is None:
            return KeysReloaded(error="", clients=-1)
        clients = self._credentials.clients
        try:
            clients.reload()
        except Exception as error:  # noqa: BLE001 - a user's mapping or function may raise anything
            why = str(error) if isinstance(error, (OSError, ValueError)) else text_of(error)
            return KeysReloaded(error=why, clients=len(clients))
        return KeysReloaded(error="", clients=len(clients))

    def _tell_figures(self) -> None:
        assert self._read_figures is not None, "they are read"
        began = self._reactor.seconds()
        self._control.send(Figures(families=self._read_figures(), asked=False))
        taken = self._reactor.seconds() - began
        self._figures_timer.start(max(_FIGURES, _SHARE * taken))


class _Control(Protocol):
    """The messages to the worker and of it."""

    transport: Any  # a StandardIO, which has no types

    def __init__(self, serving: _Serving) -> None:
        self._serving = serving
        self.reader = MessageReader()
        self._closed: Deferred[None] | None = None
        self._is_lost = False

    def send(self, message: Message) -> None:
        """Tell the supervisor, if it is there."""
        if self.transport is not None and not self._is_lost:
            self.transport.write(encode(message))

    def feed(self, data: bytes) -> None:
        """Do what the supervisor says."""
        for message in self.reader.feed(data):
            self._serving.received(message)

    def dataReceived(self, data: bytes) -> None:
        """See :meth:`feed`."""
        self.feed(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """All was sent that could be; or the supervisor has ended."""
        self._is_lost = True
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)
        else:
            self._serving.supervisor_ended()

    def close(self, reactor: Any) -> Deferred[None]:
        """Fires when all messages have left, or cannot."""
        if self.transport is None or self._is_lost:
            closed: Deferred[None] = Deferred()
            closed.callback(None)
            return closed
        closed = self._closed = Deferred()
        self.transport.loseConnection()
        return closed.addTimeout(_LAST_MESSAGES, reactor).addErrback(lambda _: None)


def _credentials(start: Start, options: dict[str, Any]) -> CurveServerCredentials | None:
    """The server's keys: of files, or of the user's own code."""
    given: CurveServerCredentials | None = options.get("credentials")
    if not start.keys:
        return given
    if given is not None:
        raise CannotServe(f"--keys is given, and {start.options} has credentials; leave one out")
    try:
        keys = CurveKeyPair.load(start.keys, allow_group=start.allow_group)
        return CurveServerCredentials(keys, ClientKeys(start.clients))
    except (OSError, ValueError) as error:
        said = str(error).replace("pass allow_group=True", "pass --allow-group")
        if isinstance(error, OSError) and error.strerror:
            said = f"{error.filename}: {error.strerror}"
        raise CannotServe(said) from None


def _with_standard(services: Sequence[ServiceHandler], admin: bool) -> list[ServiceHandler]:
    """The services with those that every server has; none that is there already."""
    served: list[ServiceHandler] = [*services]
    for kind in (Health, Reflection, *([Admin] if admin else [])):
        if not any(isinstance(service, kind) for service in served):
            served.append(kind())
    return served


if __name__ == "__main__":
    sys.exit(main())
