"""The soak of ``make soak``: a few seconds of it, and that its checker can fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.field.soak.history import (
    CHAT,
    COLLECT,
    HEDGED,
    PRIVATE,
    RECOLLECTED,
    REOPENED,
    RESUMED,
    RETRIED,
    SHARED,
    SINGLE,
    WORKED,
    Call,
    History,
    check,
    check_call,
)
from tests.field.soak.rounds import Soak, grown
from tests.field.soak.state import more
from tests.support import Loop


def call(kind: str, items: Sequence[str], end: str = "ok", **options: Any) -> Call:
    """A call ``a`` for three items, or for one answer, that took a second."""
    count = 1 if kind in {SINGLE, WORKED, RETRIED, HEDGED} else 3
    return Call("a", kind, count, "a", timeout=10, items=list(items), end=end, seconds=1, **options)


def begin(of: Call) -> str:
    """The line that is written when a call begins."""
    begun = {"begun": of.name, "kind": of.kind, "executions": of.executions}
    return f"{json.dumps(begun)}\n"


def lines(*calls: Call) -> list[str]:
    """The history of calls that began once."""
    begun = sorted({begin(call) for call in calls})
    return [*begun, *(f"{json.dumps(asdict(call))}\n" for call in calls)]


def wrong(history: list[str], executions: Sequence[str] = ("a 0.0",)) -> list[str]:
    """What the checker says of the history of a process ``main``."""
    return check({"main": history}, executions).wrong


def test_a_few_seconds_of_it_hold(one_loop: Loop, tmp_path: Path) -> None:
    soak = Soak(one_loop, tmp_path, seed=7)
    one_loop.run(lambda: soak.run(3), patience=200)
    assert soak.check() == []

    # The same history, broken in every way.
    soak.executions.write_text(soak.executions.read_text() * 2)
    path = tmp_path / "main.history"
    history = path.read_text().splitlines(keepends=True)
    begun = [line for line in history if "begun" in line]
    ended = [line for line in history if "begun" not in line]
    path.write_text("".join([*begun, *ended[1:], ended[-1]]))
    name = json.loads(ended[0])["name"]
    found = soak.check()
    assert f"{name} has never ended." in found
    assert f"{json.loads(ended[-1])['name']} ended 2 times." in found
    assert any(sentence.endswith("was executed 2 times, and 1 are the most.") for sentence in found)


@pytest.mark.parametrize(
    "ended",
    [
        call(SINGLE, ["a"]),
        call(SINGLE, [], "UNAVAILABLE"),
        call(SINGLE, [], "cancelled", cancelled=True),
        call(COLLECT, ["a:3"]),
        call(PRIVATE, ["a:0", "a:1", "a:2"]),
        call(PRIVATE, ["a:0"], "UNAVAILABLE"),
        call(CHAT, [], "cancelled", cancelled=True),
        call(SHARED, ["a:1-1:2"]),  # came late
        call(SHARED, ["a:1-1:0"], "DATA_LOSS"),
        call(SHARED, ["a:1-1:0", "a:1-1:2"], skips=True, gaps=[1]),
        call(SINGLE, [], "ABORTED", error="ABORTED"),
        call(RETRIED, ["a"], failures=3, tries=4),
        call(RETRIED, [], "UNAVAILABLE", failures=4, tries=4),
        call(HEDGED, ["a"], tries=3, rounds=2),
        call(REOPENED, ["a:0", "a:1", "a:2"], failures=1, tries=2),
        call(RECOLLECTED, ["a:3"], failures=1, tries=2),
        call(RESUMED, ["a:0", "a:1", "a:2"]),
        call(RESUMED, [], "UNAVAILABLE"),
        call(RESUMED, ["a:0"], "UNAVAILABLE", cancelled=True),
    ],
)
def test_what_holds(ended: Call) -> None:
    assert wrong(lines(ended)) == []


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (call(PRIVATE, ["a:0", "a:1", "a:1", "a:2"]), "got item 1 twice or too late."),
        (call(CHAT, ["a:1", "a:0"], "UNAVAILABLE"), "got item 0 twice or too late."),
        (call(PRIVATE, ["a:0", "a:2"]), "lost 1 items, of which 0 were reported."),
        (call(PRIVATE, ["a:1"], "UNAVAILABLE"), "lost 1 items, of which 0 were reported."),
        (call(CHAT, ["a:0", "a:1"]), "lost 1 items, of which 0 were reported."),
        (call(CHAT, []), "lost 3 items, of which 0 were reported."),
        (call(SHARED, []), "ended well without any item."),
        (call(PRIVATE, ["a:0", "b:1", "a:1", "a:2"]), "got the wrong item b:1."),
        (call(PRIVATE, ["a:0", "a:1", "a:2", "a:3"]), "got 1 more items than there are."),
        (call(SHARED, ["a:1-1:0", "a:1-1:2"]), "lost 1 items, of which 0 were reported."),
        (
            call(SHARED, ["a:1-1:0", "a:1-1:2"], "UNAVAILABLE", skips=True),
            "lost 1 items, of which 0 were reported.",
        ),
        (call(SHARED, ["a:1-1:0", "a:1-1:1"]), "lost 1 items, of which 0 were reported."),
        (call(SHARED, ["a:1-1:1", "a:2-1:2"]), "got the wrong item a:2-1:2."),
        (
            call(SHARED, ["a:1-1:2"], gaps=[1]),
            "was told of a gap, and did not ask for that.",
        ),
        (call(SINGLE, ["b"]), "ended with ok and the answer ['b']."),
        (call(SINGLE, []), "ended with ok and the answer []."),
        (call(COLLECT, ["a:2"]), "ended with ok and the answer ['a:2']."),
        (call(SINGLE, [], "cancelled"), "ended as cancelled, and nobody cancelled it."),
        (call(SINGLE, [], "INTERNAL"), "ended with INTERNAL, for which there was no reason."),
        (
            call(PRIVATE, [], "DATA_LOSS"),
            "ended with DATA_LOSS, for which there was no reason.",
        ),
        (
            call(SINGLE, [], "DEADLINE_EXCEEDED"),
            "ended by its deadline of 10.0 s after 1.0 s.",
        ),
        (call(SINGLE, ["a"], error="ABORTED"), "ended well, and its handlers were to fail."),
        (
            call(SINGLE, [], "NOT_FOUND", error="ABORTED"),
            "ended with NOT_FOUND, for which there was no reason.",
        ),
        (call(RETRIED, ["a"], failures=1), "ended well, and its handlers were to fail."),
        (call(HEDGED, ["a", "a"], tries=3), "ended with ok and the answer ['a', 'a']."),
        (call(REOPENED, ["a:0", "a:0", "a:1", "a:2"], tries=2), "got item 0 twice or too late."),
        (call(RECOLLECTED, ["a:6"], tries=2), "ended with ok and the answer ['a:6']."),
        (call(RESUMED, ["a:0", "a:2"]), "lost 1 items, of which 0 were reported."),
        (
            call(RESUMED, ["a:0"], "UNAVAILABLE"),
            "ended with UNAVAILABLE, and another server could have gone on.",
        ),
    ],
)
def test_what_does_not_hold_of_a_call(ended: Call, sentence: str) -> None:
    assert f"a ({ended.kind}) {sentence}" in check_call(ended)
    assert f"a ({ended.kind}) {sentence}" in wrong(lines(ended))


def test_a_call_that_ends_much_too_late_does_not_hold() -> None:
    late = call(SINGLE, [], "UNAVAILABLE")
    late.seconds = 30
    assert check_call(late) == ["a (single) ended after 30.0 s, with a timeout of 10.0 s."]


def test_a_call_ends_exactly_once() -> None:
    good = call(SINGLE, ["a"])
    assert wrong(lines(good, good)) == ["a ended 2 times."]
    assert wrong(lines(good)[:1]) == ["a has never ended."]
    assert wrong(lines(good)[1:]) == ["a ended, and never began."]


def test_a_call_is_executed_at_most_once_and_before_it_is_answered() -> None:
    good = lines(call(SINGLE, ["a"]))
    twice = "a was executed 2 times, and 1 are the most."
    assert wrong(good, ["a 0.0", "b 0.0", "a 0.1"]) == [twice]
    assert wrong(good, ["a 0.0", "a 0.0"]) == [twice, "a was executed 2 times in its attempt 0.0."]
    assert wrong(good, []) == ["a (single) was answered, and never executed."]


def test_an_idempotent_call_is_executed_once_for_each_of_its_attempts() -> None:
    retried = lines(call(RETRIED, ["a"], tries=2, rounds=2))
    attempts = ["a 0.0", "a 0.1", "a 1.0", "a 1.1"]
    assert wrong(retried, attempts) == []
    assert wrong(retried, ["a 0.0", "a 0.0"]) == ["a was executed 2 times in its attempt 0.0."]
    assert wrong(retried, [*attempts, "a 1.2"]) == ["a was executed 5 times, and 4 are the most."]
    again = check({"main": retried}, attempts).again
    assert again == {RETRIED: 1}
    assert not check({"main": retried}, attempts[:1]).again


def test_a_stream_that_is_resumed_may_begin_anywhere_any_number_of_times() -> None:
    resumed = lines(call(RESUMED, ["a:0", "a:1", "a:2"]))
    assert wrong(resumed, ["a 1", "a 1", "a 2", "a 3", "a 2"]) == []


def test_of_a_killed_process_no_ends_are_asked() -> None:
    begun = begin(Call("b", RETRIED, tries=4))
    history = [*lines(call(SINGLE, ["a"])), begun, '{"begu']
    executions = ["a 0.0", "b 0.0", "b 0.1"]
    assert check({"client": history}, executions, killed=["client"]).wrong == []


def test_a_history_is_what_the_checker_reads(tmp_path: Path) -> None:
    history = History(tmp_path / "main.history")
    good = call(RETRIED, ["a"], tries=2)
    history.begin(good)
    history.end(good)
    history.close()
    written = (tmp_path / "main.history").read_text().splitlines(keepends=True)
    assert written == lines(good)


def test_memory_may_grow_by_a_little() -> None:
    assert grown({"main": [1, 50_000, 60_000, 50_000, 60_000, 61_000, 61_000]}) == []
    assert grown({"main": [1, 50_000, 50_000, 60_000, 60_000, 90_000, 90_000]}) == [
        "main: 90000 KiB in the last third, and 50000 in the first."
    ]


def test_there_may_be_less_and_not_more() -> None:
    assert more({"threads": 2}, {"threads": 3}) == []
    assert more({"threads": 4}, {"threads": 3}) == ["4 threads at the end, and 3 at the start"]
