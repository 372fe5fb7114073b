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
from typing import Any, NamedTuple, TextIO

SINGLE, PRIVATE, SHARED, COLLECT, CHAT = "single", "private", "shared", "collect", "chat"
#: Calls of idempotent methods, which a service config may repeat: one answer, a stream of
#: responses until something of it has arrived, and a stream of requests.
RETRIED, HEDGED, REOPENED, RECOLLECTED = "retried", "hedged", "reopened", "recollected"
#: A stream that another server goes on with.
RESUMED = "resumed"
#: Answered by a worker behind a proxy.
WORKED = "worked"
#: Kinds that have one answer: the call's key.
ANSWERED = frozenset({SINGLE, WORKED, RETRIED, HEDGED})
#: Kinds that are answered with a count.
COUNTED = frozenset({COLLECT, RECOLLECTED})
#: Kinds that are executed more than once in any soak that is long enough.
REPEATED = frozenset({RETRIED, HEDGED, REOPENED, RECOLLECTED, RESUMED})
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
    #: The error that its handler is to end with; empty for none.
    error: str = ""
    #: How many attempts its handlers are to fail with UNAVAILABLE.
    failures: int = 0
    #: How many attempts may be made each time that the call is made, and how often interceptors
    #: may make it.
    tries: int = 1
    rounds: int = 1
    #: Whether the caller cancelled it, or closed its channel.
    cancelled: bool = False
    items: list[str] = field(default_factory=list[str])
    #: How many items were reported lost, each time.
    gaps: list[int] = field(default_factory=list[int])
    #: ``ok``, ``cancelled`` or the name of a status code.
    end: str = ""
    #: From beginning to end.
    seconds: float = 0.0

    @property
    def executions(self) -> int | None:
        """How often it may be executed at most; None for any number."""
        return None if self.kind == RESUMED else self.tries * self.rounds


class History:
    """Writes down the calls of one process."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", buffering=1)
        self.begun = 0
        self.ended = 0
        self.ends: Counter[str] = Counter()

    def begin(self, call: Call) -> None:
        self.begun += 1
        entry = {"begun": call.name, "kind": call.kind, "executions": call.executions}
        self._file.write(json.dumps(entry) + "\n")

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
    if call.end == "ok":
        if call.error or call.failures >= call.tries:
            yield "ended well, and its handlers were to fail."
    elif call.end == _UNAVAILABLE:
        if call.kind == RESUMED and call.items and not call.cancelled:
            yield "ended with UNAVAILABLE, and another server could have gone on."
    elif call.end == "cancelled":
        if not call.cancelled:
            yield "ended as cancelled, and nobody cancelled it."
    elif call.end == "DEADLINE_EXCEEDED":
        if not call.timeout or call.seconds < call.timeout * 0.9:
            yield f"ended by its deadline of {call.timeout:.1f} s after {call.seconds:.1f} s."
    elif call.end == "DATA_LOSS":
        if call.kind != SHARED or call.skips:
            yield "ended with DATA_LOSS, for which there was no reason."
    elif call.end != call.error:
        yield f"ended with {call.end}, for which there was no reason."


def _items(call: Call) -> Iterable[str]:
    if call.kind in ANSWERED or call.kind in COUNTED:
        answer = call.key if call.kind in ANSWERED else f"{call.key}:{call.count}"
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


class Executions:
    """What servers have executed: a line for each, with the call's name and which attempt it was.

    The attempt of a stream that is resumed is its first item, and may come twice.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._attempts = Counter(line.rstrip() for line in lines)
        self.times: Counter[str] = Counter()
        for attempt, times in self._attempts.items():
            self.times[attempt.partition(" ")[0]] += times

    def check(self, begun: dict[str, dict[str, Any]]) -> Iterable[str]:
        """What does not hold of them, each in a sentence.

        :param begun: what was written when calls began, by their names; a call that is not among
            them may be executed once.
        """
        for name, times in self.times.items():
            most = begun[name]["executions"] if name in begun else 1
            if most is not None and times > most:
                yield f"{name} was executed {times} times, and {most} are the most."
        for attempt, times in self._attempts.items():
            name, _, label = attempt.partition(" ")
            is_resumed = name in begun and begun[name]["executions"] is None
            if label and times > 1 and not is_resumed:
                yield f"{name} was executed {times} times in its attempt {label}."

    def again(self, begun: dict[str, dict[str, Any]]) -> Counter[str]:
        """How many calls were executed more than once, by kind."""
        more = (begun[name]["kind"] for name, times in self.times.items() if times > 1)
        return Counter(more)


class Checked(NamedTuple):
    """What came of a soak: what did not hold, and how many calls were executed again, by kind."""

    wrong: list[str]
    again: Counter[str]


def check(
    histories: dict[str, Iterable[str]], executed: Iterable[str], killed: Iterable[str] = ()
) -> Checked:
    """What does not hold of all calls, each in a sentence.

    :param histories: the lines of each process, by its name.
    :param executed: the lines that servers wrote, see :class:`Executions`, in any order.
    :param killed: processes that did not live to see the ends of their calls.
    """
    executions = Executions(executed)
    killed = set(killed)
    wrong: list[str] = []
    begun: dict[str, dict[str, Any]] = {}
    for process, lines in histories.items():
        begins, ended = _read(lines, is_killed=process in killed)
        for call in ended:
            wrong += check_call(call)
            if call.items and call.kind != SHARED and not executions.times[call.name]:
                wrong.append(f"{call.name} ({call.kind}) was answered, and never executed.")
        ends = Counter(call.name for call in ended)
        wrong += [f"{name} ended {times} times." for name, times in ends.items() if times > 1]
        wrong += [f"{name} ended, and never began." for name in ends.keys() - begins.keys()]
        if process not in killed:
            wrong += [f"{name} has never ended." for name in sorted(begins.keys() - ends.keys())]
        begun |= begins
    wrong += executions.check(begun)
    return Checked(wrong, executions.again(begun))


def _read(lines: Iterable[str], *, is_killed: bool) -> tuple[dict[str, dict[str, Any]], list[Call]]:
    """The beginnings by name, and the ends, that a process has written."""
    begun: dict[str, dict[str, Any]] = {}
    ended: list[Call] = []
    for line in lines:
        if is_killed and not line.endswith("}\n"):
            continue  # the last thing it did
        entry = json.loads(line)
        if "begun" in entry:
            begun[entry["begun"]] = entry
        else:
            ended.append(Call(**entry))
    return begun, ended
