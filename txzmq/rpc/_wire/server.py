"""The server's end of a connection: which calls run, for whom, and how to answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar, cast

from txzmq._ids import EPOCH_SIZE, ID_SIZE, request_id
from txzmq.rpc._wire.batches import MAX_BATCH_HEADERS, BadBatch, is_batch, pack, unpack
from txzmq.rpc._wire.headers import BadHeader, RequestHead, TooMuchMetadata, decode_request
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import METADATA_SIZE

__all__ = ["CallKey", "Refusal", "Request", "ServerWire"]

C = TypeVar("C")

#: The key of a call: the routing ids in front of the request id, outermost first, and the request
#: id. Never the request id alone: two clients may choose the same.
CallKey: TypeAlias = tuple[bytes, ...]

#: The most parts of a key: the request id, and the routing ids of the peer and of the proxies in
#: between.
_MAX_KEY: Final = 6
#: Bytes of a routing id, as in ZMTP.
_MAX_ROUTING_ID: Final = 255
#: Sources of ids whose latest id is remembered, per peer. A client is one source; a proxy has one
#: for each client behind it.
_MAX_SOURCES: Final = 1_024
#: Peers without calls that are remembered; not every transport tells when a peer is lost.
_MAX_IDLE_PEERS: Final = 10_000
#: In place of the headers of a batch that are not decoded.
_TOO_LONG: Final = TooMuchMetadata(
    f"the headers of a batch have more than {MAX_BATCH_HEADERS} bytes in front of this request's"
)


class Request(NamedTuple):
    """A request that can be served. The server answers it once."""

    key: CallKey
    head: RequestHead
    body: bytes


# Without the __new__ that NamedTuple writes in Python, which costs three times as much.
_request = cast(
    "Callable[[type[Request], tuple[CallKey, RequestHead, bytes]], Request]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]  # it is generic
)


class Refusal(NamedTuple):
    """A request that cannot be parsed, or is too much; the reason may be sent to the peer."""

    key: CallKey
    reason: str
    code: Code = Code.INTERNAL


class _Peer(Generic[C]):
    __slots__ = ("accepts_batches", "asks", "calls", "latest")

    def __init__(self) -> None:
        self.calls: dict[CallKey, C] = {}
        #: Whether the client understands batches.
        self.accepts_batches = False
        #: Whether the next reply has to tell it that the server does too.
        self.asks = False
        # The latest id of each source: a random part, and the route through proxies if any.
        self.latest: dict[CallKey | bytes, bytes] = {}


class ServerWire(Generic[C]):
    """The calls of one bound socket, by peer and request id.

    :ivar dropped: how many incoming messages were dropped or refused, by reason.
    """

    def __init__(self, metadata_size: int = METADATA_SIZE) -> None:
        """:param metadata_size: bytes of metadata that a request may have."""
        self.dropped: Counter[str] = Counter()
        self._metadata_size = metadata_size
        self._peers: dict[bytes, _Peer[C]] = {}
        # The clients that may still send calls; None until the server drains.
        self._staying: set[bytes] | None = None
        self._most_peers = _MAX_IDLE_PEERS
        self._appeared: Callable[[bytes], None] | None = None
        self._introduced: Callable[[bytes, str], None] | None = None

    def when_introduced(self, introduced: Callable[[bytes, str], None]) -> None:
        """Call *introduced* with each peer that says what it is, and with that."""
        self._introduced = introduced

    def when_new(self, appeared: Callable[[bytes], None]) -> None:
        """Call *appeared* with each peer that sends its first message."""
        self._appeared = appeared

    def __len__(self) -> int:
        return sum(len(peer.calls) for peer in self._peers.values())

    def receive(self, message: list[bytes]) -> Request | Refusal | None:
        """Take a message from a peer, unless it is a batch.

        :return: None if the message was dropped and counted: it is so malformed that nobody could
            be answered, or a request that came before.
        """
        try:
            end = message.index(b"", 1, _MAX_KEY + 1)
        except ValueError:
            end = 0
        if end < 2:
            self._malformed()
            return None
        key = tuple(message[:end])
        if len(key[-1]) != ID_SIZE or end > 2:
            # Checked before the key is remembered, which must be small.
            if max(map(len, key)) > _MAX_ROUTING_ID:
                self._malformed()
                return None
            if len(key[-1]) != ID_SIZE:
                self._malformed()
                return Refusal(key, f"a request id has {ID_SIZE} bytes, not {len(key[-1])}")
        if not self._is_new(key):
            self.dropped["duplicate request"] += 1
            return None
        if len(message) != end + 3:
            self._malformed()
            return Refusal(key, f"a request has {end + 3} parts here, not {len(message)}")
        try:
            head = decode_request(message[end + 1], self._metadata_size)
        except BadHeader as error:
            return self._refuse(key, error)
        if head.accepts_batches and end == 2:  # not through a proxy, which has other servers, too
            peer = self._peers[key[0]]
            peer.accepts_batches = peer.asks = True
        # Nor is a proxy what one of its clients is.
        if head.user_agent and end == 2 and self._introduced is not None:
            self._introduced(key[0], head.user_agent)
        return Request(key, head, message[end + 2])

    @staticmethod
    def is_batch(message: list[bytes]) -> bool:
        """Whether a message is one for :meth:`receive_batch`."""
        return len(message) == 4 and is_batch(message[1:])

    def receive_batch(self, message: list[bytes]) -> list[Request | Refusal]:
        """Take a batch from a peer: its requests, as :meth:`receive`."""
        peer_id, epoch, _, frame = message
        try:
            headers, messages = unpack(frame)
        except BadBatch:
            self._malformed()
            return []
        # Decoded when they are used, and no more of them than a batch should have.
        heads: list[RequestHead | BadHeader | None] = [None] * len(headers)
        left = MAX_BATCH_HEADERS
        peer = self._peers.get(peer_id) or self._add_peer(peer_id)
        peer.accepts_batches = True
        events: list[Request | Refusal] = []
        latest = b""  # below all ids
        for counter, index, body in messages:
            id_ = request_id(epoch, counter)
            key = (peer_id, id_)
            # All ids of a batch are of one source, which the first one looks up.
            if id_ <= latest if latest else not self._is_new(key):
                self.dropped["duplicate request"] += 1
                continue
            peer.latest[epoch] = latest = id_
            head = heads[index]
            if head is None:
                left -= len(headers[index])
                head = heads[index] = _TOO_LONG if left < 0 else self._decode(headers[index])
            if isinstance(head, BadHeader):
                events.append(self._refuse(key, head))
            else:
                events.append(_request(Request, (key, head, body)))
        return events

    def _malformed(self) -> None:
        self.dropped["malformed"] += 1

    def _decode(self, header: bytes) -> RequestHead | BadHeader:
        try:
            return decode_request(header, self._metadata_size)
        except BadHeader as error:
            return error

    def _refuse(self, key: CallKey, error: BadHeader) -> Refusal:
        """Why a request is not served whose header is bad, or has too much."""
        if isinstance(error, TooMuchMetadata):
            return Refusal(key, str(error), Code.RESOURCE_EXHAUSTED)
        self._malformed()
        return Refusal(key, str(error))

    def _is_new(self, key: CallKey) -> bool:
        """Whether a request comes for the first time: its id is later than the latest."""
        peer = self._peers.get(key[0]) or self._add_peer(key[0])
        request_id = key[-1]
        epoch = request_id[:EPOCH_SIZE]
        source = epoch if len(key) == 2 else (*key[1:-1], epoch)
        latest = peer.latest.get(source)
        if latest is None:
            if key in peer.calls:
                return False  # its source was forgotten, but this call still runs
            if len(peer.latest) >= _MAX_SOURCES:
                del peer.latest[next(iter(peer.latest))]
            if self._staying is not None and len(key) == 2:
                self._staying.add(key[0])
        elif request_id <= latest:
            return False
        peer.latest[source] = request_id
        return True

    def _add_peer(self, peer_id: bytes) -> _Peer[C]:
        if len(self._peers) >= self._most_peers:
            # Seldom enough that it costs a constant per peer.
            self._peers = {key: peer for key, peer in self._peers.items() if peer.calls}
            self._most_peers = 2 * len(self._peers) + _MAX_IDLE_PEERS
        peer = self._peers[peer_id] = _Peer()
        if self._appeared is not None:
            self._appeared(peer_id)
        return peer

    def accepts_batches(self, peer_id: bytes) -> bool:
        """Whether replies to a peer may travel in a batch, where their keys fit."""
        peer = self._peers.get(peer_id)
        return peer is not None and peer.accepts_batches

    @staticmethod
    def fits(key: CallKey) -> bool:
        """Whether a batch can hold the reply to a request; not if that came through a proxy."""
        return len(key) == 2 and len(key[1]) == ID_SIZE

    def asks(self, key: CallKey) -> bool:
        """Whether the reply must tell the client that the server takes batches; True once."""
        peer = self._peers.get(key[0])
        if peer is None or not peer.asks or len(key) != 2:
            return False
        peer.asks = False
        return True

    def batches(self, replies: Sequence[tuple[CallKey, bytes, bytes]]) -> list[list[bytes]]:
        """The messages that carry replies to one peer, each with header and body.

        One, unless the peer's ids have several random parts.
        """
        peer_id = replies[0][0][0]
        by_epoch = {reply[0][1][:EPOCH_SIZE]: replies for reply in replies}
        if len(by_epoch) > 1:
            by_epoch = {
                epoch: [reply for reply in replies if reply[0][1].startswith(epoch)]
                for epoch in by_epoch
            }
        return [[peer_id, *_pack(epoch, some)] for epoch, some in by_epoch.items()]

    def start(self, key: CallKey, call: C) -> bool:
        """Note that *call* serves a request, until :meth:`finish`.

        :return: False if the peer was lost: nobody waits for the call, and nothing is noted.
        """
        peer = self._peers.get(key[0])
        if peer is None:
            return False
        peer.calls[key] = call
        return True

    def find(self, key: CallKey) -> C | None:
        """The call that serves a request; None if none does (any more)."""
        peer = self._peers.get(key[0])
        return None if peer is None else peer.calls.get(key)

    def finish(self, key: CallKey) -> C | None:
        """Note that a call has ended; returns it, or None if it had ended before."""
        peer = self._peers.get(key[0])
        return None if peer is None else peer.calls.pop(key, None)

    @property
    def peers(self) -> list[bytes]:
        """The routing ids of all peers that are known."""
        return list(self._peers)

    def calls_of(self, peer_id: bytes) -> list[C]:
        """The calls that run of one peer, oldest first."""
        peer = self._peers.get(peer_id)
        return [] if peer is None else list(peer.calls.values())

    def calls(self) -> list[C]:
        """All calls that run, oldest first within one peer."""
        return [call for peer in self._peers.values() for call in peer.calls.values()]

    def drain(self) -> list[CallKey]:
        """From now on note which clients leave; returns keys under which to send them notices.

        None for clients behind a proxy, which has other servers for them.
        """
        keys = [key for peer_id in self._peers for key in self.notices(peer_id)]
        self._staying = {key[0] for key in keys}
        return keys

    def notices(self, peer_id: bytes) -> list[CallKey]:
        """The keys under which to send a client notices; none if it is behind a proxy."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return []
        return [
            (peer_id, request_id(source, 0)) for source in peer.latest if isinstance(source, bytes)
        ]

    def leave(self, key: CallKey) -> None:
        """Note that a client sends no more calls on its connection."""
        if self._staying is not None and len(key) == 2:
            self._staying.discard(key[0])

    @property
    def all_left(self) -> bool:
        """Whether no known client may send further calls."""
        return not self._staying

    def lost(self, peer_id: bytes) -> list[C]:
        """Forget a peer whose connection was lost; returns its calls: nobody waits for them."""
        if self._staying is not None:
            self._staying.discard(peer_id)
        peer = self._peers.pop(peer_id, None)
        return [] if peer is None else list(peer.calls.values())


def _pack(epoch: bytes, replies: Sequence[tuple[CallKey, bytes, bytes]]) -> list[bytes]:
    keys, headers, bodies = zip(*replies, strict=True)
    number = int.from_bytes
    counters = [number(request_id[EPOCH_SIZE:], "big") for _, request_id in keys]
    return pack(epoch, counters, headers, bodies)
