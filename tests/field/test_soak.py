"""The soak of ``make soak``: a few seconds of it, and that its checker can fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.field.soak.history import CHAT, COLLECT, PRIVATE, SHARED, SINGLE, Call, check, check_call
from tests.field.soak.rounds import Soak, grown
from tests.field.soak.state import more
from tests.support import Loop


def call(kind: str, items: Sequence[str], end: str = "ok", **options: Any) -> Call:
    """A call ``a`` for three items, or for one answer, that took a second."""
    count = 1 if kind == SINGLE else 3
    return Call("a", kind, count, "a", timeout=10, items=list(items), end=end, seconds=1, **options)


def lines(*calls: Call) -> list[str]:
    """The history of calls that began once."""
    begun = [json.dumps({"begun": name}) for name in sorted({call.name for call in calls})]
    return [f"{line}\n" for line in [*begun, *(json.dumps(asdict(call)) for call in calls)]]


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
    wrong = soak.check()
    assert f"{name} has never ended." in wrong
    assert f"{json.loads(ended[-1])['name']} ended 2 times." in wrong
    assert any(sentence.endswith("was executed 2 times.") for sentence in wrong)


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
    ],
)
def test_what_holds(ended: Call) -> None:
    assert check({"main": lines(ended)}, ["a"]) == []


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
    ],
)
def test_what_does_not_hold_of_a_call(ended: Call, sentence: str) -> None:
    assert f"a ({ended.kind}) {sentence}" in check_call(ended)
    assert f"a ({ended.kind}) {sentence}" in check({"main": lines(ended)}, ["a"])


def test_a_call_that_ends_much_too_late_does_not_hold() -> None:
    late = call(SINGLE, [], "UNAVAILABLE")
    late.seconds = 30
    assert check_call(late) == ["a (single) ended after 30.0 s, with a timeout of 10.0 s."]


def test_a_call_ends_exactly_once() -> None:
    good = call(SINGLE, ["a"])
    assert check({"main": lines(good, good)}, ["a"]) == ["a ended 2 times."]
    assert check({"main": lines(good)[:1]}, ["a"]) == ["a has never ended."]
    assert check({"main": lines(good)[1:]}, ["a"]) == ["a ended, and never began."]


def test_a_call_is_executed_at_most_once_and_before_it_is_answered() -> None:
    good = lines(call(SINGLE, ["a"]))
    assert check({"main": good}, ["a", "b", "a"]) == ["a was executed 2 times."]
    assert check({"main": good}, []) == ["a (single) was answered, and never executed."]


def test_of_a_killed_process_no_ends_are_asked() -> None:
    history = [*lines(call(SINGLE, ["a"])), '{"begun": "b"}\n', '{"begu']
    assert check({"client": history}, ["a"], killed=["client"]) == []


def test_memory_may_grow_by_a_little() -> None:
    assert grown({"main": [1, 50_000, 60_000, 50_000, 60_000, 61_000, 61_000]}) == []
    assert grown({"main": [1, 50_000, 50_000, 60_000, 60_000, 90_000, 90_000]}) == [
        "main: 90000 KiB in the last third, and 50000 in the first."
    ]


def test_there_may_be_less_and_not_more() -> None:
    assert more({"threads": 2}, {"threads": 3}) == []
    assert more({"threads": 4}, {"threads": 3}) == ["4 threads at the end, and 3 at the start"]
