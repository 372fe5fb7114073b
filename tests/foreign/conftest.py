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
from string import Template

import pytest

from tests.foreign.browser import Browser, Page, browsing
from tests.foreign.clients import BUILT, CLIENTS, GOPATH
from tests.foreign.served import Served, Targets
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
def gateways(
    server: str, origin: str, targets: Targets | None = None
) -> Generator[tuple[Program, Targets]]:
    """A process with the gateways, and where they listen."""
    where = targets or Targets("127.0.0.1:0", "127.0.0.1:0")
    arguments = ["-m", "tests.foreign.gateway", server, where.grpc, where.http, origin]
    with running(*arguments, cwd=ROOT) as program:
        found = program.expect("gRPC at (.*), HTTP at (.*)")
        yield program, Targets(found[1], found[2])


def free_port() -> int:
    """A port for a program that cannot have the kernel choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def page() -> Generator[Page]:
    """The page that a browser calls the gateway from."""
    page = Page()
    yield page
    page.close()


@pytest.fixture(scope="session")
def browser(
    built: None, page: Page, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Browser]:
    """Chromium."""
    with browsing(page, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def served(built: None, page: Page, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """The server with its gateways."""
    folder = tmp_path_factory.mktemp("served")
    with running("-m", "tests.foreign.server", f"ipc://{folder}/server") as program:
        served = Served(program)
        with (
            gateways(served.address, page.origin) as (_, served.gateways),
            nginx(folder, served.gateways) as served.nginx,
        ):
            served.nginx_log = folder / "access.log"
            yield served


@contextmanager
def nginx(folder: Path, behind: Targets) -> Generator[Targets | None]:
    """Nginx before the gateways, where it is installed."""
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if command is None:
        yield None
        return
    targets = Targets(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    written = Template((Path(__file__).parent / "nginx.conf.in").read_text()).substitute(
        folder=folder,
        grpc_listen=targets.grpc,
        grpc=behind.grpc,
        http_listen=targets.http,
        http=behind.http,
    )
    (folder / "nginx.conf").write_text(written)
    with started(command, "-c", folder / "nginx.conf", "-e", "stderr") as program:
        for target in (targets.grpc, targets.http):
            _wait_for(target, program)
        yield targets
        program.terminate()


def _wait_for(target: str, program: Program) -> None:
    """Wait until a program listens."""
    host, port = target.split(":")
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, program
            assert program.process.poll() is None, program
            time.sleep(0.01)  # nothing tells that another program listens
