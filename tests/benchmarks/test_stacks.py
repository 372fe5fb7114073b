"""Each stack runs for a moment, and what goes wrong is told. No test says how fast anything is."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.generate import GenerateError, with_protoc
from benchmarks.run import Plan, run
from benchmarks.stacks import STACKS, Stack
from benchmarks.workload import Load
from tests.programs import PATIENCE, running

LOAD = ("in_flight", "message_bytes", "at_once")
#: Those that 10,000 calls at once do not keep for a minute on a busy machine.
QUICK = ("txzmq", "txzmq, dressed", "bare pyzmq")
FIGURES = ["calls_per_second", "p50", "p99", "client_cpu", "server_cpu"]


def skip_unless_installed(*names: str) -> None:
    missing = {each for name in names for each in STACKS[name].missing()}
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


def arguments(build: Path, *only: str) -> list[str]:
    chosen = [word for name in only for word in ("--only", name)]
    return [*chosen, "--seconds", "0.05", "--rounds", "1", "--build", str(build)]


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_measured(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_unless_installed(name)
    at_once = 10_000 if name in QUICK else 500
    loads = [replace(load, in_flight=at_once) if load.at_once else load for load in Plan.loads]
    monkeypatch.setattr(Plan, "loads", tuple(loads))
    written = tmp_path / "figures.json"
    status = main([*arguments(tmp_path / "build", name), "--json", str(written)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    loads = json.loads(written.read_text())["loads"]
    assert [load["in_flight"] for load in loads] == [1, 100, at_once, 4]
    for load in loads:
        if not STACKS[name].bears(Load(**{key: load[key] for key in LOAD})):
            assert load["figures"] == {}
            continue
        figures = load["figures"][name]
        assert list(figures) == FIGURES
        assert min(figures.values()) > 0
        assert figures["p50"] <= figures["p99"]
    assert f"\n{at_once:,} at once, 100 bytes " in printed or STACKS[name].variant
    assert "\n100 in flight, 100 bytes " in printed


def test_two_stacks_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip_unless_installed("txzmq", "bare pyzmq")
    written = tmp_path / "figures.json"
    chosen = arguments(tmp_path / "build", "txzmq", "bare pyzmq")
    status = main([*chosen, "--in-flight", "3", "--json", str(written)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    (load,) = json.loads(written.read_text())["loads"]
    assert list(load["ratios"]) == ["bare pyzmq"]
    assert list(load["ratios"]["bare pyzmq"]) == FIGURES
    assert "\ntxzmq : other " in printed


SERVER_DIES = """
class Peer:
    def serve(self, messages, announce):
        raise OSError("no port is left")
    def drive(self, messages, address, orders):
        raise AssertionError
PEER = Peer()
"""
CLIENT_DIES = """
import threading
class Peer:
    def serve(self, messages, announce):
        announce("here")
        threading.Event().wait()
    def drive(self, messages, address, orders):
        orders.receive()
        raise OSError("nobody is " + address)
PEER = Peer()
"""


@pytest.mark.parametrize(
    ("source", "who", "why"),
    [
        (SERVER_DIES, "broken, server: has ended\n", "no port is left"),
        (CLIENT_DIES, "broken, client: has ended\n", "nobody is here"),
    ],
    ids=["server", "client"],
)
def test_a_stack_that_fails_is_named_and_the_others_are_measured(
    source: str, who: str, why: str, tmp_path: Path
) -> None:
    skip_unless_installed("bare pyzmq")

    def generate(folder: Path) -> None:
        with_protoc(folder)
        (folder / "broken.py").write_text(source)

    broken = Stack(name="broken", module="broken", distributions=(), generate=generate)
    plan = Plan(loads=[Load(in_flight=2)], seconds=0.05, rounds=1, warm_up=0.05)
    results = run([broken, STACKS["bare pyzmq"]], "broken", plan, tmp_path, lambda _: None)
    assert list(results.failures) == ["broken"]
    assert results.failures["broken"].startswith(who)
    assert why in results.failures["broken"]
    assert list(results.by_load[0].figures()) == ["bare pyzmq"]


def test_a_stack_that_is_not_installed_is_named(tmp_path: Path) -> None:
    absent = Stack(name="absent", module="absent", distributions=("no-such-distribution",))
    results = run([absent], "absent", Plan(), tmp_path, lambda _: None)
    assert results.failures["absent"].startswith("absent: not installed: no-such-distribution")


def test_a_generator_that_fails_is_told(tmp_path: Path) -> None:
    skip_unless_installed("bare pyzmq")

    def generate(_folder: Path) -> None:
        raise GenerateError("line 3 makes no sense")

    stack = Stack(name="wrong", module="wrong", distributions=(), generate=generate)
    results = run([stack], "wrong", Plan(), tmp_path, lambda _: None)
    assert results.failures == {"wrong": "wrong: line 3 makes no sense"}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    skip_unless_installed("AMP")
    program = ["-m", "benchmarks", *arguments(tmp_path, "AMP"), "--seconds", "60"]
    with running(*program) as benchmarks:
        while not processes_with(tmp_path, "benchmarks.child client"):
            assert benchmarks.process.poll() is None, benchmarks
        assert benchmarks.interrupt() == 128 + signal.SIGINT
    # A child that was just being started when Ctrl-C came ends by itself, when its input does.
    until = time.monotonic() + PATIENCE
    while left := processes_with(tmp_path, "benchmarks"):
        assert time.monotonic() < until, left


def processes_with(*words: str | Path) -> list[str]:
    """The command lines of running processes that hold all *words*."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if all(str(word) in line for word in words):
            found.append(line)
    return found
