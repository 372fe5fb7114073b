"""The command line as a process: signals, pipes, a terminal, standard input as it comes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.cli.terminal import CTRL_BACKSLASH, CTRL_C, Terminal, in_terminal
from tests.programs import PATIENCE, ROOT, Program, running

SHOP = "acme.shop.v1.Shop"


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[Program, str]]:
    with running("-m", "tests.cli.server") as program:
        yield program, program.expect(r"ready at (.*)")[1]


def command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "txzmq", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONWARNINGS": "error", **options},
    )


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@pytest.mark.parametrize(
    ("shell", "words", "completed"),
    [
        ("bash", "txzmq be", "plain,bench"),
        ("zsh", "txzmq bench --max-l", "--max-latency"),
    ],
)
def test_a_shell_completes_verbs_and_flags(shell: str, words: str, completed: str) -> None:
    place = str(len(words.split()) - 1)
    asked = {"_TXZMQ_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": place}
    with command(**asked) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert completed in out.splitlines()
    assert err == ""


def test_both_sides_talk_in_turns_by_pipes(shop: tuple[Program, str]) -> None:
    """And in the locale C, whose encoding is ASCII."""
    _, address = shop
    with command("call", address, f"{SHOP}/Chat", "-d", "@", LC_ALL="C", PYTHONUTF8="0") as process:
        for item in ("ä", "b"):
            pipe(process.stdin).write(json.dumps({"item": item}) + "\n")
            pipe(process.stdin).flush()
            assert json.loads(pipe(process.stdout).readline()) == {"text": item.upper()}
        pipe(process.stdin).close()
        assert process.wait(PATIENCE) == 0
        assert pipe(process.stderr).read() == ""


def test_a_reader_that_goes_ends_it_quietly(shop: tuple[Program, str]) -> None:
    program, address = shop
    with command("call", address, f"{SHOP}/Watch", "-d", '{"item": "tick"}') as process:
        assert json.loads(pipe(process.stdout).readline()) == {"text": "tick 0"}
        pipe(process.stdout).close()
        assert process.wait(PATIENCE) == 141
        assert pipe(process.stderr).read() == ""
    program.expect("the stream is over")


def test_sigterm_ends_it_as_ctrl_c_does(shop: tuple[Program, str]) -> None:
    _, address = shop
    with command("call", address, f"{SHOP}/Chat", "-d", "@") as process:
        pipe(process.stdin).write('{"item": "a"}')
        pipe(process.stdin).flush()
        assert json.loads(pipe(process.stdout).readline()) == {"text": "A"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert pipe(process.stderr).read() == ""


def test_a_terminal_shows_colours_and_ctrl_c_cancels_the_handler(
    shop: tuple[Program, str],
) -> None:
    program, address = shop
    with in_terminal("call", address, f"{SHOP}/Watch", "-d", '{"item": "tick"}') as terminal:
        terminal.expect(r'"tick 1"\n\}')
        assert '{\n  "text": "tick 0"\n}\n' in terminal.text
        assert b"\x1b[" in terminal.printed
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.text
    program.expect("the stream is over")


def test_requests_may_be_typed(shop: tuple[Program, str]) -> None:
    _, address = shop
    with in_terminal("call", address, f"{SHOP}/Chat", "-d", "@", NO_COLOR="1") as terminal:
        terminal.press(b'{"item":\n"one"}\n')
        terminal.expect('"text": "ONE"')
        terminal.press(b"\x04")  # Ctrl-D
        assert terminal.wait() == 0
        assert b"\x1b[3" not in terminal.printed


def test_an_error_is_red_and_fits_a_narrow_terminal(shop: tuple[Program, str]) -> None:
    _, address = shop
    with in_terminal("call", address, f"{SHOP}/Plaec", width=40) as terminal:
        assert terminal.wait() == 2
        assert terminal.text.splitlines() == [
            f"txzmq call: {SHOP} has no method Plaec",
            "hint: did you mean Place?",
        ]
        assert b"\x1b[1;31m" in terminal.printed


def test_a_load_shows_how_far_it_is_and_reports_when_it_is_ended(
    shop: tuple[Program, str],
) -> None:
    _, address = shop
    load = ("bench", address, f"{SHOP}/Place", "-d", '{"item": "tea"}', "-z", "1h")
    with in_terminal(*load, width=40) as terminal:
        terminal.expect(r"[1-9][\d,]* calls +[\d,]+/s")
        assert "━" in terminal.text
        terminal.press(CTRL_C)
        assert terminal.wait() == 130
        *_, report = re.split(r"calls/s\n", terminal.text)
        assert re.match(r"errors +0\ncancelled +50 ", report)
        assert "Traceback" not in report


def test_a_load_prints_its_report_alone_where_a_program_reads_it(
    shop: tuple[Program, str],
) -> None:
    _, address = shop
    load = ("bench", address, f"{SHOP}/Place", "-z", "200ms", "-O", "json")
    with command(*load) as process:
        found = json.loads(pipe(process.stdout).read())
        assert process.wait(PATIENCE) == 0
        assert found["succeeded"] == found["calls"] > 0
        assert found["seconds"] >= 0.2


def press_q(terminal: Terminal) -> None:
    """After a key that would end it and leave the terminal so, if it were not taken."""
    terminal.press(CTRL_BACKSLASH + b"q")


def terminate(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTERM)


def interrupt_twice(terminal: Terminal) -> None:
    """Which does not wait until its coroutine has ended."""
    terminal.process.send_signal(signal.SIGINT)
    terminal.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("end", "statuses"),
    [(press_q, {0}), (terminate, {143}), (interrupt_twice, {130, 143})],
)
def test_a_terminal_is_as_before_however_top_ends(
    shop: tuple[Program, str], end: Callable[[Terminal], None], statuses: set[int]
) -> None:
    _, address = shop
    with in_terminal("top", address, "--interval", "200ms", width=60) as terminal:
        before = terminal.mode
        terminal.expect(r"v1\.Admin/GetServer +[1-9]")
        assert terminal.mode != before
        assert b"\x1b[?1049h" in terminal.printed
        end(terminal)
        assert terminal.wait() in statuses
        assert terminal.mode == before
        assert terminal.printed.rstrip().endswith(b"\x1b[?1049l")
        assert b"\x1b[?25h" in terminal.printed
        assert "Traceback" not in terminal.text


def test_keys_and_another_size_are_seen_at_once(shop: tuple[Program, str]) -> None:
    _, address = shop
    with in_terminal("top", address, "--interval", "1h", width=100) as terminal:
        terminal.expect("(?s)METHOD .*QUEUED .*s sort: calls  e each server")
        terminal.press(b"s")
        terminal.expect("s sort: errors")
        terminal.press(b"e")
        terminal.expect("(?s)SERVER .*s sort: errors  e all servers")
        terminal.resize(40, 12)
        terminal.printed = b""
        terminal.expect("(?s)SERVER .*and [0-9]+ more, .*e all")
        assert "QUEUED" not in terminal.text
        terminal.press(b"q")
        assert terminal.wait() == 0


def test_a_dumb_terminal_gets_one_table_after_another(shop: tuple[Program, str]) -> None:
    _, address = shop
    with in_terminal("top", address, "--interval", "100ms", TERM="dumb") as terminal:
        terminal.expect("(?s)METHOD.*METHOD")
        assert b"\x1b" not in terminal.printed
        terminal.press(CTRL_C)
        assert terminal.wait() == 130


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    program = """
import sys
sys.modules["click"] = None
import importlib.util, txzmq.__main__
importlib.util.find_spec = lambda name: None if name == "click" else name
sys.exit(txzmq.__main__.main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "txzmq: the command line needs click: pip install 'txzmq[cli]'\n"
