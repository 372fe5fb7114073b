"""The paths of the control calls, which every server serves and every channel makes.

They are methods of the services in ``protos/txzmq/rpc/v1/``.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACKNOWLEDGE",
    "CANCEL",
    "CANCEL_STREAMS",
    "CONTROL_PATHS",
    "LEAVE",
    "PING",
    "REPLAY",
    "SEND",
]

#: End calls.
CANCEL: Final = "/txzmq.rpc.v1.Control/Cancel"
#: Show that the other side works.
PING: Final = "/txzmq.rpc.v1.Control/Ping"
#: The client sends no more calls on its connection.
LEAVE: Final = "/txzmq.rpc.v1.Control/Leave"

#: The client has items of its streams of responses.
ACKNOWLEDGE: Final = "/txzmq.rpc.v1.Streams/Acknowledge"
#: Send items of a stream of responses again.
REPLAY: Final = "/txzmq.rpc.v1.Streams/Replay"
#: End streams of responses.
CANCEL_STREAMS: Final = "/txzmq.rpc.v1.Streams/Cancel"
#: Take items of a stream of requests.
SEND: Final = "/txzmq.rpc.v1.Streams/Send"

#: All of them: by these, a client reaches nothing but its own calls and streams.
CONTROL_PATHS: Final = frozenset({CANCEL, PING, LEAVE, ACKNOWLEDGE, REPLAY, CANCEL_STREAMS, SEND})
