"""``txzmq serve`` as it is: processes, sockets, signals."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("click", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")

from tests.kubelet import Volume
from tests.programs import ROOT, running
from tests.rpc.service import ECHO, OTHER, text
from tests.serve.supervised import (
    ANY_PORT,
    SHOP,
    Load,
    Supervised,
    children_of,
    serving,
    until_gone,
)
from tests.support import Loop, fresh_loop
from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials, CurveKeyPair
from txzmq.rpc import Channel, Unauthenticated, Unavailable

#: ``make test-rolls`` does more: times, and seconds.
ROLLS = int(os.environ.get("TXZMQ_ROLLS", "1"))
KILLS = float(os.environ.get("TXZMQ_KILLS", "3"))
#: How many workers take calls.
READY = 'txzmq_supervisor_processes{state="ready"}'

SERVER_KEYS = CurveKeyPair.generate()
CLIENT_KEYS = CurveKeyPair.generate()
CREDENTIALS = CurveClientCredentials(CLIENT_KEYS, server_keys=[SERVER_KEYS.public_key])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    SERVER_KEYS.save(folder / "server")
    (folder / "clients").mkdir()
    CLIENT_KEYS.save(folder / "alice")
    os.rename(folder / "alice.key", folder / "clients" / "alice.key")
    return folder


@pytest.fixture(scope="module")
def two_workers(keys: Path) -> Iterator[Supervised]:
    """With keys and metrics."""
    arguments = ("--keys", keys / "server.key_secret", "--clients", keys / "clients")
    publishers = ["--publisher", ANY_PORT] * 4
    with serving(*arguments, *publishers, "--metrics", "127.0.0.1:0", ports=2) as supervised:
        yield supervised


@pytest.fixture
def supervised(two_workers: Supervised) -> Supervised:
    """Two workers for several tests, and none that starts or leaves: one that leaves speaks too."""
    two_workers.wait_until_settled(2)
    return two_workers


def test_a_roll_under_load_replaces_all_and_fails_no_call(
    supervised: Supervised, one_loop: Loop
) -> None:
    before = supervised.values("grpc_server_started_total")

    def all_serve(load: Load) -> Deferred[None]:
        return until(lambda: load.pids.keys() >= {*supervised.pids.values()})

    def rolled(times: int) -> Deferred[None]:
        return until(lambda: supervised.has_said("the roll is done") == times)

    def until(condition: Callable[[], bool]) -> Deferred[None]:
        return Deferred.fromCoroutine(one_loop.until(condition))

    async def main() -> Load:
        load = Load(one_loop, supervised.addresses, CREDENTIALS)
        for number in range(1, ROLLS + 1):
            await all_serve(load)
            old = {*supervised.pids.values()}
            supervised.signal(signal.SIGUSR2)
            await rolled(number)
            assert not old & {*supervised.pids.values()}
        await all_serve(load)
        await load.stop()
        load.factory.shutdown()
        return load

    load = one_loop.run(main, patience=30 * ROLLS)
    assert load.errors == []
    assert load.streams
    # What the old ones have counted is counted on.
    assert supervised.values("grpc_server_started_total") - before == load.ended
    assert supervised.values("grpc_server_handled_total") - before == load.ended
    assert supervised.values("txzmq_supervisor_rolls_total") == ROLLS
    print(f"{ROLLS} rolls, {load.pids.total()} calls and {load.streams} streams, all served")


def test_a_worker_that_is_killed_is_started_again(supervised: Supervised, one_loop: Loop) -> None:
    counted = supervised.values("grpc_server_started_total")
    restarts = supervised.values("txzmq_supervisor_restarts_total")
    address = supervised.addresses[0]

    async def main() -> int:
        factory = ZmqFactory(one_loop.reactor)
        channel = Channel(factory, address, credentials=CREDENTIALS, wait_for_ready=True)
        answer = await channel.unary_unary(ECHO, text("x"), timeout=30)
        pid = int(answer.value.partition(" ")[0])
        os.kill(pid, signal.SIGKILL)
        # The socket is the supervisor's: it waits there, and is not refused.
        try:
            answer = await channel.unary_unary(ECHO, text("y"), timeout=30)
        except Unavailable:
            answer = await channel.unary_unary(ECHO, text("y"), timeout=30)
        assert not answer.value.startswith(f"{pid} ")
        factory.shutdown()
        return pid

    pid = one_loop.run(main)
    # Workers of a roll before may end meanwhile.
    supervised.expect(rf"worker 1 at \S+ has ended: signal SIGKILL; process {pid}; another .*")
    supervised.expect("worker 1 is ready")
    assert supervised.values("txzmq_supervisor_restarts_total") == restarts + 1
    assert supervised.values("grpc_server_started_total") >= counted, "no counter falls"


def test_readiness_is_that_of_all(supervised: Supervised) -> None:
    assert supervised.get("/healthz") == "ok\n"
    assert supervised.get("/readyz") == "ok\n"
    assert supervised.values("txzmq_supervisor_listeners") == 2


def test_a_revoked_key_can_do_nothing_after_sighup(
    supervised: Supervised, keys: Path, one_loop: Loop
) -> None:
    certificate = keys / "clients" / "alice.key"

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        channel = Channel(factory, supervised.addresses, credentials=CREDENTIALS)
        await channel.unary_unary(ECHO, text("x"), timeout=30)
        certificate.unlink()
        supervised.signal(signal.SIGHUP)
        await one_loop.until(lambda: supervised.has_said("it knows 0 of them") == 2)
        with pytest.raises(Unauthenticated):
            await channel.unary_unary(ECHO, text("x"), timeout=30)
        factory.shutdown()

    text_of_it = certificate.read_text()
    try:
        one_loop.run(main)
    finally:
        certificate.write_text(text_of_it)


def test_users_code_that_fails_when_the_supervisor_asks_ends_no_worker() -> None:
    with serving("--options", "tests.serve.shop:failing", "--metrics", "127.0.0.1:0") as supervised:
        for _ in range(2):
            assert supervised.values("txzmq_supervisor_processes") == 1
        assert supervised.values("txzmq_build_info") >= 1
        supervised.signal(signal.SIGHUP)
        said = supervised.expect("could not reload the clients' keys, and keeps those it has: (.*)")
        assert said[1] == "LookupError: no keys"
        assert supervised.values("txzmq_supervisor_restarts_total") == 0


def test_whatever_happens_to_workers_the_calls_go_on(
    supervised: Supervised, one_loop: Loop
) -> None:
    """They are killed, drained and rolled at random: calls may fail, and nothing else."""
    seed = int(os.environ.get("TXZMQ_SEED", "0")) or random.randrange(1, 1_000_000)
    print(f"TXZMQ_SEED={seed}")
    chance = random.Random(seed)
    counted = 0.0

    def happens() -> None:
        what = chance.choice(["kill", "drain", "roll", "keys"])
        if what == "roll":
            supervised.signal(signal.SIGUSR2)
        elif what == "keys":
            supervised.signal(signal.SIGHUP)
        else:
            # One that has ended meanwhile is nobody's: pids come around after a long time only.
            workers = children_of(supervised.program.process.pid)
            if workers:
                number = signal.SIGKILL if what == "kill" else signal.SIGTERM
                os.kill(chance.choice(workers), number)

    async def main() -> None:
        nonlocal counted
        load = Load(one_loop, supervised.addresses, CREDENTIALS)
        until = time.monotonic() + KILLS
        while time.monotonic() < until:
            happens()
            await one_loop.sleep(chance.uniform(0, 1))
            now = supervised.values("grpc_server_started_total")
            assert now >= counted, "no counter falls"
            counted = now
        ended = load.ended
        await one_loop.until(lambda: supervised.values(READY) == 2)
        await one_loop.until(lambda: load.ended > ended + 100)
        await load.stop()
        load.factory.shutdown()
        # Two handshakes in a row that end without a word are taken for a refusal.
        codes = {error.partition(":")[0] for error in load.errors}
        assert codes <= {"UNAVAILABLE", "UNAUTHENTICATED"}
        print(f"{KILLS} s, {load.ended} calls, {len(load.errors)} have failed")

    one_loop.run(main, patience=60 + 2 * KILLS)


def test_a_key_that_is_removed_from_a_volume_is_revoked_without_a_signal(
    keys: Path, tmp_path: Path, one_loop: Loop
) -> None:
    """As in a pod: ``--keys`` of a Secret by ``fsGroup``, ``--clients`` of a ConfigMap."""
    certificate = (keys / "clients" / "alice.key").read_text()
    secret = (keys / "server.key_secret").read_text()
    server = Volume(tmp_path / "server", {"server.key_secret": secret})
    clients = Volume(tmp_path / "clients", {"alice.key": certificate})
    arguments = ("--keys", server.folder / "server.key_secret", "--allow-group")
    also = ("--clients", clients.folder, "--reload-keys", "0.05")
    with serving(*arguments, *also) as supervised:

        async def main() -> None:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, supervised.addresses, credentials=CREDENTIALS)
            await channel.unary_unary(ECHO, text("x"), timeout=30)
            clients.update({})
            await one_loop.until(lambda: supervised.has_said("it knows 0 of them"))
            with pytest.raises(Unauthenticated):
                await channel.unary_unary(ECHO, text("x"), timeout=30)
            factory.shutdown()

        one_loop.run(main)


def test_keys_that_are_not_there_are_not_reloaded() -> None:
    with running(
        *("-m", "txzmq", "serve", SHOP, "--listen", ANY_PORT, "--reload-keys", "5")
    ) as program:
        assert program.wait() == 2
    assert "--reload-keys needs --clients" in program.output[0]


def test_sigterm_lets_calls_finish(one_loop: Loop) -> None:
    with serving() as supervised:
        (pid,) = supervised.pids.values()

        async def main() -> None:
            factory = ZmqFactory(one_loop.reactor)
            channel = Channel(factory, supervised.addresses)
            await channel.unary_unary(ECHO, text("x"), timeout=30)
            answer = channel.unary_unary(OTHER, text("0.3"), timeout=30)
            await one_loop.sleep(0.1)
            supervised.signal(signal.SIGTERM)
            assert (await answer).value == str(pid)
            factory.shutdown()

        one_loop.run(main)
        assert supervised.program.wait() == 0
        until_gone(pid)


def test_workers_end_with_a_supervisor_that_is_killed() -> None:
    with serving(ports=2) as supervised:
        workers = children_of(supervised.program.process.pid)
        assert len(workers) == 2
        supervised.program.kill()
        for pid in workers:
            until_gone(pid)


def test_what_cannot_be_imported_ends_it_with_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no database')\n")
    with running(
        *("-m", "txzmq", "serve", "broken:Shop", "--listen", ANY_PORT), cwd=tmp_path
    ) as program:
        assert program.wait() == 1
        assert program.output[-1].startswith(
            "txzmq serve: broken:Shop: importing it raised RuntimeError: no database"
        )
        assert any('broken.py", line 1' in line for line in program.output)


def test_a_port_in_use_ends_it_with_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with running("-m", "txzmq", "serve", SHOP, "--listen", taken) as program:
            assert program.wait() == 1
    (said,) = program.output
    assert said.startswith(f"txzmq serve: cannot listen at {taken}: port ")


def test_a_port_of_the_metrics_in_use_is_said_to_be_theirs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        arguments = ("-m", "txzmq", "serve", SHOP, "--listen", ANY_PORT, "--metrics", taken)
        with running(*arguments) as program:
            assert program.wait() == 1
    (said,) = (line for line in program.output if line.startswith("txzmq serve: "))
    assert said.startswith(f"txzmq serve: cannot listen at {taken} of --metrics: port ")
    assert "is in use by another" in said


def test_where_strangers_can_connect_it_needs_keys() -> None:
    with running("-m", "txzmq", "serve", SHOP, "--listen", "tcp://0.0.0.0:*") as program:
        assert program.wait() == 1
    assert "Pass --keys and --clients, or --insecure" in program.output[-1]
    assert not any("Warning" in line for line in program.output)
    assert any(f"serves {SHOP} by 1 process at" in line for line in program.output)
    assert not any("the reactor never ran" in line for line in program.output)


#: As systemd does it: sockets from descriptor 3 on, and variables that say so.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "shop"}
os.execv(sys.executable, [sys.executable, "-u", "-m", "txzmq", "serve", *sys.argv[2:]])
"""


def test_a_socket_of_systemd_is_served_and_systemd_is_told(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listens,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        fresh_loop("epoll") as loop,
    ):
        systemd.bind(f"{tmp_path}/notify")
        systemd.settimeout(30)
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _AS_SYSTEMD, str(listens.fileno())),
                *(SHOP, "--listen", "systemd:shop", "--log-level", "warn"),
            ],
            cwd=ROOT,
            pass_fds=[listens.fileno()],
            env={
                **os.environ,
                "NOTIFY_SOCKET": f"{tmp_path}/notify",
                "PYTHONWARNINGS": "error",
            },
        )
        try:
            said: list[str] = []
            while "READY=1" not in said:
                said += systemd.recv(1000).decode().splitlines()

            async def main() -> None:
                factory = ZmqFactory(loop.reactor)
                address = f"tcp://127.0.0.1:{listens.getsockname()[1]}"
                await Channel(factory, address).unary_unary(ECHO, text("x"), timeout=30)
                factory.shutdown()

            loop.run(main)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
        systemd.setblocking(False)
        rest = ""
        try:
            while True:
                rest += systemd.recv(1000).decode() + "\n"
        except BlockingIOError:
            pass
        assert "STOPPING=1" in rest


def test_a_changed_file_is_served_and_a_broken_one_is_not(tmp_path: Path, one_loop: Loop) -> None:
    file = tmp_path / "shop.py"
    source = (ROOT / "tests/serve/shop.py").read_text()
    file.write_text(source)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    with serving("--reload", service="shop:Shop", cwd=tmp_path) as supervised:
        first = supervised.pids[1]
        file.write_text("def broken(:\n")
        assert "SyntaxError" in supervised.expect("the roll is given up, and .*")[0]
        assert supervised.pids[1] == first
        file.write_text(source)
        os.utime(file, (time.time() + 5, time.time() + 5))
        supervised.expect("the roll is done")
        assert supervised.pids[1] != first
