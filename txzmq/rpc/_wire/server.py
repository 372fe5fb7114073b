"""The server's end of a connection: which calls run, for whom, and how to answer them."""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from txzmq._ids import EPOCH_SIZE, ID_SIZE
from txzmq.rpc._wire.headers import BadHeader, RequestHead, decode_request

__all__ = ["CallKey", "Refusal", "Request", "ServerWire"]

C = TypeVar("C")

#: Which call: the routing ids in front of the request id, outermost first, and the request id.
#: Never the request id alone: two clients may choose the same.
CallKey: TypeAlias = tuple[bytes, ...]

#: Parts in front of the empty one: the request id, and the routing ids of the peer and of the
#: proxies in between.
_MAX_KEY: Final = 6
#: How many clients behind one proxy have their order of requests remembered.
_MAX_SOURCES: Final = 10_000


class Request(NamedTuple):
    """A request that can be served. The server answers it or :meth:`ServerWire.forget` s it."""

    key: CallKey
    head: RequestHead
    body: bytes


class Refusal(NamedTuple):
    """A request that cannot be understood; the reason may be told to the peer."""

    key: CallKey
    reason: str


class _Peer(Generic[C]):
    __slots__ = ("calls", "latest")

    def __init__(self) -> None:
        self.calls: dict[CallKey, C] = {}
        # The highest counter per source of ids: a proxy's clients each have their own.
        self.latest: dict[tuple[bytes, ...], bytes] = {}


class ServerWire(Generic[C]):
    """The calls of one bound socket, by peer and request id.

    :ivar dropped: how many incoming messages were dropped, by reason.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._peers: dict[bytes, _Peer[C]] = {}

    def __len__(self) -> int:
        return sum(len(peer.calls) for peer in self._peers.values())

    def receive(self, message: list[bytes]) -> Request | Refusal | None:
        """Take a message from a peer.

        :return: None for one that was dropped and counted: malformed so that nobody could be
            answered, or a request that came before.
        """
        try:
            end = message.index(b"", 1)
        except ValueError:
            end = 0
        if not 2 <= end <= _MAX_KEY:
            self.dropped["malformed"] += 1
            return None
        key = tuple(message[:end])
        if not self._is_new(key):
            self.dropped["duplicate request"] += 1
            return None
        if len(message) != end + 3:
            self.dropped["malformed"] += 1
            return Refusal(key, f"a request has {end + 3} parts, not {len(message)}")
        try:
            head = decode_request(message[end + 1])
        except BadHeader as error:
            self.dropped["malformed"] += 1
            return Refusal(key, str(error))
        return Request(key, head, message[end + 2])

    def _is_new(self, key: CallKey) -> bool:
        """Whether a request is neither running nor, by its id, older than the latest."""
        peer = self._peers.get(key[0])
        if peer is None:
            peer = self._peers[key[0]] = _Peer()
        if key in peer.calls:
            return False
        request_id = key[-1]
        if len(request_id) != ID_SIZE:
            return True  # another library's id, whose order means nothing
        source = (*key[:-1], request_id[:EPOCH_SIZE])
        latest = peer.latest.get(source)
        if latest is not None and request_id <= latest:
            return False
        if latest is None and len(peer.latest) >= _MAX_SOURCES:
            del peer.latest[next(iter(peer.latest))]
        peer.latest[source] = request_id
        return True

    def start(self, key: CallKey, call: C) -> None:
        """Note that *call* serves a request, until :meth:`finish`."""
        self._peers[key[0]].calls[key] = call

    def find(self, key: CallKey) -> C | None:
        """The call that serves a request; None if none does (any more)."""
        peer = self._peers.get(key[0])
        return None if peer is None else peer.calls.get(key)

    def finish(self, key: CallKey) -> C | None:
        """Note that a call has ended; None if it had."""
        peer = self._peers.get(key[0])
        return None if peer is None else peer.calls.pop(key, None)

    def calls(self) -> list[C]:
        """All calls that run, oldest first within one peer."""
        return [call for peer in self._peers.values() for call in peer.calls.values()]

    def lost(self, peer_id: bytes) -> list[C]:
        """Forget a peer whose connection was lost: the calls that nobody waits for any more."""
        peer = self._peers.pop(peer_id, None)
        return [] if peer is None else list(peer.calls.values())
