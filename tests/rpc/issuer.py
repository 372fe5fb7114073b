"""An identity provider: keys, and tokens that it signs."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import algorithms, api_jws

from txzmq.rpc.metadata import Metadata

#: What somebody's clock shows when the tests begin.
EPOCH = 1_800_000_000.0
AUDIENCE = "orders"
ISSUER = "https://login.example.org"


def key(kind: str, number: int = 0) -> Any:
    """A private key; the same for the same arguments, as making one takes long."""
    return _key(kind, number)


@cache
def _key(kind: str, number: int) -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "RSA-1024":
        return rsa.generate_private_key(public_exponent=65537, key_size=1024)
    if kind == "P-384":
        return ec.generate_private_key(ec.SECP384R1())
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    assert kind == "P-256", kind
    return ec.generate_private_key(ec.SECP256R1())


def pem(private: Any) -> str:
    """The public key that belongs to it."""
    data: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data.decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token; None leaves one out."""
    good: dict[str, Any] = {
        "sub": "alice",
        "aud": AUDIENCE,
        "iss": ISSUER,
        "exp": int(EPOCH) + 600,
        "groups": ["staff"],
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(
    private: Any = None,
    *,
    algorithm: str = "ES256",
    kid: str | None = None,
    header: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """A token."""
    headers = {**({} if kid is None else {"kid": kid}), **(header or {})}
    private = key("P-256") if private is None else private
    # Not jwt.encode(), which refuses some claims that are wrong.
    payload = json.dumps(claims(**changes)).encode()
    return api_jws.encode(payload, private, algorithm, headers=headers)


def raw(header: Any, payload: Any, signature: bytes = b"signature") -> str:
    """A token of any parts: bytes as they are, others as JSON."""
    parts = [
        part if isinstance(part, bytes) else json.dumps(part).encode()
        for part in (header, payload, signature)
    ]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def carrying(token: str) -> Metadata:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


def jwk(private: Any, kid: str | None = None, **changes: Any) -> dict[str, Any]:
    """A public key as a JWKS has it; None leaves a member out."""
    algorithm: Any
    if isinstance(private, rsa.RSAPrivateKey):
        algorithm = algorithms.RSAAlgorithm
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = algorithms.ECAlgorithm
    else:
        algorithm = algorithms.OKPAlgorithm
    found: dict[str, Any] = json.loads(algorithm.to_jwk(private.public_key()))
    found = {"kid": kid, "use": "sig", **found, **changes}
    return {name: value for name, value in found.items() if value is not None}


def jwks(*keys: dict[str, Any]) -> bytes:
    """What an identity provider publishes."""
    return json.dumps({"keys": list(keys)}).encode()
