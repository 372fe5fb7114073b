"""Reads txzmq's own options out of those of methods and services.

They are ``(txzmq.rpc.v1.stream)``, ``(txzmq.rpc.v1.requires)`` and
``(txzmq.rpc.v1.service_requires)``. It parses the bytes instead of using a generated module,
because the generator imports nothing of the runtime, and the descriptor pool of this process need
not know the extensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import MethodDescriptorProto, ServiceDescriptorProto

from txzmq_codegen.model import StreamOptions
from txzmq_codegen.text import literal
from txzmq_codegen.wire import Malformed, fields

__all__ = [
    "REQUIRES_FIELD",
    "STREAM_FIELD",
    "Complaint",
    "StreamOptions",
    "required_words",
    "requires",
    "stream_options",
]

#: What is wrong with an option, and one line of help.
Complaint = tuple[str, str]

#: The number of ``txzmq.rpc.v1.stream`` in ``google.protobuf.MethodOptions``.
STREAM_FIELD: Final = 51727
#: The number of ``txzmq.rpc.v1.requires`` there, and of ``txzmq.rpc.v1.service_requires`` in
#: ``google.protobuf.ServiceOptions``.
REQUIRES_FIELD: Final = 51728
#: The same as ``txzmq.rpc.method`` has: OAuth's scope tokens (RFC 6749, 3.3) without / and *, by
#: which tables of permissions tell paths from words.
_WORD: Final = re.compile(r"[!#-)+-.0-\[\]-~]+")

# Fields of txzmq.rpc.v1.StreamOptions.
_SHARING: Final = 1
_REPLAY: Final = 2
_RESUMABLE: Final = 3
_SHARED: Final = 2


def stream_options(
    method: MethodDescriptorProto,
) -> tuple[StreamOptions | None, Complaint | None]:
    """The method's stream options, if any, and what is wrong with them (message and help)."""
    found = list(_values(method, STREAM_FIELD))
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


def _values(
    element: MethodDescriptorProto | ServiceDescriptorProto, wanted: int
) -> Iterator[bytes]:
    """The values of an option that is a string or a message; several if it occurs repeatedly."""
    if not element.HasField("options"):
        return
    for number, value in fields(element.options.SerializeToString(deterministic=True)):
        if number == wanted and isinstance(value, bytes):
            yield value


def requires(
    element: MethodDescriptorProto | ServiceDescriptorProto,
) -> tuple[str, Complaint | None]:
    """The word that an rpc or a service has; empty if it has none. And what is wrong with it."""
    found = list(_values(element, REQUIRES_FIELD))
    if not found:
        return "", None
    word = found[-1].decode("utf-8", "backslashreplace")
    if _WORD.fullmatch(word):
        return word, None
    if isinstance(element, MethodDescriptorProto):
        what = f"(txzmq.rpc.v1.requires) on rpc {element.name}"
    else:
        what = f"(txzmq.rpc.v1.service_requires) on service {element.name}"
    return word, (
        f"{what} is {literal(word) if word else 'empty'}, which is no word",
        'write a word such as "orders.write": printable ASCII without space, quote, \\, / and *',
    )


def required_words(service: ServiceDescriptorProto) -> dict[str, str]:
    """By the name of each rpc the word that it requires: its own, or else its service's."""
    of_all, _ = requires(service)
    return {method.name: requires(method)[0] or of_all for method in service.method}


def _complaint(method: MethodDescriptorProto, stream: StreamOptions) -> Complaint | None:
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
