"""Connections that have lasted long enough: their clients are told to connect anew (gRFC A9).

So keys are looked at again, and the load spreads over servers that have come since. A connection
begins with its first message. Its client is told; then it has the grace, in which all goes on; what
it has not moved by then is ended, and a little later the connection itself.

Who speaks as a proxy does cannot be told, and may be one: its key is looked at again instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred

from txzmq._identity import Identity
from txzmq._reactor import Clock
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._core.transport import PeerConnection

__all__ = ["AgingListener", "ConnectionAges", "KeyCheck", "PeerAge"]

#: By how much a connection's age differs at most, so that clients which have come together do not
#: all leave together.
_JITTER: Final = 0.1
#: Seconds for which a client may still read the answers to the calls that its connection's end has
#: ended: they would be lost with the connection.
_LEAVING: Final = 1.0
#: Seconds for the answer to ``Leave``, which a client need not get.
_LEFT: Final = 0.1
#: Keys of which it is remembered when they were looked at.
_MOST_KEYS: Final = 65_536
#: Subscribers of which it is looked which have gone, at the earliest.
_MANY: Final = 64


class KeyCheck(NamedTuple):
    """Looks at the keys of clients again.

    :ivar look_again: who has a key now; a Deferred that fires with None, or fails, for nobody.
    :ivar patience: seconds that it may take.
    """

    look_again: Callable[[str], Deferred[Identity | None]]
    patience: float


class AgingListener(Protocol):
    """The socket that connections were made to."""

    def tell_to_reconnect(self, peer: bytes) -> bool:
        """Tell a client that it is to connect anew; False if it cannot be told: it is a proxy."""
        ...

    def grace_is_over(self, peer: bytes) -> None:
        """End the calls of a client that was told, and refuse further ones."""
        ...


class _Aging(Protocol):
    """A connection whose time is counted."""

    def due(self) -> None:
        """The time is up that was set last."""
        ...


class ConnectionAges:
    """Counts the time of all connections of a server, with one timer for all of them."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        age: float,
        grace: float | None,
        count: Callable[[str], None],
        check: KeyCheck | None = None,
    ) -> None:
        """
        :param age: seconds that a connection may last.
        :param grace: seconds that its client has to leave it; None for any time.
        :param count: counts a connection that was told, or ended.
        :param check: looks at keys again; None where there are none.
        """
        self._clock = clock
        self._random = random
        self._age = age
        self._grace = grace
        self._count = count
        self.check = check
        self._is_closed = False
        # When each key was looked at last; who was longest ago comes first.
        self._looked_at: OrderedDict[str, float] = OrderedDict()
        self._deadlines: Deadlines[_Aging] = Deadlines(clock, _due)
        # Connections to publishers, by connection; and how many there are when it is looked which
        # of them have gone, of which nobody tells.
        self._subscribers: dict[PeerConnection, _SubscriberAge] = {}
        self._next_look = _MANY

    def __len__(self) -> int:
        """How many connections are counted, with some subscribers that have gone."""
        return len(self._deadlines)

    def begin(
        self,
        listener: AgingListener,
        peer: bytes,
        connection: PeerConnection | None,
        key: str = "",
    ) -> PeerAge:
        """A client has sent its first message.

        :param connection: None where it cannot be ended: then its client is told, and refused.
        :param key: the client's; empty if it has none.
        """
        age = PeerAge(self, listener, peer, connection, key)
        if key and self._clock.seconds() - self._looked_at.get(key, -self._age) >= self._age:
            age.look_again()  # it has been connected for long, and has said nothing
        else:
            age.begin()
        return age

    def leaving(
        self, listener: AgingListener, peer: bytes, connection: PeerConnection | None
    ) -> PeerAge:
        """A client is told to connect anew, and may take its time; see :meth:`PeerAge.left`."""
        self.told()
        return PeerAge(self, listener, peer, connection, "")

    def looked_at(self, key: str) -> None:
        """A client was let in by its key."""
        self._looked_at[key] = self._clock.seconds()
        self._looked_at.move_to_end(key)
        if len(self._looked_at) > _MOST_KEYS:
            self._looked_at.popitem(last=False)

    def subscribed(self, connection: PeerConnection) -> None:
        """Somebody has subscribed; only the first time of a connection counts.

        Its client connects anew when its other connection is told to. So it is ended only where
        that has not happened: where the client does not know how.
        """
        if connection in self._subscribers:
            return
        if len(self._subscribers) >= self._next_look:
            self._forget_gone()
        age = self._subscribers[connection] = _SubscriberAge(self, connection)
        grace = self._age if self._grace is None else self._grace
        self.set(age, self._age * (1 + _JITTER) + grace)

    def _forget_gone(self) -> None:
        for connection in [each for each in self._subscribers if not each.is_open()]:
            age = self._subscribers.pop(connection)
            self._deadlines.remove(age, age.tick)
        self._next_look = max(_MANY, 2 * len(self._subscribers))

    def subscriber_is_due(self, connection: PeerConnection) -> None:
        """A subscriber's time is up: end its connection; it connects again and misses nothing."""
        del self._subscribers[connection]
        if connection.is_open():
            self.ended(connection)

    # -- what connections need ---------------------------------------------------------------

    @property
    def grace(self) -> float | None:
        """Seconds that a client has to leave its connection; None for any time."""
        return self._grace

    @property
    def next_age(self) -> float:
        """Seconds that one more connection may last."""
        return self._age * (1 - _JITTER + 2 * _JITTER * self._random.random())

    def set(self, aging: PeerAge | _SubscriberAge, seconds: float) -> None:
        """Call its ``due()`` after a while, unless the server shuts down before."""
        if self._is_closed:
            return
        aging.due_at(self._deadlines.set(aging, self._clock.seconds() + seconds))

    def remove(self, aging: PeerAge) -> None:
        """Count its time no more."""
        self._deadlines.remove(aging, aging.tick)

    def told(self) -> None:
        """A client was told to connect anew."""
        self._count("connection told to be made anew")

    def ended(self, connection: PeerConnection) -> None:
        """End a connection."""
        self._count("connection ended for its age")
        connection.end()

    def close(self) -> None:
        """The server shuts down: leave nothing in the reactor."""
        self._is_closed = True
        self._deadlines.close()
        self._looked_at.clear()
        self._subscribers.clear()


class PeerAge:
    """The time of one client's connection.

    :ivar tick: of the ages' deadlines.
    """

    __slots__ = ("_ages", "_connection", "_key", "_listener", "_next", "_peer", "tick")

    def __init__(
        self,
        ages: ConnectionAges,
        listener: AgingListener,
        peer: bytes,
        connection: PeerConnection | None,
        key: str,
    ) -> None:
        self._ages = ages
        self._listener = listener
        self._peer = peer
        self._key = key
        self._connection = connection
        self._next: Callable[[], None] = self._tell
        self.tick = 0

    def begin(self) -> None:
        """Count its time from now on."""
        self._next = self._tell
        self.wait(self._ages.next_age)

    def wait(self, seconds: float) -> None:
        """Have what comes next happen after a while."""
        self._ages.remove(self)
        self._ages.set(self, seconds)

    def due_at(self, tick: int) -> None:
        """Remember the tick of the time that was set."""
        self.tick = tick

    def due(self) -> None:
        """The time is up that was set last."""
        self._next()

    def _tell(self) -> None:
        if not self._listener.tell_to_reconnect(self._peer):
            self.look_again()
            return
        self._ages.told()
        self._next = self._end_calls
        if self._ages.grace is not None:
            self.wait(self._ages.grace)

    def look_again(self) -> None:
        """See whether its client would be let in now; if not, or not in time, end the connection.

        Who lets clients in is asked once more when it connects again.
        """
        check = self._ages.check
        if check is None or not self._key:
            self.begin()
            return
        self._next = self._no_answer
        self.wait(check.patience)
        asked = check.look_again(self._key)
        asked.addCallbacks(self._looked_at, self._looked_at_in_vain)

    def _looked_at(self, identity: Identity | None) -> None:
        if self._next != self._no_answer:
            return  # its connection has gone meanwhile
        if identity is None:
            self._next = self._end
            self.wait(_LEAVING)
        else:
            self._ages.looked_at(self._key)
            self.begin()

    def _no_answer(self) -> None:
        self._next = _nothing
        self._end()

    def _looked_at_in_vain(self, _: object) -> None:
        self._looked_at(None)

    def _end_calls(self) -> None:
        self._listener.grace_is_over(self._peer)
        self._next = self._end
        self.wait(_LEAVING)

    def left(self) -> None:
        """The client has said that it has nothing left to do on this connection."""
        self._next = self._end
        self.wait(_LEFT)

    def _end(self) -> None:
        if self._connection is not None:
            self._ages.ended(self._connection)

    def stop(self) -> None:
        """The connection is gone."""
        self._next = _nothing
        self._ages.remove(self)


class _SubscriberAge:
    """The time of one connection to a publisher.

    :ivar tick: of the ages' deadlines.
    """

    __slots__ = ("_ages", "_connection", "tick")

    def __init__(self, ages: ConnectionAges, connection: PeerConnection) -> None:
        self._ages = ages
        self._connection = connection
        self.tick = 0

    def due_at(self, tick: int) -> None:
        """Remember the tick of the time that was set."""
        self.tick = tick

    def due(self) -> None:
        """Its time is up."""
        self._ages.subscriber_is_due(self._connection)


def _nothing() -> None:
    """Nothing comes next."""


def _due(aging: _Aging) -> None:
    aging.due()
