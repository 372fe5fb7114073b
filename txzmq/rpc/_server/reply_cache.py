"""What a server answered, for requests that come again.

A client that repeats a call gives all its attempts the same key, 16 random bytes. The server runs
the handler for the first that arrives. A request that comes while it runs waits for its reply; one
that comes later gets the kept reply. Kept replies are bounded in number, bytes and age. So a
request may be executed twice: when its reply is not kept any more, or when it goes to another
server.

Where there is no room for one more, the oldest reply goes of whoever has most: one user cannot push
out those of another.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Hashable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, NamedTuple, TypeVar

from txzmq.rpc.limits import ReplyCacheLimits

__all__ = ["Join", "KeptReply", "ReplyCache"]

W = TypeVar("W", bound=Hashable)

#: Bytes that an entry costs beyond its reply, roughly: key, entry, and their places in two dicts.
_OVERHEAD: Final = 512


class KeptReply(NamedTuple):
    """A reply as it was sent: its header frame and its body."""

    header: bytes
    body: bytes


class Join(enum.Enum):
    """What to do with a request that has a key and no reply yet."""

    #: It is the first: run the handler.
    RUN = enum.auto()
    #: The handler runs for an earlier one; its end brings the reply for this one too.
    WAIT = enum.auto()
    #: Too many wait already: refuse it.
    REFUSE = enum.auto()


class _Kept(NamedTuple):
    reply: KeptReply
    until: float
    size: int
    owner: str


class _Share:
    """What is kept of one owner.

    :ivar keys: of its replies, the oldest first.
    :ivar weight: how much of the cache they take.
    """

    __slots__ = ("keys", "weight")

    def __init__(self) -> None:
        self.keys: OrderedDict[Hashable, None] = OrderedDict()
        self.weight = 0


class _Run(Generic[W]):
    """A run of a handler."""

    __slots__ = ("runner", "waiting")

    def __init__(self, runner: W) -> None:
        #: The request for which it was started.
        self.runner = runner
        #: The requests that wait for its end, in the order of arrival. An ordered set; a plain
        #: dict is made faster, and few wait.
        self.waiting: dict[W, None] = {runner: None}


class ReplyCache(Generic[W]):
    """Replies by request key, and who waits for those that are not there yet.

    The key is anything hashable: a server takes the client's key, which nobody guesses, together
    with the method's path.

    Time is passed in, in seconds of any clock that does not go back. :meth:`join` and
    :meth:`finish` remove replies that are too old, and so does :meth:`expire`.
    """

    def __init__(self, limits: ReplyCacheLimits | None = None) -> None:
        """:param limits: None for the defaults."""
        self.limits = limits or ReplyCacheLimits()
        self._running: dict[Hashable, _Run[W]] = {}
        # Oldest first. A plain dict is slow to find its first key after many first keys went.
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._size = 0
        self._shares: dict[str, _Share] = {}
        # A heap of the owners with the negative weights that they had when these last grew: those
        # that are too old are corrected when they come to the top.
        self._heaviest: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget what is kept."""
        self._kept.clear()
        self._shares.clear()
        self._heaviest.clear()
        self._size = 0

    def __contains__(self, key: Hashable) -> bool:
        """Whether a request with this key would not be a first one; call :meth:`expire` before."""
        return key in self._kept or key in self._running

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    @property
    def running(self) -> int:
        """How many runs have somebody who waits for them."""
        return len(self._running)

    def join(self, key: Hashable, waiter: W, now: float) -> KeptReply | Join:
        """A request with a key has arrived.

        :param waiter: stands for the request, until it is answered or :meth:`leave` is called.
        :return: the reply to send at once, or what to do to get one.
        """
        self.expire(now)
        kept = self._kept.get(key)
        if kept is not None:
            return kept.reply
        run = self._running.get(key)
        if run is None:
            self._running[key] = _Run(waiter)
            return Join.RUN
        if len(run.waiting) >= self.limits.waiting:
            return Join.REFUSE
        run.waiting[waiter] = None
        return Join.WAIT

    def runner(self, key: Hashable) -> W | None:
        """The request for which the run with a key was started; None if there is no such run."""
        run = self._running.get(key)
        return None if run is None else run.runner

    def leave(self, key: Hashable, waiter: W) -> bool:
        """A request was cancelled, or its peer was lost.

        :return: whether it was the last that waited for its run. Then the handler may be cancelled:
            its reply is not kept, and the next request with that key is a first one again. False
            also where the request does not wait.
        """
        run = self._running.get(key)
        if run is None or waiter not in run.waiting:
            return False
        del run.waiting[waiter]
        if run.waiting:
            return False
        del self._running[key]
        return True

    def finish(
        self,
        key: Hashable,
        runner: W,
        reply: KeptReply,
        now: float,
        *,
        keep: bool = True,
        owner: str = "",
    ) -> list[W]:
        """A run has ended.

        :param runner: the request for which it was started.
        :param owner: whose reply it is: where there is no room, a reply goes of whoever has most.
        :param keep: whether the reply answers later requests, too. A failure after which clients
            try again should not: they would get it again.
        :return: all that wait, in the order of their arrival, *runner* among them unless it left.
            If all have left, none do, and nothing is kept.
        """
        run = self._running.get(key)
        if run is None or run.runner != runner:
            return []  # all had left; perhaps the key has another run by now
        del self._running[key]
        self.expire(now)
        if keep:
            self._keep(key, reply, now, owner)
        return list(run.waiting)

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        kept = self._kept
        while kept:
            key = next(iter(kept))
            if kept[key].until > now:
                return
            self._forget(key)

    def _keep(self, key: Hashable, reply: KeptReply, now: float, owner: str) -> None:
        limits = self.limits
        size = len(reply.header) + len(reply.body) + _OVERHEAD
        if size * 8 > limits.size or not limits.entries:
            return
        self._size += size
        self._kept[key] = _Kept(reply, now + limits.age, size, owner)
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = _Share()
        share.keys[key] = None
        share.weight += self._weight(size)
        heappush(self._heaviest, (-share.weight, owner))
        while self._size > limits.size or len(self._kept) > limits.entries:
            self._forget(next(iter(self._shares[self._owner_of_most()].keys)))
        if len(self._heaviest) > 2 * len(self._shares) + 64:
            self._heaviest = [(-each.weight, name) for name, each in self._shares.items()]
            heapify(self._heaviest)

    def _weight(self, size: int) -> int:
        """How much of the cache a reply takes: of its bytes or of its places, whichever is more."""
        return max(size * self.limits.entries, self.limits.size)

    def _owner_of_most(self) -> str:
        heaviest = self._heaviest
        while True:
            weight, owner = heaviest[0]
            share = self._shares.get(owner)
            if share is None:
                heappop(heaviest)
            elif share.weight != -weight:
                heapreplace(heaviest, (-share.weight, owner))
            else:
                return owner

    def _forget(self, key: Hashable) -> None:
        kept = self._kept.pop(key)
        self._size -= kept.size
        share = self._shares[kept.owner]
        del share.keys[key]
        share.weight -= self._weight(kept.size)
        if not share.keys:
            del self._shares[kept.owner]
            if not self._shares:
                self._heaviest.clear()
