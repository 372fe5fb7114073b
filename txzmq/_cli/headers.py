"""Metadata on the command line: ``name: value``, bytes as base64, as grpcurl has it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from txzmq._cli.problems import Problem
from txzmq._escape import escaped
from txzmq.rpc.metadata import Metadata, normalise

__all__ = ["parse_headers", "shown"]

_HINT = "write it as 'name: value', for example -H 'tenant: acme'"


def parse_headers(headers: Iterable[str]) -> Metadata:
    """The metadata that headers give; names become lower case.

    :param headers: each ``name: value``; of a name that ends in ``-bin`` the value is base64, with
        or without padding, of either alphabet.
    :raises Problem: for one that is malformed.
    """
    pairs = [_pair(header) for header in headers]
    try:
        return normalise(pairs)
    except ValueError as error:
        raise Problem(f"header: {error}", _HINT) from None


def _pair(header: str) -> tuple[str, str | bytes]:
    name, colon, value = header.partition(":")
    name, value = name.strip().lower(), value.strip()
    if not colon or not name:
        raise Problem(f"the header {escaped(header)!r} has no name and colon", _HINT)
    if not name.endswith("-bin"):
        return name, value
    try:
        return name, _decoded(value)
    except (binascii.Error, ValueError):
        raise Problem(
            f"the value of the header {escaped(name)} is not base64",
            "a header whose name ends in -bin carries bytes; base64 -w0 encodes them",
        ) from None


def _decoded(value: str) -> bytes:
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def shown(pair: tuple[str, str | bytes]) -> str:
    """A pair as a header again."""
    name, value = pair
    text = base64.b64encode(value).decode() if isinstance(value, bytes) else escaped(value)
    return f"{name}: {text}"
