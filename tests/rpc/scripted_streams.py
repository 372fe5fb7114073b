"""A handler of streams that gives what it is told to, and the states of streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import text
from txzmq.rpc import (
    Context,
)
from txzmq.rpc._core.stream_state import StreamLife, StreamState


class Scripted:
    """A handler that gives items, and the end, when it is told to."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.waiting: Deferred[None] | None = None

    async def __call__(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        while True:
            while not self.events:
                self.waiting = Deferred()
                await self.waiting
            event = self.events.pop(0)
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield text(event)

    def do(self, *events: Any) -> None:
        """Give items; None is the end, an exception an error."""
        self.events += events
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.callback(None)


def state_of(life: StreamLife) -> StreamState:
    """Its state now; type checkers take the attribute for what it was."""
    return life.state
