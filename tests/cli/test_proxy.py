"""``txzmq proxy``: as a process before servers and workers, and what it refuses."""

from __future__ import annotations

import contextlib
import re
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.cli.shop import CHAT, ORDER, PLACE, PROTOSET, UPLOAD, WATCH, Shop, World
from tests.programs import Program, running
from tests.rpc.service import ECHO, Echo, text
from tests.support import Loop, is_installed
from txzmq import ZmqFactory
from txzmq._cli.program import invoke
from txzmq.auth import CurveClientCredentials, CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Channel, Server, Unauthenticated, Unavailable
from txzmq.rpc.reflection import Reflection

ANY_PORT = "tcp://127.0.0.1:*"


class Proxied:
    """A proxy process."""

    def __init__(self, program: Program, pattern: str) -> None:
        self.program = program
        found = program.expect(pattern)
        self.clients, *others = found.groups()
        self.workers = others[0] if others else ""


@contextlib.contextmanager
def proxy(*arguments: str) -> Generator[Proxied]:
    with running("-m", "txzmq", "proxy", "--listen", ANY_PORT, *arguments) as program:
        if "--workers" in arguments:
            at = r".*#info\] the proxy listens at (\S+) for clients and at (\S+) for workers"
        else:
            at = r".*#info\] the server listens at (\S+), its streams are at \S+"
        yield Proxied(program, at)


def has_said(program: Program, part: str) -> bool:
    """Whether a line with *part* has been printed; does not wait."""
    program.has_said("")
    return any(part in line for line in program.output)


async def unended() -> AsyncIterator[Any]:
    """Requests of which more may come."""
    yield ORDER(item="x")
    await Deferred[None](lambda _: None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


# -- a relay --------------------------------------------------------------------------------------


def test_calls_of_all_kinds_pass_and_it_drains(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    shop = Shop()
    servers = [Server(factory, [shop, Reflection()]) for _ in range(2)]
    to = [argument for each in servers for argument in ("--to", each.listen(ANY_PORT))]
    metrics = ["--metrics", ":0"] if is_installed("prometheus_client") else []
    with proxy(*to, "--admin", *metrics) as proxied:
        page = ""
        if metrics:
            page = proxied.program.expect(r".*#info\] metrics are at (\S+)/metrics")[1]

        async def main() -> None:
            channel = Channel(factory, proxied.clients)
            for number in range(4):
                answer = await channel.unary_unary(PLACE, ORDER(item=f"tea {number}"), timeout=20)
                assert answer.text == f"tea {number}"
            stream = channel.unary_stream(WATCH, ORDER(item="tick", count=3))
            assert [each.text async for each in stream] == ["tick 0", "tick 1", "tick 2"]
            chat = channel.stream_stream(CHAT, [ORDER(item="a"), ORDER(item="b")])
            assert [each.text async for each in chat] == ["A", "B"]
            endless = channel.unary_stream(WATCH, ORDER(item="tick"), timeout=60)
            assert (await anext(endless)).text == "tick 0"
            if page:
                with urllib.request.urlopen(f"{page}/readyz") as ready:
                    assert ready.status == 200
                with urllib.request.urlopen(f"{page}/metrics") as got:
                    counted = got.read().decode()
                of_place = r'grpc_server_handled_total\{.*"OK",grpc_method="Place".*\} 4\.0'
                assert re.search(of_place, counted)
            endless.cancel()
            await one_loop.until(lambda: "watch" in shop.ended)
            running = channel.unary_stream(WATCH, ORDER(item="tick"), timeout=60)
            await anext(running)
            proxied.program.process.terminate()
            await one_loop.until(lambda: has_said(proxied.program, "the server drains"))
            assert (await anext(running)).text == "tick 1"
            # A second signal ends it at once, though the stream goes on.
            proxied.program.process.terminate()
            await one_loop.until(lambda: proxied.program.process.poll() is not None)
            running.cancel()
            channel.close()
            for server in servers:
                await server.stop(0)
            factory.shutdown()

        one_loop.run(main)
        assert proxied.program.wait() == 0


def test_it_starts_before_its_servers_and_ends_what_dies(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)
    port = free_port()
    with proxy("--to", f"tcp://127.0.0.1:{port}", "--protoset", str(PROTOSET)) as proxied:
        proxied.program.expect(r".*#warn\] no server can be reached yet; calls wait for one.*")

        async def main() -> None:
            channel = Channel(factory, proxied.clients)
            waiting = channel.unary_unary(PLACE, ORDER(item="early"), timeout=30)
            other = ZmqFactory(one_loop.reactor)
            shop = Shop()
            server = Server(other, [shop])
            server.listen(f"tcp://127.0.0.1:{port}")
            assert (await waiting).text == "early"
            upload = channel.stream_unary(UPLOAD, unended(), timeout=60)
            await one_loop.until(lambda: len(shop.contexts) == 2)
            other.shutdown()  # all at once, as if the process had died
            with pytest.raises(Unavailable, match="may have been executed"):
                await upload
            channel.close()
            factory.shutdown()

        one_loop.run(main)
        assert proxied.program.interrupt() == 0


class Keys:
    """Key files of a proxy, and of those whom it knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pairs = {name: CurveKeyPair.generate() for name in ("proxy", "server", "alice", "bob")}
        for name, pair in self.pairs.items():
            pair.save(folder / name)
        self.clients = folder / "clients"
        self.clients.mkdir()
        for name in ("alice", "bob"):
            self.know(name)

    def know(self, name: str) -> None:
        (self.clients / f"{name}.key").write_bytes((self.folder / f"{name}.key").read_bytes())

    def secret(self, name: str) -> str:
        return str(self.folder / f"{name}.key_secret")

    def of_client(self, name: str, server: str) -> CurveClientCredentials:
        return CurveClientCredentials(self.pairs[name], server_keys=[self.pairs[server].public_key])


def test_a_relay_has_keys_on_both_sides_and_reads_them_again(
    one_loop: Loop, tmp_path: Path
) -> None:
    keys = Keys(tmp_path)
    factory = ZmqFactory(one_loop.reactor)
    shop = Shop()
    known = {keys.pairs["proxy"].public_key: "proxy"}
    credentials = CurveServerCredentials(keys.pairs["server"], known)
    server = Server(factory, [shop, Reflection()], credentials=credentials)
    with proxy(
        *("--to", server.listen(ANY_PORT)),
        *("--server-key", keys.pairs["server"].public_key, "--key", keys.secret("proxy")),
        *("--keys", keys.secret("proxy"), "--clients", str(keys.clients)),
    ) as proxied:

        async def main() -> None:
            alice, bob = (
                Channel(factory, proxied.clients, credentials=keys.of_client(name, "proxy"))
                for name in ("alice", "bob")
            )
            for channel in (alice, bob):
                assert (await channel.unary_unary(PLACE, ORDER(item="x"), timeout=20)).text == "x"
            # Servers see the proxy.
            identities = [context.identity for context in shop.contexts]
            assert [each and each.name for each in identities] == ["proxy", "proxy"]
            (keys.clients / "bob.key").unlink()
            proxied.program.hang_up()
            await one_loop.until(lambda: has_said(proxied.program, "keys were read again"))
            with pytest.raises(Unauthenticated):
                await bob.unary_unary(PLACE, ORDER(item="x"), timeout=20)
            await alice.unary_unary(PLACE, ORDER(item="x"), timeout=20)
            for channel in (alice, bob):
                channel.close()
            await server.stop(0)
            factory.shutdown()

        one_loop.run(main)
        assert proxied.program.terminate() == 0


# -- ZeroMQ's plain proxy -------------------------------------------------------------------------


def test_a_plain_proxy_has_keys_on_both_sides(one_loop: Loop, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    workers = tmp_path / "workers"
    workers.mkdir()
    (workers / "server.key").write_bytes((tmp_path / "server.key").read_bytes())
    factory = ZmqFactory(one_loop.reactor)
    with proxy(
        *("--workers", ANY_PORT, "--keys", keys.secret("proxy")),
        *("--clients", str(keys.clients), "--worker-keys", str(workers)),
    ) as proxied:

        async def main() -> None:
            service = Echo()
            server = Server(factory, [service])
            server.connect(proxied.workers, credentials=keys.of_client("server", "proxy"))
            of_alice = keys.of_client("alice", "proxy")
            alice = Channel(factory, proxied.clients, credentials=of_alice, wait_for_ready=True)
            for _ in range(10):
                assert (await alice.unary_unary(ECHO, text("x"), timeout=20)).value == "x"
            stranger = Channel(
                factory, proxied.clients, credentials=keys.of_client("server", "proxy")
            )
            with pytest.raises(Unauthenticated):
                await stranger.unary_unary(ECHO, text("x"), timeout=20)
            for channel in (alice, stranger):
                channel.close()
            await server.stop(0)
            factory.shutdown()

        one_loop.run(main)
        assert proxied.program.terminate() == 0
    end = r"the proxy has stopped: (\d+) frames of requests \(\d+ bytes\) and (\d+) of replies"
    found = re.search(end, "\n".join(proxied.program.output))
    assert found is not None
    assert int(found[1]) >= int(found[2]) >= 50


# -- what is wrong --------------------------------------------------------------------------------

TO = ("--to", "tcp://127.0.0.1:5001")
WORKERS = ("--workers", "tcp://127.0.0.1:5001")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "pass either --to or --workers"),
        ((*TO, *WORKERS), "pass either --to or --workers"),
        ((*TO, "--keys", "x"), "--keys needs --clients"),
        ((*TO, "--clients", "x"), "--clients needs --keys"),
        ((*TO, "--keys", "missing", "--clients", "."), "missing: No such file"),
        ((*TO, "--key", "x"), "--key needs the server's public key"),
        ((*TO, "--server-key", "x"), "--server-key needs the client's own key"),
        ((*TO, "--worker-keys", "x"), "--worker-keys is for --workers"),
        ((*TO, "--publisher", ANY_PORT, "--publisher", ANY_PORT), "there are 2 of --publisher"),
        ((*TO, "--metrics", "9090"), "--metrics 9090 is not HOST:PORT"),
        ((*TO, "--metrics", ":99999"), "--metrics :99999 is not HOST:PORT"),
        ((*TO, "--grace", "-1"), "it must be a number of seconds, 0 or more"),
        ((*TO, "--protoset", "missing"), "missing: No such file"),
        ((*WORKERS, "--metrics", ":9090"), "--metrics is for --to"),
        ((*WORKERS, "--key", "x"), "--key is for --to"),
        ((*WORKERS, "--admin"), "--admin is for --to"),
        ((*WORKERS, "--protoset", "x"), "--protoset is for --to"),
        ((*WORKERS, "--listen", ANY_PORT), "--workers takes one --listen"),
    ],
)
def test_what_does_not_fit_is_refused(world: World, arguments: tuple[str, ...], said: str) -> None:
    done = world.run("proxy", "--listen", ANY_PORT, *arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.err.splitlines()[0]


def test_where_to_listen_is_needed(world: World) -> None:
    done = world.run("proxy", *TO)
    assert done.status == 2
    assert "--listen" in done.err


class LoopRuntime:
    """Runs a command in a test's own reactor, with real sockets."""

    def __init__(self, loop: Loop) -> None:
        self.network = ZmqFactory(loop.reactor)
        self.clock = loop.reactor
        self._loop = loop

    def serve(
        self, main: Callable[[], Coroutine[Deferred[Any], Any, int]], reload: Callable[[], None]
    ) -> int:
        try:
            return self._loop.run(main)
        finally:
            self.network.shutdown()


def refused(
    loop: Loop, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[str]]:
    """The status, and what is said."""
    status = invoke(["proxy", *arguments], lambda: LoopRuntime(loop))
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("kind", ["to", "workers", "clients"])
def test_a_port_in_use_is_one_sentence(
    one_loop: Loop, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        arguments = {
            "to": ("--listen", used, *TO),
            "workers": ("--listen", ANY_PORT, "--workers", used),
            "clients": ("--listen", used, "--workers", ANY_PORT),
        }
        status, (line,) = refused(one_loop, capsys, *arguments[kind])
    assert status == 1
    assert line.startswith(f"txzmq proxy: cannot listen at {used}: port ")


@pytest.mark.skipif(not is_installed("prometheus_client"), reason="the extra is not installed")
def test_a_port_in_use_for_metrics_is_one_sentence(
    one_loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("--listen", ANY_PORT, *TO, "--metrics", place)
        status, (line,) = refused(one_loop, capsys, *arguments)
    assert status == 1
    assert line.startswith(f"txzmq proxy: --metrics: Couldn't listen on {place}")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("--listen", "tcp://0.0.0.0:0", *TO), "--clients"),
        (("--listen", "tcp://0.0.0.0:0", "--workers", ANY_PORT), "--clients"),
        (("--listen", ANY_PORT, "--workers", "tcp://0.0.0.0:0"), "--worker-keys"),
    ],
)
def test_strangers_are_kept_out(
    one_loop: Loop,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    missing: str,
) -> None:
    assert refused(one_loop, capsys, *arguments) == (
        2,
        [
            "txzmq proxy: strangers can reach tcp://0.0.0.0:0, and nothing asks them for keys",
            f"hint: pass --keys FILE and {missing} FOLDER, or --insecure",
        ],
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--listen", "nonsense", *TO), "--listen 'nonsense'"),
        (("--listen", ANY_PORT, "--to", "nonsense"), "--to 'nonsense'"),
        (("--listen", "nonsense", *WORKERS), "--listen 'nonsense'"),
        (("--listen", ANY_PORT, "--workers", "nonsense"), "--workers 'nonsense'"),
    ],
)
def test_malformed_addresses_are_named_by_their_option(
    one_loop: Loop, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    status, lines = refused(one_loop, capsys, *arguments)
    assert status == 2
    assert lines[0].startswith(f"txzmq proxy: {said}")
