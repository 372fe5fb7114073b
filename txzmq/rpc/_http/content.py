"""What a request says of its body: which protocol, and which format of messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from txzmq.rpc.errors import InvalidArgument

__all__ = [
    "ANY",
    "STREAM_TYPES",
    "UNARY_TYPES",
    "Content",
    "Headers",
    "content_of",
    "header",
    "query_of",
    "seconds_of",
]

#: Headers as ASGI has them, names in lower case.
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Content:
    """What a content type stands for.

    :ivar name: the type.
    :ivar json: whether messages are JSON.
    :ivar envelopes: whether each message has an envelope, so that there may be several.
    :ivar connect: whether the protocol is Connect's, not gRPC-Web.
    """

    name: str
    json: bool
    envelopes: bool
    connect: bool


_CONTENTS: Final = {
    name: Content(
        name,
        json=name.endswith("json"),
        envelopes="connect" in name or "grpc" in name,
        connect="grpc" not in name,
    )
    for name in (
        "application/json",
        "application/proto",
        "application/connect+json",
        "application/connect+proto",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web+json",
    )
}
#: The types of bodies with one message, and with several, for who asks.
UNARY_TYPES: Final = tuple(
    n for n, each in _CONTENTS.items() if not each.envelopes or not each.connect
)
STREAM_TYPES: Final = tuple(name for name, each in _CONTENTS.items() if each.envelopes)
#: For whoever cannot be answered in what it speaks.
ANY: Final = _CONTENTS["application/json"]
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_BY_ENCODING: Final = {
    "json": _CONTENTS["application/json"],
    "proto": _CONTENTS["application/proto"],
}


def header(headers: Headers, name: bytes) -> str:
    """The first value of a header; empty if there is none."""
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


#: Seconds of the units of ``grpc-timeout``.
_UNITS: Final = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([0-9]{1,10})([HMSmun])", re.ASCII)


def seconds_of(headers: Headers) -> float | None:
    """How long a call may take; None without an end, and for what connectrpc will refuse."""
    milliseconds = header(headers, b"connect-timeout-ms")
    given = f"{milliseconds}m" if milliseconds else header(headers, b"grpc-timeout")
    found = _TIMEOUT.fullmatch(given)
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def content_of(content_type: str) -> Content | None:
    """What a content type stands for; None for one that the gateway does not take."""
    found = _CONTENTS.get(content_type)
    if found is not None:
        return found
    # Parameters say nothing here: JSON is UTF-8. connectrpc takes them with Connect's types only.
    found = _CONTENTS.get(content_type.partition(";")[0].strip().lower())
    return found if found is not None and found.connect else None


def query_of(query: bytes) -> Content:
    """What the query of a GET says of its message, checked as far as connectrpc is lenient.

    :raises InvalidArgument: for what would become another message than was meant.
    """
    try:
        pairs = dict(
            reversed(parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict"))
        )
    except UnicodeDecodeError:
        raise InvalidArgument(
            "the gateway cannot read the query: it is no UTF-8; bytes are sent with base64=1"
        ) from None
    content = _BY_ENCODING.get(pairs.get("encoding", ""))
    if content is None:
        raise InvalidArgument("the gateway cannot read the query: encoding has to be json or proto")
    if pairs.get("base64") == "1":
        # base64.urlsafe_b64decode leaves out what it does not know.
        text = pairs.get("message", "").rstrip("=")
        if not _BASE64.fullmatch(text) or len(text) % 4 == 1:
            raise InvalidArgument("the gateway cannot read the message: it is no URL-safe base64")
    return content
