"""What a gateway tells the servers of its clients, and keeps clients from telling themselves.

The metadata, which :mod:`txzmq.rpc.forwarded` reads:

``x-forwarded-for``
    the client's address, and behind it those of the proxies, the last one connected to the gateway.
``x-forwarded-proto``
    ``https`` or ``http``: what the client speaks.
``x-forwarded-client-cert``
    the client's certificate, where TLS is mutual.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from txzmq import _check
from txzmq.rpc._gateway.addresses import (
    UNIX,
    IPAddress,
    Networks,
    chain_of,
    parse_address,
)
from txzmq.rpc._gateway.certificates import (
    ClientCertificate,
    format_certificate,
    parse_certificate,
)
from txzmq.rpc.metadata import Metadata

__all__ = ["CERTIFICATE", "FOR", "PROTO", "Forwarding", "Sender", "tells_who_calls"]

FOR: Final = "x-forwarded-for"
PROTO: Final = "x-forwarded-proto"
CERTIFICATE: Final = "x-forwarded-client-cert"
_SCHEMES: Final = ("http", "https")

#: How the names of headers begin by which proxies of all kinds say who calls: ``_`` and ``-`` are
#: the same to some that read them.
_OF_PROXIES: Final = (
    "cf-connecting-ip",
    "client-cert",  # RFC 9440
    "client-ip",
    "fastly-client-ip",
    "forwarded",  # RFC 7239
    "remote-addr",
    "ssl-client-",
    "true-client-ip",
    "x-amzn-mtls-",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-ssl-client-",
)
#: Characters of a key that is remembered: a client may send longer ones.
_MAX_KNOWN: Final = 64


def _tells(key: str) -> bool:
    return key.replace("_", "-").startswith(_OF_PROXIES)


_known: Final = lru_cache(maxsize=1_024)(_tells)


def tells_who_calls(key: str) -> bool:
    """Whether a key is one of those by which proxies say who calls.

    :param key: in lower case.
    """
    return _known(key) if len(key) <= _MAX_KNOWN else _tells(key)


class Forwarding:
    """How a gateway tells of its clients."""

    def __init__(self, trusted_proxies: object = (), *, proxy_certificates: bool = False) -> None:
        """
        :param trusted_proxies: networks of proxies in front of the gateway, whose word about who
            calls is believed; see :class:`Networks`.
        :param proxy_certificates: whether these set or remove ``x-forwarded-client-cert``, so that
            it is theirs and no client's.
        :raises ValueError: for a network that is none, and so TypeError.
        """
        self._trusted = Networks("trusted_proxies", trusted_proxies)
        _check.boolean("proxy_certificates", proxy_certificates)
        self._proxy_certificates = proxy_certificates

    def sender(
        self,
        host: str | None,
        *,
        secure: bool,
        certificate: ClientCertificate | None = None,
    ) -> Sender:
        """Who is connected to the gateway, whose requests all go through what this returns.

        :param host: the address, without a port; None for a Unix socket.
        :param secure: whether the connection is encrypted.
        :param certificate: by which it has authenticated.
        """
        peer = UNIX if host is None else parse_address(host)
        trusted = self._trusted if peer in self._trusted else None
        return Sender(peer, trusted, secure, certificate, self._proxy_certificates)


class Sender:
    """Who is connected to a gateway: a client, or a trusted proxy with clients of its own."""

    __slots__ = ("_certificates", "_own", "_peer", "_secure", "_trusted")

    def __init__(
        self,
        peer: IPAddress | str,
        trusted: Networks | None,
        secure: bool,
        certificate: ClientCertificate | None,
        certificates: bool,
    ) -> None:
        """:class:`Forwarding` calls this; *trusted* is None for one that is not trusted."""
        self._peer = peer
        self._trusted = trusted
        self._secure = secure
        self._certificates = certificates
        own: list[tuple[str, str | bytes]] = [(FOR, str(peer)), (PROTO, _SCHEMES[secure])]
        if certificate is not None:
            own.append((CERTIFICATE, format_certificate(certificate)))
        self._own: Metadata = tuple(own)

    # Any: what arrives is wider than what passes.
    def metadata(self, pairs: Iterable[Any]) -> Metadata:
        """What goes to the servers: the metadata that it sends, and who calls.

        :param pairs: in their order; keys in lower case.
        """
        if self._trusted is not None:
            return self._of_proxy(tuple(pairs), self._trusted)
        return (*[pair for pair in pairs if not tells_who_calls(pair[0])], *self._own)

    def _of_proxy(self, pairs: Metadata, trusted: Networks) -> Metadata:
        def values(name: str) -> list[str]:
            return [value for key, value in pairs if key == name and isinstance(value, str)]

        # What is read here is written anew; other words of a trusted proxy pass as they are.
        read = (FOR, PROTO, CERTIFICATE)
        told: list[tuple[str, str | bytes]] = [pair for pair in pairs if pair[0] not in read]
        fors = values(FOR)
        told.append((FOR, ", ".join(map(str, chain_of(fors, self._peer, trusted)))))
        # Without a word about a client of its own, the proxy is the client.
        schemes = values(PROTO)
        is_said = len(schemes) == 1 and schemes[0] in _SCHEMES
        told.append((PROTO, schemes[0] if is_said else _SCHEMES[self._secure]))
        if not fors:
            told.extend(pair for pair in self._own if pair[0] == CERTIFICATE)
        elif self._certificates:
            certificates = values(CERTIFICATE)
            parsed = parse_certificate(certificates[0]) if len(certificates) == 1 else None
            if parsed is not None:
                told.append((CERTIFICATE, format_certificate(parsed)))
        return tuple(told)
