"""The guide's page on the command line, done as it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

import click

from tests.cli.shop import PROTOSET, World
from tests.programs import ROOT
from txzmq._cli.program import VERBS, program
from txzmq.rpc.admin import Admin
from txzmq.rpc.health import Health
from txzmq.rpc.reflection import Reflection
from txzmq.testing import Faults

PAGE = (ROOT / "docs/guide/command-line.md").read_text("utf-8")
ADDRESS = "tcp://127.0.0.1:5000"


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the page, and what the page says that it prints."""
    blocks: list[str] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for block in blocks:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


@pytest.mark.parametrize(("line", "printed"), [*commands()])
def test_what_the_page_shows_is_printed(
    new_world: Callable[..., World], line: str, printed: str
) -> None:
    world = new_world(Reflection(), Health(), Admin())
    echo, pipe, command = line.rpartition(" | ")
    stdin = [f"{shlex.split(echo)[1]}\n".encode()] if pipe else []
    name, *arguments = shlex.split(command)
    assert name == "txzmq"
    given = ["AT" if argument == ADDRESS else argument for argument in arguments]
    done = world.run(*given, stdin=stdin)
    assert done.out + done.err == printed


def labels(report: str) -> list[str]:
    """The words in front of the figures; the lines of the histogram have none."""
    return re.findall(r"^ *(\S+)", report.partition("histogram")[0], re.MULTILINE)


def test_the_report_of_the_page_is_as_reports_are(new_world: Callable[..., World]) -> None:
    (shown,) = re.findall(r"```text\n(calls .*?)```", PAGE, re.DOTALL)
    world = new_world(faults=Faults(delay=0.02))
    arguments = ["-c", "1", "-n", "20", "--protoset", str(PROTOSET), "-d", '{"item": "tea"}']
    done = world.run("bench", "AT", "acme.shop.v1.Shop/Place", *arguments)
    assert labels(shown) == labels(done.out)


def options_of(verb: str) -> set[str]:
    command = program.get_command(click.Context(program), verb)
    assert command is not None
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_has_each_verb_and_its_flags(verb: str) -> None:
    assert re.search(rf"txzmq {verb}\b", PAGE)
    if verb == "serve":
        return  # it has a page of its own, with a test of its own: tests/serve/test_page.py
    tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    missing = [name for name in options_of(verb) if not re.search(rf"`{name}\b", tables)]
    assert missing == []


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_its_help(world: World, verb: str) -> None:
    done = world.run(verb, "--help")
    assert (done.status, done.err) == (0, "")
    assert re.match(rf"usage: (txzmq {verb}|python -m txzmq.codegen)\b", done.out, re.IGNORECASE)


def test_the_help_lists_all_verbs(world: World) -> None:
    printed = world.run("--help").out
    assert all(re.search(rf"^  {verb} +\w", printed, re.MULTILINE) for verb in VERBS)
    assert not re.search(r"^  \w+ .*\.\.\.$", printed, re.MULTILINE)  # cut off
