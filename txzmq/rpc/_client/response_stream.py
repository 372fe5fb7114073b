"""The streams that a client has open: how they begin, what arrives, how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast

from google.protobuf.message import DecodeError
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from txzmq._reactor import Timer
from txzmq.rpc._client.attempts import StreamAttempts, fate_of
from txzmq.rpc._client.call import Call, CallBook, outcome_of, too_large
from txzmq.rpc._client.request_stream import Requests
from txzmq.rpc._client.retry_policy import Fate
from txzmq.rpc._wire.headers import (
    BadHeader,
    OpenStream,
    ResponseHead,
    decode_response,
)
from txzmq.rpc._wire.streams import (
    Publication,
    Receiver,
)
from txzmq.rpc.client import ResponseMetadata
from txzmq.rpc.context import Context
from txzmq.rpc.errors import (
    Code,
    DataLoss,
    DeadlineExceeded,
    Internal,
    RpcError,
    Unavailable,
)
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import Method
from txzmq.rpc.streams import ResponseStream

if TYPE_CHECKING:
    from txzmq.rpc._client.call import Carrier
    from txzmq.rpc._client.stream_control import Hub

__all__ = ["ClientStream", "OpenResponseStream", "OpeningCall"]

T = TypeVar("T")
_log = Logger()
_US: Final = 1_000_000


class _HasHub(Protocol):
    @property
    def hub(self) -> Hub: ...


class OpeningCall(Call):
    """The call that opens a stream."""

    __slots__ = ("_carrier", "repeated", "requests", "stream_deadline", "unexecuted")

    def __init__(self, *arguments: Any, stream_deadline: float | None, requests: Requests | None):
        """
        :param arguments: as a :class:`Call`'s.
        :param stream_deadline: that of the stream; the call's own may be earlier.
        :param requests: what streams the other way.
        """
        self.requests = requests
        #: Whether its stream sees to what a server refuses.
        self.repeated = False
        #: Whether a server says that it had not begun with it.
        self.unexecuted = False
        super().__init__(*arguments)
        self.stream_deadline = stream_deadline

    # A property in place of the attribute: to learn which connection has it.
    @property
    def carrier(self) -> Carrier | None:
        """Where it waits to be sent, or was sent."""
        return self._carrier

    @carrier.setter
    def carrier(  # pyright: ignore[reportIncompatibleVariableOverride]  # a property for an attribute
        self, carrier: Carrier | None
    ) -> None:
        self._carrier = carrier
        if carrier is not None and self.requests is not None:
            self.requests.carried(carrier)

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there."""
        if self.deferred.called:
            return
        if head.code is not Code.OK:
            super().finish(head, body)
        elif head.stream is None:
            self.fail(Internal(f"{self.method.path} streams, and the server answered without one"))
        else:
            self._end()
            self.deferred.callback((head, self.carrier))

    def too_late(self) -> None:
        """Its time is up; the server is told, or it might keep what it opens."""
        super().too_late()
        if self.carrier is not None:
            self.carrier.cancel(self)

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        """The reply is an error."""
        if self.repeated:
            self.unexecuted = head.not_executed
            self.fail(error)
        else:
            super().refused(head, error)

    def has_waited(self, now: float) -> None:
        """Tell the server no more than what is left of the stream's time."""
        if self.stream_deadline is not None:
            left = max(1, round((self.stream_deadline - now) * _US))
            self.head = self.head._replace(timeout_us=left)


class ClientStream:
    """A stream of responses, from the opening call until its reader has had its end."""

    __slots__ = (
        "_ack_bytes",
        "_ack_items",
        "_book",
        "_clock",
        "_joined",
        "_on_opened",
        "_opening",
        "_requests",
        "_silence",
        "_silence_timer",
        "_skips",
        "_taken",
        "_taken_bytes",
        "_told",
        "_waiter",
        "_window",
        "asked",
        "attempts",
        "bundle",
        "deadline",
        "deferred",
        "hub",
        "initial",
        "items",
        "lost",
        "method",
        "outcome",
        "parent",
        "receiver",
        "reopen",
        "response_metadata",
        "response_size",
        "shared",
        "tick",
        "topic",
        "trailing",
    )

    def __init__(
        self,
        book: CallBook,
        method: Method[Any, Any],
        deadline: float | None,
        parent: Context | None,
        response_metadata: ResponseMetadata | None,
        response_size: int,
        window: OpenStream,
    ) -> None:
        self._book = book
        self._clock = book.clock
        self.method = method
        self.deadline = deadline
        self.tick = 0
        self.parent = parent
        self.response_metadata = response_metadata
        self.response_size = response_size
        #: Cancelled with the call whose handler made this one, if one did.
        self.deferred: Deferred[Any] | None = None
        self.receiver = Receiver(window.window_items)
        #: What has arrived and was not read.
        self.items = self.receiver.items
        #: How it ended: with an error, or well; None while it has not.
        self.outcome: Exception | None = None
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self.topic = b""
        #: Under which it may be published, too, together with others; empty if it may not.
        self.bundle = b""
        self.shared = False
        #: The connection on which it was opened.
        self.hub: Hub | None = None
        #: Opens it again from an item on; None if that is not to be done.
        self.reopen: Callable[[ClientStream, int], None] | None = None
        #: By what policy it is opened again; None for none, and once something has arrived.
        self.attempts: StreamAttempts | None = None
        #: Whether a replay was asked for.
        self.asked = False
        self._opening: OpeningCall | None = None
        self._requests: Requests | None = None
        # Who waits for it to be opened, and for what.
        self._on_opened: (
            tuple[Deferred[OpenResponseStream[Any]], OpenResponseStream[Any]] | None
        ) = None
        #: Items that were skipped, because the server did not have them any more.
        self.lost = 0
        # Whether anything has arrived; what to do where something is lost.
        self._joined = False
        self._skips = False
        self._told: Callable[[int], object] | None = None
        self._waiter: Deferred[None] | None = None
        self._silence: float | None = None
        self._silence_timer: Timer | None = None
        # What was read since the last acknowledgement, and how much makes the next one worth it.
        self._taken = 0
        self._taken_bytes = 0
        self._ack_items = self._ack_bytes = 1
        self._window = window

    # -- opening -----------------------------------------------------------------------------

    def open(self, call: OpeningCall, begin: Callable[[Call], None]) -> None:
        """Make the call that opens it."""
        self._book.compound_begun(self)
        if self.parent is not None:
            self.deferred = Deferred(lambda _: self.cancel())
            self.deferred.addErrback(_ignore)
            self.parent.adopt(self.deferred)
        self._requests = call.requests
        self.open_again(call, begin)

    def opened(self) -> Deferred[OpenResponseStream[Any]]:
        """Fires with a stream to read when the server has agreed, and fails if it does not."""
        stream: OpenResponseStream[Any] = OpenResponseStream(self)
        waiting: Deferred[OpenResponseStream[Any]] = Deferred(lambda _: stream.cancel())
        self._on_opened = (waiting, stream)
        if self._opening is None:
            self._tell_opened()
        return waiting

    def _tell_opened(self) -> None:
        if self._on_opened is None:
            return
        (waiting, stream), self._on_opened = self._on_opened, None
        if waiting.called:
            return
        if self.topic or self.outcome is None:
            waiting.callback(stream)
        else:
            waiting.errback(self.outcome)

    def _opened(self, opened: tuple[ResponseHead, Carrier]) -> None:
        self._opening = None
        head, carrier = opened
        stream = head.stream
        assert stream is not None, "OpeningCall looks"
        if head.initial:
            self._set_initial(head.initial)
        self.topic = stream.topic
        self.bundle = stream.bundle
        self.shared = stream.shared
        self.receiver.begin(stream.sequence)
        window = self._window
        items = min(window.window_items, stream.window_items or window.window_items)
        size = min(window.window_bytes, stream.window_bytes or window.window_bytes)
        self._ack_items = max(1, items // 2)
        self._ack_bytes = max(1, size // 2)
        self._taken = self._taken_bytes = 0
        if self.attempts is not None:
            self.attempts.used.append(carrier)
        self.hub = cast("_HasHub", carrier).hub
        self.hub.open(self, stream)
        self._tell_opened()

    # Any: pyright knows a Failure in parts only.
    def _not_opened(self, failure: Any, call: OpeningCall) -> None:
        self._opening = None
        if self.outcome is not None:
            return
        fate = fate_of(call, unexecuted=call.unexecuted)
        if not self._retry(failure.value, fate, call):
            self._finish(failure.value)

    def _retry(self, error: Exception, fate: Fate, call: OpeningCall | None = None) -> bool:
        """Open it again, if its policy says so; whether that is done.

        :param call: which was to open it; None where it was open.
        """
        attempts, requests = self.attempts, self._requests
        if attempts is None or not isinstance(error, RpcError):
            return False
        if requests is not None:
            if not requests.are_held:
                return False
            requests.rewind()
        hub, self.hub = self.hub, None
        if hub is not None:
            hub.ended(self)  # which acknowledges the end
        self._joined = False
        # The time to open it is that of all attempts together.
        carrier, deadline = (None, self.deadline) if call is None else (call.carrier, call.deadline)
        attempts.opened_by = None if call is None else deadline
        return attempts.failed(error, fate, carrier, deadline)

    def _commit(self) -> None:
        """Its reader gets something: it is not opened again any more."""
        attempts, self.attempts = self.attempts, None
        if attempts is not None:
            attempts.succeeded()
            if self._requests is not None:
                self._requests.let_go()

    def _set_initial(self, metadata: Metadata) -> None:
        self._commit()
        self.initial = metadata
        if self.response_metadata is not None:
            self.response_metadata.initial = metadata

    # -- arriving ----------------------------------------------------------------------------

    def arrived(self, publication: Publication) -> None:
        """Something was published, or replayed."""
        hub, receiver = self.hub, self.receiver
        if hub is None:
            return
        fresh = receiver.receive(publication)
        if fresh:
            self._joined = True
        if receiver.start is not None:
            self._start(receiver.start)
        if self.attempts is not None and self.items:
            self._commit()
        if receiver.end is not None:
            self._ended(receiver.end)
        elif self.wants_replay:
            hub.replay(self)
        if fresh:
            self._wake()

    @property
    def wants_replay(self) -> bool:
        """Whether something is missing, and there is room for it."""
        return self.receiver.missing and len(self.items) < self.receiver.window

    def gap(self, sequence: int) -> None:
        """The server does not have any more what comes before *sequence*."""
        if self.outcome is not None:
            return
        if self._joined and not self._skips:
            lost = sequence - self.receiver.sequence
            self.cancel(
                DataLoss(
                    f"{lost} items of the stream were not received, and the server does not keep "
                    "them any more"
                ),
                keep=True,
            )
            return
        lost = self.receiver.skip(sequence)
        if self._joined:
            self.lost += lost
            self._tell_lost(lost)

    def _tell_lost(self, lost: int) -> None:
        if self._told is None:
            return
        try:
            self._told(lost)
        except Exception:  # noqa: BLE001 - a user's, and the replies of others come behind it
            _log.failure("what {path} was to tell of a gap failed", path=self.method.path)

    def skip_gaps(self, told: Callable[[int], object] | None) -> None:
        """Go on where items are lost."""
        self._skips = True
        self._told = told

    def _start(self, header: bytes) -> None:
        self.receiver.start = None
        try:
            self._set_initial(decode_response(header).initial)
        except BadHeader as error:
            self.fail(Internal(str(error)))

    def _ended(self, header: bytes) -> None:
        """The server's last word is there; the reader may still have items before it."""
        try:
            head = decode_response(header)
        except BadHeader as error:
            self.fail(Internal(str(error)))
            return
        failure = None
        if head.code is not Code.OK:
            failure = RpcError(
                head.code, head.message, details=head.details, metadata=head.trailing
            )
        elsewhere = head.code is Code.UNAVAILABLE and head.draining and self.reopen is not None
        if failure is not None and not elsewhere and self._retry(failure, Fate.UNKNOWN):
            return
        self.trailing = head.trailing
        if self.response_metadata is not None:
            self.response_metadata.trailing = head.trailing
        if elsewhere:
            hub, self.hub = self.hub, None
            if hub is not None:
                hub.ended(self)  # which acknowledges the end
            self.receiver.sequence -= 1  # it was not the end after all
            self._go_on_elsewhere()
        elif failure is None:
            self._commit()
            self._finish(StopAsyncIteration())
        else:
            self._finish(failure)

    @property
    def position(self) -> int:
        """The number of the first item that was not read; behind the end, when that is there."""
        if self.receiver.end is not None:
            return self.receiver.sequence
        return self.receiver.sequence - len(self.items)

    # -- reading -----------------------------------------------------------------------------

    def take(self) -> bytes:
        """The next item that has arrived; there is one."""
        item = self.items.popleft()
        self._taken += 1
        self._taken_bytes += len(item)
        if self._taken >= self._ack_items or self._taken_bytes >= self._ack_bytes:
            self._taken = self._taken_bytes = 0
            if self.hub is not None:
                self.hub.acknowledge(self)
        if self.shared and self.hub is not None and self.wants_replay:
            self.hub.replay(self)
        return item

    # Any: the method types what a stream gives.
    def parse(self, item: bytes) -> Any:
        """The response that an item is.

        :raises RpcError: if it is none, or too large; then the stream has ended.
        """
        if len(item) > self.response_size:
            error: RpcError = too_large("item of the stream", len(item), self.response_size)
        else:
            try:
                return self.method.response_type.FromString(item)
            except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
                error = Internal(f"an item of {self.method.path} cannot be parsed")
        self.cancel(error)
        raise outcome_of(error, self.method)

    def more(self) -> Deferred[None]:
        """Fires when there is something to read, or the stream has ended.

        :raises RuntimeError: if somebody else waits for it.
        """
        if self._waiter is not None:
            raise RuntimeError("a stream has one reader at a time")
        waiter: Deferred[None] = Deferred(self._reader_cancelled)
        self._waiter = waiter
        if self._silence is not None:
            self._silence_timer = self._clock.callLater(self._silence, self._too_silent)
        return waiter

    def set_silence(self, seconds: float | None) -> None:
        """End the stream when its reader has to wait for longer."""
        self._silence = seconds
        if self._waiter is not None:
            self._stop_silence()
            if seconds is not None:
                self._silence_timer = self._clock.callLater(seconds, self._too_silent)

    def _too_silent(self) -> None:
        self._silence_timer = None
        self.cancel(
            DeadlineExceeded(f"the stream was silent for {self._silence:g} s, and was cancelled")
        )

    def _stop_silence(self) -> None:
        timer, self._silence_timer = self._silence_timer, None
        if timer is not None and timer.active():
            timer.cancel()

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

    def cancel(self, error: Exception | None = None, *, keep: bool = False) -> None:
        """End it, and tell the server; the reader gets *error*, None for ``CancelledError``.

        :param keep: whether what has arrived may be read before.
        """
        if self.outcome is not None:
            if error is None and self.hub is None:
                self.items.clear()
            return
        if not keep:
            self.items.clear()
        opening, hub = self._opening, self.hub
        self._finish(error or CancelledError("the stream was cancelled"))
        if opening is not None:
            opening.deferred.cancel()
        elif hub is not None:
            hub.cancel(self)

    def forgotten(self) -> None:
        """Its reader is garbage; called in any thread, at any moment."""
        guard = self._book.guard
        if guard.forked:
            return
        if guard.is_owner():
            self._clock.callLater(0, self.cancel)
        else:
            guard.reactor().callFromThread(self.cancel)

    def fail(self, error: Exception) -> None:
        """There is no more here; what has arrived may still be read."""
        if self.outcome is not None:
            return
        hub = self.hub
        if hub is not None and self.reopen is not None and isinstance(error, Unavailable):
            self.hub = None
            hub.ended(self)
            self._go_on_elsewhere()
        elif not self._retry(error, Fate.UNKNOWN):
            self._finish(error)

    def _go_on_elsewhere(self) -> None:
        """The server is lost; another one may know how to go on."""
        assert self.reopen is not None
        try:
            self.reopen(self, self.receiver.sequence)
        except Exception as error:  # noqa: BLE001 - that the channel is closed, for instance
            self._finish(error)

    def open_again(self, call: OpeningCall, begin: Callable[[Call], None]) -> None:
        """Make another call that opens it."""
        self._opening = call
        call.repeated = self.attempts is not None
        call.deferred.addCallbacks(self._opened, self._not_opened, errbackArgs=(call,))
        begin(call)

    def too_late(self) -> None:
        """Its time is up."""
        self.cancel(DeadlineExceeded("the stream's time was up"))

    def give_up(self, error: Exception) -> None:
        """The channel is closed."""
        self.cancel(error)

    def _finish(self, outcome: Exception) -> None:
        self.outcome = outcome_of(outcome, self.method)
        attempts, self.attempts = self.attempts, None
        if attempts is not None:
            attempts.stop()
        self._book.compound_ended(self)
        if self.parent is not None and self.deferred is not None:
            self.parent.release(self.deferred)
        hub, self.hub = self.hub, None
        if hub is not None:
            hub.ended(self)
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.stop()
        self._tell_opened()
        self._wake()


class OpenResponseStream(ResponseStream[T]):
    """A stream of a channel: reads what has arrived. Who forgets it cancels it."""

    __slots__ = ("_core", "_items")

    def __init__(self, core: ClientStream) -> None:
        self._core = core
        self._items = core.items

    async def __anext__(self) -> T:
        core = self._core
        while not self._items:
            outcome = core.outcome
            if outcome is not None:
                raise outcome
            try:
                await core.more()
            except GeneratorExit:
                core.reader_is_gone()  # or what its `finally` does would wake it
                raise
        item: T = core.parse(core.take())
        return item

    def __del__(self) -> None:
        core: ClientStream | None = getattr(self, "_core", None)
        if core is not None and core.outcome is None:
            core.forgotten()

    def cancel(self) -> None:
        """End the stream early."""
        self._core.cancel()

    @property
    def initial_metadata(self) -> Metadata:
        """What the server put in front of the first item."""
        return self._core.initial

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server put behind the last one."""
        return self._core.trailing

    def max_silence(self, seconds: float | None) -> Self:
        """End the stream when its reader has to wait for an item for longer."""
        self._core.set_silence(seconds)
        return self

    def skip_gaps(self, told: Callable[[int], object] | None = None) -> Self:
        """Go on where items are lost."""
        self._core.skip_gaps(told)
        return self


def _ignore(_: object) -> None:
    """Who cancelled it knows."""
