"""What a stream of responses has for its reader, whatever network its items come from."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred

from txzmq._task_deferred import TaskDeferred
from txzmq._timer import ResettableTimer
from txzmq.rpc._client.call import CallRegistry, outcome_of, too_large
from txzmq.rpc._core.milestone import Milestone
from txzmq.rpc._core.stream_state import ENDED, ENDING, OPENING, StreamLife
from txzmq.rpc.client import CallSpec
from txzmq.rpc.errors import DeadlineExceeded, Internal, RpcError
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.records import Tally

__all__ = ["ReceivedStream"]


class StreamMilestones:
    """What one may wait for in the life of a stream."""

    __slots__ = ("ended", "metadata", "opened")

    def __init__(self) -> None:
        #: Whether all that is published from now on arrives.
        self.opened: Milestone[None] = Milestone()
        #: The initial metadata.
        self.metadata: Milestone[Metadata] = Milestone()
        self.ended: Milestone[None] = Milestone()

    def end(self, outcome: BaseException, initial: Metadata) -> None:
        """The stream has ended: with an error, or well."""
        if isinstance(outcome, StopAsyncIteration):
            self.opened.reach(None)
            self.metadata.reach(initial)
            self.ended.reach(None)
        else:
            self.opened.miss(outcome)
            self.metadata.miss(outcome)
            self.ended.miss(outcome)


class ReceivedStream(StreamLife, abc.ABC):
    """A stream of responses (a LogicalCall): what waits for its reader, how it ends, who is told.

    Where its items come from, and how it is opened, its subclasses know.
    """

    __slots__ = (
        "_from_string",
        "_milestones",
        "_on_ended",
        "_on_opened",
        "_registry",
        "_response_size",
        "_silence",
        "_silence_timer",
        "_spec",
        "_waiter",
        "_with_parent",
        "initial",
        "is_registered",
        "items",
        "outcome",
        "trailing",
    )

    def __init__(
        self, registry: CallRegistry, spec: CallSpec, response_size: int, items: deque[bytes]
    ) -> None:
        """
        :param response_size: bytes that an item may have.
        :param items: what has arrived and was not read.
        """
        super().__init__()
        self._registry = registry
        self._spec = spec
        self._response_size = response_size
        # Any: the method types what a stream gives.
        self._from_string: Callable[[bytes], Any] = spec.method.response_type.FromString
        # Cancelled with the call whose handler made this one, if one did.
        self._with_parent: Deferred[Any] | None = None
        #: What has arrived and was not read.
        self.items = items
        #: How it ends: with an error, or well; None until that is known.
        self.outcome: BaseException | None = None
        #: Whether its deadline holds, and the channel ends it when it is closed.
        self.is_registered = False
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self._on_opened: Callable[[BaseException | None], None] | None = None
        self._on_ended: Callable[[BaseException], None] | None = None
        # Made for the first who waits for one.
        self._milestones: StreamMilestones | None = None
        self._waiter: Deferred[None] | None = None
        # Seconds for which the reader waits at most, and its timer; made when that is wanted.
        self._silence: float | None = None
        self._silence_timer: ResettableTimer | None = None

    @property
    def deadline(self) -> float | None:
        """When its time is up."""
        return self._spec.deadline

    # -- what the network knows --------------------------------------------------------------

    @abc.abstractmethod
    def cancel(self, error: BaseException | None = None, *, keep: bool = False) -> None:
        """End it, and tell the server; the reader gets *error*, None for ``CancelledError``.

        :param keep: whether what has arrived may be read before.
        """

    @abc.abstractmethod
    def too_late(self) -> None:
        """Its time is up: what was not read is dropped."""

    @abc.abstractmethod
    def take(self) -> bytes:
        """The next item that has arrived; there is one."""

    @abc.abstractmethod
    def tally(self) -> Tally:
        """What it has sent and received."""

    @abc.abstractmethod
    def skip_gaps(self, told: Callable[[int], object] | None) -> None:
        """Go on where items are lost."""

    @property
    @abc.abstractmethod
    def arrived_items(self) -> int:
        """How many items have arrived in order, those that are not read included."""

    @abc.abstractmethod
    def _tell_milestones(self) -> None:
        """Tell those who wait what has been reached."""

    # -- opening -----------------------------------------------------------------------------

    def _register(self) -> None:
        """It begins: its deadline holds, and it ends with the call whose handler makes it."""
        parent = self._spec.parent
        self._registry.logical_begun(self)
        self.is_registered = True
        if parent is not None:
            self._with_parent = Deferred(lambda _: self.cancel())
            self._with_parent.addErrback(_ignore)
            parent.adopt(self._with_parent)

    def when_opened(self, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* once: with None when the server has agreed, or with why it will not."""
        self._on_opened = told
        if self.state is not OPENING:
            self._tell_opened()

    def _tell_opened(self) -> None:
        told, self._on_opened = self._on_opened, None
        if told is not None:
            told(self.outcome)

    def _set_initial(self, metadata: Metadata) -> None:
        self.initial = metadata
        wanted = self._spec.response_metadata
        if wanted is not None:
            wanted.received(metadata, wanted.trailing)

    def _set_trailing(self, metadata: Metadata) -> None:
        self.trailing = metadata
        wanted = self._spec.response_metadata
        if wanted is not None:
            wanted.received(wanted.initial, metadata)

    @property
    def milestones(self) -> StreamMilestones:
        """What one may wait for."""
        if self._milestones is None:
            self._milestones = StreamMilestones()
            self._tell_milestones()
            if self.outcome is not None:
                self._milestones.end(self.outcome, self.initial)
        return self._milestones

    # -- reading -----------------------------------------------------------------------------

    # Any: the method types what a stream gives.
    def parse(self, item: bytes) -> Any:
        """The response that an item is.

        :raises RpcError: if it is none, or too large; then the stream has ended.
        """
        if len(item) > self._response_size:
            error: RpcError = too_large("item of the stream", len(item), self._response_size)
        else:
            try:
                return self._from_string(item)
            except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
                error = Internal(f"an item of {self._spec.method.path} cannot be parsed")
        self.cancel(error)
        raise outcome_of(error, self._spec.method)

    def more(self) -> Deferred[None]:
        """Fires when there is something to read, or the stream has ended.

        :raises RuntimeError: if somebody else waits for it.
        """
        if self._waiter is not None:
            raise RuntimeError("a stream has one reader at a time")
        waiter: Deferred[None] = TaskDeferred(self._reader_cancelled)
        self._waiter = waiter
        self._watch_silence()
        return waiter

    def set_silence(self, seconds: float | None) -> None:
        """End the stream when its reader has to wait for longer."""
        self._silence = seconds
        self._stop_silence()
        if self._waiter is not None:
            self._watch_silence()

    def _watch_silence(self) -> None:
        if self._silence is not None:
            if self._silence_timer is None:
                self._silence_timer = ResettableTimer(self._registry.clock, self._too_silent)
            self._silence_timer.start(self._silence)

    def _too_silent(self) -> None:
        self.cancel(
            DeadlineExceeded(f"the stream was silent for {self._silence:g} s, and was cancelled")
        )

    def _stop_silence(self) -> None:
        if self._silence_timer is not None:
            self._silence_timer.stop()

    def _reader_cancelled(self, _: Deferred[None]) -> None:
        self._waiter = None
        self._stop_silence()
        self.cancel()

    def reader_is_gone(self) -> None:
        """The coroutine that reads is closed: it is garbage, or the process ends."""
        self._waiter = None
        self._stop_silence()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._stop_silence()
            waiter.callback(None)

    # -- the end -----------------------------------------------------------------------------

    def check_thread(self) -> None:
        """Raise unless its caller may cancel it here, before anything is done.

        :raises WrongThreadError: in another thread than the reactor's.
        :raises ForkedError: in a forked child.
        """
        self._registry.guard.check()

    def _cancel_unread(self, error: BaseException) -> None:
        """It is cancelled, and its end is known: its reader must not take what it had for all."""
        if self.items:
            self.items.clear()
            self.outcome = outcome_of(error, self._spec.method)
        self.read_to_end()

    def forgotten(self) -> None:
        """Its reader is garbage; called in any thread, at any moment."""
        self._registry.soon(self.cancel)

    def give_up(self, error: Exception) -> None:
        """The channel is closed: what has arrived before an end may still be read."""
        if self.is_over:
            self._unregister()
        else:
            self.cancel(error)

    def read_to_end(self) -> None:
        """Its end is known, and nothing before it is left to be read."""
        if self.state is ENDING:
            self._enter(ENDED)
            self._unregister()

    def _unregister(self) -> None:
        self.is_registered = False
        self._registry.logical_ended(self)

    def _settle(self, outcome: BaseException) -> None:
        """How it ends is known; who waits is told of it by :meth:`_tell_end`."""
        self._enter(ENDING if self.items else ENDED)
        self.outcome = outcome_of(outcome, self._spec.method)

    def _release(self) -> None:
        """It needs no end by others any more: by its deadline, the channel or another call."""
        if self.state is ENDED or self.deadline is None:
            self._unregister()
        parent = self._spec.parent
        if parent is not None and self._with_parent is not None:
            parent.release(self._with_parent)

    def _tell_end(self, outcome: BaseException) -> None:
        """Tell all who wait."""
        self._tell_opened()
        self._wake()
        self._silence_timer = None  # which has this stream, as this has it
        if self._milestones is not None:
            self._milestones.end(outcome, self.initial)
        told, self._on_ended = self._on_ended, None
        if told is not None:
            told(outcome)

    def when_ended(self, told: Callable[[BaseException], None]) -> None:
        """Call *told* once with its outcome, when that is known."""
        before = self._on_ended
        if self.outcome is not None:
            told(self.outcome)
        elif before is None:
            self._on_ended = told
        else:  # an interceptor answers several calls with one stream

            def tell_both(outcome: BaseException) -> None:
                before(outcome)
                told(outcome)

            self._on_ended = tell_both


def _ignore(_: object) -> None:
    """Who cancelled it knows."""
