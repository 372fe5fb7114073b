"""Clients of other makers: what each can do, and how it is started."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from typing import Protocol as Interface

from tests.foreign.calls import Call, Outcome, Protocol
from tests.foreign.commands import by_buf, by_curl
from tests.programs import ROOT, Program, started

#: Where `make test-clients` has put what is installed, and the tests what they build.
BUILT: Final = ROOT / "build/foreign"
#: Where Debian's packages of Go are.
GOPATH: Final = Path("/usr/share/gocode")
_JSON: Final = r"\{.*\}"


class Running(Interface):
    """A call that was begun."""

    def cancel(self) -> None:
        """End it from the client's side."""

    def first(self) -> None:
        """Wait for the first response of a slow reader."""

    def go_on(self) -> None:
        """Let a slow reader read on."""

    def outcome(self) -> Outcome:
        """Wait for its end."""
        ...


class ByProgram:
    """A call by one of ``programs``."""

    def __init__(self, call: Call, program: Program) -> None:
        self._call = call
        self._program = program
        program.say(json.dumps(call.asked()))

    def cancel(self) -> None:
        self._program.say("cancel")

    def first(self) -> None:
        self._program.expect(r'\{"first": ?true\}')

    def go_on(self) -> None:
        self._program.say("go")

    def outcome(self) -> Outcome:
        return Outcome.told(self._call, self._program.expect(_JSON)[0])


#: Starts a call, of a gateway that is at an address, by a protocol.
Start = Callable[[str, Protocol, Call], AbstractContextManager[Running]]


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client.

    :ivar start: starts a call of a gateway at ``host:port``, by a protocol; None for the browser,
        which all tests share.
    :ivar needs: the file or program without which it is not there.
    :ivar load: the command of a program that makes loads of calls, for an address and a protocol.
    """

    name: str
    start: Start | None
    needs: str
    load: Callable[[str, Protocol], list[str]] | None = None

    @property
    def missing(self) -> str:
        """Why it cannot be tried here, or nothing."""
        if (BUILT / self.needs).exists() or shutil.which(self.needs):
            return ""
        return f"{self.name} is not installed: make test-clients does it ({self.needs})"


def _by_grpc(command: str, *arguments: str) -> Callable[[str, Protocol], list[str]]:
    """A program that speaks gRPC alone."""
    return lambda target, _: [command, *arguments, target]


def _by_connect(target: str, protocol: Protocol) -> list[str]:
    return ["node", str(BUILT / "connect-node.mjs"), f"http://{target}", protocol]


def _by_connectrpc(target: str, protocol: Protocol) -> list[str]:
    return [sys.executable, "-m", "tests.foreign.connectrpc_client", f"http://{target}", protocol]


def _program(name: str, needs: str, command: Callable[[str, Protocol], list[str]]) -> Client:
    @contextmanager
    def start(target: str, protocol: Protocol, call: Call) -> Generator[Running]:
        with started(*command(target, protocol), stdin=True) as program:
            yield ByProgram(call, program)

    return Client(name=name, start=start, needs=needs, load=command)


CLIENTS: Final = {
    client.name: client
    for client in [
        _program(
            "grpc-js", "node_modules/@grpc/grpc-js", _by_grpc("node", str(BUILT / "grpc-js.mjs"))
        ),
        _program(
            "grpc-go", str(GOPATH / "src/google.golang.org/grpc"), _by_grpc(str(BUILT / "grpc-go"))
        ),
        _program("connect-node", "node_modules/@connectrpc/connect-node", _by_connect),
        _program("connectrpc", sys.executable, _by_connectrpc),
        Client(name="connect-web", start=None, needs="chromium"),
        Client(name="curl", start=by_curl, needs="curl"),
        Client(name="buf", start=by_buf, needs="node_modules/.bin/buf"),
    ]
}
