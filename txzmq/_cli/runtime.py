"""What a command runs on: a reactor, signals, standard input. Tests have another one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import FrameType
from typing import Any, Final, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import (
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    PredicateResult,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from txzmq import ZmqFactory
from txzmq._cli.problems import Interrupted
from txzmq._reactor import Clock, default_reactor
from txzmq.rpc.transport import Network

__all__ = ["ReactorRuntime", "Runtime"]

T = TypeVar("T")

#: Signals that end a program.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
#: Bytes of standard input that are read at once.
_CHUNK = 65_536


class Runtime(Protocol):
    """What runs a command's coroutine, and what that may use."""

    @property
    def network(self) -> ZmqFactory | Network:
        """What channels are made with."""
        ...

    @property
    def clock(self) -> Clock:
        """Tells the time, in seconds."""
        ...

    def run(self, main: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run it to its end.

        :raises Interrupted: if a signal has ended it.
        """
        ...

    def cpu_seconds(self) -> float:
        """Seconds of processor that the thread has taken which runs it."""
        ...

    def serve(
        self, main: Callable[[], Coroutine[Deferred[Any], Any, T]], reload: Callable[[], None]
    ) -> T:
        """Run what goes on until a signal, and log to standard error.

        Each SIGTERM or Ctrl-C cancels what *main* waits for: the first one has it drain, and the
        second one end at once.

        :param reload: called at SIGHUP.
        """
        ...

    def standard_input(self) -> AsyncIterator[bytes]:
        """What comes by standard input, as it comes."""
        ...

    def when_signalled(self, number: int, call: Callable[[], object]) -> None:
        """Have *call* called at a signal while a command runs; by it, the signal does nothing."""
        ...


class ReactorRuntime:
    """The process's reactor; it can run one command."""

    def __init__(self) -> None:
        # Any: Twisted's reactor, of which txzmq knows slices.
        self._reactor: Any = default_reactor()
        self.network = ZmqFactory(self._reactor)
        self._running: Deferred[Any] | None = None
        self._signal = 0
        # What was done at signals before the command.
        self._before: dict[int, Any] = {}

    @property
    def clock(self) -> Clock:
        """The reactor's."""
        clock: Clock = self._reactor
        return clock

    def run(self, main: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """See :class:`Runtime`. Ctrl-C and SIGTERM cancel it; a second one ends it at once."""
        result = self._run(main, dict.fromkeys(_ENDING, self._interrupted))
        if self._signal:
            raise Interrupted(self._signal)
        return _result(result)

    def serve(
        self, main: Callable[[], Coroutine[Deferred[Any], Any, T]], reload: Callable[[], None]
    ) -> T:
        """See :class:`Runtime`."""
        _log_to_standard_error()

        def cancel(number: int, frame: FrameType | None) -> None:
            self._signal = number
            self._reactor.callFromThread(self._cancel)

        handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(
            _ENDING, cancel
        )
        if sys.platform != "win32":  # there is no SIGHUP

            def hung_up(number: int, frame: FrameType | None) -> None:
                self._reactor.callFromThread(reload)

            handlers[signal.SIGHUP] = hung_up
        return _result(self._run(main, handlers))

    def _run(
        self,
        main: Callable[[], Coroutine[Deferred[Any], Any, T]],
        handlers: Mapping[int, Callable[[int, FrameType | None], None]],
    ) -> list[T | Failure]:
        """Run it with handlers of signals; what it has returned, or failed with."""
        results: list[T | Failure] = []

        def start() -> None:
            self._running = Deferred.fromCoroutine(main())
            self._running.addBoth(results.append)
            self._running.addBoth(lambda _: self._reactor.callLater(0, self._reactor.stop))
            if self._signal:
                self._running.cancel()

        for number, handler in handlers.items():
            self._before[number] = signal.signal(number, handler)
        self._reactor.callWhenRunning(start)
        try:
            self._reactor.run(installSignalHandlers=False)
            self.network.shutdown()  # which sends what waits, such as that a call is cancelled
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()
        return results

    def when_signalled(self, number: int, call: Callable[[], object]) -> None:
        """See :class:`Runtime`."""

        def signalled(_: int, __: FrameType | None) -> None:
            self._reactor.callFromThread(call)

        self._before.setdefault(number, signal.signal(number, signalled))

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal = number
            self._reactor.callFromThread(self._cancel)
        elif self._reactor.running:
            # It would log what is raised here, and go on.
            self._reactor.callFromThread(self._reactor.crash)
        else:
            raise Interrupted(number)  # out of whatever blocks

    def _cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def cpu_seconds(self) -> float:
        """See :class:`Runtime`."""
        return time.thread_time()

    def standard_input(self) -> AsyncIterator[bytes]:
        """See :class:`Runtime`."""
        return _Reading(self._reactor)


def _result(results: Sequence[T | Failure]) -> T:
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
        raise AssertionError("raiseException() raises")
    return result


def _log_to_standard_error() -> None:
    """What txzmq logs, and what others warn of."""

    def wanted(event: LogEvent) -> Any:
        level = LogLevel.info if event["log_namespace"].startswith("txzmq") else LogLevel.warn
        is_enough = event["log_level"] >= level
        return PredicateResult.maybe if is_enough else PredicateResult.no

    # Any: Twisted types observers with zope interfaces.
    lines: Any = textFileLogObserver(sys.stderr)
    observer: Any = FilteringLogObserver(lines, [wanted])  # type: ignore[list-item]  # a zope interface
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


class _Reading:
    """Reads standard input when the reactor says that there is something.

    Not by Twisted's ``StandardIO``: that makes the descriptor non-blocking, and with it standard
    output, where both are one terminal.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: Deferred[bytes] | None = None

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> bytes:
        self._waiting = Deferred(self._cancelled)
        self._reactor.addReader(self)
        data = await self._waiting
        if not data:
            raise StopAsyncIteration
        return data

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._stop()

    def _stop(self) -> Deferred[bytes] | None:
        waiting, self._waiting = self._waiting, None
        self._reactor.removeReader(self)
        return waiting

    # -- Twisted's IReadDescriptor -----------------------------------------------------------

    def fileno(self) -> int:
        """Of standard input."""
        return 0

    def doRead(self) -> None:
        """There is input, or its end."""
        waiting = self._stop()
        if waiting is not None:
            try:
                waiting.callback(os.read(0, _CHUNK))
            except OSError:
                waiting.errback()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot read it, or stops."""
        waiting = self._stop()
        if waiting is None:
            return
        # The cast: Twisted leaves the type open.
        if isinstance(cast("object", reason.value), ConnectionDone):  # pyright: ignore[reportUnknownMemberType]  # Twisted's
            # Who wrote into the pipe has ended.
            waiting.callback(b"")
        else:
            waiting.errback(reason)

    def logPrefix(self) -> str:
        """What Twisted's log calls it."""
        return "standard input"
