"""What is said to the programs, how figures are read and shown; no program is built or started."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.native.loads import GROUPS, LOADS, Answer, Load, Order
from benchmarks.native.measure import Figures, Plan, Results, cpu_seconds, order_of, peak_of, run
from benchmarks.native.peers import BASELINE, PEERS, Peer
from benchmarks.native.report import as_json, as_markdown, introduction, ratios

UNARY = Load(name="unary", at_once=100)
WHERE = {"python": "CPython 3", "system": "Linux", "cpus": 2, "load": 0.5}
ANSWER: dict[str, Any] = asdict(
    Answer(count=10, seconds=0.5, cpu=0.1, p50=0.001, p90=0.002, p99=0.003, p999=0.004)
)


def figures(rate: float, memory: int = 1 << 20) -> Figures:
    return Figures(rate, 1e-3, 2e-3, 3e-3, 0.0, 2e-6, 3e-4, memory, memory)


def play(script: str, *lines: str) -> Peer:
    """A peer whose client answers each order with *lines*, and which ends when its input does."""
    told = (
        "import sys; role = sys.argv[-2]\n"
        'print(\'{"address": "here", "versions": {"it": "1"}}\', flush=True)\n'
        "for order in sys.stdin:\n"
        f"    {script}\n"
        f"    for line in {lines!r}: print(line, flush=True)\n"
    )
    return Peer(name="it", command=lambda _: [sys.executable, "-c", told], needs=".")


BEGUN = '{"begun": true}'
WHOLE = str(ANSWER).replace("'", '"')


@given(
    st.builds(
        Order,
        load=st.sampled_from(sorted({load.name for load in LOADS})),
        at_once=st.integers(1, 10**6),
        payload_bytes=st.integers(0, 1 << 30),
        seconds=st.floats(0.001, 3600),
        burst=st.integers(0, 1000),
        pause=st.integers(0, 1000),
    )
)
def test_an_order_is_read_as_it_was_written(order: Order) -> None:
    assert Order.parse(str(order)) == order


def test_an_order_has_the_words_that_the_programs_read_in_their_order() -> None:
    assert str(UNARY.order(0.5)) == "unary 100 94 0.5 100 10"


@pytest.mark.parametrize("line", ["", "unary 1 2 3 4", "unary 1 2 3 4 5 6", "unary a 2 3 4 5"])
def test_what_is_no_order_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        Order.parse(line)


def test_each_load_is_in_one_table_and_all_kinds_are_there() -> None:
    assert len(LOADS) == len(set(LOADS)) == sum(len(loads) for loads in GROUPS.values())
    assert {load.name for load in LOADS} == {"unary", "responses", "requests", "both", "fan-out"}
    assert {load.at_once for load in LOADS if load.message_bytes == 100} >= {1, 10, 100, 1_000}
    assert {load.message_bytes for load in LOADS} == {100, 1 << 10, 64 << 10, 1 << 20}
    assert len({str(load) for load in LOADS}) == len(LOADS)


def test_an_answer_is_read() -> None:
    assert asdict(Answer.parse(ANSWER)) == ANSWER
    assert Answer.parse({**ANSWER, "more": "words"}) == Answer.parse(ANSWER)


@pytest.mark.parametrize("name", list(ANSWER))
@pytest.mark.parametrize("value", [None, "1", -1, math.nan, math.inf, True])
def test_an_answer_without_a_number_is_an_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"no number for {name}: "):
        Answer.parse({**ANSWER, name: value})


@pytest.mark.parametrize("name", ["count", "seconds"])
def test_nothing_counted_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        Answer.parse({**ANSWER, name: 0})


def test_the_peak_of_memory_is_read() -> None:
    status = "Name:\tmain\nVmPeak:\t  900 kB\nVmHWM:\t   512 kB\nVmRSS:\t  300 kB\n"
    assert peak_of(status) == 512 * 1024
    with pytest.raises(ValueError, match="no VmHWM"):
        peak_of("Name:\tmain\n")
    with pytest.raises(ValueError, match="VmHWM in MB"):
        peak_of("VmHWM:\t 512 MB\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux makes clocks of process ids")
def test_the_cpu_time_of_a_process_is_read_by_its_id() -> None:
    before = cpu_seconds(os.getpid())
    for _ in range(100_000):
        pass
    assert before < cpu_seconds(os.getpid()) < before + 60


def test_another_begins_each_round_and_each_has_its_turn() -> None:
    rounds = ["".join(order_of("abc", number)) for number in range(4)]
    assert rounds == ["abc", "bca", "cab", "abc"]
    assert list(order_of([], 1)) == []


def test_a_ratio_is_of_turns_of_one_round() -> None:
    # The machine was twice as fast in the second round, which no ratio shows.
    ours = [figures(rate) for rate in (10, 20, 12, 9, 10)]
    theirs = [figures(rate) for rate in (5, 10, 4, 3, 10)]
    middle, interval = ratios(ours, theirs)
    assert (middle, interval.low, interval.high) == (2, 1, 3)
    assert interval.confidence == 0.9375


def test_the_tables_show_medians_and_the_ratio_with_its_interval() -> None:
    results = Results()
    results.samples[UNARY] = {
        BASELINE: [figures(rate) for rate in (1_000, 1_200, 1_100)],
        "Go": [figures(500, memory=3 << 20)] * 3,
    }
    results.failures["C++"] = "C++: is not there"
    text = as_markdown(results)
    (title,) = (title for title, loads in GROUPS.items() if UNARY in loads)
    assert f"**{title}**" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("| ").split("|")] for row in rows[2:]]
    times = ["1,000", "2,000", "3,000", "-", "2.0", "300"]
    assert cells == [
        ["100 in flight, 100 B", "txzmq", "1,100", *times, "1", "1"],
        ["Go", "500", *times, "3", "3", "2.20", "2.00 to 2.40"],
    ]
    assert len({row.count(" | ") for row in rows}) == 1
    assert text.endswith("\n\nFAILED C++: is not there\n")
    assert as_json(WHERE, Plan(loads=[UNARY]), results, {})["loads"][0]["samples"]["Go"][0] == (
        figures(500, memory=3 << 20)._asdict()
    )


def test_without_ours_there_is_no_ratio() -> None:
    results = Results(samples={UNARY: {"Go": [figures(500)]}})
    assert "| 1 | 1 |  |  |" in as_markdown(results)


def test_the_introduction_says_where_when_and_of_which_versions() -> None:
    results = Results(versions={"Go": {"go": "1.19", "grpc-go": "1.33"}})
    plan = Plan(loads=[UNARY], rounds=5, seconds=0.5)
    text = introduction(WHERE, plan, results, "2026-01-02", {"protoc-gen-go-grpc": "1.33-2"})
    command = "`python -m benchmarks.native --rounds 5 --seconds 0.5 --load unary`"
    assert text.startswith(f"{command}, 2026-01-02. CPython 3, Linux, 2 CPUs, load 0.5 at the ")
    assert "Go: go 1.19, grpc-go 1.33. Debian's packages: protoc-gen-go-grpc 1.33-2." in text
    assert "TCP on 127.0.0.1" in text
    assert "5 rounds of 0.5 s" in text
    assert "probability of 94%" in text
    text = introduction(WHERE, Plan(loads=LOADS, unix=True), results, "2026-01-02", {})
    assert "native --rounds 5 --seconds 1 --unix`" in text
    assert "Over a Unix socket" in text


def test_a_peer_that_was_not_built_is_left_out_with_what_builds_it(tmp_path: Path) -> None:
    results = run({"C++": PEERS["C++"]}, Plan(loads=[UNARY]), tmp_path, lambda _: None)
    assert results.failures == {
        "C++": f"C++: {tmp_path / 'cpp/main'} is not there: tools/native-peers builds it"
    }
    assert as_markdown(results).startswith("FAILED C++: ")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and the clocks of processes are Linux's")
@pytest.mark.parametrize(
    ("peer", "failure"),
    [
        (play("pass", BEGUN, WHOLE), None),
        (play("sys.exit('no such load')", BEGUN), "(?s)it, client: has ended.*no such load"),
        (play("pass", BEGUN, BEGUN), "it, 100 in flight, 100 B: the answer has no number for"),
    ],
)
def test_a_program_is_asked_and_one_that_fails_is_told(
    peer: Peer, failure: str | None, tmp_path: Path
) -> None:
    plan = Plan(loads=[UNARY], seconds=0.001, rounds=2, warm_up=0.001)
    results = run({"it": peer}, plan, tmp_path, lambda _: None)
    if failure is None:
        assert results.failures == {}
        assert results.versions == {"it": {"it": "1"}}
        (first, second) = results.samples[UNARY]["it"]
        assert first.rate == second.rate == 20
        assert first.client_cpu == 0.01
        assert first.client_memory > 1 << 20
    else:
        assert results.samples[UNARY] == {}
        with pytest.raises(ValueError, match=failure):
            raise ValueError(results.failures["it"])
