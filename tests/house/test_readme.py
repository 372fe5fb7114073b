"""The README's service in a minute, done as it says: its commands, its code, its output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ROOT, running, succeeds

README = (ROOT / "README.md").read_text(encoding="utf-8")
INIT = "python -m txzmq.codegen --init\n"
GENERATE = "python -m txzmq.codegen\n"


def code_blocks(language: str) -> Iterator[str]:
    """The text of each block of code in *language*."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        yield match[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of somebody who followed the README up to the generator's command."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    commands = list(code_blocks("sh"))
    assert INIT in commands
    assert commands[commands.index(INIT) + 1].startswith(GENERATE)
    for command in (INIT, GENERATE):
        succeeds(command.split()[1:], cwd=tmp_path)
    return tmp_path


def test_the_code_is_what_init_writes(folder: Path) -> None:
    named = {
        path: text
        for language in ("proto", "python")
        for comment, _, text in [block.partition("\n") for block in code_blocks(language)]
        for path in re.findall(r"^(?:#|//) ([\w/]+\.\w+)$", comment)
    }
    assert list(named) == ["protos/hello/v1/hello.proto", "server.py", "client.py"]
    for path, text in named.items():
        assert text in (folder / path).read_text(encoding="utf-8")


def test_the_service_in_a_minute(folder: Path) -> None:
    # Any port will do for a reader, but a test takes one that is free.
    with running("server.py", "tcp://127.0.0.1:*", cwd=folder) as process:
        bound = process.expect(r"listening on (tcp://127\.0\.0\.1:\d+)")[1]
        [console] = code_blocks("console")
        command, *printed = console.splitlines()
        assert command == "$ python client.py"
        assert succeeds(["client.py", bound], cwd=folder).splitlines() == printed


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
        # A channel takes all of them.
        code = client.read_text("utf-8").replace(
            "Channel(factory, endpoint)", f"Channel(factory, {places!r})"
        )
        client.write_text(code, "utf-8")
        assert "Hello, World!" in succeeds(["client.py"], cwd=folder)
        assert process.terminate() == 0


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
