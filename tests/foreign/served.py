"""A server that the gateways pass calls on to, as the tests see it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.foreign.calls import Protocol
from tests.programs import PATIENCE, Program

#: Seconds within which a handler is to learn that its client is gone.
SOON = 1.0


@dataclass(frozen=True)
class Targets:
    """Where clients call to, as ``host:port``."""

    grpc: str
    http: str

    def of(self, protocol: Protocol) -> str:
        """Where a protocol is spoken."""
        return self.grpc if protocol == "grpc" else self.http


class Served:
    """A server, and where the gateways and nginx are.

    :ivar address: the server's.
    :ivar gateways: before it.
    :ivar nginx: before the gateways; None where it is not installed.
    :ivar nginx_log: its log: a line for each call, of the method of HTTP and the call's name.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.address = program.expect("listening at (.*)")[1]
        self.gateways = Targets("", "")
        self.nginx: Targets | None = None
        self.nginx_log = Path()

    def target(self, protocol: Protocol, *, nginx: bool = False) -> str:
        """Where a client calls to."""
        if not nginx:
            return self.gateways.of(protocol)
        if self.nginx is None:
            pytest.skip("nginx is not installed: make test-clients does it")
        return self.nginx.of(protocol)

    def until(self, line: str, seconds: float = PATIENCE) -> None:
        """Wait until the server has said a line."""
        end = time.monotonic() + seconds
        while not self._program.has_said(line):
            assert time.monotonic() < end, f"no line {line!r} in {seconds} s, but {self.said(line)}"
            time.sleep(0.005)  # its lines are read by a thread, which tells nobody

    def said(self, of: str) -> list[str]:
        """What it has said of the same call as a line is about."""
        self._program.has_said("")
        name = of.partition(" ")[0]
        return [line for line in self._program.output if line.startswith(f"{name} ")]

    def settled(self, name: str) -> int:
        """How many items a call has given when it stands still."""
        lines = 0
        while True:
            time.sleep(0.5)  # that nothing happens, nothing tells
            said = self.said(name)
            if lines == len(said):
                return sum(" gave " in line for line in said)
            lines = len(said)
