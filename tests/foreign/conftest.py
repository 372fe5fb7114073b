"""A server, gateways and nginx before it, each a process, for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.foreign.clients import BUILT, CLIENTS, GOPATH
from tests.foreign.served import Served
from tests.programs import PATIENCE, ROOT, Program, running, started

_PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """Build the programs anew, where what they are built with is installed."""
    if (BUILT / "node_modules").exists():
        for program in _PROGRAMS.glob("*.mjs"):
            shutil.copy(program, BUILT)
        esbuild = str(BUILT / "node_modules/.bin/esbuild")
        _build([esbuild, "connect-web.mjs", "--bundle", "--format=esm", "--outfile=connect-web.js"])
    if not CLIENTS["grpc-go"].missing:
        # Debian's packages, and nothing that is fetched.
        env = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(BUILT / "go-cache")}
        main = _PROGRAMS / "go/main.go"
        _build(["go", "build", "-o", str(BUILT / "grpc-go"), str(main)], env)


def _build(command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=BUILT, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@contextmanager
def gateway(server: str, grpc_target: str = "127.0.0.1:0") -> Generator[tuple[Program, str]]:
    """A process with the gateways, and where they listen."""
    with running("-m", "tests.foreign.gateway", server, grpc_target, cwd=ROOT) as program:
        yield program, program.expect("gRPC at (.*)")[1]


def free_port() -> int:
    """A port for a program that cannot have the kernel choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def served(built: None, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """The server with its gateways."""
    folder = tmp_path_factory.mktemp("served")
    with running("-m", "tests.foreign.server", f"ipc://{folder}/server") as program:
        served = Served(program)
        with gateway(served.address) as (_, served.grpc), nginx(folder, served):
            yield served


@contextmanager
def nginx(folder: Path, served: Served) -> Generator[None]:
    """Nginx before the gateways, where it is installed."""
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if command is None:
        yield
        return
    port = free_port()
    written = (Path(__file__).parent / "nginx.conf").read_text()
    for name, value in {"FOLDER": str(folder), "GRPC_PORT": str(port), "GRPC": served.grpc}.items():
        written = written.replace(f"${{{name}}}", value)
    (folder / "nginx.conf").write_text(written)
    with started(command, "-c", folder / "nginx.conf", "-e", "stderr") as program:
        wait_for_port(port, program)
        served.nginx_grpc = f"127.0.0.1:{port}"
        yield
        program.terminate()


def wait_for_port(port: int, program: Program) -> None:
    """Wait until a program listens."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, program
            assert program.process.poll() is None, program
            time.sleep(0.01)
