"""The tutorial: each step is a project of its own, which runs and is tested.

``make types`` types them, by tools/tutorial_types.py.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")

from tests.programs import ROOT, running, succeeds

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


def shown(page: str, command: str, times: int = 0) -> list[str]:
    """What a page says that a command prints, after *times* blocks that show it before."""
    text = (PAGES / page).read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
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
        ("step1", "1-orders.md", ["script.py tea 2", "script.py coffee 5", "client.py 1"]),
        ("step1", "1-orders.md", ["client.py 7"]),
        (
            "step2",
            "2-errors.md",
            ["script.py tea 2", "script.py coffee 5", "script.py cake 1", "script.py tea 0"],
        ),
        ("step4", "4-events.md", ["script.py tea 2", "pay.py 1"]),
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
            succeeds(["pay.py", str(number), place], cwd=step)
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


@pytest.fixture
def keys(folder: Path) -> Path:
    """The folder of step 6 with keys of the server, of the till and of a stranger."""
    pytest.importorskip("jwt", reason="tokens need txzmq[jwt]")
    step = folder / "step6"
    for name in ("server", "till", "stranger"):
        succeeds(["-m", "txzmq.auth", "new", name, "--groups", "sales"], cwd=step)
    (step / "clients").mkdir()
    shutil.copy(step / "till.key", step / "clients")
    (step / "tokens.secret").write_text("0123456789abcdef" * 4)
    return step


def test_who_may_do_what_is_as_the_page_shows(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (keys / "delivery.csv").write_text("tea,20\ncocoa,5\n")
    monkeypatch.setenv(
        "TXZMQ_SERVER_KEY", succeeds(["-m", "txzmq.auth", "public", "server.key"], cwd=keys)
    )
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


def test_the_tests_of_all_steps_pass(folder: Path) -> None:
    printed = succeeds(["-m", "tests.examples.tutorial_tests", *(folder / step for step in TESTED)])
    assert len(re.findall(r"^\d+ passed in ", printed, re.MULTILINE)) == len(TESTED), printed


def test_a_test_of_a_step_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text("def test_nothing() -> None:\n    assert 1 == 2\n")
    with pytest.raises(AssertionError, match="1 failed in "):
        succeeds(["-m", "tests.examples.tutorial_tests", tmp_path])
