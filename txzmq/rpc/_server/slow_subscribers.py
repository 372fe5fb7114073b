"""What waits for those who have subscribed to shared streams and do not read them.

Nobody acknowledges the items of shared streams, and libzmq counts messages, not bytes. So what has
been published under the topics of a connection is compared with what its host has taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import SubscriberConnection
from txzmq.rpc.limits import ServerLimits

__all__ = ["SlowSubscribers"]

#: Seconds in which a connection over the limit has to take an eighth of the limit, and to have less
#: waiting for it than before.
_PATIENCE: Final = 2.0
_EIGHTH: Final = 8


class _Subscriber:
    """What is known of one connection.

    :ivar counted: how many bytes of each topic have been counted as waiting.
    :ivar waiting: bytes that wait for it, at most.
    :ivar taken: bytes that its host has taken.
    :ivar over_since: since when it is over the limit; None if it is not.
    :ivar taken_before: what its host had taken then.
    :ivar waiting_before: what waited for it then; infinite in its first two seconds over the limit,
        since more than that may be published at once.
    """

    __slots__ = ("counted", "over_since", "taken", "taken_before", "waiting", "waiting_before")

    def __init__(self, taken: int) -> None:
        self.counted: dict[bytes, int] = {}
        self.waiting = 0
        self.taken = taken
        self.over_since: float | None = None
        self.taken_before = 0
        self.waiting_before = math.inf

    def count(self, published: dict[bytes, int], taken: int, most: int) -> None:
        """Count what has been published for it, and what it has taken since.

        :param most: bytes that can wait for it; what is more was dropped.
        """
        for topic, size in self.counted.items():
            self.waiting += published[topic] - size
            self.counted[topic] = published[topic]
        self.waiting = min(max(0, self.waiting - (taken - self.taken)), most)
        self.taken = taken

    def is_too_slow(self, limit: int, now: float, *, stood_still: bool) -> bool:
        """Whether it has been over the limit for a while, and does not catch up.

        :param stood_still: whether nobody has looked for so long that the process may have been
            stopped, in which nobody could take anything: it gets its time once more.
        """
        if self.waiting <= limit:
            self.over_since = None
            return False
        if self.over_since is not None and not stood_still and now - self.over_since < _PATIENCE:
            return False
        is_first = self.over_since is None or stood_still
        taken, waited = self.taken - self.taken_before, self.waiting_before
        self.over_since, self.taken_before = now, self.taken
        self.waiting_before = math.inf if is_first else self.waiting
        return not is_first and (taken < limit // _EIGHTH or self.waiting >= waited)


class SlowSubscribers:
    """The connections that have subscribed to shared streams, and what waits for each.

    They are looked at when an eighth of the limit has been published; a second after one has gone
    or has unsubscribed; and each second while one is over the limit, or has unsubscribed from all
    and something waits for it.
    """

    def __init__(self, clock: Clock, limits: ServerLimits, count: Callable[[str], None]) -> None:
        """:param count: counts a connection that was ended."""
        self._clock = clock
        self._limit = limits.backlog_per_peer
        self._count = count
        self._subscribers: dict[SubscriberConnection, _Subscriber] = {}
        # Bytes by topic, of those that they have subscribed to; and since they were looked at.
        self._published: dict[bytes, int] = {}
        self._since = 0
        self._looked = clock.seconds()
        # The largest message, and how many libzmq keeps for one connection.
        self._largest = 0
        self._most_messages = 0
        self._timer = ResettableTimer(clock, self._look)

    def __len__(self) -> int:
        """How many connections there are, with some that have ended."""
        return len(self._subscribers)

    def keep_for_each(self, messages: int) -> None:
        """So many messages wait for one connection at most; further ones are dropped."""
        self._most_messages = messages

    def add(self, connection: SubscriberConnection, topic: bytes) -> None:
        """A connection has subscribed to a shared stream."""
        subscriber = self._subscribers.get(connection)
        if subscriber is None:
            taken = connection.taken()
            if taken is None:
                return  # nobody knows
            subscriber = self._subscribers[connection] = _Subscriber(taken)
        subscriber.counted.setdefault(topic, self._published.setdefault(topic, 0))

    def remove(self, connection: SubscriberConnection, topic: bytes) -> None:
        """A connection has unsubscribed; what was published before may wait for it still."""
        subscriber = self._subscribers.get(connection)
        if subscriber is not None and topic in subscriber.counted:
            subscriber.waiting += self._published[topic] - subscriber.counted.pop(topic)
            self._look_soon()

    def somebody_has_gone(self) -> None:
        """A connection has ended; it is not told which."""
        if self._subscribers:
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._timer.is_running:
            self._timer.start(1.0)

    def published(self, topic: bytes, size: int) -> None:
        """So many bytes were published under the topic of a shared stream."""
        before = self._published.get(topic)
        if before is None:
            return  # nobody has subscribed of whom it is known what it takes
        self._published[topic] = before + size
        self._largest = max(self._largest, size)
        self._since += size
        if self._since > self._limit // _EIGHTH:
            self._look()

    def _look(self) -> None:
        now = self._clock.seconds()
        stood_still = now - self._looked > _PATIENCE
        self._looked = now
        self._since = 0
        most = self._largest * self._most_messages
        topics: set[bytes] = set()
        looks_again = False
        for connection, subscriber in list(self._subscribers.items()):
            taken = connection.taken()
            if taken is None:
                del self._subscribers[connection]
                continue
            subscriber.count(self._published, taken, most)
            if subscriber.is_too_slow(self._limit, now, stood_still=stood_still):
                del self._subscribers[connection]
                self._count("connection that does not read shared streams")
                connection.end()
                continue
            topics.update(subscriber.counted)
            if subscriber.counted:
                looks_again = looks_again or subscriber.over_since is not None
            elif subscriber.waiting:
                looks_again = True
            else:
                del self._subscribers[connection]
        for topic in self._published.keys() - topics:
            del self._published[topic]
        if looks_again:
            self._timer.start(1.0)
        else:
            self._timer.stop()

    def clear(self) -> None:
        """The publisher is closed: there are none any more."""
        self._timer.stop()
        self._subscribers.clear()
        self._published.clear()
        self._since = 0
