"""Who is connected to a server of gRPC's, for what its gateway tells of them."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc.aio

from txzmq.rpc._gateway.certificates import ClientCertificate
from txzmq.rpc._gateway.forwarding import Forwarding, Sender

__all__ = ["Senders", "host_of"]

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

#: How many of those that are connected are remembered.
_MOST: Final = 1_024


class Senders:
    """Who is connected, by what gRPC says of a call."""

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
        # With the certificate: a port may soon be that of another client.
        self._known: dict[tuple[str, bool, bytes], Sender] = {}

    def of(self, context: _Context) -> Sender:
        """Who has sent a call."""
        # Any: to grpcio's stubs, the values are text.
        about: Mapping[str, Any] = context.auth_context()
        # To grpcio's stubs, a peer is what its name says.
        peer: Any = context.peer()
        secure = about.get("transport_security_type") == _TLS
        pem = _first(about, "x509_pem_cert") if secure else b""
        key = (str(peer), secure, pem)
        sender = self._known.get(key)
        if sender is None:
            certificate = _certificate(about, pem) if pem else None
            sender = self._forwarding.sender(
                host_of(key[0]), secure=secure, certificate=certificate
            )
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = sender
        return sender


_TLS: Final = [b"ssl"]


def host_of(peer: str) -> str | None:
    """The address of a peer, as gRPC writes it; None for a Unix socket.

    ``ipv4:127.0.0.1:50051``, ``ipv6:%5B::1%5D:50051``, ``unix:/run/gateway.sock``.
    """
    scheme, _, rest = peer.partition(":")
    if scheme.startswith("unix"):
        return None
    return unquote(rest).rpartition(":")[0].strip("[]")


def _first(about: Mapping[str, Any], name: str) -> bytes:
    values: Iterable[bytes] = about.get(name, ())
    return next(iter(values), b"")


def _certificate(about: Mapping[str, Any], pem: bytes) -> ClientCertificate:
    def texts(name: str) -> tuple[str, ...]:
        values: Iterable[bytes] = about.get(name, ())
        return tuple(value.decode("utf-8", "replace") for value in values)

    return ClientCertificate(
        hash=sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest(),
        subject=_first(about, "x509_subject").decode("utf-8", "replace"),
        uris=texts("peer_uri"),
        dns_names=texts("peer_dns"),
    )
