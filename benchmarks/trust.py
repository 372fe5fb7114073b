"""Keys and certificates for one run, and how client and server are told them.

A server's line for its clients is its address; of one that wants credentials, the keys of both
follow, so that the same line also starts the server anew. They are made for one run, and worth
nothing beyond it.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any, Final

from txzmq.auth import CurveClientCredentials, CurveKeyPair, CurveServerCredentials

__all__ = ["curve_client", "curve_server", "new_curve", "new_tls", "tls_client", "tls_server"]

#: Who the client is.
_CLIENT: Final = "client"


def new_curve() -> str:
    """Keys of a server and its client, as they stand behind an address."""
    server, client = CurveKeyPair.generate(), CurveKeyPair.generate()
    return f" {server.secret_key} {client.secret_key}"


def curve_server(keys: str) -> CurveServerCredentials:
    """A server's credentials."""
    server, client = map(CurveKeyPair, keys.split())
    return CurveServerCredentials(server, {client.public_key: _CLIENT})


def curve_client(line: str) -> tuple[str, CurveClientCredentials | None]:
    """Address and credentials, from a server's line; None if it wants none."""
    address, *keys = line.split(" ")
    if not keys:
        return address, None
    server, client = map(CurveKeyPair, keys)
    return address, CurveClientCredentials(client, server_keys=[server.public_key])


def new_tls() -> str:
    """As :func:`new_curve`, for mutual TLS: certificates of one authority, on elliptic curves."""
    trustme = import_module("trustme")  # where nobody wants TLS, it need not be installed
    authority = trustme.CA()
    pems = [authority.cert_pem.bytes()]
    for certificate in (
        authority.issue_cert("127.0.0.1"),
        authority.issue_cert(f"{_CLIENT}.example"),
    ):
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        pems += [certificate.private_key_pem.bytes(), chain]
    return " " + json.dumps([pem.decode("ascii") for pem in pems])


# Any: grpcio has no types.
def tls_server(certificates: str) -> Any:
    """A server's credentials; it asks its clients for theirs."""
    grpc: Any = import_module("grpc")
    root, key, chain, _, _ = _pems(certificates)
    return grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=root, require_client_auth=True
    )


def tls_client(line: str) -> tuple[str, Any]:
    """Address and credentials, from a server's line; None if it wants none."""
    address, _, certificates = line.partition(" ")
    if not certificates:
        return address, None
    grpc: Any = import_module("grpc")
    root, _, _, key, chain = _pems(certificates)
    return address, grpc.ssl_channel_credentials(root, key, chain)


def _pems(certificates: str) -> list[bytes]:
    return [pem.encode("ascii") for pem in json.loads(certificates)]
