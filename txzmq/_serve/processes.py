"""Worker processes of the system, as the supervisor starts them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._serve.control import Message, MessageReader, ProtocolError, Start, encode
from txzmq._serve.worker_state import Exit

__all__ = ["COMMANDS", "EVENTS", "LISTENS", "PUBLISHES", "WorkerProcess", "how_ended", "spawn"]

_log = Logger()

#: Descriptors of a worker: messages to it and of it, and its listening sockets.
COMMANDS: Final = 3
EVENTS: Final = 4
LISTENS: Final = 5
PUBLISHES: Final = 6
#: Seconds that a process which has ended may have pipes that somebody else, whom it has started,
#: holds open.
_LAST_MESSAGES: Final = 0.5


class WorkerProcess(ProcessProtocol):
    """A process, and the messages to it and of it."""

    # Any: a reactor, and a transport, which Twisted types with zope interfaces.
    transport: Any

    def __init__(
        self, reactor: Any, received: Callable[[Message], None], exited: Callable[[Exit], None]
    ) -> None:
        self._reactor = reactor
        self._received = received
        self._exited = exited
        self._reader = MessageReader()
        self._has_ended = False
        self.pid = 0

    def connectionMade(self) -> None:
        """It runs."""
        self.pid = self.transport.pid

    def send(self, message: Message) -> None:
        """See :class:`~txzmq._serve.worker_state.Process`."""
        try:
            self.transport.writeToChild(COMMANDS, encode(message))
        except KeyError:
            pass  # it has closed its end, or has ended

    def signal(self, number: signal.Signals) -> None:
        """See :class:`~txzmq._serve.worker_state.Process`."""
        try:
            self.transport.signalProcess(int(number))
        except ProcessExitedAlready:
            pass

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """It has said something."""
        try:
            for message in self._reader.feed(data):
                self._received(message)
        except ProtocolError as error:
            # Somebody in the process has written to a descriptor that is not theirs.
            _log.error(
                "process {pid} has sent what is no message ({error}), and is killed",
                pid=self.pid,
                error=str(error),
            )
            self._reader = MessageReader()
            self.signal(signal.SIGKILL)

    def processExited(self, reason: Failure) -> None:
        """It has ended; what it has said may not have been read yet."""
        how = how_ended(reason)
        self._reactor.callLater(_LAST_MESSAGES, self._end, how)

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and all that it has said was read."""
        self._end(how_ended(reason))

    def _end(self, how: Exit) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._exited(how)
            self.transport.loseConnection()


def how_ended(reason: Failure) -> Exit:
    """In words, how a process has ended."""
    # Any: a ProcessTerminated or a ProcessDone, whose attributes are untyped.
    ended = cast("Any", reason.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
    if ended.signal is None:
        return Exit(f"exit status {ended.exitCode or 0}")
    try:
        return Exit(f"signal {signal.Signals(ended.signal).name}")
    except ValueError:  # a real-time signal
        return Exit(f"signal {ended.signal}")


def spawn(
    reactor: Any,
    start: Start,
    descriptors: list[int],
    received: Callable[[Message], None],
    exited: Callable[[Exit], None],
) -> WorkerProcess:
    """Start a worker, and tell it what to serve.

    :param descriptors: its listening socket, and its publisher's if it is given one.
    :raises OSError: if the system has no process more.
    """
    process = WorkerProcess(reactor, received, exited)
    inherited = dict(zip((LISTENS, PUBLISHES), descriptors, strict=False))
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        reactor.spawnProcess(
            process,
            sys.executable,
            # The address is there for people who look at a list of processes.
            [sys.executable, "-m", "txzmq._serve.worker", start.address],
            env=None,
            childFDs={0: nothing, 1: 1, 2: 2, COMMANDS: "w", EVENTS: "r", **inherited},
        )
    finally:
        os.close(nothing)
    process.send(start)
    return process
