"""The pages on moving from grpclib and AMP: both of their sides run, and answer the same."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds
from txzmq_codegen.starter import starter

GUIDE = ROOT / "docs/guide"
PROTO = "hello/v1/hello.proto"

GRPCLIB = """
import asyncio, importlib, socket, sys
sys.path.append("old")
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txzmq import ZmqFactory

page = importlib.import_module("from-grpclib")

async def old():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await page.serve_old(port)
    for name in ("World", ""):
        print(await page.greet_old(port, name))
    server.close()
    await server.wait_closed()

async def main(reactor):
    await Deferred.fromFuture(asyncio.ensure_future(old()))
    factory = ZmqFactory(reactor)
    address = page.serve_new(factory, "inproc://hello")
    for name in ("World", ""):
        print(await page.greet_new(factory, address, name))
    factory.shutdown()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""

AMP = """
import importlib
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from txzmq import ZmqFactory

page = importlib.import_module("from-amp")

async def main(reactor):
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Factory.forProtocol(page.OldHello))
    for name in ("World", ""):
        print(await page.greet_old(reactor, port.getHost().port, name))
    await port.stopListening()
    factory = ZmqFactory(reactor)
    address = page.serve_new(factory, "inproc://hello")
    for name in ("World", ""):
        print(await page.greet_new(factory, address, name))
    factory.shutdown()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDE / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages' code as modules, and what is generated of the proto that both show."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("migrations")
    (folder / "protos/hello/v1").mkdir(parents=True)
    (proto,) = blocks("from-amp", "proto")
    (folder / "protos" / PROTO).write_text(proto, encoding="utf-8")
    succeeds(["-m", "txzmq.codegen", "protos/"], cwd=folder)
    for page in ("from-grpclib", "from-amp"):
        text = "\n\n".join(blocks(page, "python"))
        (folder / f"{page}.py").write_text(text, encoding="utf-8")
        # What grpclib generates, and AMP, have no types.
        _, after = blocks(page, "python")
        (folder / f"{page}-after.py").write_text(after, encoding="utf-8")
    return folder


def test_the_page_on_amp_has_the_starters_proto() -> None:
    (proto,) = blocks("from-amp", "proto")
    whole = starter("Hello")[f"protos/{PROTO}"]
    assert proto == re.sub(r"^ *//.*\n", "", whole, flags=re.MULTILINE)


def test_before_and_after_grpclib_answer_the_same(folder: Path) -> None:
    if importlib.util.find_spec("grpclib") is None:
        pytest.skip("grpclib is not installed here: it is of the group bench")
    plugin = folder / "protoc-gen-grpclib_python"
    program = f"#!{sys.executable}\nfrom grpclib.plugin.main import main\nmain()\n"
    plugin.write_text(program, encoding="utf-8")
    plugin.chmod(0o755)
    (folder / "old").mkdir()
    compiler = ["-m", "grpc_tools.protoc", f"--plugin={plugin}", "-Iprotos"]
    succeeds([*compiler, "--python_out=old", "--grpclib_python_out=old", PROTO], cwd=folder)
    said = succeeds(["-c", GRPCLIB], cwd=folder).splitlines()
    assert said == ["Hello, World!", "INVALID_ARGUMENT: whom shall I greet?"] * 2


def test_before_and_after_amp_answer_the_same(folder: Path) -> None:
    *old, greeting, refusal = succeeds(["-c", AMP], cwd=folder).splitlines()
    assert old == ["Hello, World!", "NO_NAME: whom shall I greet?"]
    assert (greeting, refusal) == ("Hello, World!", "INVALID_ARGUMENT: whom shall I greet?")


def test_what_comes_after_is_typed(folder: Path) -> None:
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    files = ["from-grpclib-after.py", "from-amp-after.py"]
    succeeds(["-m", "mypy", "--strict", *files], cwd=folder)
    succeeds(["-m", "pyright", "--pythonpath", sys.executable, *files], cwd=folder)
