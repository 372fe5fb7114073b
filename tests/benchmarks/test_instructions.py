"""Counting, comparing and recording; the counting tools are asked only what they print."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.generate import with_txzmq
from benchmarks.instructions.__main__ import main, report, rounds_of, too_many
from benchmarks.instructions.count import (
    Cachegrind,
    CountError,
    Perf,
    Tool,
    first_that_works,
    per_call,
    run_still,
)
from benchmarks.instructions.records import FILE, Record, change, last_like, load, put, save
from benchmarks.instructions.scenarios import SCENARIOS, Scenario
from tests.benchmarks.test_stacks import skip_unless_installed


class Counting(Tool):
    """Counts 1,000 instructions per round and a million at the start, but runs nothing."""

    name = "cachegrind"

    def __init__(self, *, each: int = 1_000, reason: str | None = None) -> None:
        self.reason = reason
        self.each = each
        self.commands: list[Sequence[str]] = []

    def missing(self) -> str | None:
        return self.reason

    def count(self, command: Sequence[str], folder: Path) -> int:
        self.commands.append(command)
        scenario, rounds = command[-3], int(command[-2])
        return 1_000_000 + self.each * rounds * SCENARIOS[scenario].count


def record(txzmq: str = "1.0", python: str = "CPython 3", tool: str = "perf", **n: int) -> Record:
    return Record(txzmq=txzmq, python=python, tool=tool, libraries={"lib": "1"}, per_call=n)


def test_what_is_done_once_is_in_both_runs_and_falls_out() -> None:
    assert per_call((200, 1_000_000), (1_200, 3_000_000)) == 2_000
    with pytest.raises(ValueError, match="200 calls are no more than 200"):
        per_call((200, 1), (200, 2))


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_the_long_run_is_longer_by_a_thousand_or_more(scenario: Scenario) -> None:
    short, long = rounds_of(scenario)
    assert short >= 2
    assert (long - short) * scenario.count >= 1_000


def test_perfs_count_is_read() -> None:
    said = "# started on a day\n\n123456789,,instructions:u,1000,100.00,,\n"
    assert Perf.parse(said) == 123_456_789


@pytest.mark.parametrize("said", ["<not supported>", "<not counted>"])
def test_perf_without_a_counter_says_so(said: str) -> None:
    with pytest.raises(CountError, match=f"{said.strip('<>')}: this machine has no counter"):
        Perf.parse(f"{said},,instructions:u,0,100.00,,\n")
    with pytest.raises(CountError, match="counted nothing"):
        Perf.parse("")


def test_valgrinds_count_is_read() -> None:
    assert Cachegrind.parse("==7== \n==7== I   refs:      1,438,670,656\n") == 1_438_670_656
    # As of valgrind 3.21.
    assert Cachegrind.parse("==7== I refs:        935\n") == 935
    with pytest.raises(CountError, match="valgrind counted nothing:\n==7== no"):
        Cachegrind.parse("==7== no")


def test_the_first_tool_that_works_counts() -> None:
    absent, there = Counting(reason="not here"), Counting()
    assert first_that_works([absent, there]) is there


def test_without_any_tool_each_says_why() -> None:
    with pytest.raises(CountError, match=r"(?s)nothing here counts.*\ncachegrind: not here"):
        first_that_works([Counting(reason="not here")])


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(CountError, match=r"(?s)exited with 1.*no such thing"):
        run_still([sys.executable, "-c", "raise SystemExit('no such thing')"], Path())


def test_records_are_kept_by_release_interpreter_and_tool(tmp_path: Path) -> None:
    old, other = record("1.0", a=1), record("1.0", tool="cachegrind", a=2)
    records = put(put([], old), other)
    assert put(records, record("1.0", a=3)) == [other, record("1.0", a=3)]
    assert put(records, record("1.1", a=3)) == [old, other, record("1.1", a=3)]
    assert last_like(records, record("1.1")) == old
    assert last_like(records, record("1.1", python="PyPy 3")) is None
    save(tmp_path / "records.json", records)
    assert load(tmp_path / "records.json") == records
    assert load(tmp_path / "none.json") == []


def test_only_more_instructions_than_the_limit_allows_fail() -> None:
    assert change(200, 201) == 0.5
    before = {"a": 1_000, "b": 1_000, "c": 1_000}
    now = {"a": 1_010, "b": 1_011, "c": 500, "new": 7}
    assert too_many(now, before, 1.0) == ["b: +1.10 %, the limit is 1 %"]


def test_the_report_shows_the_change_and_which_library_is_another() -> None:
    now = Record(txzmq="2", python="P", tool="perf", libraries={"lib": "2"}, per_call={"a": 990})
    lines = report(now, record("1.0", a=1_000)).splitlines()
    assert lines[2:4] == ["compared with 1.0", "since then, lib 1 has become 2"]
    assert lines[-1].split() == ["a", "990", "1,000", "-1.00%"]
    assert "no record of this interpreter and tool" in report(now, None)


def test_counts_are_recorded_compared_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_installed("txzmq")
    records = ["--records", str(tmp_path / "records.json"), "--build", str(tmp_path / "build")]
    tool = Counting()
    assert main([*records, "--record"], tools=[tool]) == 0
    (kept,) = load(tmp_path / "records.json")
    assert kept.per_call == dict.fromkeys(SCENARIOS, 1_000)
    assert len(tool.commands) == 2 * len(SCENARIOS)
    only = [*records, "--only", "single calls"]
    assert main(only, tools=[Counting(each=1_009)]) == 0
    assert main(only, tools=[Counting(each=1_011)]) == 1
    assert "FAILED single calls: +1.10 %, the limit is 1 %" in capsys.readouterr().out
    assert main([*only, "--limit", "2"], tools=[Counting(each=1_011)]) == 0
    assert main(records, tools=[Counting(reason="not here")]) == 2
    assert "cachegrind: not here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*only, "--record"], tools=[tool])


@pytest.mark.parametrize("name", SCENARIOS)
def test_in_the_fixed_run_every_reply_and_item_arrives(name: str, tmp_path: Path) -> None:
    skip_unless_installed("txzmq")
    with_txzmq(tmp_path)
    module = "benchmarks.instructions.program"
    subprocess.run([sys.executable, "-m", module, name, "2", str(tmp_path)], check=True, timeout=60)


def test_the_records_here_are_of_the_scenarios() -> None:
    for each in load(FILE):
        assert list(each.per_call) == list(SCENARIOS)
