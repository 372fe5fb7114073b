"""Every limit by name, with its default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from txzmq import _check

__all__ = [
    "BACKLOG",
    "MAX_CANCELLED",
    "MESSAGE_SIZE",
    "METADATA_SIZE",
    "REQUESTS_WINDOW",
    "REQUESTS_WINDOW_BYTES",
    "STREAM_WINDOW",
    "STREAM_WINDOW_BYTES",
    "ReplyCacheLimits",
    "ServerLimits",
]

#: Bytes that a serialised message may have, gRPC's default for what is received.
MESSAGE_SIZE: Final = 4 * 1024 * 1024
#: Bytes that metadata may cost, gRPC's default.
METADATA_SIZE: Final = 8 * 1024
#: Bytes of requests that may wait in a channel, to be sent or for their replies.
BACKLOG: Final = 256 * 1024 * 1024
#: Items of a stream of responses that may be under way or unread; and their bytes.
STREAM_WINDOW: Final = 4_096
STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
#: Items of a stream of requests that may be sent and not acknowledged; and their bytes. The
#: protocol fixes both, because a server cannot tell the client before the first item.
REQUESTS_WINDOW: Final = 1_024
REQUESTS_WINDOW_BYTES: Final = 1024 * 1024
#: Calls that one ``Control.Cancel`` may end.
MAX_CANCELLED: Final = 1_000

_PATH: Final = re.compile(r"/[^/]+/[^/]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyCacheLimits:
    """Limits of a server's cache of replies; past one of them an old reply is dropped.

    It is the oldest of a user who has more than an equal share, so that nobody pushes out what
    others have. All who have not authenticated count as one user.
    """

    #: Replies that are kept.
    entries: int = 10_000
    #: Bytes of all kept replies, plus 512 for each. A reply of over an eighth of it is not kept.
    size: int = 16 * 1024 * 1024
    #: Seconds that a reply is kept.
    age: float = 60.0
    #: Requests with one key that wait for one run of the handler, the first included.
    waiting: int = 8

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.integer("entries", self.entries)
        _check.integer("size", self.size)
        _check.number("age", self.age)
        _check.integer("waiting", self.waiting, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """What a server accepts at most. Past a limit, a call ends with RESOURCE_EXHAUSTED, naming it.

    A call runs from the start of its handler until the handler has ended, also if the call was
    cancelled before that. Calls past a limit of running calls wait in queues, one per peer, served
    in turn; a call whose deadline has passed leaves its queue without being executed.
    """

    #: Calls that run at one time.
    running: int = 4_096
    #: Calls of one peer that run at one time.
    running_per_peer: int = 1_024
    #: Calls of one method that run at one time, by path, ``/package.Service/Method``.
    running_per_method: Mapping[str, int] = field(default_factory=dict[str, int])
    #: Calls that wait for a place.
    queued: int = 16_384
    #: Calls of one peer that wait for a place.
    queued_per_peer: int = 4_096
    #: Calls of one method that wait for a place, by path.
    queued_per_method: Mapping[str, int] = field(default_factory=dict[str, int])
    #: Bytes of requests that wait for a place or run, or whose streams of responses are open, and
    #: of streamed requests that their handlers have not read (64 more for each), but for 4 KiB of
    #: each stream. A request that is answered at once does not count; a larger one than the limit
    #: is taken while there is no other.
    request_bytes: int = 256 * 1024 * 1024
    #: Those of one peer.
    request_bytes_per_peer: int = 64 * 1024 * 1024
    #: Bytes of a serialised request or response.
    message_size: int = MESSAGE_SIZE
    #: Bytes of replies that wait for clients which do not read them, plus 256 for each. What does
    #: not fit becomes a short error. When the limit is reached, messages of clients for which
    #: something waits are dropped until some of it has been read.
    backlog: int = 256 * 1024 * 1024
    #: Those of one client, and its messages; and bytes of items of shared streams that wait for one
    #: connection: one that takes hardly any of them is ended.
    backlog_per_peer: int = 64 * 1024 * 1024
    #: Bytes of a request's metadata, and of its reply's.
    metadata_size: int = METADATA_SIZE
    #: Seconds that a call without a deadline may take; None for no limit.
    default_timeout: float | None = 3_600.0
    #: Seconds that any call may take, whatever its client says; None for no limit.
    max_timeout: float | None = 3_600.0
    #: Seconds for which the reactor may stand still, because a handler computes or the process is
    #: stopped. Past that the server says so in the log, and refuses, unexecuted, those of the
    #: requests which it then finds in its sockets that may be late. None not to watch; a timer runs
    #: twice in this time otherwise.
    blocked_after: float | None = 0.5
    #: Limits of the replies kept for repeated requests; None to keep none, and execute each one.
    reply_cache: ReplyCacheLimits | None = field(default_factory=ReplyCacheLimits)
    #: Streams of responses that are open at one time: until the handler has ended and the client
    #: has received the end. They do not count as running calls. A shared stream counts once.
    streams: int = 16_384
    #: Streams that one peer has open; each of its calls counts, also one that shares a stream.
    streams_per_peer: int = 4_096
    #: Calls of all peers that share streams.
    subscribers: int = 262_144
    #: Items of a stream that are published and not acknowledged; its client may ask for fewer. At
    #: this number the handler is not asked for another item.
    stream_window: int = STREAM_WINDOW
    #: Bytes of those items; the item that reaches the limit is still published.
    stream_window_bytes: int = STREAM_WINDOW_BYTES
    #: Bytes of items, over all streams, that are not acknowledged. Past it no handler is asked for
    #: an item, and new streams are refused.
    streams_bytes: int = 256 * 1024 * 1024
    #: Subscriptions of all connections to a publisher that are to topics of no stream (any more).
    #: Past it, the connections with the most of them are ended; a client connects again.
    stray_subscriptions: int = 32_768
    #: Those of one connection; past it, it is ended.
    stray_subscriptions_per_peer: int = 5_000
    #: Seconds that any stream may take, whatever its client says; None for no limit.
    stream_timeout: float | None = None
    #: Seconds that a stream without a subscriber is kept, because its client lost its connection or
    #: is gone. A client that says other things has :attr:`stream_silence` to come to a stream that
    #: it opened.
    stream_grace: float = 5.0
    #: Seconds of silence after which a client's streams are ended: it acknowledges nothing, though
    #: items are unacknowledged; or all are acknowledged, and it answers no heartbeat (then up to a
    #: quarter longer). Use 2 or more: the first heartbeat comes after 1 s.
    stream_silence: float = 20.0
    #: Seconds that a client's connection may last, from its first message; a tenth more or less,
    #: drawn for each, so that those which have come together do not leave together. Then the client
    #: is told to connect anew, and no call is lost. None for no limit.
    connection_age: float | None = None
    #: Seconds that such a client has to leave the old connection. All goes on meanwhile; what is
    #: left then ends with UNAVAILABLE, and the connection is ended. None for any time.
    connection_age_grace: float | None = 60.0

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        for name in _COUNTS:
            _check.integer(name, getattr(self, name))
        for name in _SIZES:
            _check.integer(name, getattr(self, name), 1)
        for name in ("running_per_method", "queued_per_method"):
            _check_by_method(name, getattr(self, name))
        for name in _TIMES:
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=True, endless="None")
        if self.blocked_after is not None:
            _check.number("blocked_after", self.blocked_after, above=True, endless="None")
        if self.reply_cache is not None:
            _check.instance(
                "reply_cache", self.reply_cache, ReplyCacheLimits, "a ReplyCacheLimits or None"
            )
        _check.number("stream_grace", self.stream_grace)
        _check.number("stream_silence", self.stream_silence, above=True)


#: The limits of a :class:`ServerLimits` that may be 0, so that there is nothing of it.
_COUNTS: Final = (
    "running",
    "running_per_peer",
    "queued",
    "queued_per_peer",
    "request_bytes",
    "request_bytes_per_peer",
    "backlog",
    "backlog_per_peer",
    "stray_subscriptions",
    "stray_subscriptions_per_peer",
    "metadata_size",
    "streams",
    "streams_per_peer",
    "subscribers",
    "streams_bytes",
)
#: Those in seconds that need not be limited.
_TIMES: Final = (
    "default_timeout",
    "max_timeout",
    "stream_timeout",
    "connection_age",
    "connection_age_grace",
)
#: Those without which nothing would go on.
_SIZES: Final = ("message_size", "stream_window", "stream_window_bytes")


def _check_by_method(name: str, limits: object) -> None:
    if not isinstance(limits, Mapping):
        raise _check.wrong_type(name, limits, "a mapping of paths to integers")
    # The cast is for pyright, which knows a mapping of what as little as the caller may.
    for path, limit in cast("Mapping[object, object]", limits).items():
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise ValueError(
                f"{name} takes the paths of methods, /package.Service/Method, and not "
                f"{_check.shown(path)}"
            )
        _check.integer(f"{name}[{path!r}]", limit)
