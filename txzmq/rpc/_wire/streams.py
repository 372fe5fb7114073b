"""Streams of responses, without sockets: what is published, acknowledged, replayed.

Both sides number the items of a stream, from the number in the answer to the opening call on; the
end has the number behind the last item. The sender keeps items until they are acknowledged. The
receiver hands out the next items, keeps those that came too early, drops those that it has had, and
knows when some are missing.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from heapq import heappop, heappush
from itertools import islice
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from txzmq.rpc._wire.headers import TOPIC_SIZE
from txzmq.rpc.v1 import streams_pb2

__all__ = [
    "MAX_PUBLISHED",
    "MAX_PUBLISHED_SIZE",
    "MAX_REPLAYED_SIZE",
    "SEPARATOR",
    "BadPublication",
    "Publication",
    "Receiver",
    "Ring",
    "Sender",
    "decode",
    "decode_bundle",
    "encode",
    "encode_bundle",
    "from_message",
    "new_topic",
    "to_message",
    "topic_of",
]

#: Stands behind each topic, and in none: so no subscription is the beginning of another topic.
SEPARATOR: Final = b"\0"
#: The most items that travel as one message.
MAX_PUBLISHED: Final = 256
#: Bytes of items that travel as one message; the item that reaches them is the last.
MAX_PUBLISHED_SIZE: Final = 64 * 1024
#: Bytes of items in one replay; the item that reaches them is the last.
MAX_REPLAYED_SIZE: Final = 256 * 1024


#: Bytes that all topics of a process have in common: libzmq keeps each other byte of a topic in a
#: node of its own, twice.
_COMMON: Final = 8


def _random(size: int) -> bytes:
    """Random bytes without a zero byte."""
    while True:
        some = os.urandom(2 * size).replace(SEPARATOR, b"")
        if len(some) >= size:
            return some[:size]


_common: bytes = b""


def new_topic() -> bytes:
    """A topic that nobody can guess: 16 random bytes without a zero byte, 8 of them its own."""
    global _common
    if not _common:
        _common = _random(_COMMON)
    return _common + _random(TOPIC_SIZE - _COMMON)


class BadPublication(ValueError):
    """A publication cannot be parsed."""


class Publication(NamedTuple):
    """Items of a stream, its end, or a heartbeat.

    :ivar sequence: the number of the first item, or of the end; in a heartbeat, of what comes next.
    :ivar end: how the stream ends behind the items, as the header of a reply; None if it goes on.
    :ivar start: the initial metadata, as the header of a reply; None but with the first number.
    """

    sequence: int
    items: list[bytes]
    end: bytes | None = None
    start: bytes | None = None


def to_message(publication: Publication) -> streams_pb2.Publication:
    """The message that carries a publication."""
    sequence, items, end, start = publication
    return streams_pb2.Publication(sequence=sequence, items=items, end=end, start=start)


def from_message(message: streams_pb2.Publication) -> Publication:
    """The publication that a message carries."""
    return Publication(
        message.sequence,
        list(message.items),
        message.end if message.HasField("end") else None,
        message.start if message.HasField("start") else None,
    )


def encode(topic: bytes, publication: Publication) -> bytes:
    """The one frame that is published."""
    return topic + SEPARATOR + to_message(publication).SerializeToString()


def topic_of(frame: bytes) -> bytes:
    """The topic under which a frame was published; empty if it is malformed."""
    if frame[TOPIC_SIZE : TOPIC_SIZE + 1] != SEPARATOR:
        return b""
    return frame[:TOPIC_SIZE]


def decode(frame: bytes) -> Publication:
    """The publication in a frame.

    :raises BadPublication: if it cannot be parsed.
    """
    try:
        return from_message(streams_pb2.Publication.FromString(frame[TOPIC_SIZE + 1 :]))
    except (DecodeError, UnicodeDecodeError) as error:  # the latter on PyPy
        raise BadPublication("the publication cannot be parsed") from error


def encode_bundle(topic: bytes, frames: list[bytes]) -> bytes:
    """The frame of a bundle, which is published instead of several of :func:`encode`."""
    return topic + SEPARATOR + streams_pb2.Bundle(publications=frames).SerializeToString()


def decode_bundle(frame: bytes) -> list[bytes]:
    """The frames in a bundle.

    :raises BadPublication: if it cannot be parsed.
    """
    try:
        return list(streams_pb2.Bundle.FromString(frame[TOPIC_SIZE + 1 :]).publications)
    except DecodeError as error:
        raise BadPublication("the bundle cannot be parsed") from error


class Sender:
    """The server's end: numbers items, and keeps them until they are acknowledged.

    :ivar sequence: the number of the next item.
    :ivar acknowledged: the number of the first item that is not acknowledged.
    :ivar size: bytes of the items that are not acknowledged.
    :ivar ended: whether there are no more items.
    """

    __slots__ = (
        "_end",
        "_first",
        "_fresh",
        "_fresh_size",
        "_kept",
        "_start",
        "_taken_bytes",
        "acknowledged",
        "ended",
        "sequence",
        "size",
        "window_bytes",
        "window_items",
    )

    def __init__(self, window_items: int, window_bytes: int, first: int = 1) -> None:
        """
        :param window_items: how many items may be unacknowledged.
        :param window_bytes: how many bytes of them; the item that reaches them is the last.
        """
        self.window_items = window_items
        self.window_bytes = window_bytes
        self.sequence = self.acknowledged = self._first = first
        self.size = 0
        self.ended = False
        self._end = b""
        self._start: bytes | None = None
        # Items that are published and not acknowledged. The lists are made when they are needed,
        # and as small as can be, because most streams are idle.
        self._kept: list[bytes] | deque[bytes] | None = None
        # Items that are not published yet, and their bytes.
        self._fresh: list[bytes] | None = None
        self._fresh_size = 0
        # Bytes of all that was taken to be published.
        self._taken_bytes = 0

    def __len__(self) -> int:
        """How many items are not acknowledged; the end counts, too."""
        return self.sequence - self.acknowledged

    @property
    def count(self) -> int:
        """How many items it was given; the end does not count."""
        return self.sequence - self._first - self.ended

    @property
    def given_bytes(self) -> int:
        """Bytes of the items that it was given."""
        return self._taken_bytes + self._fresh_size

    @property
    def is_full(self) -> bool:
        """Whether another item has to wait for an acknowledgement."""
        return (
            self.sequence - self.acknowledged >= self.window_items or self.size >= self.window_bytes
        )

    def add(self, item: bytes) -> bool:
        """Take an item.

        :return: whether there are enough items for a message.
        """
        fresh = self._fresh
        if fresh is None:
            fresh = self._fresh = []
        fresh.append(item)
        self.sequence += 1
        size = len(item)
        self.size += size
        self._fresh_size += size
        return len(fresh) >= MAX_PUBLISHED or self._fresh_size >= MAX_PUBLISHED_SIZE

    def start(self, header: bytes) -> None:
        """Set the header in front of the first item."""
        self._start = header

    def end(self, header: bytes) -> None:
        """End the stream with a header; no item may follow."""
        self._end = header
        self.ended = True
        self.sequence += 1

    def take(self) -> Publication | None:
        """Take what is new, to be published; None if nothing is."""
        fresh = self._fresh or []
        count = len(fresh)
        if not count and not self.ended:
            return None
        # The fresh items have the last numbers, before that of the end.
        sequence = self.sequence - count - self.ended
        if self._kept is None:
            self._kept = self._keep(fresh)
        else:
            self._kept.extend(fresh)
        self._fresh = None
        self._taken_bytes += self._fresh_size
        self._fresh_size = 0
        return self._publication(sequence, fresh)

    def _keep(self, items: list[bytes]) -> list[bytes] | deque[bytes]:
        """The container that keeps *items*, the first ones."""
        return items.copy()

    @property
    def _published(self) -> int:
        """The number with which the next publication begins."""
        return self.sequence - len(self._fresh or ())

    def _publication(self, sequence: int, items: list[bytes], *, last: bool = True) -> Publication:
        return Publication(
            sequence,
            items,
            self._end if self.ended and last else None,
            self._start if sequence == self._first else None,
        )

    @property
    def heartbeat(self) -> Publication:
        """The publication that names the next number, by which the client notices a loss."""
        return Publication(self._published, [])

    def acknowledge(self, sequence: int) -> bool:
        """Forget the items before *sequence*, which the receiver has.

        :return: whether *sequence* is new, and no more than what was published.
        """
        if not self.acknowledged < sequence <= self._published:
            return False
        kept = self._kept
        if isinstance(kept, list):
            count = sequence - self.acknowledged
            self.size -= sum(map(len, islice(kept, count)))
            if count < len(kept):
                del kept[:count]
            else:
                self._kept = None
        self.acknowledged = sequence
        return True

    @property
    def is_done(self) -> bool:
        """Whether the receiver has everything."""
        return self.ended and self.acknowledged == self.sequence

    def replay(self, sequence: int) -> Publication:
        """The kept items from *sequence* on, as many as fit into one message."""
        kept = self._kept or ()
        first = max(sequence, self.acknowledged)
        begin = min(first - self.acknowledged, len(kept))
        items: list[bytes] = []
        size = 0
        for item in islice(kept, begin, None):
            items.append(item)
            size += len(item)
            if size >= MAX_REPLAYED_SIZE:
                break
        return self._publication(first, items, last=begin + len(items) == len(kept))


class Ring(Sender):
    """The server's end of a shared stream: nothing is acknowledged, the last items are kept.

    :ivar acknowledged: the number of the first item that is kept.
    """

    __slots__ = ("_replay",)

    def __init__(self, replay: int, max_bytes: int) -> None:
        """
        :param replay: how many items are kept.
        :param max_bytes: how many bytes of them.
        """
        super().__init__(replay, max_bytes)
        self._replay = replay

    @property
    def is_full(self) -> bool:
        """Never: a shared stream does not wait for its slowest receiver."""
        return False

    @property
    def is_done(self) -> bool:
        """Never: a receiver may still ask for the end."""
        return False

    def take(self) -> Publication | None:
        """As a :class:`Sender`; also drops the items that are too many to keep."""
        publication = super().take()
        kept = self._kept
        if isinstance(kept, deque):
            while len(kept) > self._replay or (self.size > self.window_bytes and kept):
                self.size -= len(kept.popleft())
                self.acknowledged += 1
        return publication

    def _keep(self, items: list[bytes]) -> list[bytes] | deque[bytes]:
        """A deque: there can be many items, and the first ones go one by one."""
        return deque(items)

    def acknowledge(self, sequence: int) -> bool:
        """Change nothing: no receiver of a shared stream acknowledges."""
        return False


class Receiver:
    """The client's end: puts what arrives in order.

    It trusts no sender to mind the window: what is over it is not taken. A replay brings it later.

    :ivar sequence: the number that comes next; all items before it are in :attr:`items` or were.
    :ivar items: the items that have arrived in order and were not taken.
    :ivar end: how the stream ended, as the header of a reply, when all before it has arrived.
    :ivar start: the initial metadata, likewise.
    :ivar early_items: how many items are kept that came too early.
    :ivar early_bytes: how many bytes of items.
    :ivar known: the highest number before which all items are known to be published.
    :ivar taken_bytes: of all items that have arrived in order.
    """

    __slots__ = (
        "_early",
        "_early_numbers",
        "_first",
        "_size",
        "early_bytes",
        "early_items",
        "end",
        "items",
        "known",
        "sequence",
        "start",
        "taken_bytes",
        "window",
        "window_bytes",
    )

    def __init__(self, window: int, first: int = 1, *, window_bytes: int | None = None) -> None:
        """
        :param window: how many items that were not taken are kept.
        :param window_bytes: how many bytes of them; the item that reaches them is the last. As many
            bytes again are kept of what came too early. None for no limit.
        """
        self.window = window
        self.window_bytes = sys.maxsize if window_bytes is None else window_bytes
        self.sequence = self._first = first
        self.items: deque[bytes] = deque()
        # Bytes of the items, or more: those that were taken since it was counted last are in it.
        self._size = 0
        self.end: bytes | None = None
        self.start: bytes | None = None
        self.known = first
        # Publications that came too early, by their numbers; and the numbers, as a heap.
        self._early: dict[int, Publication] = {}
        self._early_numbers: list[int] = []
        self.early_items = self.early_bytes = 0
        self.taken_bytes = 0

    def begin(self, first: int) -> None:
        """Set the first number, before anything is received."""
        self.sequence = self.known = self._first = first
        self.end = None
        self._forget_early()

    def _forget_early(self) -> None:
        self._early.clear()
        self._early_numbers.clear()
        self.early_items = self.early_bytes = 0

    @property
    def missing(self) -> bool:
        """Whether something has been published, but not received, from :attr:`sequence` on."""
        return self.sequence < self.known and self.end is None

    @property
    def has_room(self) -> bool:
        """Whether another item would be taken."""
        return len(self.items) < self.window and (
            self._size < self.window_bytes or self._count() < self.window_bytes
        )

    def _count(self) -> int:
        """Count the bytes of the items anew; the reader takes items without saying so."""
        self._size = sum(map(len, self.items))
        return self._size

    def receive(self, publication: Publication) -> bool:
        """Take a publication.

        :return: whether it brought the item that comes next, or the end.
        """
        sequence, items, end, _ = publication
        last = sequence + len(items) + (end is not None)
        if last > self.known:
            self.known = last
        if self.end is not None or last <= self.sequence:
            return False
        if sequence > self.sequence:
            self._keep(publication)
            return False
        if not self._take(publication):
            return False
        numbers = self._early_numbers
        while numbers and numbers[0] <= self.sequence:
            early = self._early.pop(heappop(numbers))
            self.early_items -= len(early.items) + 1
            self.early_bytes -= sum(map(len, early.items))
            self._take(early)
        return True

    def _keep(self, publication: Publication) -> None:
        """Keep a publication that came too early, within bounds; a replay brings the others."""
        number = publication.sequence
        kept = self._early.get(number)
        count = len(publication.items) + 1
        size = sum(map(len, publication.items))
        if kept is not None:
            count -= len(kept.items) + 1
            size -= sum(map(len, kept.items))
            if count < 0 or (count == 0 and publication.end is None):
                return
        if self.early_items + count > 2 * self.window + 1:
            return
        if self.early_bytes + size > self.window_bytes:
            return
        if kept is None:
            heappush(self._early_numbers, number)
        self._early[number] = publication
        self.early_items += count
        self.early_bytes += size

    def _take(self, publication: Publication) -> bool:
        sequence, items, end, start = publication
        if start is not None and sequence == self._first:
            self.start = start
        known = self.sequence - sequence
        if known > 0:
            if known > len(items) + (end is not None) - 1:
                return False
            items = items[known:]
        room = self.window - len(self.items)
        if len(items) > room:
            # The server of a shared stream does not wait for us; a replay brings the rest.
            items, end = items[: max(room, 0)], None
            if not items:
                return False
        # Joined, which takes half the time of a sum of lengths; a large item comes alone.
        size = len(b"".join(items))
        if self._size + size > self.window_bytes:
            fitting = self._fitting(items)
            if len(fitting) < len(items):
                items, end = fitting, None
                if not items:
                    return False
                size = len(b"".join(items))
        self._size += size
        self.taken_bytes += size
        self.items.extend(items)
        self.sequence += len(items)
        if end is not None:
            self.end = end
            self.sequence += 1
            self._forget_early()
        return True

    def _fitting(self, items: list[bytes]) -> list[bytes]:
        """The first of *items*, up to the one that reaches the window's bytes."""
        size = self._count()
        for number, item in enumerate(items):
            if size >= self.window_bytes:
                return items[:number]
            size += len(item)
        return items

    def take_start(self) -> bytes:
        """The initial metadata, as the header of a reply: there is one, and it comes once."""
        start, self.start = self.start, None
        assert start is not None, "it has arrived"
        return start

    def take_back_end(self) -> None:
        """The end was not the end after all: another server goes on in its place."""
        self.sequence -= 1
        self.end = None

    def skip(self, sequence: int) -> int:
        """Give up the items that are missing before *sequence*.

        :return: how many they are.
        """
        lost = max(0, sequence - self.sequence)
        self.sequence += lost
        return lost
