"""``txzmq gateway``: as a process before servers, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")
pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc

from tests.cli.shop import ORDER, PLACE, PROTOSET, WATCH, Shop, World
from tests.cli.test_proxy import ANY_PORT, LoopRuntime
from tests.programs import Program, running
from tests.support import Loop, is_installed
from txzmq import ZmqFactory
from txzmq._cli.program import invoke
from txzmq.auth import CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Server
from txzmq.rpc.reflection import Reflection

TO = ("--to", "tcp://127.0.0.1:9")
JSON = {"content-type": "application/json"}
INFO = r".*#info\] "


@contextlib.contextmanager
def gateway(*arguments: str) -> Generator[Program]:
    with running("-m", "txzmq", "gateway", *arguments) as program:
        yield program


def post(url: str, given: Any, context: ssl.SSLContext | None = None) -> Any:
    """Call a method, as curl does."""
    request = urllib.request.Request(url, json.dumps(given).encode(), JSON)
    with urllib.request.urlopen(request, context=context, timeout=30) as response:
        return json.loads(response.read())


class Served:
    """A server of shops on a loop that goes on while a test waits."""

    def __init__(self, loop: Loop, **options: Any) -> None:
        self._loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.shop = Shop()
        self.server = Server(self.factory, [self.shop, Reflection()], **options)
        self.address = self.server.listen(ANY_PORT)

    def run(self, body: Any) -> None:
        """Run a test in a thread, while the loop serves."""
        outcome: list[BaseException] = []

        def call() -> None:
            try:
                body()
            except BaseException as error:  # noqa: BLE001 - it is raised again below
                outcome.append(error)

        async def main() -> None:
            thread = threading.Thread(target=call)
            thread.start()
            await self._loop.until(lambda: not thread.is_alive())
            await self.server.stop(0)
            self.factory.shutdown()

        self._loop.run(main)
        if outcome:
            raise outcome[0]


def test_calls_of_both_ways_pass_and_it_drains(one_loop: Loop) -> None:
    served = Served(one_loop)
    metrics = ["--metrics", ":0"] if is_installed("prometheus_client") else []
    with gateway("--to", served.address, "--http", ":0", "--grpc", ":0", *metrics) as program:

        def body() -> None:
            url = program.expect(INFO + r"Connect, gRPC-Web and JSON are taken at (\S+)")[1]
            target = program.expect(INFO + r"gRPC is taken at (\S+)")[1]
            assert url.startswith("http://127.0.0.1:")
            assert post(f"{url}{PLACE.path}", {"item": "tea"})["text"] == "tea"
            with urllib.request.urlopen(f"{url}/readyz", timeout=30) as response:
                assert response.status == 200
            with grpc.insecure_channel(target) as channel:
                place: Any = channel.unary_unary(
                    PLACE.path,
                    request_serializer=ORDER.SerializeToString,
                    response_deserializer=PLACE.response_type.FromString,
                )
                assert place(ORDER(item="coffee"), timeout=30).text == "coffee"
                streams: Any = channel  # to grpcio's stubs, bytes are no messages
                endless = streams.unary_stream(WATCH.path)(ORDER(item="tick").SerializeToString())
                next(endless)
                if metrics:
                    page = program.expect(INFO + r"metrics are at (\S+)")[1]
                    with urllib.request.urlopen(page, timeout=30) as got:
                        assert b'grpc_method="Place"' in got.read()
                program.process.terminate()
                # It takes no more calls, and that which runs goes on.
                refused = False
                while not refused:
                    try:
                        post(f"{url}{PLACE.path}", {"item": "tea"})
                    except (urllib.error.URLError, ConnectionError):
                        refused = True
                next(endless)
                # A second signal ends it at once.
                program.process.terminate()
                assert program.wait() == 0
                endless.cancel()

        served.run(body)


def test_tls_and_keys_of_the_servers(one_loop: Loop, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed here")
    authority: Any = trustme.CA()
    issued, own = (authority.issue_cert("127.0.0.1") for _ in range(2))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    root = authority.cert_pem.bytes()
    of_server, of_gateway = (CurveKeyPair.generate() for _ in range(2))
    of_gateway.save(tmp_path / "gateway")
    credentials = CurveServerCredentials(of_server, {of_gateway.public_key: "gateway"})
    served = Served(one_loop, credentials=credentials)
    arguments = (
        *("--to", served.address, "--server-key", of_server.public_key),
        *("--key", str(tmp_path / "gateway.key_secret"), "--protoset", str(PROTOSET)),
        *("--http", "0.0.0.0:0", "--grpc", "0.0.0.0:0"),
        *("--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key")),
        *("--tls-client-ca", str(tmp_path / "ca")),
    )
    with gateway(*arguments) as program:

        def body() -> None:
            url = program.expect(INFO + r"Connect, gRPC-Web and JSON are taken at (\S+)")[1]
            target = program.expect(INFO + r"gRPC is taken at (\S+)")[1]
            url, target = (each.replace("0.0.0.0", "127.0.0.1") for each in (url, target))
            context = ssl.create_default_context(cadata=root.decode())
            own.configure_cert(context)
            assert post(f"{url}{PLACE.path}", {"item": "tea"}, context)["text"] == "tea"
            pair = (own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
            client = grpc.ssl_channel_credentials(root, *pair)
            with grpc.secure_channel(target, client) as channel:
                calls: Any = channel  # as above
                assert calls.unary_unary(PLACE.path)(
                    ORDER(item="coffee").SerializeToString(), timeout=30
                )
            program.process.terminate()
            assert program.wait() == 0

        served.run(body)


def test_a_signal_before_it_listens_everywhere() -> None:
    places = ("--http", ":0", *("--grpc", ":0") * 8)
    with gateway(*TO, *places) as program:
        program.expect(INFO + r"Connect, gRPC-Web and JSON are taken at (\S+)")
        program.process.terminate()
        assert program.wait() == 0
        assert not any("Traceback" in line for line in program.output)


# -- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (TO, "there is nothing to listen at"),
        ((*TO, "--http", "8080"), "--http 8080 is not HOST:PORT"),
        ((*TO, "--grpc", "x:99999"), "--grpc x:99999 is not HOST:PORT"),
        ((*TO, "--grpc", ":0", "--cors-origin", "*"), "--cors-origin is for --http"),
        ((*TO, "--http", ":0", "--tls-cert", "x"), "--tls-cert needs others"),
        ((*TO, "--http", ":0", "--tls-client-ca", "x"), "--tls-client-ca needs others"),
        ((*TO, "--http", ":0", "--tls-cert", "x", "--tls-key", "y"), "x: No such file"),
        ((*TO, "--http", ":0", "--metrics", "x"), "--metrics x is not HOST:PORT"),
        ((*TO, "--http", ":0", "--protoset", "x"), "x: No such file"),
        ((*TO, "--http", ":0", "--key", "x"), "--key needs the server's public key"),
    ],
)
def test_what_does_not_fit_is_refused(world: World, arguments: tuple[str, ...], said: str) -> None:
    done = world.run("gateway", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[0].startswith(f"txzmq gateway: {said}")


def refused(
    loop: Loop, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[str]]:
    """The status, and what is said."""
    status = invoke(["gateway", *arguments], lambda: LoopRuntime(loop))
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_a_port_in_use_is_one_sentence(
    grpc_loop: Loop, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        status, (line,) = refused(grpc_loop, capsys, *TO, "--http", ":0", option, used)
    assert status == 1
    assert line.startswith(f"txzmq gateway: cannot listen at tcp://{used}: port ")


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_strangers_are_kept_out(
    grpc_loop: Loop, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert refused(grpc_loop, capsys, *TO, option, "0.0.0.0:0") == (
        2,
        [
            "txzmq gateway: strangers can reach 0.0.0.0:0, and nothing encrypts what they send",
            "hint: pass --tls-cert FILE and --tls-key FILE, or --insecure",
        ],
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--http", ":0", "--to", "nonsense"), "--to 'nonsense'"),
        (("--http", "example.com:1", *TO), "--http 'example.com:1' is no IP address"),
        (("--http", ":0", *TO, "--cors-origin", "x"), "--cors-origin 'x' is no origin"),
        (("--http", ":0", *TO, "--trusted-proxy", "x"), "--trusted-proxy 'x'"),
    ],
)
def test_malformed_values_are_named_by_their_option(
    grpc_loop: Loop, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    status, lines = refused(grpc_loop, capsys, *arguments)
    assert status == 2
    assert lines[0].startswith(f"txzmq gateway: {said}")


def test_it_needs_asyncios_loop(one_loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="and uvicorn needs a reactor on asyncio's loop"):
        refused(one_loop, capsys, *TO, "--http", ":0")
