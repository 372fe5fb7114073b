"""What is left in channels and servers, without knowing how they are built."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred

#: Attributes that hold something for as long as their owner lives: what it was made with, what it
#: counts and logs, its connections, who has let it in; and a bounded heap of times at which nothing
#: may be due any more.
_KEPT = {
    "_addresses",
    "_allowed",
    "_by_name",
    "_by_path",
    "_counters",
    "_entries",
    "_limits",
    "_listeners",
    "_logs",
    "_noticed",
    "_options",
    "_paths",
    "_subchannels",
    "_ranks",
    "_ticks",
    "_worked",
    "counters",
    "dropped",
    "endpoints",
    "limits",
    "socketOptions",
}
#: What a listener keeps of its clients when it is closed: a socket that is closed tells of no loss.
_KEPT_WHEN_CLOSED = {"_peers", "_staying", "latest"}


def leftovers(*roots: object) -> list[str]:
    """Where txzmq's objects that *roots* reach keep entries, or something that may still happen.

    Every dict, list, set or deque that is not empty counts, and every Deferred that has not fired,
    by the path of attributes that leads there.
    """
    seen: set[int] = set()
    return [found for root in roots for found in _walk(root, type(root).__name__, seen, _KEPT)]


def _walk(value: Any, path: str, seen: set[int], kept: set[str]) -> Iterator[str]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (dict, list, set, deque)):
        entries: list[Any] = list(value.values() if isinstance(value, dict) else value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of anything
        if entries and path.rsplit(".", 1)[-1] not in kept:
            yield f"{path}: {len(entries)} entries"
        for entry in entries:
            yield from _walk(entry, f"{path}[]", seen, kept)
    elif isinstance(value, Deferred):
        if not value.called:
            yield f"{path}: a Deferred that has not fired"
    elif _is_part(value):
        if type(value).__name__ in {"Listener", "Worker"} and value.transport is None:
            kept = kept | _KEPT_WHEN_CLOSED
        for name in _attributes(value):
            yield from _walk(getattr(value, name, None), f"{path}.{name}", seen, kept)


def _is_part(value: object) -> bool:
    module = type(value).__module__
    # Metrics keep what they have counted.
    kept = module.endswith("_pb2") or module == "txzmq.rpc.metrics"
    return module.startswith("txzmq.rpc") and not kept


def _attributes(value: object) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    for cls in type(value).__mro__:
        slots: str | tuple[str, ...] = cls.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
