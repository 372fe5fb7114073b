"""Which call may run now, which waits, which is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Generic, TypeAlias, TypeVar

from txzmq._ordered_set import OrderedSet
from txzmq.rpc.limits import ServerLimits

__all__ = ["Admission", "Place", "RequestBytes"]

C = TypeVar("C")

# Not a deque: a client may cancel thousands of calls at once that stand anywhere in it.
_Queue: TypeAlias = OrderedSet[C]

#: Bytes of a stream of requests that are not worth counting.
_SLACK: Final = 4096

#: Whose call, and of which method: the peer's routing id or the user, and the method's path. A
#: plain tuple: each call has one.
Place: TypeAlias = tuple[bytes, str]


class Admission(Generic[C]):
    """Counts calls that run and keeps those that wait, each peer's in a queue of its own.

    Peers take turns, and so do the methods of one peer. Of one method, the oldest call goes first.
    When a call's time is up while it waits, more calls come than can be served, and the oldest have
    too little time left to finish. From then on the newest goes first, until none waits.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._running = 0
        self._running_of_peer: Counter[bytes] = Counter()
        self._running_of_path: Counter[str] = Counter()
        self._queued = 0
        self._newest_first = False
        self._queued_of_path: Counter[str] = Counter()
        self._queued_of_peer: Counter[bytes] = Counter()
        # By peer and path; the order of both is whose turn it is.
        self._queues: dict[bytes, dict[str, _Queue[C]]] = {}

    @property
    def running(self) -> int:
        """How many calls run."""
        return self._running

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return self._queued

    @property
    def running_of_peers(self) -> Mapping[bytes, int]:
        """How many calls of each peer run, or of each user."""
        return self._running_of_peer

    @property
    def queued_of_peers(self) -> Mapping[bytes, int]:
        """How many calls of each peer wait, or of each user."""
        return self._queued_of_peer

    @property
    def running_of_paths(self) -> Mapping[str, int]:
        """How many calls of each method run."""
        return self._running_of_path

    @property
    def queued_of_paths(self) -> Mapping[str, int]:
        """How many calls of each method wait."""
        return self._queued_of_path

    def may_run(self, place: Place) -> bool:
        """Whether a call may run at once.

        It overtakes no call that could run if :meth:`next_call` was called whenever one had ended.
        """
        limits, (peer, path) = self._limits, place
        return (
            self._running < limits.running
            and self._running_of_peer.get(peer, 0) < limits.running_per_peer
            and (
                not limits.running_per_method
                or _below(self._running_of_path, path, limits.running_per_method)
            )
        )

    def started(self, place: Place) -> None:
        """A call runs that :meth:`may_run`, or that :meth:`next_call` gave."""
        peer, path = place
        self._running += 1
        self._running_of_peer[peer] += 1
        self._running_of_path[path] += 1

    def ended(self, place: Place) -> None:
        """A call that was :meth:`started` has ended."""
        peer, path = place
        self._running -= 1
        _decrement(self._running_of_peer, peer)
        _decrement(self._running_of_path, path)

    def why_not(self, place: Place) -> str | None:
        """The limit that forbids that one more call waits, in words; None if none does."""
        limits, (peer, path) = self._limits, place
        if self._queued >= limits.queued:
            return f"{limits.queued} calls wait on the server (ServerLimits.queued)"
        if self._queued_of_peer[peer] >= limits.queued_per_peer:
            return (
                f"{limits.queued_per_peer} calls of this client wait on the server "
                "(ServerLimits.queued_per_peer)"
            )
        if not _below(self._queued_of_path, path, limits.queued_per_method):
            return (
                f"{limits.queued_per_method[path]} calls of {path} wait on the server "
                "(ServerLimits.queued_per_method)"
            )
        return None

    def enqueue(self, place: Place, call: C) -> None:
        """Have a call wait."""
        peer, path = place
        paths = self._queues.setdefault(peer, {})
        paths.setdefault(path, OrderedSet())[call] = None
        self._queued += 1
        self._queued_of_peer[peer] += 1
        self._queued_of_path[path] += 1

    def waited_in_vain(self) -> None:
        """The time of a call is up that waits, or has waited."""
        self._newest_first = self._queued > 0

    def remove(self, place: Place, call: C) -> None:
        """A call does not wait any more."""
        peer, path = place
        queue = self._queues[peer][path]
        del queue[call]
        self._dequeued(place, queue)

    def next_call(self) -> C | None:
        """Take the next call that may run out of its queue; None if none may."""
        if not self._queued or self._running >= self._limits.running:
            return None
        for peer, paths in self._queues.items():
            for path, queue in paths.items():
                place = peer, path
                if self.may_run(place):
                    call, _ = queue.popitem(self._newest_first)
                    self._to_the_end(place)
                    self._dequeued(place, queue)
                    return call
        return None

    def _to_the_end(self, place: Place) -> None:
        """The peer and the method that had a turn get their next one last."""
        peer, path = place
        paths = self._queues.pop(peer)
        self._queues[peer] = paths
        paths[path] = paths.pop(path)

    def _dequeued(self, place: Place, queue: _Queue[C]) -> None:
        self._queued -= 1
        if not self._queued:
            self._newest_first = False
        peer, path = place
        _decrement(self._queued_of_peer, peer)
        _decrement(self._queued_of_path, path)
        if not queue:
            paths = self._queues[peer]
            del paths[path]
            if not paths:
                del self._queues[peer]


class RequestBytes:
    """Counts the bytes of requests that wait or run, and of streamed ones that were not read.

    What is too large for the limit by itself is taken while nothing else is held.

    :ivar size: bytes of all peers.
    :ivar room: bytes that a request may have for which no limit has to be looked at.
    :ivar slack: bytes that a stream may hold and not count: as many as a call costs anyway. To
        count each item of a stream on which there is one at a time would cost more than to read it.
    """

    __slots__ = ("_limits", "_of_peer", "room", "size", "slack")

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._of_peer: dict[bytes, int] = {}
        self.size = 0
        least = min(limits.request_bytes, limits.request_bytes_per_peer)
        self.slack = min(_SLACK, least // 1024)
        self._set_room()

    def _set_room(self) -> None:
        limits = self._limits
        left = min(limits.request_bytes, limits.request_bytes_per_peer) - self.size
        self.room = min(left, limits.message_size)

    @property
    def of_peers(self) -> Mapping[bytes, int]:
        """Bytes of each peer, or of each user."""
        return self._of_peer

    def why_not(self, peer: bytes, size: int) -> str | None:
        """The limit that forbids that *size* more bytes are held, in words; None if none does."""
        limits, of_peer = self._limits, self._of_peer.get(peer, 0)
        if self.size and self.size + size > limits.request_bytes:
            return (
                f"the server holds {self.size} bytes of requests, and may hold "
                f"{limits.request_bytes} (ServerLimits.request_bytes)"
            )
        if of_peer and of_peer + size > limits.request_bytes_per_peer:
            return (
                f"the server holds {of_peer} bytes of this client's requests, and may hold "
                f"{limits.request_bytes_per_peer} (ServerLimits.request_bytes_per_peer)"
            )
        return None

    def change(self, peer: bytes, size: int) -> None:
        """So many more bytes of a peer are held; fewer, below 0."""
        self.size += size
        self._set_room()
        of_peer = self._of_peer.pop(peer, 0) + size
        if of_peer:
            self._of_peer[peer] = of_peer


def _below(counts: Counter[str], path: str, limits: Mapping[str, int]) -> bool:
    return path not in limits or counts[path] < limits[path]


K = TypeVar("K", bytes, str)


def _decrement(counts: Counter[K], key: K) -> None:
    if counts[key] <= 1:
        del counts[key]  # or there would be an entry for each peer that ever came
    else:
        counts[key] -= 1
