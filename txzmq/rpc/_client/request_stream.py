"""The client's end of a stream of requests: asks the caller for items, sends them, keeps them."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred

from txzmq.rpc._client.call import SubchannelPort
from txzmq.rpc._client.request_source import CallWithRequests, RequestSource
from txzmq.rpc._client.stream_control import SendRequests, StreamControl
from txzmq.rpc._wire.headers import TOPIC_SIZE, ResponseHead
from txzmq.rpc._wire.streams import Publication, Sender
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES
from txzmq.rpc.method import Method
from txzmq.rpc.v1 import streams_pb2

__all__ = ["Requests", "RequestsCall"]


class Requests(RequestSource):
    """The requests of one call (ControlledRequests).

    The caller is asked for items from when the opening call has a connection, as long as fewer than
    a window of them are sent and not acknowledged: the window is the :class:`Sender`'s.
    """

    __slots__ = (
        "_ask_next",
        "_asked",
        "_control",
        "_ended",
        "_held",
        "_held_bytes",
        "_missed",
        "_room",
        "_sender",
        "_unasked",
        "_unasked_bytes",
        "id",
    )

    def __init__(
        self,
        # Any: the caller's signature types the items.
        method: Method[Any, Any],
        source: Any,
        size: int,
    ) -> None:
        """
        :param source: what the caller gave: an iterable, or an asynchronous one.
        :param size: bytes that an item may have.
        """
        super().__init__(method, source, size)
        self.id = os.urandom(TOPIC_SIZE)
        self._sender = Sender(REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES)
        # All items, for the case that the call is made again; None if it cannot be any more.
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        # Of the connection that the call was given to; None before, and between two attempts.
        self._control: StreamControl | None = None
        # What is waited for, where that is room in the window.
        self._room: Deferred[None] | None = None
        # Whether the end was sent.
        self._ended = False
        # Acknowledgements that are waited for, and whether to ask for another one; what was sent
        # since the last one was asked for.
        self._asked = 0
        self._ask_next = False
        self._unasked = 0
        self._unasked_bytes = 0
        # From where the server missed something when it said so last; 0 when it may say so anew.
        self._missed = 0

    @property
    def count(self) -> int:
        """How many items the caller has given."""
        return self._sender.count

    @property
    def size(self) -> int:
        """Bytes of these items."""
        return self._sender.given_bytes

    def carried(self, control: StreamControl) -> None:
        """A connection has the opening call, and sends it before anything else of the call."""
        if self._control is not None:
            self._control.requests_ended(self)
        self._control = control
        control.requests_begun(self)
        if not self._start():
            control.send_requests_again(self)

    def _add(self, item: bytes) -> bool:
        sender, control = self._sender, self._control
        if self._held is not None:
            self._hold(self._held, item)
        enough = sender.add(item)
        if control is None:
            pass  # the next attempt sends it
        elif enough:
            control.send_requests(self)
        else:
            control.send_requests_soon(self)
        return sender.is_full

    def _wait(self) -> Deferred[None]:
        self._room = Deferred()
        return self._room

    def _given(self) -> None:
        self._sender.end(b"")
        if self._control is not None:
            self._control.send_requests_soon(self)

    @property
    def is_unacknowledged(self) -> bool:
        """Whether something was sent and not acknowledged."""
        return len(self._sender) > 0

    def ask(self) -> None:
        """Ask for an acknowledgement with what is sent next, if none is on its way."""
        self._ask_next = not self._asked
        self._missed = 0

    def _send(self, call: SendRequests, publication: Publication) -> bool:
        sequence, items, end, _ = publication
        self._unasked += len(items)
        self._unasked_bytes += sum(map(len, items))
        ask = (
            self._ask_next
            or end is not None
            or self._unasked >= REQUESTS_WINDOW // 2
            or self._unasked_bytes >= REQUESTS_WINDOW_BYTES // 2
        )
        body = streams_pb2.SendRequest(
            requests=self.id,
            sequence=sequence,
            items=items,
            end=end is not None,
            acknowledge=ask,
        ).SerializeToString()
        if not ask:
            return call(body, None)
        if not call(body, partial(self._answered, self.id)):
            return False
        self._asked += 1
        self._ask_next = False
        self._unasked = self._unasked_bytes = 0
        return True

    def send(self, call: SendRequests) -> bool:
        """Send what is new, if there is room; whether there was."""
        publication = None if self._ended else self._sender.take()
        if publication is None:
            if not self._ask_next:
                return True
            publication = self._sender.heartbeat
        self._ended = self._ended or publication.end is not None
        # What could not be sent is sent later, with all that is not acknowledged.
        return self._send(call, publication)

    def _answered(self, id: bytes, head: ResponseHead | None, body: bytes) -> None:
        if id != self.id:
            return  # of an attempt that has come to nothing
        self._asked -= 1
        control = self._control
        if control is None:
            return
        if head is None:
            control.send_requests_again(self)
            return
        if head.code is Code.OUT_OF_RANGE:
            # Once, unless that has helped; then no sooner than it is asked again.
            if self._missed != self._sender.acknowledged:
                self._missed = self._sender.acknowledged
                control.send_requests_again(self)
            return
        if head.code is not Code.OK:
            return  # the call has ended, and its own reply says how
        try:
            response = streams_pb2.SendResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        sender = self._sender
        # The end is the last of what is acknowledged, and of no interest then.
        if sender.acknowledge(min(response.taken + 1, sender.sequence)) and not sender.is_full:
            room, self._room = self._room, None
            if room is not None:
                room.callback(None)

    def send_again(self, call: SendRequests) -> bool:
        """Send once more all that is not acknowledged, if there is room; whether there was."""
        sender = self._sender
        if not self._ended:
            sender.take()
        self._ended = sender.ended
        sequence = sender.acknowledged
        while sequence < sender.sequence:
            publication = sender.replay(sequence)
            if not self._send(call, publication):
                return False
            sequence += len(publication.items) + (publication.end is not None)
        return True

    def hold(self) -> None:
        """Keep all items from the first one on, as long as they are no more than a window."""
        self._held = []

    def _hold(self, held: list[bytes], item: bytes) -> None:
        held.append(item)
        self._held_bytes += len(item)
        if len(held) > REQUESTS_WINDOW or self._held_bytes > REQUESTS_WINDOW_BYTES:
            self.let_go()

    def let_go(self) -> None:
        """The call will not be made again."""
        self._held = None

    @property
    def are_held(self) -> bool:
        """Whether all that was sent can be sent to another server."""
        return self._held is not None

    def rewind(self) -> None:
        """The attempt has failed; the next one gets all from the beginning, under another id."""
        assert self._held is not None, "somebody has looked"
        self._leave_connection()
        self.id = os.urandom(TOPIC_SIZE)
        sender = Sender(REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES)
        for item in self._held:
            sender.add(item)
        if self._sender.ended:
            sender.end(b"")
        self._sender = sender
        self._ended = False
        self._asked = self._unasked = self._unasked_bytes = self._missed = 0
        self._ask_next = False

    def stop(self) -> None:
        """The call has ended: ask the caller for no more."""
        self._leave_connection()
        super().stop()

    def _leave_connection(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.requests_ended(self)


class RequestsCall(CallWithRequests):
    """A call with a stream of requests and one response, which no policy repeats."""

    __slots__ = ("_sent_by",)

    def __init__(self, requests: Requests, *arguments: Any) -> None:
        """:param arguments: as a :class:`Call`'s."""
        super().__init__(requests, *arguments)
        self._sent_by = requests

    def picked(self, subchannel: SubchannelPort) -> None:
        """A connection has it: the requests go there, too."""
        super().picked(subchannel)
        self._sent_by.carried(subchannel.stream_control)
