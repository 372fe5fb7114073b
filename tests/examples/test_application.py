"""The examples of applications and ``twist txzmq``, as processes that drain at SIGTERM."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.request import urlopen

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.programs import ROOT, Program, started, succeeds
from tests.rpc.service import text
from tests.rpc.threads import until
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Method

#: ``twistd``; the script of that name need not be on the path.
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")
TWIST = ("-m", "twisted")
#: The greeter's, whose messages have one field, as this one.
SAY_HELLO = Method("/demo.greeter.v1.Greeter/SayHello", "say_hello", StringValue, StringValue)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, and what the generator makes for them."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "examples/application", folder / "examples/application")
    succeeds(
        ["-m", "txzmq.codegen", ROOT / "protos" / "demo", "--include", ROOT / "protos"], folder
    )
    return folder


@contextlib.contextmanager
def serving(sources: Path, *command: str | Path, address: str = "") -> Generator[Program]:
    """One of Twisted's programs, with the examples on its path."""
    env = {"GREETER": address, "HTTP": "tcp:0:interface=127.0.0.1"}
    with started(sys.executable, "-u", *command, cwd=sources, env=env) as program:
        yield program


def drain(
    loop: Loop, address: str, log: Path, pid: int, gone: Callable[[], bool] = lambda: True
) -> None:
    """Call a greeter, and send SIGTERM while it runs; the call is answered all the same.

    :param gone: whether nothing is left of the process; waited for.
    """

    async def main() -> None:
        factory = ZmqFactory(loop.reactor)
        channel = Channel(factory, address, wait_for_ready=True)

        def say_hello(name: str) -> Deferred[StringValue]:
            return channel.unary_unary(SAY_HELLO, text(name))

        assert (await say_hello("Ada")).value == "Hello, Ada!"
        slow = say_hello("Sloth")
        await loop.until(lambda: "greeting Sloth" in log.read_text())
        os.kill(pid, signal.SIGTERM)
        assert (await slow).value == "Hello, Sloth!"
        assert "the server drains: 1 calls run and 0 wait, for 5 s at most" in log.read_text()
        await loop.until(lambda: "the server has stopped" in log.read_text())
        await loop.until(gone)
        channel.close()
        factory.shutdown()

    loop.run(main)


def test_a_tac_becomes_a_daemon_that_drains(sources: Path, tmp_path: Path, one_loop: Loop) -> None:
    address, log, pidfile = f"ipc://{tmp_path}/greeter", tmp_path / "log", tmp_path / "pid"
    files = (f"--logfile={log}", f"--pidfile={pidfile}", f"--rundir={tmp_path}")
    tac = sources / "examples/application/greeter.tac"
    with serving(sources, *TWISTD, *files, "-y", tac, address=address) as program:
        assert program.wait() == 0, f"{program!r}"
    assert program.output == []
    pid = int(pidfile.read_text())
    try:
        drain(one_loop, address, log, pid, lambda: not pidfile.exists())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert "Server Shut Down" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_daemon_whose_port_is_in_use_does_not_start(sources: Path, tmp_path: Path) -> None:
    log, pidfile = tmp_path / "log", tmp_path / "pid"
    files = (f"--logfile={log}", f"--pidfile={pidfile}", f"--rundir={tmp_path}")
    tac = sources / "examples/application/greeter.tac"
    with taken_port() as port:
        address = f"tcp://127.0.0.1:{port}"
        with serving(sources, *TWISTD, *files, "-y", tac, address=address) as program:
            assert program.wait() == 1
    assert "cannot listen at" in f"{program!r}"  # what fits into 100 bytes
    # The daemon tells the process that has started it, and then its log.
    until(lambda: f"port {port} is in use by another socket" in log.read_text())
    until(lambda: not pidfile.exists())
    assert "the reactor never ran" not in log.read_text()


def test_a_tac_runs_on_asyncios_loop(sources: Path, tmp_path: Path, one_loop: Loop) -> None:
    address, log = f"ipc://{tmp_path}/greeter", tmp_path / "log"
    files = (f"--logfile={log}", "--pidfile=", "--reactor=asyncio")
    tac = "examples/application/asyncio.tac"
    with serving(sources, *TWISTD, *files, "-ny", tac, address=address) as program:
        drain(one_loop, address, log, program.process.pid)
        assert program.wait() == -signal.SIGTERM  # as Twisted ends, once all is done
    assert "reactor class: twisted.internet.asyncioreactor" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_twist_serves_services_by_their_names(
    sources: Path, tmp_path: Path, one_loop: Loop
) -> None:
    address, log = f"ipc://{tmp_path}/greeter", tmp_path / "log"
    plugin = ("txzmq", "--listen", address, "--grace", "5", "txzmq.rpc.health:Health")
    command = (*TWIST, "--log-format=text", f"--log-file={log}", *plugin)
    with serving(sources, *command, "examples.application.greeter:make_services") as program:
        drain(one_loop, address, log, program.process.pid)
        assert program.wait() == -signal.SIGTERM


def test_twistd_takes_the_plugin_too_and_its_port_may_be_in_use(
    sources: Path, tmp_path: Path
) -> None:
    with taken_port() as port:
        plugin = ("txzmq", "-l", f"tcp://127.0.0.1:{port}", "txzmq.rpc.health:Health")
        with serving(sources, *TWISTD, "-n", f"--pidfile={tmp_path}/pid", *plugin) as program:
            assert program.wait() == 1
    assert f"port {port} is in use by another socket" in f"{program!r}"


def test_twist_says_what_is_wrong_with_its_options(sources: Path) -> None:
    names = ("examples.application.greeter:Greeter",)
    with serving(sources, *TWIST, "txzmq", "-l", "tcp://127.0.0.1:*", *names) as program:
        assert program.wait() != 0
    needs = r"examples.application.greeter:Greeter is called without arguments, and needs \(reactor"
    assert re.search(needs, f"{program!r}")
    assert "Traceback" not in f"{program!r}"


def test_a_site_by_klein_calls_a_service(sources: Path, tmp_path: Path) -> None:
    pytest.importorskip("klein", reason="klein is not installed")
    address = f"ipc://{tmp_path}/greeter"
    command = (*TWISTD, "--pidfile=", "-ny", "examples/application/web.tac")
    with serving(sources, *command, address=address) as program:
        port = program.expect(r".* Site starting on (\d+)")[1]
        program.expect(r".*ipc://.*/greeter is READY")
        with urlopen(f"http://127.0.0.1:{port}/greet/Ada", timeout=30) as response:
            assert (response.status, response.read()) == (200, b"Hello, Ada!\n")
        assert program.terminate() == -signal.SIGTERM
        ended = [line.partition("] ")[2] for line in program.output if "] " in line]
    order = [
        f"(TCP Port {port} Closed)",
        "the server drains: 0 calls run and 0 wait, for 5 s at most",
        "the server has stopped",
    ]
    assert [line for line in ended if line in order] == order


@contextlib.contextmanager
def taken_port() -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]
