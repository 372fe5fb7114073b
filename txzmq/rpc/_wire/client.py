"""The client's end of a connection: which calls wait, which reply belongs to which."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from txzmq._ids import EPOCH_SIZE, ID_SIZE, new_epoch, request_id
from txzmq.rpc._wire.batches import MAX_BATCH_HEADERS, BadBatch, is_batch, pack, unpack
from txzmq.rpc._wire.headers import BadHeader, ResponseHead, decode_response
from txzmq.rpc.errors import Code

__all__ = ["ClientWire", "Reply"]

C = TypeVar("C")

#: Calls after which the client may forget that one ended without its reply.
_REMEMBERED: Final = 8192
#: In place of the headers of a batch that are not decoded.
_TOO_LONG: Final = BadHeader(
    f"the headers of a batch have more than {MAX_BATCH_HEADERS} bytes in front of this reply's"
)


class Reply(NamedTuple, Generic[C]):
    """A reply, and the call that it ends.

    :ivar body: the serialised response; it means nothing where the status is not OK.
    """

    call: C
    head: ResponseHead
    body: bytes


class ClientWire(Generic[C]):
    """The calls of one connection, by the counter that is the second half of their ids.

    :ivar dropped: how many incoming messages were dropped or not understood, by reason: ``late
        reply`` (its call had ended without it), ``duplicate reply`` (its call has had one),
        ``unknown reply`` (there was no such call), ``malformed``.
    :ivar drops: the sum of them.
    :ivar draining: whether the server has sent a notice that it shuts down.
    :ivar reconnect: whether it has sent one that the client is to connect anew.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.drops = 0
        self.draining = self.reconnect = False
        self._epoch = new_epoch()
        self._latest = 0
        self._waiting: dict[int, C] = {}
        # The counters of the last calls that ended without a reply, each at the index ``counter %
        # _REMEMBERED`` until another takes that. Made when the first one ends so.
        self._given_up: array[int] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[C]:
        """The calls that wait, oldest first."""
        return iter(self._waiting.values())

    @property
    def latest(self) -> int:
        """The counter of the call that began last; :meth:`id_of` gives its id."""
        return self._latest

    def id_of(self, counter: int) -> bytes:
        """The id of the call with a counter; no other call ever has it."""
        return request_id(self._epoch, counter)

    def request(self, call: C, header: bytes, body: bytes) -> list[bytes]:
        """Begin a call; returns the message to send, whose first part is the id."""
        return [self.id_of(self._begin(call)), b"", header, body]

    def batch(self, requests: Sequence[tuple[C, bytes, bytes]]) -> list[bytes]:
        """Begin several calls in this order; returns the one message to send."""
        calls, headers, bodies = zip(*requests, strict=True)
        first = self._latest + 1
        self._latest += len(calls)
        counters = range(first, self._latest + 1)
        self._waiting.update(zip(counters, calls, strict=True))
        return pack(self._epoch, counters, headers, bodies)

    def unanswered(self, header: bytes, bodies: Sequence[bytes]) -> list[bytes]:
        """The message that makes calls without replies, which have one header."""
        first = self._latest + 1
        self._latest += len(bodies)
        counters = range(first, self._latest + 1)
        for counter in counters:
            self._give_up(counter)
        if len(bodies) == 1:
            return [self.id_of(first), b"", header, bodies[0]]
        return pack(self._epoch, counters, [header] * len(bodies), bodies)

    def _begin(self, call: C) -> int:
        self._latest = counter = self._latest + 1
        self._waiting[counter] = call
        return counter

    def _counter_of(self, request_id: bytes) -> int:
        """The counter in an id; 0, which no call has, if the id is not of this connection."""
        if len(request_id) != ID_SIZE or not request_id.startswith(self._epoch):
            return 0
        return int.from_bytes(request_id[EPOCH_SIZE:], "big")

    def forget(self, request_id: bytes) -> C | None:
        """End a call without a reply; None if it has ended."""
        counter = self._counter_of(request_id)
        call = self._waiting.pop(counter, None)
        if call is not None:
            self._give_up(counter)
        return call

    def forget_all(self) -> list[C]:
        """End all calls without a reply, oldest first."""
        calls = list(self._waiting.values())
        for counter in self._waiting:
            self._give_up(counter)
        self._waiting.clear()
        return calls

    def _give_up(self, counter: int) -> None:
        if self._given_up is None:
            self._given_up = array("Q", bytes(8 * _REMEMBERED))
        self._given_up[counter % _REMEMBERED] = counter

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
        self.drops += 1

    def _drop_unasked(self, counter: int) -> None:
        """Count a reply for which nobody waits."""
        if not 0 < counter <= self._latest:
            self._drop("unknown reply")
        elif self._given_up is not None and self._given_up[counter % _REMEMBERED] == counter:
            self._given_up[counter % _REMEMBERED] = 0  # another reply to it is a duplicate
            self._drop("late reply")
        elif counter <= self._latest - _REMEMBERED:
            self._drop("late reply")  # maybe a duplicate, but late for certain
        else:
            self._drop("duplicate reply")

    def receive(self, message: list[bytes]) -> Reply[C] | None:
        """Take a message from the server, unless it is a batch.

        :return: the reply; None if the message was dropped and counted: no call waits for it (it
            is late, a duplicate, or was never asked for), or it is too malformed to say which.
        """
        counter = self._counter_of(message[0]) if message else 0
        call = self._waiting.pop(counter, None)
        well_formed = len(message) == 4 and not message[1]
        if call is None:
            if not well_formed:
                self._drop("malformed")
            elif message[0] != self.id_of(0) or not self._notice(_decode(message[2])):
                self._drop_unasked(counter)
            return None
        if not well_formed:
            return self._malformed(
                call, f"a reply has 4 parts, not {len(message)}, and the second is empty"
            )
        try:
            head = decode_response(message[2])
        except BadHeader as error:
            return self._malformed(call, str(error))
        return Reply(call, head, message[3])

    @staticmethod
    def is_batch(message: list[bytes]) -> bool:
        """Whether a message is one for :meth:`receive_batch`."""
        return is_batch(message)

    def receive_batch(self, message: list[bytes]) -> Iterator[tuple[C, ResponseHead, bytes]]:
        """Take a batch from the server; yields the parts of a :class:`Reply` for each call.

        One at a time: the end of one call may end others before their replies are taken.
        """
        if message[0] != self._epoch:
            self._drop("unknown reply")
            return
        try:
            headers, messages = unpack(message[2])
        except BadBatch:
            self._drop("malformed")
            return
        # Decoded when they are used, and no more of them than a batch should have.
        heads: list[ResponseHead | BadHeader | None] = [None] * len(headers)
        left = MAX_BATCH_HEADERS
        take = self._waiting.pop
        for counter, index, body in messages:
            call = take(counter, None)
            if call is None and counter:
                self._drop_unasked(counter)
                continue
            head = heads[index]
            if head is None:
                left -= len(headers[index])
                head = heads[index] = _TOO_LONG if left < 0 else _decode(headers[index])
            if call is None:
                if not self._notice(head):
                    self._drop_unasked(counter)
            elif isinstance(head, BadHeader):
                yield self._malformed(call, str(head))
            else:
                yield call, head, body

    def _notice(self, head: ResponseHead | BadHeader) -> bool:
        """Take a header under the counter 0; returns whether it is a notice."""
        if isinstance(head, BadHeader) or not head.draining:
            return False
        if head.reconnect:
            self.reconnect = True
        else:
            self.draining = True
        return True

    def forget_notice(self) -> None:
        """The connection that it was about is no more."""
        self.draining = self.reconnect = False

    def _malformed(self, call: C, reason: str) -> Reply[C]:
        """The reply that ends a call whose own reply is malformed: no other will come."""
        self._drop("malformed")
        return Reply(call, ResponseHead(Code.INTERNAL, reason), b"")


def _decode(header: bytes) -> ResponseHead | BadHeader:
    try:
        return decode_response(header)
    except BadHeader as error:
        return error
