"""What a caller reads: the stream that a channel gives for a call whose responses stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

from twisted.internet.defer import Deferred

from txzmq._task_deferred import error_for_driver
from txzmq.rpc._client.received_stream import ReceivedStream
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.streams import ResponseStream, check_silence, check_told

__all__ = ["OpenResponseStream", "opened"]

T = TypeVar("T")


class OpenResponseStream(ResponseStream[T]):
    """A stream of a channel: reads what has arrived. Who forgets it cancels it."""

    __slots__ = ("_core", "_items")

    def __init__(self, core: ReceivedStream) -> None:
        self._core = core
        self._items = core.items

    async def __anext__(self) -> T:
        core = self._core
        while not self._items:
            outcome = core.outcome
            if outcome is not None:
                core.read_to_end()
                raise await error_for_driver(outcome)
            try:
                await core.more()
            except GeneratorExit:
                core.reader_is_gone()  # or what its `finally` does would wake it
                raise
        item: T = core.parse(core.take())
        return item

    def __del__(self) -> None:
        core: ReceivedStream | None = getattr(self, "_core", None)
        if core is not None and core.is_registered:
            core.forgotten()

    def when_ended(self, told: Callable[[BaseException, int], None]) -> None:
        """Call *told* once with its outcome, and how many items have arrived."""
        # Not this object, which is to be garbage when its reader forgets it.
        core = self._core
        core.when_ended(lambda outcome: told(outcome, core.arrived_items))

    def cancel(self) -> None:
        """End the stream early."""
        self._core.check_thread()
        self._core.cancel()

    @property
    def initial_metadata(self) -> Metadata:
        """What the server put in front of the first item."""
        return self._core.initial

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server put behind the last one."""
        return self._core.trailing

    def opened(self) -> Deferred[None]:
        """Fires when the server has the stream, and nothing is lost from here on."""
        return self._core.milestones.opened.wait(self)

    def received_initial_metadata(self) -> Deferred[Metadata]:
        """Fires with the initial metadata."""
        return self._core.milestones.metadata.wait(self)

    def ended(self) -> Deferred[None]:
        """Fires when the end has arrived, and fails with the stream's error."""
        return self._core.milestones.ended.wait(self)

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream when its reader has to wait for an item for longer."""
        check_silence(seconds)
        self._core.set_silence(seconds)
        return self

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on where items are lost."""
        check_told(told)
        self._core.skip_gaps(told)
        return self


def opened(core: ReceivedStream) -> Deferred[OpenResponseStream[Any]]:
    """Fires with a stream to read when the server has agreed, and fails if it does not."""
    stream: OpenResponseStream[Any] = OpenResponseStream(core)
    waiting: Deferred[OpenResponseStream[Any]] = Deferred(lambda _: stream.cancel())

    def told(error: BaseException | None) -> None:
        if waiting.called:
            return
        if error is None:
            waiting.callback(stream)
        else:
            waiting.errback(error)

    core.when_opened(told)
    return waiting
