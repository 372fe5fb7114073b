"""Who calls by a gateway: its client's address and certificate, as the gateway tells them.

To a server, a call that a gateway passes on is the gateway's: ``context.identity`` and
``context.peer`` are its. What the gateway knows of its client it adds as metadata, and it removes
what clients send under the same names. A service believes them of gateways that it names::

    GATEWAYS = Gateways(["edge"])

    class Orders(OrdersBase):
        def place(self, request: PlaceRequest, context: Context) -> PlaceResponse:
            client = GATEWAYS.client_of(context)
            if client is None:
                ...  # no gateway has passed it on
            elif client.certificate is not None:
                ...  # client.certificate.uris, client.address

The metadata are ``x-forwarded-for``, ``x-forwarded-proto`` and ``x-forwarded-client-cert``. A
service that reads them from ``context.metadata`` itself believes whoever calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import cast

from txzmq import _check
from txzmq.rpc._gateway.addresses import (
    INPROC,
    UNIX,
    IPAddress,
    Networks,
    parse_address,
    parse_entry,
)
from txzmq.rpc._gateway.certificates import ClientCertificate, parse_certificate
from txzmq.rpc._gateway.forwarding import CERTIFICATE, FOR, PROTO
from txzmq.rpc.context import Context

__all__ = ["ClientCertificate", "ForwardedClient", "Gateways"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedClient:
    """Who has made a call to a gateway.

    :ivar address: where the client is; None where nobody knows it, or where it is connected by a
        Unix socket.
    :ivar proxies: by which the call has come to the gateway, the nearest to the client first; None
        for one without an address, as above.
    :ivar secure: whether the client's connection is encrypted.
    :ivar certificate: by which the client has authenticated; None without mutual TLS.
    """

    address: IPv4Address | IPv6Address | None
    proxies: tuple[IPv4Address | IPv6Address | None, ...] = ()
    secure: bool = False
    certificate: ClientCertificate | None = None


class Gateways:
    """The gateways that a service believes when they say who calls."""

    def __init__(self, names: Iterable[str] = (), *, addresses: Iterable[str] = ()) -> None:
        """
        :param names: of their identities, on a server with ``credentials``.
        :param addresses: networks that they connect from, such as ``127.0.0.1`` or ``10.0.7.0/24``,
            on a server without; ``unix:`` stands for all of ``ipc://``, and ``inproc:`` for
            those in the same process. Everybody who can connect from there can lie about who
            calls.
        :raises ValueError: for a network that is none, or an empty name, and so TypeError.
        """
        given: object = names
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type("names", given, "a collection of names")
        each = tuple(cast("Iterable[object]", given))
        for name in each:
            _check.text("names", name)
        self._names = frozenset(each)
        self._networks = Networks("addresses", addresses, (UNIX, INPROC))

    def client_of(self, context: Context) -> ForwardedClient | None:
        """Who has made a call to one of the gateways.

        :return: None if none of them has passed the call on. A caller that has authenticated
            to the server is judged by its name, whatever its address.
        """
        if not self._has(context):
            return None
        entries = [entry for value in _values(context, FOR) for entry in value.split(",")]
        if not entries:
            return None
        client, *proxies = [_known(parse_entry(entry.strip(" "))) for entry in entries]
        certificates = _values(context, CERTIFICATE)
        return ForwardedClient(
            address=client,
            proxies=tuple(proxies),
            secure=_values(context, PROTO) == ["https"],
            certificate=parse_certificate(certificates[0]) if len(certificates) == 1 else None,
        )

    def _has(self, context: Context) -> bool:
        """Whether the connection that a call came by is that of one of them."""
        identity = context.peer_identity
        if identity is not None:
            return identity.name in self._names
        return bool(self._networks) and _address_of(context.peer) in self._networks


def _address_of(peer: str) -> IPAddress | str:
    """Where a peer of a server is, as its transport tells it."""
    if peer in ("inproc", "memory"):  # the latter is that of txzmq.testing
        return INPROC
    # libzmq says localhost:uid:gid:pid for ipc://.
    return UNIX if peer.startswith("localhost:") else parse_address(peer)


def _known(address: IPAddress | str) -> IPAddress | None:
    return None if isinstance(address, str) else address


def _values(context: Context, name: str) -> list[str]:
    return [value for key, value in context.metadata if key == name and isinstance(value, str)]
