"""The guide's pages on calls, done as they say.

The blocks of Python of a page are one program, which goes on from the README's service. Its
functions that take a ``HelloClient`` are called, with a server of its ``Hello`` at the other end.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds
from txzmq.rpc import Channel, ServerLimits, SocketOptions

GUIDE = ROOT / "docs/guide"
PAGES = [
    "errors",
    "deadlines",
    "cancellation",
    "metadata",
    "interceptors",
    "limits",
    "shutdown",
    "proxies",
]
# Those whose code makes channels to elsewhere: it is read, and not called.
READ = ["balancing", "retries", "failures", "watching"]

# In a process of its own: the messages of the README's proto can be registered once in a process.
RUN = """
import importlib, inspect, sys
from twisted.internet.defer import Deferred
from generated.hello.v1.hello_txzmq import HelloBase, HelloClient
from txzmq.rpc import Channel, Server
from txzmq.testing import MemoryNetwork

page = importlib.import_module(sys.argv[1])
network = MemoryNetwork()
subclasses = [
    it for it in vars(page).values()
    if inspect.isclass(it) and issubclass(it, HelloBase) and it is not HelloBase
]
plain = [it for it in subclasses if "back" not in inspect.signature(it).parameters]
make_server = getattr(page, "make_server", lambda network: Server(network, [plain[-1]()]))
address = make_server(network).listen("inproc://hello")
hello = HelloClient(getattr(page, "make_channel", Channel)(network, address))
server = Server(network, [it(hello) for it in subclasses if it not in plain][-1:])
front = HelloClient(Channel(network, server.listen("inproc://front")))
for name, function in list(vars(page).items()):
    if inspect.iscoroutinefunction(function) and "hello" in inspect.signature(function).parameters:
        for client in [hello, front] if subclasses != plain else [hello]:
            done = Deferred.fromCoroutine(function(client))
            network.advance(60)
            network.result(done)
            print(name)
"""


# Likewise. Clients come and go while the state changes, and their connections break.
FOLLOW = '''
import random, sys
from twisted.internet.defer import Deferred
from streams import State, StateClient, follow
from txzmq.rpc import Channel, Server
from txzmq.testing import MemoryNetwork

class Seen:
    """A state that is told of each update once, in order."""

    applied = 0

    def CopyFrom(self, state):
        self._version, self.values = state.version, dict(state.values)

    @property
    def version(self):
        return self._version

    @version.setter
    def version(self, version):
        assert version == self._version + 1, (self._version, version)
        self._version = version
        self.applied += 1

for seed in range(10):
    chance = random.Random(seed)
    network = MemoryNetwork()
    service = State()
    server = Server(network, [service])
    address = server.listen("inproc://state")
    states = []
    for _ in range(100):
        if chance.random() < 0.1:
            states.append(Seen())
            client = StateClient(Channel(network, address))
            Deferred.fromCoroutine(follow(client, states[-1])).addErrback(print)
        if chance.random() < 0.7:
            service.set(chance.choice("abcdefgh"), str(chance.random()))
        if chance.random() < 0.05:
            network.cut(f"{address}.streams")
        network.advance(chance.choice([0, 0.01, 0.1, 0.5]))
    network.advance(10)
    for state in states:
        assert (state.version, state.values) == (service.state.version, service.state.values)
    assert sum(state.applied for state in states) > 100
    assert len(service.writers) == 1
    print(len(states), "followed", service.state.version, "updates")
'''


def blocks(page: str, language: str) -> Iterator[str]:
    text = (GUIDE / f"{page}.md").read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield match[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's generated code, and a module for each page."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("guide")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    proto = re.search(r"^```proto\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert proto is not None
    (state,) = (block for block in blocks("streams", "proto") if block.startswith("syntax"))
    for name, text in {"hello": proto[1], "state": state}.items():
        (folder / f"protos/{name}/v1").mkdir(parents=True)
        (folder / f"protos/{name}/v1/{name}.proto").write_text(text, encoding="utf-8")
    succeeds(["-m", "txzmq.codegen", "protos/"], cwd=folder)
    for page in [*PAGES, *READ]:
        (folder / f"{page}.py").write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    # The page has other blocks besides, of which each is a line only.
    (program,) = (block for block in blocks("streams", "python") if block.startswith("from"))
    (folder / "streams.py").write_text(program, encoding="utf-8")
    (folder / "mypy.ini").write_text(_MYPY, encoding="utf-8")
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    return folder


# What the page on errors tells users of mypy to write, as mypy.ini has it.
_MYPY = """[mypy]
strict = true

[mypy-google.rpc.*]
follow_untyped_imports = true
"""


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(folder: Path, page: str) -> None:
    called = succeeds(["run.py", page], cwd=folder)
    for name in re.findall(
        r"^async def (\w+)\(hello: HelloClient", "\n".join(blocks(page, "python")), re.MULTILINE
    ):
        assert name in called.splitlines()


def test_a_snapshot_and_then_updates_miss_nothing(folder: Path) -> None:
    followed = succeeds(["-c", FOLLOW], cwd=folder).splitlines()
    assert len(followed) == 10
    assert all(" followed " in line for line in followed)


@pytest.mark.parametrize("page", READ)
def test_what_a_page_defines_is_right(folder: Path, page: str) -> None:
    succeeds(["-c", f"import {page}"], cwd=folder)


def test_the_pages_are_typed(folder: Path) -> None:
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    files = [f"{page}.py" for page in [*PAGES, *READ, "streams"]]
    succeeds(["-m", "mypy", *files], cwd=folder)
    # Outside of the checkout, pyright does not look into the environment that it runs in.
    succeeds(["-m", "pyright", "--pythonpath", sys.executable, *files], cwd=folder)


@pytest.mark.parametrize("page", [path.stem for path in sorted(GUIDE.glob("*.md"))])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (GUIDE / f"{page}.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
    assert [link for link in links if not (GUIDE / link).exists()] == []


def test_the_page_of_limits_has_every_limit_and_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|(.*)\|$", (GUIDE / "limits.md").read_text("utf-8"), re.MULTILINE
    )
    limits = dataclasses.fields(ServerLimits)
    names = [name for name, _ in rows]
    assert names[: len(limits)] == [limit.name for limit in limits]
    for limit in limits:
        if isinstance(limit.default, int):
            texts = [f"| {limit.default:,} |", f"| {limit.default // 2**20} MiB |"]
            texts.append(f"| {limit.default // 2**10} KiB |")
            assert any(text in dict(rows[: len(limits)])[limit.name] for text in texts), limit.name
    others = {*inspect.signature(Channel).parameters}
    others |= {field.name for field in dataclasses.fields(SocketOptions)}
    assert set(names[len(limits) :]) <= others


def test_the_settings_for_mypy_are_those_of_this_project() -> None:
    (block,) = blocks("errors", "toml")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for line in block.splitlines():
        assert line in pyproject
