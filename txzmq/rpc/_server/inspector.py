"""Answers what a server has at this moment, from the tables by which it serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from heapq import merge
from itertools import islice
from typing import Any, Final, NamedTuple

from txzmq._reactor import Clock
from txzmq.rpc._core.inspection import (
    LimitUse,
    MethodState,
    OpenStreamState,
    PeerState,
    ServerState,
)
from txzmq.rpc._server.admission import Admission, RequestBytes
from txzmq.rpc._server.backlogs import BacklogBytes
from txzmq.rpc._server.call import ServedCall, user_counted_as
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.peers import PeerRecord
from txzmq.rpc._server.reply_cache import ReplyCache
from txzmq.rpc._server.response_stream import ServedStream
from txzmq.rpc._server.streams import StreamRegistry
from txzmq.rpc.limits import ServerLimits

__all__ = ["ServerInspector", "ServerTables"]

#: Limits in bytes and in seconds; the others are numbers of something.
_BYTES: Final = frozenset(
    {
        "backlog",
        "backlog_per_peer",
        "message_size",
        "metadata_size",
        "request_bytes",
        "request_bytes_per_peer",
        "stream_window_bytes",
        "streams_bytes",
    }
)
_SECONDS: Final = frozenset(
    {
        "blocked_after",
        "connection_age",
        "connection_age_grace",
        "default_timeout",
        "max_timeout",
        "stream_grace",
        "stream_silence",
        "stream_timeout",
    }
)
#: Those that are no numbers.
_TABLES: Final = frozenset({"queued_per_method", "reply_cache", "running_per_method"})
_CACHE_UNITS: Final = {"size": "bytes", "age": "seconds"}


class ServerTables(NamedTuple):
    """Where a server keeps what it serves.

    :ivar listeners: a list that grows and shrinks.
    """

    clock: Clock
    limits: ServerLimits
    methods: Mapping[str, ServedMethod]
    listeners: Sequence[Listener]
    admission: Admission[ServedCall]
    streams: StreamRegistry
    request_bytes: RequestBytes
    backlog: BacklogBytes
    replies: ReplyCache[ServedCall]


class _OfPeer:
    """The streams of one connection."""

    __slots__ = ("items", "size", "streams")

    def __init__(self) -> None:
        self.streams = self.items = self.size = 0

    def add(self, stream: ServedStream) -> None:
        """One more stream."""
        self.streams += 1
        self.items += len(stream.sender)
        self.size += stream.sender.size


class ServerInspector:
    """Reads a server's tables when it is asked (an :class:`Inspector`)."""

    def __init__(self, tables: ServerTables) -> None:
        self._tables = tables

    def server(self) -> ServerState:
        """The server as a whole."""
        tables = self._tables
        return ServerState(
            running=tables.admission.running,
            running_limit=tables.limits.running,
            queued=tables.admission.queued,
            streams=len(tables.streams),
            peers=sum(len(each.records or ()) for each in tables.listeners),
        )

    def methods(self) -> Iterator[MethodState]:
        """All methods, by their paths."""
        queued = self._tables.admission.queued_of_paths
        for path, served in sorted(self._tables.methods.items()):
            yield MethodState(path, served.method.kind, queued.get(path, 0))

    # -- connections -------------------------------------------------------------------------

    def peers(self, after: int, most: int) -> list[PeerState]:
        """The connections with numbers above *after*, in their order, so many at most."""
        each = [_above(listener, after) for listener in self._tables.listeners]
        found = islice(merge(*each, key=lambda one: one[1].number), most)
        of_peers = self._streams_of_peers()
        shared = self._tables.streams.shared.calls_of_peers()
        now = self._tables.clock.seconds()
        return [
            _peer_state(listener, record, now, of_peers.get(record.peer) or _OfPeer(), shared)
            for listener, record in found
        ]

    def _streams_of_peers(self) -> dict[bytes, _OfPeer]:
        """What each connection has of private streams."""
        of_peers: dict[bytes, _OfPeer] = {}
        for stream in self._tables.streams.after(0):
            if stream.shared is None:
                of_peers.setdefault(stream.peer, _OfPeer()).add(stream)
        return of_peers

    def _number_of(self, peer: bytes) -> int:
        """The number of a connection; 0 where it is gone."""
        for listener in self._tables.listeners:
            record = None if listener.records is None else listener.records.get(peer)
            if record is not None:
                return record.number
        return 0

    # -- streams -----------------------------------------------------------------------------

    def streams(self, after: int, most: int) -> list[OpenStreamState]:
        """The streams with numbers above *after*, in their order, so many at most."""
        now = self._tables.clock.seconds()
        found = islice(self._tables.streams.after(after), most)
        return [self._stream_state(stream, now) for stream in found]

    def _stream_state(self, stream: ServedStream, now: float) -> OpenStreamState:
        context, sender = stream.context, stream.sender
        is_shared = stream.shared is not None
        return OpenStreamState(
            number=stream.number,
            method=context.method,
            state=stream.state,
            peer=0 if is_shared else self._number_of(stream.peer),
            identity="" if context.identity is None else context.identity.name,
            age=now - context.arrived,
            is_shared=is_shared,
            callers=self._tables.streams.shared.callers_of(stream) if is_shared else 1,
            items=sender.count,
            unacknowledged_items=0 if is_shared else len(sender),
            unacknowledged_bytes=0 if is_shared else sender.size,
            window_items=0 if is_shared else sender.window_items,
            window_bytes=0 if is_shared else sender.window_bytes,
            is_running=stream.running,
            is_blocked=stream.waits_for_room,
        )

    # -- limits ------------------------------------------------------------------------------

    def limits(self) -> Iterator[LimitUse]:
        """All limits, and how much of each is used."""
        tables, limits = self._tables, self._tables.limits
        used, fullest = self._used(), self._fullest()
        for field in fields(limits):
            name = field.name
            if name in _TABLES:
                continue
            who, most = fullest.get(name, (b"", None))
            yield LimitUse(
                name,
                getattr(limits, name),
                used.get(name, most),
                _unit(name),
                fullest=self._who(who) if most else "",
            )
        for name, counts in (
            ("running_per_method", tables.admission.running_of_paths),
            ("queued_per_method", tables.admission.queued_of_paths),
        ):
            # Any: these two fields are tables of numbers.
            of_methods: Mapping[str, int] = getattr(limits, name)
            for path, value in of_methods.items():
                yield LimitUse(name, value, counts.get(path, 0), method=path)
        if limits.reply_cache is not None:
            kept: dict[str, Any] = {"entries": len(tables.replies), "size": tables.replies.size}
            for field in fields(limits.reply_cache):
                name, value = field.name, getattr(limits.reply_cache, field.name)
                unit = _CACHE_UNITS.get(name, "")
                yield LimitUse(f"reply_cache.{name}", value, kept.get(name), unit)

    def _used(self) -> dict[str, int]:
        """What is used of the limits of the whole server."""
        tables = self._tables
        return {
            "running": tables.admission.running,
            "queued": tables.admission.queued,
            "request_bytes": tables.request_bytes.size,
            "backlog": tables.backlog.size,
            "streams": len(tables.streams),
            "subscribers": len(tables.streams.shared),
            "streams_bytes": tables.streams.kept.size,
        }

    def _fullest(self) -> dict[str, tuple[bytes, int]]:
        """Who uses most of the limits of each client, and how much that is."""
        tables = self._tables
        backlogs: Counter[bytes] = Counter()
        for listener in tables.listeners:
            backlogs.update(listener.backlogs)
        return {
            "running_per_peer": _most(tables.admission.running_of_peers),
            "queued_per_peer": _most(tables.admission.queued_of_peers),
            "request_bytes_per_peer": _most(tables.request_bytes.of_peers),
            "backlog_per_peer": _most(backlogs),
            "streams_per_peer": _most(tables.streams.of_openers()),
        }

    def _who(self, counted: bytes) -> str:
        """Who is counted under a name."""
        user = user_counted_as(counted)
        if user:
            return user
        number = self._number_of(counted)
        return f"peer {number}" if number else "a peer that has gone"


def _above(listener: Listener, after: int) -> Iterator[tuple[Listener, PeerRecord]]:
    for record in listener.records or ():
        if record.number > after:
            yield listener, record


def _peer_state(
    listener: Listener,
    record: PeerRecord,
    now: float,
    streams: _OfPeer,
    shared: Mapping[bytes, int],
) -> PeerState:
    peer = record.peer
    calls = listener.wire.calls_of(peer)
    queued = sum(call.queued for call in calls)
    return PeerState(
        number=record.number,
        identity=record.identity,
        public_key=record.public_key,
        address=listener.peer_address(peer),
        endpoint=listener.endpoint,
        age=now - record.since,
        user_agent=record.user_agent,
        is_proxy=listener.for_proxy,
        started=record.started,
        running=len(calls) - queued,
        queued=queued,
        streams=streams.streams,
        shared_streams=shared.get(peer, 0),
        unacknowledged_items=streams.items,
        unacknowledged_bytes=streams.size,
        backlog_bytes=listener.backlogs.get(peer, 0),
    )


def _unit(name: str) -> str:
    if name in _BYTES:
        return "bytes"
    return "seconds" if name in _SECONDS else ""


def _most(of_peers: Mapping[bytes, int]) -> tuple[bytes, int]:
    """Who has most, and how much; nobody where nobody has anything."""
    return max(of_peers.items(), key=lambda one: one[1], default=(b"", 0))
