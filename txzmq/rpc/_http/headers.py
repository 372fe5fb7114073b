"""Metadata between the headers of HTTP, as Connect and gRPC-Web have them, and txzmq."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Final

from connectrpc.request import Headers

from txzmq.rpc._gateway.forwarding import Sender
from txzmq.rpc.errors import InvalidArgument
from txzmq.rpc.metadata import PREVIOUS_ATTEMPTS, PUSHBACK, Metadata, normalise

__all__ = ["add_metadata", "metadata_of"]

#: How the names of headers begin that are the protocols' own.
_OF_PROTOCOLS: Final = ("connect-", "grpc-", ":")
#: Those of gRPC's that are between a client and the server: how often it has tried, and when it may
#: again.
_OF_RETRIES: Final = frozenset({PREVIOUS_ATTEMPTS, PUSHBACK})
#: Those for the next hop (RFC 9110, 7.6.1), about a body, or about how it is to be answered.
_OF_A_HOP: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-post",
        "allow",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "x-grpc-web",
    }
)
#: Of responses: by these a browser decides who may read them, which is for the gateway to say.
_OF_CORS: Final = "access-control-"


def _passes(key: str) -> bool:
    return key in _OF_RETRIES or (key not in _OF_A_HOP and not key.startswith(_OF_PROTOCOLS))


def metadata_of(headers: Iterable[tuple[str, str]], sender: Sender) -> Metadata:
    """The metadata of a request.

    :param headers: with names in lower case.
    :param sender: who has sent it.
    :raises InvalidArgument: for what metadata cannot have.
    """
    pairs: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        if not _passes(key):
            continue
        if key.endswith("-bin"):
            # Several values may have become one header on the way.
            pairs.extend((key, _decoded(key, each)) for each in value.split(","))
        else:
            pairs.append((key, value))
    try:
        return normalise(sender.metadata(pairs))
    except ValueError as error:
        raise InvalidArgument(f"the gateway cannot pass the call on: {error}") from None


def _decoded(key: str, value: str) -> bytes:
    """:raises InvalidArgument: for what is no base64."""
    text = value.strip().rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):  # the latter for characters outside of ASCII
        raise InvalidArgument(
            f"the gateway cannot pass the call on: the header {key!r} is no base64, as the values "
            "of all headers are whose names end in -bin"
        ) from None


def add_metadata(headers: Headers, metadata: Metadata) -> None:
    """Put metadata of a response into its headers or trailers."""
    for key, value in metadata:
        if not _passes(key) or key.startswith(_OF_CORS):
            continue
        if isinstance(value, bytes):
            value = b64encode(value).decode().rstrip("=")
        headers.add(key, value)
