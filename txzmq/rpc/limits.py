"""Every limit by name, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

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
#: Bytes of requests that a channel has waiting at most.
BACKLOG: Final = 256 * 1024 * 1024
#: Items of a stream that may be on their way, or wait to be read; and bytes of them.
STREAM_WINDOW: Final = 4_096
STREAM_WINDOW_BYTES: Final = 4 * 1024 * 1024
#: Items of a stream of requests that may be sent and not acknowledged; and bytes of them. The
#: protocol says so, as nobody could tell the client before its first item.
REQUESTS_WINDOW: Final = 1_024
REQUESTS_WINDOW_BYTES: Final = 1024 * 1024
#: Calls that one ``Control.Cancel`` may end.
MAX_CANCELLED: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyCacheLimits:
    """What is kept at most; the oldest goes first."""

    #: Replies.
    entries: int = 10_000
    #: Bytes of them all, with 512 for each besides. A reply of more than an eighth is not kept.
    size: int = 16 * 1024 * 1024
    #: Seconds from the answer.
    age: float = 60.0
    #: Requests that wait for one run of a handler, the first included.
    waiting: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """What a server takes on at most. Past a limit, RESOURCE_EXHAUSTED names it.

    A call runs from the start of its handler until the handler has really ended, also where it was
    cancelled before. Calls past a limit of running ones wait in a queue, each peer in its own,
    served in turn; what is past its deadline leaves the queue without having run.
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
    #: Bytes of a serialised request or response.
    message_size: int = MESSAGE_SIZE
    #: Bytes of replies that wait for a client which does not read them.
    backlog: int = 64 * 1024 * 1024
    #: Bytes of metadata of a request, and of what goes back.
    metadata_size: int = METADATA_SIZE
    #: Seconds that a call may take whose client gave it no deadline; None for no end.
    default_timeout: float | None = 3_600.0
    #: Seconds that a call may take, whatever its client says; None for no end.
    max_timeout: float | None = 3_600.0
    #: Replies that are kept for requests which may come again; None to execute each anew.
    reply_cache: ReplyCacheLimits | None = field(default_factory=ReplyCacheLimits)
    #: Streams of responses that are open at one time, until the handler has ended and the client
    #: has had the end; they do not count as calls that run. A shared one counts once.
    streams: int = 16_384
    #: Streams that one peer has open; each of its calls counts, also those that share.
    streams_per_peer: int = 4_096
    #: Calls that share streams, of all peers.
    subscribers: int = 262_144
    #: Items of a stream that are published and not acknowledged; its client may ask for fewer. Past
    #: it the handler is not asked for the next one.
    stream_window: int = STREAM_WINDOW
    #: Bytes of them; the item that reaches them is the last.
    stream_window_bytes: int = STREAM_WINDOW_BYTES
    #: Bytes of items, over all streams, that are kept because they are not acknowledged. Past it no
    #: handler is asked for an item, and no stream opened.
    streams_bytes: int = 256 * 1024 * 1024
    #: Seconds that a stream may take, whatever its client says; None for no end.
    stream_timeout: float | None = None
    #: Seconds that a stream is kept to which nobody subscribes: its client has a broken connection,
    #: or is gone.
    stream_grace: float = 5.0
    #: Seconds that a client may leave what was published unacknowledged without a word; or, up to a
    #: quarter more, say nothing at all where everything is acknowledged. 2 at least: it is asked
    #: for a word after 1 s.
    stream_silence: float = 20.0
