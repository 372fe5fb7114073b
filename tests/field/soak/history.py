"""What the calls of a soak should have come to, and what they came to: the checker.

Every process writes lines of JSON, one when a call begins and one when it ends, so that nothing is
kept in memory. Servers write a line for each execution, with the call's name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

SINGLE, PRIVATE, SHARED, COLLECT, CHAT = "single", "private", "shared", "collect", "chat"
#: How a call ends that was not answered, where connections break and servers die.
_UNAVAILABLE = "UNAVAILABLE"
#: Seconds that a call may end after its deadline: machines are slow, and processes are stopped.
_LATE = 15.0


@dataclass
class Call:
    """One call: what was asked for, and what came."""

    name: str
    kind: str
    #: Items that the whole stream has; for requests, how many were to be given.
    count: int = 1
    #: What items begin with: the call's name, or what is shared.
    key: str = ""
    timeout: float = 0.0
    #: Whether the caller goes on after a gap.
    skips: bool = False
    #: Whether the caller cancelled it, or closed its channel.
    cancelled: bool = False
    items: list[str] = field(default_factory=list[str])
    #: How many items were reported lost, each time.
    gaps: list[int] = field(default_factory=list[int])
    #: ``ok``, ``cancelled`` or the name of a status code.
    end: str = ""
    #: From beginning to end.
    seconds: float = 0.0


class History:
    """Writes down the calls of one process."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", buffering=1)
        self.begun = 0
        self.ended = 0
        self.ends: Counter[str] = Counter()

    def begin(self, call: Call) -> None:
        self.begun += 1
        self._file.write(json.dumps({"begun": call.name}) + "\n")

    def end(self, call: Call) -> None:
        self.ended += 1
        self.ends[f"{call.kind} {call.end}"] += 1
        self._file.write(json.dumps(asdict(call)) + "\n")

    def close(self) -> None:
        self._file.close()


def check_call(call: Call) -> list[str]:
    """What does not hold of a call that has ended, each in a sentence."""
    wrong = [*_end(call), *_items(call)]
    return [f"{call.name} ({call.kind}) {each}" for each in wrong]


def _end(call: Call) -> Iterable[str]:
    if call.timeout and call.seconds > call.timeout + _LATE:
        yield f"ended after {call.seconds:.1f} s, with a timeout of {call.timeout:.1f} s."
    if call.end in {"ok", _UNAVAILABLE}:
        return
    if call.end == "cancelled":
        if not call.cancelled:
            yield "ended as cancelled, and nobody cancelled it."
    elif call.end == "DEADLINE_EXCEEDED":
        if not call.timeout or call.seconds < call.timeout * 0.9:
            yield f"ended by its deadline of {call.timeout:.1f} s after {call.seconds:.1f} s."
    elif call.end != "DATA_LOSS" or call.kind != SHARED or call.skips:
        yield f"ended with {call.end}, for which there was no reason."


def _items(call: Call) -> Iterable[str]:
    if call.kind in {SINGLE, COLLECT}:
        answer = call.key if call.kind == SINGLE else f"{call.key}:{call.count}"
        if call.items != ([answer] if call.end == "ok" else []):
            yield f"ended with {call.end} and the answer {call.items}."
        return
    shared = call.kind == SHARED
    expected = None if shared else 0
    run = None
    missing = 0
    for item in call.items:
        head, _, number = item.rpartition(":")
        key, _, this_run = head.rpartition(":") if shared else (head, "", "")
        run = run or this_run
        if key != call.key or not number.isdecimal() or this_run != (run or ""):
            yield f"got the wrong item {item}."
            continue
        index = int(number)
        if expected is not None and index < expected:
            yield f"got item {index} twice or too late."
            continue
        missing += 0 if expected is None else index - expected
        expected = index + 1
    if call.end == "ok":
        if expected is None and not call.gaps:
            yield "ended well without any item."
        missing += call.count - (call.count if expected is None else expected)
    if missing < 0:
        yield f"got {-missing} more items than there are."
    elif missing > sum(call.gaps):
        yield f"lost {missing} items, of which {sum(call.gaps)} were reported."
    if call.gaps and not (shared and call.skips):
        yield "was told of a gap, and did not ask for that."


def check(
    histories: dict[str, Iterable[str]], executions: Iterable[str], killed: Iterable[str] = ()
) -> list[str]:
    """What does not hold of all calls, each in a sentence.

    :param histories: the lines of each process, by its name.
    :param executions: the names of calls that servers executed, in any order.
    :param killed: processes that did not live to see the ends of their calls.
    """
    executed = Counter(executions)
    wrong = [f"{name} was executed {times} times." for name, times in executed.items() if times > 1]
    killed = set(killed)
    for process, lines in histories.items():
        begun: set[str] = set()
        ended: Counter[str] = Counter()
        for line in lines:
            if process in killed and not line.endswith("}\n"):
                continue  # the last thing it did
            entry = json.loads(line)
            if "begun" in entry:
                begun.add(entry["begun"])
                continue
            call = Call(**entry)
            ended[call.name] += 1
            wrong += check_call(call)
            if call.items and call.kind != SHARED and not executed[call.name]:
                wrong.append(f"{call.name} ({call.kind}) was answered, and never executed.")
        wrong += [f"{name} ended {times} times." for name, times in ended.items() if times > 1]
        wrong += [f"{name} ended, and never began." for name in ended.keys() - begun]
        if process not in killed:
            wrong += [f"{name} has never ended." for name in sorted(begun - ended.keys())]
    return wrong
