"""A server that the gateways pass calls on to, as the tests see it."""

from __future__ import annotations

import time

import pytest

from tests.programs import PATIENCE, Program

#: Seconds within which a handler is to learn that its client is gone.
SOON = 1.0


class Served:
    """A server, and where the gateways and nginx are.

    :ivar address: the server's.
    :ivar grpc: the gateway for gRPC.
    :ivar nginx_grpc: nginx before it.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.address = program.expect("listening at (.*)")[1]
        self.grpc = ""
        self.nginx_grpc = ""

    def target(self, protocol: str, *, nginx: bool) -> str:
        """Where a client calls to."""
        if nginx and not self.nginx_grpc:
            pytest.skip("nginx is not installed: make test-clients does it")
        return self.nginx_grpc if nginx else self.grpc

    def until(self, line: str, seconds: float = PATIENCE) -> None:
        """Wait until the server has said a line."""
        end = time.monotonic() + seconds
        while not self._program.has_said(line):
            assert time.monotonic() < end, f"no line {line!r} in {seconds} s, but {self.said(line)}"
            time.sleep(0.005)

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
