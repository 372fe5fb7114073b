"""The guide's pages on calls, done as they say.

The blocks of Python of a page are one program, which goes on from the README's service. Its
functions that take a ``HelloClient`` are called, with a server of its ``Hello`` at the other end.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds
from tests.support import is_installed
from txzmq.rpc import Channel, ServerLimits, SocketOptions
from txzmq_codegen.starter import starter

GUIDE = ROOT / "docs/guide"
PAGES = [
    "errors",
    "deadlines",
    "cancellation",
    "metadata",
    "interceptors",
    "limits",
    "admin",
    "health",
    "reflection",
    "shutdown",
    "proxies",
    "raw",
]
# Those whose code makes channels to elsewhere: it is read, and not called.
READ = [
    *("balancing", "retries", "failures", "watching", "logs", "security", "serve", "tokens"),
    "application",  # and run below
    "kubernetes",
]
if importlib.util.find_spec("prometheus_client") is not None:  # the extra of that page
    READ.extend(["metrics", "operate"])
if is_installed("opentelemetry.sdk"):
    READ.append("tracing")  # and called below
if is_installed("grpc.aio"):
    READ.extend(["from-grpc", "gateway"])  # likewise
if is_installed("connectrpc"):
    READ.append("gateway-http")

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


# With sockets: a network in memory has no keys. The commands of the page have made those.
SECURE = """
import os, signal
from pathlib import Path

import security
from generated.hello.v1.hello_pb2 import SayHelloRequest
from generated.hello.v1.hello_txzmq import HelloClient
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txzmq import ZmqFactory
from txzmq.auth import ClientKeys, CurveClientCredentials, CurveKeyPair
from txzmq.rpc import Channel, Unauthenticated

async def said(hello):
    try:
        return (await hello.say_hello(SayHelloRequest(), timeout=30)).text
    except Unauthenticated as error:
        return error.message

async def main(reactor):
    factory = ZmqFactory(reactor)
    server, credentials = security.make_server(factory, "tcp://127.0.0.1:*")
    security.reload_at_hangup(reactor, credentials)
    public = CurveKeyPair.load("greeter.key_secret").public_key
    here = security.listen_here(server)
    assert here == f"ipc://{os.getcwd()}/txzmq/greeter", here
    address = server.listen("tcp://127.0.0.1:*")
    for place in (address, here):
        print(await said(security.make_client(factory, place, public)))
    stranger = CurveKeyPair.generate().public_key
    print(await said(security.make_client(factory, address, stranger)))

    # The second keys of client and server.
    second = security.load_in_a_pod("alice-2027.key_secret")
    Path("alice-2027.key").rename("clients/alice-2027.key")
    credentials.clients.reload()
    keys = CurveClientCredentials(second, server_keys=[stranger, public])
    print(await said(HelloClient(Channel(factory, address, credentials=keys))))

    first = security.make_client(factory, address, public)
    print(await said(first))
    Path("clients/alice.key").unlink()
    os.kill(os.getpid(), signal.SIGHUP)
    while "Hello" in (answer := await said(first)):
        pass  # the signal is handled in some turn of the reactor
    print(answer)
    print(await said(HelloClient(Channel(factory, address, credentials=keys))))
    await server.stop(0)
    factory.shutdown()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


# The functions of the page on tokens that need no identity provider.
API_KEYS = """
import tokens
from generated.hello.v1.hello_pb2 import SayHelloRequest
from generated.hello.v1.hello_txzmq import HelloClient
from txzmq.rpc import Channel, Server, Unauthenticated
from txzmq.testing import MemoryNetwork

network = MemoryNetwork()
server = Server(network, [tokens.Hello()], authenticate=tokens.by_api_key)
hello = HelloClient(Channel(network, server.listen("inproc://hello")))
call = hello.say_hello(SayHelloRequest(), metadata={"x-api-key": "s3cr3t"})
print(network.result(call).text)
try:
    network.result(hello.say_hello(SayHelloRequest(), metadata={"x-api-key": "guessed"}))
except Unauthenticated as error:
    print(error.message)
print(set(tokens.roles({"realm_access": {"roles": ["admin"]}})))
"""


# Services of Twisted, as the page has them: one calls another, and they stop in order.
APPLICATION = """
import application
from generated.hello.v1.hello_pb2 import SayHelloRequest
from generated.hello.v1.hello_txzmq import HelloClient
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txzmq import ZmqFactory
from txzmq.rpc.application import ChannelService

async def main(reactor):
    hello = application.HelloService("tcp://127.0.0.1:*")
    hello.startService()
    front = application.FrontService(hello.endpoints[0], "tcp://127.0.0.1:*")
    front.startService()
    client = ChannelService(front.services[1].endpoints[0])
    client.startService()
    hello_behind = HelloClient(client.channel)
    reply = await hello_behind.say_hello(SayHelloRequest(name="Ada"), wait_for_ready=True)
    print(reply.text)
    for service in (client, front, hello):
        await service.stopService()
    factory = ZmqFactory(reactor)
    both = application.make_both(factory)
    both.startService()
    here = HelloClient(both.services[1].channel)
    print((await here.say_hello(SayHelloRequest(name="Bob"))).text)
    await both.stopService()
    factory.shutdown()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


# A service that moves from gRPC: its client, then its server; and a gateway that asks the server.
MOVING = """
from twisted.internet import asyncioreactor
asyncioreactor.install()
import asyncio, importlib, os
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server
from txzmq.rpc.reflection import Reflection

page = importlib.import_module("from-grpc")
gateway = importlib.import_module("gateway")

async def main(reactor):
    factory = ZmqFactory(reactor)
    new = page.serve_new(factory, page.Hello(), f"ipc://{os.getcwd()}/new")
    channel = Channel(factory, new)
    listener = await page.serve_old(channel, "127.0.0.1:0")
    print(await page.greet(page.make_client(listener.target)))
    for address in (new, listener.target):
        print(await page.greet(page.make_either(factory, address)))
    Server(factory, [page.Hello(), Reflection()]).listen("inproc://reflected")
    asking = await gateway.make_gateway(factory, "inproc://reflected", "127.0.0.1:0")
    print(await page.greet(page.make_client(asking.target)))
    await listener.stop()
    await asking.stop()
    factory.shutdown()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


def blocks(page: str, language: str) -> Iterator[str]:
    text = (GUIDE / f"{page}.md").read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not text[: match.start()].endswith("}}}-->\n"):  # of a file, which has tests
            yield match[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's generated code, and a module for each page."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("guide")
    hello = starter("Hello")["protos/hello/v1/hello.proto"]
    (state,) = (block for block in blocks("streams", "proto") if block.startswith("syntax"))
    for name, text in {"hello": hello, "state": state}.items():
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


def test_two_machines_have_keys_as_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (GUIDE / "security.md").read_text(encoding="utf-8")
    commands = [line for block in blocks("security", "sh") for line in block.splitlines()]
    # Those of the recipes stand in their text.
    commands += re.findall(r"`(python -m txzmq.auth new [^`]*)`", text)
    assert len(commands) == 7
    listed = ""
    for command in commands:
        program, *arguments = command.split()
        if program == "python":
            listed += succeeds(arguments, cwd=folder)
        else:
            subprocess.run([program, *arguments], cwd=folder, check=True)
    assert "  alice  (staff)" in listed
    (folder / "alice-2027.key_secret").chmod(0o640)  # as fsGroup makes it
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    page = re.sub(r"\s+", " ", text)
    known, *lines = succeeds(["-c", SECURE], cwd=folder).splitlines()
    here, wrong, second, first, revoked, last = lines
    assert {known, here, second, first, last} == {"Hello, alice!"}
    assert "the handshake failed, and the server does not say why" in page
    assert "the handshake failed, and the server does not say why" in wrong
    assert "does not know who calls, or not any more" in revoked


def test_other_tokens_than_json_web_tokens_work_as_the_page_says(folder: Path) -> None:
    pytest.importorskip("jwt", reason="PyJWT and cryptography are not installed here")
    said = succeeds(["-c", API_KEYS], cwd=folder).splitlines()
    assert said == ["Hello, backup!", "a valid x-api-key is needed", "{'admin'}"]


def test_services_of_an_application_run_as_the_page_says(folder: Path) -> None:
    assert succeeds(["-c", APPLICATION], cwd=folder).splitlines() == ["Hello, Ada!", "Hello, Bob!"]


def test_a_call_is_traced_as_the_page_says(folder: Path) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
    printed = succeeds(["run.py", "tracing"], cwd=folder)
    assert re.findall(r'"name": "(.*)"', printed) == ["think", *["hello.v1.Hello/SayHello"] * 2]
    assert len(set(re.findall(r'"trace_id": "(\w+)"', printed))) == 1
    assert '"hello.length": 13' in printed
    assert "greet" in printed.splitlines()


def test_a_service_moves_from_grpc_as_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
    # gRPC writes to standard error that a server has gone away.
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    folder.chmod(0o700)
    said = succeeds(["-c", MOVING], cwd=folder).splitlines()
    assert said == ["Hello, World! {}"] * 4


def test_the_page_on_grpc_has_every_name_of_grpc_aio() -> None:
    aio = pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
    text = (GUIDE / "from-grpc.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert sorted(set(aio.__all__) - named) == []


@pytest.mark.parametrize("page", READ)
def test_what_a_page_defines_is_right(folder: Path, page: str) -> None:
    if page == "tokens":
        pytest.importorskip("jwt", reason="PyJWT and cryptography are not installed here")
    succeeds(["-c", f"import importlib; importlib.import_module({page!r})"], cwd=folder)


def test_the_pages_are_typed(folder: Path) -> None:
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    # grpcio has no types of its own.
    pages = [*PAGES, *READ, "streams"]
    if not is_installed("grpc-stubs"):
        pages = [page for page in pages if page not in ("from-grpc", "gateway")]
    files = [f"{page}.py" for page in pages]
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
