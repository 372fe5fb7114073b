"""The README's service in a minute, done as it says: its files, its commands, its output."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ROOT, running, succeeds

README = (ROOT / "README.md").read_text(encoding="utf-8")
ENDPOINT = "tcp://127.0.0.1:5555"


def code_blocks() -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def named_files() -> dict[str, str]:
    """The blocks that begin with a comment which names their file."""
    files: dict[str, str] = {}
    for _, text in code_blocks():
        if match := re.match(r"(?:#|//) ([\w/]+\.\w+)\n", text):
            files[match[1]] = text
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of somebody who followed the README up to the generator's command."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    for name, text in named_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    succeeds(["-m", "txzmq.codegen", "protos/"], cwd=tmp_path)
    return tmp_path


def test_the_service_in_a_minute(folder: Path) -> None:
    assert "python -m txzmq.codegen protos/\n" in README
    # Any port will do for a reader, but a test takes one that is free.
    server, client = folder / "server.py", folder / "client.py"
    server.write_text(server.read_text("utf-8").replace(ENDPOINT, "tcp://127.0.0.1:*"), "utf-8")
    with running("server.py", cwd=folder) as process:
        bound = process.expect(r"listening on (tcp://127\.0\.0\.1:\d+)")[1]
        client.write_text(client.read_text("utf-8").replace(ENDPOINT, bound), "utf-8")
        [console] = [text for language, text in code_blocks() if language == "console"]
        command, *printed = console.splitlines()
        assert command == "$ python client.py"
        assert succeeds(["client.py"], cwd=folder).splitlines() == printed


def test_several_processes_serve_it(folder: Path) -> None:
    """The same file, as it is: to import it starts no server."""
    pytest.importorskip("click", reason="the extra cli is not installed")
    pytest.importorskip("rich", reason="the extra cli is not installed")
    (ports,) = re.findall(r"`txzmq serve server:Hello --listen (\S+)` runs it by four", README)
    assert ports == "tcp://127.0.0.1:5000-5003"
    client = folder / "client.py"
    anywhere = ["--listen", "tcp://127.0.0.1:*"] * 4
    with running("-m", "txzmq", "serve", "server:Hello", *anywhere, cwd=folder) as process:
        places = process.expect(r".* by 4 processes at (.*)")[1].split()
        process.expect(r".* all workers are ready: 4")
        code = client.read_text("utf-8").replace(f'"{ENDPOINT}"', repr(places))
        client.write_text(code, "utf-8")
        assert "Hello, World!" in succeeds(["client.py"], cwd=folder)
        assert process.terminate() == 0


def test_the_code_is_typed(folder: Path) -> None:
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    succeeds(["-m", "mypy", "--strict", "server.py", "client.py"], cwd=folder)
    # Outside of the checkout, pyright does not look into the environment that it runs in.
    python = ["--pythonpath", sys.executable]
    succeeds(["-m", "pyright", *python, "server.py", "client.py"], cwd=folder)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
