"""What is left in channels and servers; public through txzmq.testing.assert_all_given_back.

It reads the attributes of txzmq's objects by their names, and knows little of how these are built:
a table that somebody adds is looked into from then on. So nothing that calls leave behind goes
unnoticed because nobody has thought of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred

from txzmq._timer import ResettableTimer
from txzmq.rpc._core.stream_state import StreamLife
from txzmq.rpc.client import CallSpec
from txzmq.rpc.context import Context

__all__ = ["NUMBERS", "Leftover", "Unfinished", "find", "leftovers"]

#: Attributes that hold something for as long as their owner lives: what it was made with, what it
#: counts and logs, its connections, who has let it in; and a bounded heap of times at which nothing
#: may be due any more.
_KEPT: Final = frozenset(
    {
        "_addresses",
        "_allowed",
        "_by_name",
        "_by_path",
        "_counters",
        "_entries",
        "_hosted",
        "_limits",
        "_listeners",
        "_logs",
        "_noticed",
        "_options",
        "_paths",
        "_subchannels",
        "_ranks",
        "_records",
        "_ticks",
        "_worked",
        "counters",
        "dropped",
        "endpoints",
        "limits",
        "queued_per_method",
        "running_per_method",
        "socketOptions",
    }
)
#: What a listener keeps of its clients when it is closed: a socket that is closed tells of no loss.
_KEPT_WHEN_CLOSED: Final = frozenset({"_peers", "_staying", "latest"})
#: By class, numbers that are 0 when nothing is left: what counts towards limits.
NUMBERS: Final = {
    "Admission": ("_queued", "_running"),
    "Backlog": ("size",),
    "BacklogBytes": ("size",),
    "CallRegistry": ("size",),
    "KeptBytes": ("size",),
    "RequestBytes": ("size",),
    "StreamRegistry": ("_running",),
    "WaitingCalls": ("count",),
}
#: Modules of what servers and channels are given: it knows services, rules and what was counted,
#: for as long as it lives. What it does for a call is a call of the server's.
_NO_PARTS: Final = (
    *("txzmq.rpc._services", "txzmq.rpc.v1", "txzmq.rpc._tokens", "txzmq.rpc.access_log"),
    *("txzmq.rpc.admin", "txzmq.rpc.authorization", "txzmq.rpc.health", "txzmq.rpc.metrics"),
    *("txzmq.rpc.otel", "txzmq.rpc.prometheus", "txzmq.rpc.reflection"),
    *("txzmq.rpc.service_config", "txzmq.rpc.tokens", "txzmq.rpc.validation"),
)


class Leftover(NamedTuple):
    """Something that is left.

    :ivar path: the attributes that lead there.
    :ivar what: what it is.
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class Unfinished(NamedTuple):
    """A call that has not come to its end.

    :ivar method: the path of its method.
    :ivar kind: what stands for the call there: the name of a class. One call may have several.
    :ivar is_served: whether a server has it; a channel otherwise.
    :ivar stream: the state of its stream of responses, in a word; empty of a call without one.
    :ivar waits: whether the call waits for a place on the server.
    :ivar runs: whether the handler has not ended; of a server's.
    :ivar age: for how many seconds the server has had it, or since when the client's timeout
        counts; None where that is not known.
    """

    method: str
    kind: str
    is_served: bool
    stream: str
    waits: bool
    runs: bool
    age: float | None


def leftovers(*roots: object) -> list[str]:
    """Where txzmq's objects that *roots* reach keep entries, or something that may still happen.

    Every dict, list, set or deque that is not empty counts, and every Deferred that has not fired,
    by the path of attributes that leads there.
    """
    return [str(found) for found in find(*roots)[0]]


def find(*roots: object, are_closed: bool = False) -> tuple[list[Leftover], list[Unfinished]]:
    """What is left, and the calls among it; some of these several times.

    :param are_closed: whether a timer that runs is left, too: only an open end has use for one.
    """
    walk = _Walk(are_closed=are_closed)
    found = [each for root in roots for each in walk.look(root, type(root).__name__, _KEPT)]
    return found, walk.unfinished


class _Walk:
    """Looks at everything once."""

    def __init__(self, *, are_closed: bool) -> None:
        self._seen: set[int] = set()
        self._are_closed = are_closed
        self.unfinished: list[Unfinished] = []

    def look(self, value: Any, path: str, kept: frozenset[str]) -> Iterator[Leftover]:
        """What is left in one object, and in what it reaches."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, (dict, list, set, deque)):
            entries: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of anything
            if entries and path.rsplit(".", 1)[-1] not in kept:
                count = len(entries)
                yield Leftover(path, "1 entry" if count == 1 else f"{count} entries")
            if isinstance(value, dict):
                # Tables of what has deadlines have it as keys.
                entries = [*value.values(), *filter(_is_part, entries)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # as above
            for entry in entries:
                yield from self.look(entry, f"{path}[]", kept)
        elif isinstance(value, Deferred):
            if not value.called:
                yield Leftover(path, "a Deferred that has not fired")
        elif isinstance(value, (ResettableTimer, DelayedCall)):
            if self._are_closed and _will_run(value):
                yield Leftover(path, "a timer that runs")
        elif _is_part(value):
            yield from self._look_into(value, path, kept)

    def _look_into(self, part: Any, path: str, kept: frozenset[str]) -> Iterator[Leftover]:
        if type(part).__name__ in {"Listener", "Worker"} and part.transport is None:
            kept = kept | _KEPT_WHEN_CLOSED
        if "[]" in path:
            unfinished = _unfinished(part)
            if unfinished is not None:
                self.unfinished.append(unfinished)
        # A server that has closed its sockets knows no more of a handler that goes on.
        running: dict[str, int] = getattr(part, "_running_of_path", {})
        for method, count in running.items():
            one = Unfinished(method, "Admission", True, "", False, True, None)
            self.unfinished += [one] * count
        for name in NUMBERS.get(type(part).__name__, ()):
            number = getattr(part, name)
            if number:
                yield Leftover(f"{path}.{name}", str(number))
        for name in _attributes(part):
            yield from self.look(getattr(part, name, None), f"{path}.{name}", kept)


def _will_run(timer: ResettableTimer | DelayedCall) -> bool:
    return timer.is_running if isinstance(timer, ResettableTimer) else bool(timer.active())


def _is_part(value: object) -> bool:
    module = type(value).__module__
    return module.startswith("txzmq.rpc") and not module.startswith(_NO_PARTS)


def _attributes(value: object) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    for cls in type(value).__mro__:
        slots: str | tuple[str, ...] = cls.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _unfinished(part: object) -> Unfinished | None:
    """What is to be said of an object if it is a call, of either side; None if it is none."""
    stream = part.state.value if isinstance(part, StreamLife) else ""
    context = getattr(part, "context", None)
    if isinstance(context, Context):
        runs = bool(getattr(part, "running", False)) or getattr(part, "deferred", None) is not None
        waits = bool(getattr(part, "queued", False))
        # There is no public way to a call's clock.
        age = _now(getattr(context, "_clock", None)) - context.arrived
        name = type(part).__name__
        return Unfinished(context.method, name, True, stream, waits, runs, age)
    spec = getattr(part, "spec", None) or getattr(part, "_spec", None)
    if isinstance(spec, CallSpec):
        name = type(part).__name__
        return Unfinished(spec.method.path, name, False, stream, False, False, _age(part, spec))
    return None


def _age(part: object, spec: CallSpec) -> float | None:
    """How long ago a client's call began, or its last attempt, by what is left of its time."""
    timeout_us: int | None = getattr(getattr(part, "head", None), "timeout_us", None)
    registry = getattr(part, "registry", None)
    if spec.deadline is None or timeout_us is None or registry is None:
        return None
    return _now(registry.clock) - (spec.deadline - timeout_us / 1e6)


def _now(clock: Any) -> float:
    seconds: float = clock.seconds()
    return seconds
