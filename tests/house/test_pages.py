"""The documentation: its front page works, and its pages read well wherever they are read."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT, running, succeeds

DOCS = ROOT / "docs"
PAGE = (DOCS / "index.md").read_text(encoding="utf-8")
ENDPOINT = "tcp://127.0.0.1:5555"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's files, and the code that is generated of them."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    files = re.findall(r", in `([\w/.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["protos/hello/v1/hello.proto", "hello.py", "client.py"]
    for name, text in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert "\npython -m txzmq.codegen protos/\n" in PAGE
    succeeds(["-m", "txzmq.codegen", "protos/"], cwd=tmp_path)
    return tmp_path


def test_what_it_shows_works(folder: Path) -> None:
    pytest.importorskip("click", reason="the extra cli is not installed")
    pytest.importorskip("rich", reason="the extra cli is not installed")
    assert f"\ntxzmq serve hello:Hello --listen {ENDPOINT} &\npython client.py\n" in PAGE
    # Any port will do for a reader, but a test takes one that is free.
    anywhere = ("--listen", "tcp://127.0.0.1:*")
    with running("-m", "txzmq", "serve", "hello:Hello", *anywhere, cwd=folder) as process:
        place = process.expect(r".* at (tcp://\S+)")[1]
        client = folder / "client.py"
        client.write_text(client.read_text("utf-8").replace(ENDPOINT, place), "utf-8")
        assert succeeds(["client.py"], cwd=folder) == "Hello, World!"
        assert process.terminate() == 0


def test_its_code_is_typed(folder: Path) -> None:
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    files = ["hello.py", "client.py"]
    succeeds(["-m", "mypy", "--strict", *files], cwd=folder)
    # Outside of the checkout, pyright does not look into the environment that it runs in.
    succeeds(["-m", "pyright", "--pythonpath", sys.executable, *files], cwd=folder)


def test_its_figures_are_those_of_the_page_on_them() -> None:
    measured = (DOCS / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.*?) \| ([\d,.]+)(?: µs)? \| ([\d,.]+)(?: µs)? \|$", PAGE, re.MULTILINE
    )
    assert len(rows) == 4
    for what, ours, theirs in rows:
        words = what.partition(",")[0]
        (row,) = re.findall(rf"^\| {re.escape(words)}.*\| {ours} \|.*$", measured, re.MULTILINE)
        assert f"| {theirs} |" in row


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_pages_need_nothing_to_be_read(page: Path) -> None:
    """They have nothing of Sphinx's, which other readers of Markdown would show as text."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    directives, roles, labels = r"^```+\{.*|^:::", r"\{[a-z:]+\}`", r"^\([\w-]+\)=$"
    others = r"\[\]\(|^: "  # links without a text, lists of definitions
    pattern = "|".join([directives, roles, labels, others])
    assert re.findall(pattern, text, re.MULTILINE) == []


def test_names_in_code_are_there() -> None:
    """Those that say where they are: ``txzmq.rpc.Channel``."""
    named = {
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(
            r"`(txzmq\.(?:auth|rpc|testing)(?:\.[A-Za-z]\w*)*)(?:\(\))?`", page.read_text("utf-8")
        )
        if not re.match(r"txzmq\.rpc\.v\d", name)  # of the wire
    }
    assert "txzmq.rpc.Channel" in named
    assert [name for name in sorted(named) if not is_there(name)] == []


def is_there(name: str) -> bool:
    """Whether a module has a name, or is one; where an extra is missing, that is not known."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:  # its parent is no package
        pass
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return importlib.util.find_spec(module) is not None
