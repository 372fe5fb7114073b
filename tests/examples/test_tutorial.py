"""The tutorial: each step is a project of its own, which runs and is tested.

``make types`` types them, by tools/tutorial_types.py.
"""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")

from tests.programs import PATIENCE, ROOT, running, succeeds
from txzmq.auth import CurveKeyPair

TUTORIAL = ROOT / "examples" / "tutorial"
PAGES = ROOT / "docs" / "tutorial"
STEPS = sorted(path.name for path in TUTORIAL.iterdir() if path.is_dir())
TESTED = [step for step in STEPS if (TUTORIAL / step / "test_orders.py").exists()]
ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps as a reader has them, with their code generated."""
    folder = tmp_path_factory.mktemp("tutorial") / "steps"
    shutil.copytree(
        TUTORIAL, folder, ignore=shutil.ignore_patterns("generated", "__pycache__", ".*")
    )
    for step in STEPS:
        succeeds(["-m", "txzmq.codegen"], cwd=folder / step)
    return folder


def page_text(page: str) -> str:
    return (PAGES / page).read_text("utf-8")


def shown(page: str, command: str, times: int = 0) -> list[str]:
    """What a page says that a command prints, after *times* blocks that show it before."""
    blocks = re.findall(r"^```console\n(.*?)^```$", page_text(page), re.MULTILINE | re.DOTALL)
    for block in blocks:
        _, found, rest = f"\n{block}".partition(f"\n$ {command}\n")
        if found and times == 0:
            return rest.partition("$ ")[0].splitlines()
        times -= bool(found)
    raise AssertionError(f"{page} does not show {command!r}")


def test_each_step_has_a_page() -> None:
    assert [f"step{page.name[0]}" for page in sorted(PAGES.glob("[1-9]-*.md"))] == STEPS


@pytest.mark.parametrize(
    ("step", "page", "commands"),
    [
        (
            "step1",
            "1-orders.md",
            ["script.py tea 2", "script.py coffee 5", "client.py 1", "client.py 7"],
        ),
        (
            "step2",
            "2-errors.md",
            ["script.py tea 2", "script.py coffee 5", "script.py cake 1", "script.py tea 0"],
        ),
    ],
)
def test_commands_print_what_the_page_shows(
    folder: Path, step: str, page: str, commands: list[str]
) -> None:
    with running("server.py", ANYWHERE, cwd=folder / step) as server:
        place = server.expect(r"listening on (.*)")[1]
        for command in commands:
            printed = succeeds([*command.split(), place], cwd=folder / step)
            assert printed.splitlines() == shown(page, f"python {command}")


def test_watchers_print_what_the_page_shows(folder: Path) -> None:
    step = folder / "step4"
    with running("server.py", ANYWHERE, cwd=step) as server:
        place = server.expect(r"listening on (.*)")[1]
        with running("watch.py", place, cwd=step) as watcher:
            number = 0
            # What happens before the first watcher is there is told to nobody.
            while number < 10:
                number += 1
                succeeds(["script.py", "tea", "1", place], cwd=step)
                if watcher.has_said(f"order {number}: STATE_PLACED"):
                    break
            printed = succeeds(["pay.py", str(number), place], cwd=step)
            (paid,) = shown("4-events.md", "python pay.py 1")
            assert printed == paid.replace("order 1", f"order {number}")
            watcher.expect(f"order {number}: STATE_PAID")
            assert watcher.output[-2:] == [
                line.replace("order 1:", f"order {number}:")
                for line in shown("4-events.md", "python watch.py")
            ]
            assert watcher.interrupt() == 0


def test_imports_print_what_the_page_shows(folder: Path) -> None:
    step = folder / "step5"
    with running("server.py", ANYWHERE, cwd=step) as server:
        place = server.expect(r"listening on (.*)")[1]
        for name, count in {"stock.csv": 2_500, "long.csv": 20_000}.items():
            lines = [f"tea-{number % 50},{number % 7}\n" for number in range(count)]
            (step / name).write_text("".join(lines))
            printed = succeeds(["import_stock.py", name, place], cwd=step).splitlines()
            expected = shown("5-import.md", f"python import_stock.py {name}")
            if "..." in expected:
                printed = [printed[0], "...", *printed[-2:]]
            assert printed == expected


def make_keys(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in the keys of the server, of those who may call, and of a stranger."""
    pytest.importorskip("jwt", reason="tokens need txzmq[jwt]")
    (step / "clients").mkdir()
    for name, group in {"till": "sales", "ops": "operators", "stranger": "sales"}.items():
        CurveKeyPair.generate().save(step / f"{name}.key_secret", metadata={"groups": group})
        if name != "stranger":
            shutil.copy(step / f"{name}.key", step / "clients")
    server = CurveKeyPair.generate()
    server.save(step / "server.key_secret")
    monkeypatch.setenv("TXZMQ_SERVER_KEY", server.public_key)
    (step / "tokens.secret").write_text("0123456789abcdef" * 4)


def test_who_may_do_what_is_as_the_page_shows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = folder / "step6"
    make_keys(keys, monkeypatch)
    (keys / "delivery.csv").write_text("tea,20\ncocoa,5\n")
    with running("server.py", ANYWHERE, cwd=keys) as server:
        place = server.expect(r"listening on (.*)")[1]

        def prints(command: str, times: int = 0) -> None:
            printed = succeeds([*command.split(), place], cwd=keys)
            expected = "\n".join(shown("6-callers.md", f"python {command}", times))
            assert printed == expected.replace("tcp://127.0.0.1:5555", place)

        monkeypatch.setenv("TXZMQ_KEY", "stranger.key_secret")
        prints("client.py 1")
        monkeypatch.setenv("TXZMQ_KEY", "till.key_secret")
        prints("script.py tea 2")
        prints("import_stock.py delivery.csv")
        token = succeeds(["new_token.py", "ada", "stock"], cwd=keys)
        monkeypatch.setenv("TXZMQ_TOKEN", token)
        prints("import_stock.py delivery.csv", 1)
        prints("script.py tea 2", 1)


def test_the_server_shows_what_it_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("click", reason="the command line needs txzmq[cli]")
    pytest.importorskip("prometheus_client", reason="metrics need txzmq[prometheus]")
    step = folder / "step7"
    make_keys(step, monkeypatch)
    with running("server.py", ANYWHERE, "0", cwd=step) as server:
        metrics = server.expect(r"metrics at (.*)")[1]
        place = server.expect(r"listening on (.*)")[1]
        monkeypatch.setenv("TXZMQ_KEY", "till.key_secret")
        for command in ("script.py tea 2", "script.py coffee 5"):
            printed = succeeds([*command.split(), place], cwd=step)
            assert printed.splitlines() == shown("7-sight.md", f"python {command}")
        server.expect(r".* /orders.v1.Orders/PlaceOrder OK 0.\d+ s of till \(\w+\)")
        server.expect(r".*/PlaceOrder FAILED_PRECONDITION .* and 3 are left \(\w+\)")
        monkeypatch.setenv("TXZMQ_KEY", "ops.key_secret")
        for command in ("list {}", "call {} orders.v1.Orders/ListOrders", "health {}"):
            printed = succeeds(["-m", "txzmq", *command.format(place).split()], cwd=step)
            expected = shown("7-sight.md", "txzmq " + command.format("tcp://127.0.0.1:5555"))
            assert printed.splitlines() == expected
        with urllib.request.urlopen(metrics, timeout=PATIENCE) as response:
            found = response.read().decode().splitlines()
        (curl,) = re.findall(r"^\$ (curl .*PlaceOrder'.*)$", page_text("7-sight.md"), re.MULTILINE)
        for line in shown("7-sight.md", curl):
            if "PermissionDenied" not in line:  # ops has not tried it here
                assert line in found


def test_no_order_fails_or_is_lost_in_a_rolling_restart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("click", reason="the command line needs txzmq[cli]")
    step = folder / "step8"
    make_keys(step, monkeypatch)
    monkeypatch.setenv("TXZMQ_KEY", "till.key_secret")
    # What the page has of the command that serves; its ports and figures are others.
    serve = [
        *("-m", "txzmq", "serve", "server:service", "--options", "server:options"),
        *("--keys", "server.key_secret", "--clients", "clients/", "--admin", "--grace", "1"),
        *("--listen", ANYWHERE, "--listen", ANYWHERE),
    ]
    succeeds(["store.py", "shop.db"], cwd=step)
    database = sqlite3.connect(step / "shop.db")
    database.execute("UPDATE stock SET quantity = 1000000 WHERE product = 'tea'")
    database.commit()
    token = succeeds(["new_token.py", "ada", "sales", "operators"], cwd=step)
    order = (*("orders.v1.Orders/PlaceOrder", "-d"), '{"product": "tea", "quantity": 1}')
    with running(*serve, cwd=step) as server:
        ready = r".* worker \d is ready at (\S+): process (\d+)"
        first, second = (server.expect(ready)[1] for _ in range(2))
        server.expect(".* all workers are ready: 2")
        with running("watch.py", first, cwd=step) as watcher:
            assert succeeds(["script.py", "tea", "2", second], cwd=step) == "\n".join(
                shown("8-processes.md", "python script.py tea 2 tcp://127.0.0.1:5555-5556")
            )
            watcher.expect("order 1: STATE_PLACED")
            monkeypatch.setenv("TXZMQ_TOKEN", token)
            # No more than a new process tells a watcher that comes to it.
            with running(
                *("-m", "txzmq", "bench", f"{first},{second}", *order, "-r", "25", "-n", "100"),
                cwd=step,
            ) as bench:
                watcher.expect("order 20: STATE_PLACED")
                server.process.send_signal(signal.SIGUSR2)
                server.expect(".* the roll is done: all workers are new")
                assert bench.wait() == 0, bench
                assert [line.split() for line in bench.output if "errors" in line] == [
                    ["errors", "0"]
                ]
            monkeypatch.delenv("TXZMQ_TOKEN")
            ended = r".* worker \d at \S+ has ended: exit status 0; process \d+"
            while sum(bool(re.fullmatch(ended, line)) for line in server.output) < 2:
                server.expect(ended)
            succeeds(["script.py", "tea", "1", second], cwd=step)
            watcher.expect("order 102: STATE_PLACED")
            assert watcher.output == [f"order {number}: STATE_PLACED" for number in range(1, 103)]
            assert watcher.interrupt() == 0
        assert server.terminate() == 0
    assert database.execute("SELECT count(*), max(id) FROM orders").fetchone() == (102, 102)
    database.close()


def test_the_tests_of_all_steps_pass(folder: Path) -> None:
    printed = succeeds(["-m", "tests.examples.tutorial_tests", *(folder / step for step in TESTED)])
    assert len(re.findall(r"^\d+ passed in ", printed, re.MULTILINE)) == len(TESTED), printed


def test_a_test_of_a_step_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text("def test_nothing() -> None:\n    assert 1 == 2\n")
    with pytest.raises(AssertionError, match="1 failed in "):
        succeeds(["-m", "tests.examples.tutorial_tests", tmp_path])
