"""A client's stream of responses: how it is opened, what arrives, what is taken, how it ends.

docs/inside.md has its states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from txzmq.rpc._client.attempts import Attempts
from txzmq.rpc._client.call import CallRegistry, answer_of
from txzmq.rpc._client.received_stream import ReceivedStream
from txzmq.rpc._client.request_stream import Requests
from txzmq.rpc._client.retry_policy import Progress
from txzmq.rpc._client.stream_control import StreamControl
from txzmq.rpc._client.stream_opening import OpeningCall, StreamOpener
from txzmq.rpc._core.stream_state import OPEN, OPENING
from txzmq.rpc._wire.headers import (
    BadHeader,
    OpenStream,
    ResponseHead,
    decode_response,
)
from txzmq.rpc._wire.streams import Publication, Receiver
from txzmq.rpc.client import CallSpec
from txzmq.rpc.errors import Code, DataLoss, DeadlineExceeded, Internal, RpcError, Unavailable
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.records import Tally

__all__ = ["ClientStream"]

_log = Logger()


class ClientStream(ReceivedStream):
    """A stream of responses, from the opening call until its reader has had its end.

    It is opening until the server has answered, and again when it is opened anew; open while a
    connection has it; ending when its end is known and items before it are not read; then ended.

    It is Attempted, and a ControlledStream. What it has received and its reader has
    not taken is in the :class:`Receiver`, which takes no more than a window of items.
    """

    __slots__ = (
        "_ack_bytes",
        "_ack_items",
        "_attempts",
        "_control",
        "_first",
        "_heard",
        "_joined",
        "_opened_by",
        "_opener",
        "_opening",
        "_peer",
        "_request",
        "_request_id",
        "_sent",
        "_skips",
        "_taken",
        "_taken_bytes",
        "_told",
        "_window",
        "bundle",
        "lost",
        "receiver",
        "requests",
        "shared",
        "topic",
    )

    def __init__(
        self,
        registry: CallRegistry,
        spec: CallSpec,
        response_size: int,
        window: OpenStream,
    ) -> None:
        """
        :param response_size: bytes that an item may have.
        :param window: how much may have been published and not been read.
        """
        self.receiver = Receiver(window.window_items, window_bytes=window.window_bytes)
        super().__init__(registry, spec, response_size, self.receiver.items)
        self._window = window
        self.topic = b""
        #: Under which it may be published, too, together with others; empty if it may not.
        self.bundle = b""
        self.shared = False
        # Of the connection that has it, while it is open.
        self._control: StreamControl | None = None
        # Kept while it may have to be opened again, and the call that does so.
        self._opener: StreamOpener | None = None
        self._opening: OpeningCall | None = None
        # By its policy; None where it has none, and once something has arrived.
        self._attempts: Attempts | None = None
        # When the next attempt has to have been answered; None for no such time.
        self._opened_by: float | None = None
        self.requests: Requests | None = None
        # How often it was asked for, and where last; how many requests, and bytes of them.
        self._sent = 0
        self._peer = ""
        self._request_id = b""
        self._request = (1, 0)
        # The number of the first item that it has, or will have.
        self._first = self.receiver.sequence
        # Whether anything has arrived since it was opened: the server has the subscription.
        self._heard = False
        #: Items that were skipped, because the server did not have them any more.
        self.lost = 0
        # Whether an item has arrived since it was opened; whether gaps are skipped, and who is told
        # of them.
        self._joined = False
        self._skips = False
        self._told: Callable[[int], object] | None = None
        # What was read since the last acknowledgement, and how much makes the next one worth it.
        self._taken = 0
        self._taken_bytes = 0
        self._ack_items = self._ack_bytes = 1

    # -- opening -----------------------------------------------------------------------------

    def open(self, opener: StreamOpener) -> None:
        """Make the call that opens it."""
        registry = self._registry
        self._opener = opener
        self._request = (1, opener.size)
        self.requests = opener.requests
        if opener.policy is not None:
            self._attempts = Attempts(registry, self._spec.method, opener.policy, self)
        call = opener.call(repeated=self._attempts is not None)
        self._register()
        self._open(call)

    def _open(self, call: OpeningCall) -> None:
        self._opening = call
        arguments = (call,)
        call.deferred.addCallbacks(self._opened, self._not_opened, arguments, errbackArgs=arguments)
        self._registry.start(call)

    def attempt(self, number: int, used: Collection[Any]) -> None:
        """Open it again from its beginning, as its policy wants it."""
        assert self._opener is not None, "nothing has arrived"
        self._open(
            self._opener.call(number=number, used=used, repeated=True, opened_by=self._opened_by)
        )

    def attempts_ended(self, error: Exception) -> None:
        """It is not opened again."""
        self._finish(error)

    def _note(self, call: OpeningCall) -> None:
        """An opening call has ended: keep what is told of it."""
        tally = call.tally()
        if tally.attempts:
            self._sent += tally.attempts
            self._peer = tally.peer
            self._request_id = tally.request_id

    def tally(self) -> Tally:
        """What it has sent and received."""
        opening, requests = self._opening, self.requests
        attempts, peer, request_id = self._sent, self._peer, self._request_id
        if opening is not None and not self.is_over:  # else it is among them
            under_way = opening.tally()
            attempts += under_way.attempts
            peer = under_way.peer or peer
            request_id = under_way.request_id or request_id
        sent = self._request if requests is None else (requests.count, requests.size)
        return Tally(attempts, peer, *sent, self.receiver.taken_bytes, request_id)

    def _opened(self, head: ResponseHead, call: OpeningCall) -> None:
        self._opening = None
        self._note(call)
        stream, control = head.stream, call.control
        assert stream is not None, "OpeningCall looks"
        assert control is not None, "it was sent"
        if head.initial:
            self._set_initial(head.initial)
        self._opening_is_over()
        self.topic = stream.topic
        self.bundle = stream.bundle
        self.shared = stream.shared
        if not self.arrived_items:  # from another server either
            self._first = stream.sequence
        self.receiver.begin(stream.sequence)
        window = self._window
        items = min(window.window_items, stream.window_items or window.window_items)
        size = min(window.window_bytes, stream.window_bytes or window.window_bytes)
        self._ack_items = max(1, items // 2)
        self._ack_bytes = max(1, size // 2)
        self._taken = self._taken_bytes = 0
        if self._attempts is not None and call.route is not None:
            self._attempts.note_used(call.route)
        self._control = control
        self._enter(OPEN)
        control.open(self, stream)
        if self.requests is not None:
            control.requests_answered(self.requests)
        self._tell_opened()
        self._tell_milestones()

    def _opening_is_over(self) -> None:
        """Let go of the opener, unless the stream may have to be opened again."""
        opener = self._opener
        if opener is not None and not opener.resumable and self._attempts is None:
            self._opener = None

    # Any: pyright knows a Failure in parts only.
    def _not_opened(self, failure: Any, call: OpeningCall) -> None:
        self._opening = None
        error = failure.value
        if call.control is not None:
            call.control.not_opened(error)
        if self.is_over:
            return
        self._note(call)
        if call.is_to_be_resumed and isinstance(error, Unavailable):
            self._resume()
        elif not self._retry(error, call.progress, call):
            self._finish(error)

    def _retry(self, error: Exception, progress: Progress, call: OpeningCall | None = None) -> bool:
        """Leave it to its policy what follows an error; whether it has one.

        :param call: which was to open it; None where it was open.
        """
        attempts, requests = self._attempts, self.requests
        if attempts is None or not isinstance(error, RpcError):
            return False
        if requests is not None:
            if not requests.are_held:
                return False
            requests.rewind()
        self._open_anew(error)
        self._joined = self._heard = False
        if call is None:
            self._opened_by = None
            attempts.failed(error, progress, None, self.deadline)
        else:
            # The time to open it is that of all attempts together.
            self._opened_by = call.spec.deadline
            attempts.failed(error, progress, call.route, call.spec.deadline)
        return True

    def _commit(self) -> None:
        """Its reader gets metadata or an item: no policy opens it again from its beginning."""
        attempts, self._attempts = self._attempts, None
        if attempts is not None:
            attempts.succeeded()
            if self.requests is not None:
                self.requests.let_go()
            self._opening_is_over()

    def _set_initial(self, metadata: Metadata) -> None:
        self._commit()
        super()._set_initial(metadata)

    # -- arriving ----------------------------------------------------------------------------

    def arrived(self, publication: Publication) -> None:
        """Something was published, or replayed."""
        control, receiver = self._control, self.receiver
        if control is None:
            return
        fresh = receiver.receive(publication)
        first = not self._joined
        if first:
            self._joined = fresh
            self._heard = True
        if receiver.start is not None:
            self._start(receiver.take_start())
            if self.state is not OPEN:
                return  # the header cannot be read
        if self._attempts is not None and self.items:
            self._commit()
        if first and receiver.end is not None and self.items:
            self._tell_milestones()  # they come before the end, even if it comes along
            first = False
            if self.is_over:
                return  # who was told has cancelled it
        if receiver.end is not None:
            self._ended(receiver.end)
        elif self.wants_replay:
            control.replay(self)
        if fresh:
            self._wake()
        if first:
            self._tell_milestones()

    def _tell_milestones(self) -> None:
        """Tell those who wait what has been reached."""
        milestones = self._milestones
        if milestones is None:
            return
        if self._heard:
            # Who knows that it is open counts on nothing being lost: it is not begun elsewhere.
            self._commit()
            milestones.opened.reach(None)
        if self._joined or self.initial:
            milestones.metadata.reach(self.initial)

    @property
    def wants_replay(self) -> bool:
        """Whether something is missing, and there is room for it."""
        return self.receiver.missing and self.receiver.has_room

    def gap(self, sequence: int) -> None:
        """The server does not have any more what comes before *sequence*."""
        if self.is_over:
            return
        if self._joined and not self._skips:
            lost = sequence - self.receiver.sequence
            self._registry.count("gap in a stream")
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
            self._registry.count("gap in a stream")
            self._tell_lost(lost)
        else:
            self._first += lost

    def _tell_lost(self, lost: int) -> None:
        if self._told is None:
            return
        try:
            self._told(lost)
        except BaseException:  # noqa: BLE001 - a user's, and the replies of others come behind it
            _log.failure("what {path} was to tell of a gap failed", path=self._spec.method.path)

    def skip_gaps(self, told: Callable[[int], object] | None) -> None:
        """Go on where items are lost."""
        self._skips = True
        self._told = told

    def _start(self, header: bytes) -> None:
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
            failure = answer_of(head)
        before = self.trailing
        self._set_trailing(head.trailing)
        if self._is_resumable and head.code is Code.UNAVAILABLE and head.draining:
            # Which acknowledges the end; that the server shuts down is no fault of its.
            self._open_anew(StopAsyncIteration())
            self.receiver.take_back_end()
            self._resume()
        elif failure is None:
            self._commit()
            self._finish(StopAsyncIteration())
        elif not self._retry(failure, Progress.UNKNOWN):
            self._finish(failure)
        elif not self.is_over:
            self._set_trailing(before)  # nobody hears of an attempt that is followed by another

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
            if self._control is not None:
                self._control.acknowledge(self)
        if self.shared and self._control is not None and self.wants_replay:
            self._control.replay(self)
        return item

    # -- the end -----------------------------------------------------------------------------

    def cancel(self, error: BaseException | None = None, *, keep: bool = False) -> None:
        """End it, and tell the server; the reader gets *error*, None for ``CancelledError``.

        :param keep: whether what has arrived may be read before.
        """
        error = error or CancelledError("the stream was cancelled")
        if self.is_over:
            self._cancel_unread(error)
            return
        if not keep:
            self.items.clear()
        opening, control = self._opening, self._control
        self._finish(error)
        if opening is not None:
            opening.deferred.cancel()
        elif control is not None:
            control.cancel(self)

    def fail(self, error: Exception) -> None:
        """There is no more here; what has arrived may still be read."""
        if self.is_over:
            return
        if self.state is OPEN and self._is_resumable and isinstance(error, Unavailable):
            self._open_anew(error)
            self._resume()
        elif not self._retry(error, Progress.UNKNOWN):
            self._finish(error)

    @property
    def _is_resumable(self) -> bool:
        return self._opener is not None and self._opener.resumable

    def _resume(self) -> None:
        """The server is lost; another one may know how to go on."""
        assert self._opener is not None, "it is resumable"
        try:
            repeated = self._attempts is not None
            self._open(self._opener.resume(self.receiver.sequence, repeated=repeated))
        except Exception as error:  # noqa: BLE001 - that the channel is closed, for instance
            self._finish(error)

    def too_late(self) -> None:
        """Its time is up: what was not read is dropped."""
        why = "" if self._control is None else self._control.obstacle
        self.cancel(DeadlineExceeded(f"the stream's time was up{why and f' ({why})'}"))

    def _finish(self, outcome: BaseException) -> None:
        self._settle(outcome)
        if self._opening is not None:
            self._note(self._opening)
        self._opener = None
        attempts, self._attempts = self._attempts, None
        if attempts is not None:
            attempts.stop()
        self._release()
        self._leave_connection(outcome)
        requests, self.requests = self.requests, None
        if requests is not None:
            self._request = (requests.count, requests.size)
            requests.stop()
        self._tell_end(outcome)

    @property
    def arrived_items(self) -> int:
        """How many items have arrived in order, those that are not read included."""
        receiver = self.receiver
        return receiver.sequence - self._first - self.lost - (receiver.end is not None)

    def _open_anew(self, error: Exception) -> None:
        """It is opened once more, or waits for that."""
        self._leave_connection(error)
        if self.state is OPEN:
            self._enter(OPENING)

    def _leave_connection(self, outcome: BaseException) -> None:
        """No connection has it any more; the one that had it acknowledges an end."""
        control, self._control = self._control, None
        if control is not None:
            control.ended(self, outcome)
