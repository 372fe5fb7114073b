"""``txzmq keys`` and ``txzmq codegen``; and keys and tokens of calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.cli.shop import PLACE, PROTO, Shop, World
from tests.programs import running
from tests.support import fresh_loop, is_installed
from txzmq import ZmqFactory
from txzmq.auth import CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Code, Server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_keys_are_made_and_shown(world: World, here: Path) -> None:
    key = world.run("keys", "new", "me", "--groups", "staff").lines[-1]
    assert CurveKeyPair.load(here / "me.key_secret").public_key == key
    assert world.run("keys", "public", "me.key").lines == [key]
    again = world.run("keys", "new", "me")
    assert again.status == 2
    assert "never overwritten" in again.err
    wrong = world.run("keys", "old")
    assert wrong.status == 2
    assert wrong.err.startswith("usage: txzmq keys ")


@pytest.mark.skipif(not is_installed("grpc_tools"), reason="there is no protoc here")
def test_code_is_generated(world: World, here: Path) -> None:
    (here / "shop.proto").write_bytes(PROTO.read_bytes())
    done = world.run("codegen", "shop.proto", "--output", "made")
    assert done.status == 0, done.err
    assert [*here.glob("made/**/*_txzmq.py")]
    assert world.run("codegen", "none.proto").status == 2


def test_a_missing_generator_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "txzmq_codegen.cli", None)
    done = world.run("codegen", "protos")
    assert done.status == 2
    assert done.err.splitlines()[1] == "hint: pip install 'txzmq[codegen]'"


# -- who calls --------------------------------------------------------------------------------


def test_tokens_do_not_go_where_others_read_them(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["call", "tcp://127.0.0.1:1", PLACE.path]
    done = world.run(*call, "--token", "secret-word")
    assert done.status == 2
    assert "the token would go to tcp://127.0.0.1:1 where nothing encrypts it" in done.err
    assert "secret-word" not in done.err
    (here / "token").write_text("abc\n")
    monkeypatch.setenv("TXZMQ_TOKEN", "@token")
    assert world.call("Place").lines == ["{}"]  # inproc is for this process alone
    (context,) = world.shop.contexts
    assert dict(context.metadata)["authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TXZMQ_KEY", "none.key_secret", "none.key_secret: No such file or directory"),
        ("TXZMQ_SERVER_KEY", "short", "short is neither a public key nor a file with one"),
    ],
)
def test_a_wrong_key_says_which(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    CurveKeyPair.generate().save(here / "me")
    monkeypatch.setenv("TXZMQ_KEY", "me.key_secret")
    monkeypatch.setenv("TXZMQ_SERVER_KEY", CurveKeyPair.generate().public_key)
    monkeypatch.setenv(name, value)
    done = world.call("Place")
    assert done.status == 2
    assert said in done.err


@pytest.fixture
def keys(here: Path) -> tuple[CurveKeyPair, CurveKeyPair]:
    server, client = CurveKeyPair.generate(), CurveKeyPair.generate()
    server.save(here / "server")
    client.save(here / "me")
    CurveKeyPair.generate().save(here / "stranger")
    return server, client


def printed_by(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """The exit status of a program, and what it prints."""
    with running(*arguments) as program:
        return program.wait(), program.output


def test_a_server_with_keys_is_called_and_strangers_are_not(
    here: Path, keys: tuple[CurveKeyPair, CurveKeyPair], capfd: pytest.CaptureFixture[str]
) -> None:
    server_keys, client_keys = keys
    shop = Shop()
    protoset = str(PROTO.with_suffix(".protoset"))
    with fresh_loop("select") as loop:

        async def main() -> None:
            factory = ZmqFactory(loop.reactor)
            clients = {client_keys.public_key: "me"}
            server = Server(
                factory, [shop], credentials=CurveServerCredentials(server_keys, clients)
            )
            address = server.listen("tcp://127.0.0.1:*")
            call = ["-m", "txzmq", "call", address, PLACE.path, "--protoset", protoset]

            async def call_as(name: str) -> tuple[int, list[str]]:
                keys = ["--key", str(here / f"{name}.key_secret")]
                server_key = ["--server-key", str(here / "server.key")]
                arguments = [*call, *keys, *server_key]
                return await deferToThreadPool(loop.reactor, pool, printed_by, arguments)

            assert await call_as("me") == (0, ["{}"])
            status, printed = await call_as("stranger")
            assert status == 64 + Code.UNAUTHENTICATED
            assert printed[0].startswith("ERROR: UNAUTHENTICATED: ")
            (context,) = shop.contexts
            assert context.identity is not None
            assert context.identity.name == "me"
            await server.stop(0)
            factory.shutdown()

        pool = ThreadPool(1, 1)
        pool.start()
        try:
            loop.run(main)
        finally:
            pool.stop()
    assert capfd.readouterr().err == ""
