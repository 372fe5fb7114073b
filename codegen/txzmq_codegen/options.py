"""Reads txzmq's own option, ``(txzmq.rpc.v1.stream)``, out of a method's options.

It parses the bytes instead of using a generated module, because the generator imports nothing of
the runtime, and the descriptor pool of this process need not know the extension.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.descriptor_pb2 import MethodDescriptorProto

from txzmq_codegen.model import StreamOptions
from txzmq_codegen.wire import Malformed, fields

__all__ = ["STREAM_FIELD", "StreamOptions", "stream_options"]

#: The number of ``txzmq.rpc.v1.stream`` in ``google.protobuf.MethodOptions``.
STREAM_FIELD: Final = 51727

# Fields of txzmq.rpc.v1.StreamOptions.
_SHARING: Final = 1
_REPLAY: Final = 2
_RESUMABLE: Final = 3
_SHARED: Final = 2


def stream_options(
    method: MethodDescriptorProto,
) -> tuple[StreamOptions | None, tuple[str, str] | None]:
    """The method's stream options, if any, and what is wrong with them (message and help)."""
    if not method.HasField("options"):
        return None, None
    found = [
        value
        for number, value in fields(method.options.SerializeToString(deterministic=True))
        if number == STREAM_FIELD and isinstance(value, bytes)
    ]
    if not found:
        return None, None
    # Fields that occur several times are merged, as any protobuf parser does.
    try:
        values = {n: v for value in found for n, v in fields(value) if isinstance(v, int)}
    except Malformed:
        what = f"(txzmq.rpc.v1.stream) on rpc {method.name} has bytes that are no message"
        return None, (what, "make the descriptors anew; protoc makes no such ones")
    stream = StreamOptions(
        shared=values.get(_SHARING) == _SHARED,
        replay=values.get(_REPLAY, 0),
        resumable=bool(values.get(_RESUMABLE)),
    )
    return stream, _complaint(method, stream)


def _complaint(method: MethodDescriptorProto, stream: StreamOptions) -> tuple[str, str] | None:
    name = f"rpc {method.name}"
    if not method.server_streaming:
        return (
            f"(txzmq.rpc.v1.stream) on {name}, which returns no stream",
            "remove the option, or write: returns (stream ...)",
        )
    if stream.shared and method.client_streaming:
        return (
            f"sharing: SHARED on {name}, which takes a stream",
            "calls share a run if their requests are equal: take one request, not a stream",
        )
    if stream.replay and not stream.shared:
        return (
            f"replay on {name}, whose stream is private",
            "a private stream keeps what is unacknowledged; replay needs sharing: SHARED",
        )
    return None
