"""systemd: what it has passed to the process, and what it is told. Elsewhere, nothing happens.

See sd_notify(3) and sd_listen_fds(3). python-systemd needs a compiler and the headers of
libsystemd. Twisted's ListenFDs knows one socket for each name, and none where there are no names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from twisted.logger import Logger

from txzmq._serve.supervisor import Supervisor, Watching

__all__ = ["Systemd", "ToSystemd"]

_log = Logger()
#: The first descriptor that it passes.
_FIRST: Final = 3
#: What it calls a socket that has no name.
_UNNAMED: Final = "unknown"
#: Variables that are for this process and for none that it starts.
_OURS: Final = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)


class Systemd:
    """What systemd has told this process by its environment, whose variables are removed.

    :ivar passed: descriptors of sockets, by their names, in the order of systemd's.
    :ivar watchdog: seconds within which it wants to hear of the process; 0 if it does not.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """:param environment: None for the process's own."""
        variables = os.environ if environment is None else environment
        self._path = variables.get("NOTIFY_SOCKET", "")
        self.watchdog = _watchdog(variables)
        self.passed = _passed(variables)
        self._fails = False
        for name in _OURS:
            variables.pop(name, None)

    def tell(self, **fields: str) -> None:
        """Tell it, where it wants to know: ``READY="1"``, ``STATUS="4 of 4 ready"``."""
        if not self._path.startswith(("/", "@")):
            return  # nobody asks; or by vsock, from outside of a virtual machine
        state = "\n".join(f"{name}={value}" for name, value in fields.items())
        path = f"\0{self._path[1:]}" if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), path)
        except OSError as error:
            if not self._fails:
                _log.warn("systemd cannot be told: {error}", error=str(error))
            self._fails = True
        else:
            self._fails = False

    def reloads(self, status: str) -> None:
        """Tell it that a reload has begun, which ``READY="1"`` ends."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        self.tell(RELOADING="1", MONOTONIC_USEC=str(now), STATUS=status)


def _watchdog(variables: MutableMapping[str, str]) -> float:
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    given = variables.get("WATCHDOG_USEC", "")
    return int(given) / 1_000_000 if _is_number(given) else 0.0


def _passed(variables: MutableMapping[str, str]) -> dict[str, list[int]]:
    count = variables.get("LISTEN_FDS", "")
    if variables.get("LISTEN_PID") != str(os.getpid()) or not _is_number(count):
        return {}
    names = variables.get("LISTEN_FDNAMES", "").split(":")
    passed: dict[str, list[int]] = {}
    for place in range(int(count)):
        name = names[place] if place < len(names) and names[place] else _UNNAMED
        passed.setdefault(name, []).append(_FIRST + place)
    return passed


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


class ToSystemd(Watching):
    """Tells systemd what the supervisor does."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._told = ""

    def changed(self, supervisor: Supervisor) -> None:
        """See :class:`~txzmq._serve.supervisor.Watching`."""
        state = "starting"
        if supervisor.is_stopping:
            state = "stopping"
        elif supervisor.is_rolling or supervisor.is_reloading:
            state = "reloading"
        elif supervisor.is_started:
            state = "ready"
        before, self._told = self._told, state
        status = supervisor.status
        if state == before or state == "starting":
            self._systemd.tell(STATUS=status)
        elif state == "ready":
            self._systemd.tell(READY="1", STATUS=status)
        elif state == "reloading":
            self._systemd.reloads(status)
        else:
            self._systemd.tell(STOPPING="1", STATUS=status)
