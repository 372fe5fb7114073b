"""The service of the memory benchmark, and what a process says about its memory."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from resource import getpagesize
from typing import Any, ClassVar, Final

from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet import epollreactor
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from txzmq.rpc import Context, Kind, Method, NotFound, Service, UnaryResult

__all__ = ["DO", "DO_AS_BYTES", "TELL", "WATCH", "Memory", "Worker", "memory", "prepare", "say"]

DO = Method("/bench.Memory/Do", "do", StringValue, StringValue)
TELL = Method("/bench.Memory/Tell", "tell", StringValue, StringValue)
WATCH = Method("/bench.Memory/Watch", "watch", StringValue, StringValue, kind=Kind.UNARY_STREAM)
#: What a client of another version of the proto takes the method for: its requests are malformed.
DO_AS_BYTES = Method("/bench.Memory/Do", "do", BytesValue, BytesValue)

#: What a process says: resident bytes, traced bytes and the lines that allocated most of them.
Memory = Mapping[str, Any]

_PAGE: Final = getpagesize()


def prepare(*, trace: bool) -> None:
    """Set this process up: no log, the same reactor everywhere."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    if trace:
        tracemalloc.start()


def memory(*, lines: int = 0) -> Memory:
    """What this process holds now, garbage left out."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    traced: list[tuple[str, int]] = []
    if tracemalloc.is_tracing() and lines:
        statistics = tracemalloc.take_snapshot().statistics("lineno")
        traced = [
            ("/".join(str(line.traceback[0]).rsplit("/", 2)[-2:]), line.size)
            for line in statistics[:lines]
        ]
    return {"resident": resident, "lines": traced}


class Worker:
    """Does what the request says."""

    __txzmq_service__: ClassVar[Service] = Service("bench.Memory", (DO, TELL, WATCH))

    def __init__(self) -> None:
        self._behaviours: dict[str, Callable[[], UnaryResult[StringValue]]] = {
            "value": StringValue,
            "error": self._error,
            "crash": self._crash,
            "wait": Deferred,
            "large": self._large,
        }

    def do(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        """Answer, fail, or never answer."""
        return self._behaviours[request.value.rstrip()]()

    async def watch(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        """Give one item if the request has a value, and wait for ever."""
        if request.value:
            yield StringValue(value=request.value)
        never: Deferred[None] = Deferred()
        await never

    def tell(self, request: StringValue, context: Context) -> StringValue:
        """What this process holds; the request says how many lines."""
        return StringValue(value=json.dumps(memory(lines=int(request.value))))

    def _error(self) -> StringValue:
        raise NotFound("no such thing", metadata=[("k", "v")])

    def _crash(self) -> StringValue:
        raise RuntimeError("unexpected")

    def _large(self) -> StringValue:
        return StringValue(value="x" * (4 * 2**20 + 1))


def say(line: object) -> None:
    """Print a line for the process that reads this one's output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
