"""Who has subscribed to what: a connection that holds too much of no use is ended.

libzmq keeps each subscription as long as its connection lasts, also one that is not allowed, and
one whose stream has ended; it needs some 50 bytes for each byte of a topic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from txzmq.rpc._core.transport import SubscriberConnection
from txzmq.rpc._wire.headers import TOPIC_SIZE
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.limits import ServerLimits

__all__ = ["Subscriptions"]

#: Bytes of a topic, with what stands behind it. A longer one, to which no client of ours
#: subscribes, counts as so many as it has room for: with credentials, a publisher takes it.
_TAG_SIZE: Final = TOPIC_SIZE + len(SEPARATOR)


def _weight(tag: bytes) -> int:
    """As how many topics a subscription counts."""
    return -(-len(tag) // _TAG_SIZE) or 1


class _Subscriber:
    """The topics of one connection.

    :ivar size: how many they are; long ones count as several.
    :ivar next_check: with so many, those are counted that are of no use.
    """

    __slots__ = ("key", "next_check", "size", "tags")

    def __init__(self, next_check: int, key: str) -> None:
        self.key = key
        self.tags: set[bytes] = set()
        self.size = 0
        self.next_check = next_check

    def add(self, tag: bytes) -> int:
        """Note a topic; returns as how many it counts."""
        self.tags.add(tag)
        weight = _weight(tag)
        self.size += weight
        return weight

    def remove(self, tag: bytes) -> int:
        """Forget a topic that was noted; returns likewise."""
        self.tags.remove(tag)
        weight = _weight(tag)
        self.size -= weight
        return weight


class Subscriptions:
    """The subscriptions to one publisher, by connection.

    A subscription is a stray where nothing is published under its topic: not yet, not any more, or
    never. They are counted now and then only, since streams end without asking who has subscribed.
    """

    def __init__(
        self, is_used: Callable[[bytes], bool], limits: ServerLimits, count: Callable[[str], None]
    ) -> None:
        """
        :param is_used: whether something is published under a topic.
        :param count: counts a connection that was ended.
        """
        self._is_used = is_used
        self._most = limits.stray_subscriptions
        self._most_of_one = limits.stray_subscriptions_per_peer
        self._count = count
        self._subscribers: dict[SubscriberConnection, _Subscriber] = {}
        # Those that were ended, while some of what they have sent may still come.
        self._ended: set[SubscriberConnection] = set()
        self._size = 0
        # With so many subscriptions, the strays of all connections are counted.
        self._next_check = self._most
        # How many were undone, since somebody has gone, since it was looked for who that was.
        self._undone = 0

    def __len__(self) -> int:
        """How many subscriptions there are, with some of connections that have ended.

        Long ones count as several.
        """
        return self._size

    def add(self, connection: SubscriberConnection, tag: bytes, key: str = "") -> None:
        """A connection has subscribed, with a key; it is ended if it holds too many strays."""
        subscriber = self._subscribers.get(connection)
        if subscriber is None:
            if connection in self._ended:
                return
            subscriber = self._subscribers[connection] = _Subscriber(self._most_of_one, key)
        elif tag in subscriber.tags:
            return
        self._size += subscriber.add(tag)
        if subscriber.size > subscriber.next_check:
            self._check(connection, subscriber)
        if self._size > self._next_check:
            self._check_all()

    def remove(self, connection: SubscriberConnection, tag: bytes) -> None:
        """A connection has unsubscribed."""
        subscriber = self._subscribers.get(connection)
        if subscriber is not None and tag in subscriber.tags:
            self._size -= subscriber.remove(tag)
            if not subscriber.tags:
                del self._subscribers[connection]

    def revoke(self, keys: Collection[str]) -> None:
        """End the connections of those who have one of these keys."""
        for connection, subscriber in list(self._subscribers.items()):
            if subscriber.key in keys:
                self._forget(connection)
                self._ended.add(connection)
                connection.end()

    def clear(self) -> None:
        """The publisher is closed: there are none any more."""
        self._subscribers.clear()
        self._ended.clear()
        self._size = self._undone = 0

    def somebody_has_gone(self) -> None:
        """A subscription was undone since its connection has ended; it is not told which."""
        self._undone += 1
        if self._undone > len(self._subscribers) // 8:  # or many that go would cost too much
            self._forget_ended()

    def _forget_ended(self) -> None:
        self._undone = 0
        for connection in list(self._subscribers):
            if not connection.is_open():
                self._forget(connection)
        if self._ended:
            self._ended = {each for each in self._ended if each.is_open()}

    def _forget(self, connection: SubscriberConnection) -> None:
        self._size -= self._subscribers.pop(connection).size

    def _end(self, connection: SubscriberConnection) -> None:
        self._forget(connection)
        self._ended.add(connection)
        self._count("connection with too many stray subscriptions")
        connection.end()

    def _strays(self, subscriber: _Subscriber) -> int:
        return sum(_weight(tag) for tag in subscriber.tags if not self._is_used(tag))

    def _check(self, connection: SubscriberConnection, subscriber: _Subscriber) -> None:
        strays, most = self._strays(subscriber), self._most_of_one
        if strays > most:
            self._end(connection)
        else:
            # Or each further one would have all of them counted.
            subscriber.next_check = subscriber.size + max(most - strays, most // 8)

    def _check_all(self) -> None:
        self._forget_ended()
        strays = {each: self._strays(held) for each, held in self._subscribers.items()}
        total = sum(strays.values())
        for connection in sorted(strays, key=strays.__getitem__, reverse=True):
            if total <= self._most:
                break
            total -= strays[connection]
            self._end(connection)
        self._next_check = max(self._most, self._size + max(self._most - total, self._size // 4))
