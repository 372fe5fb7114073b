"""Files of CURVE keys, in the format of pyzmq and CZMQ."""

from __future__ import annotations

import datetime
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import zmq
from zmq.utils import z85

__all__ = ["Certificate", "check_key", "read", "write"]

_KEY_LENGTH: Final = 40
#: Bytes of a file; nobody's certificate is larger.
_MOST: Final = 64 * 1024
#: What the keys are called.
_KEYS: Final = ("public-key", "secret-key")
_BANNERS: Final = {
    False: (
        "#   ****  Generated on {} by txzmq  ****\n"
        "#   ZeroMQ CURVE Public Certificate\n"
        "#   Exchange securely, or use a secure mechanism to verify the contents\n"
        "#   of this file after exchange.\n"
    ),
    True: (
        "#   ****  Generated on {} by txzmq  ****\n"
        "#   ZeroMQ CURVE **Secret** Certificate\n"
        "#   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.\n"
    ),
}


class Certificate(NamedTuple):
    """What a file says.

    :ivar public_key: 40 characters of Z85.
    :ivar secret_key: likewise; empty if it is not in the file.
    :ivar metadata: what is said besides, such as ``groups``.
    """

    public_key: str
    secret_key: str
    metadata: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Certificate({self.public_key!r})"


def check_key(name: str, key: object) -> str:
    """A CURVE key as text.

    :param key: 40 characters of Z85, as str or bytes, or the 32 bytes themselves.
    :raises TypeError: if it is neither str nor bytes.
    :raises ValueError: if it is no key. The message does not show it: it may be secret.
    """
    if isinstance(key, bytes) and len(key) == 32:
        return z85.encode(key).decode()
    if isinstance(key, bytes):
        key = key.decode("ascii", "replace")
    if not isinstance(key, str):
        raise TypeError(f"{name} must be a CURVE key, not {type(key).__name__}")
    try:
        if len(key) == _KEY_LENGTH and z85.encode(z85.decode(key.encode("ascii"))).decode() == key:
            return key
    except (KeyError, ValueError, OverflowError, struct.error):
        pass  # the characters are not Z85's, or say a number that is too large
    raise ValueError(
        f"{name} must be a CURVE key, {_KEY_LENGTH} characters of Z85; this has {len(key)}"
        + (", and some are not of Z85" if len(key) == _KEY_LENGTH else "")
    )


def read(path: str | os.PathLike[str]) -> Certificate:
    """Read a file of keys.

    :raises OSError: if it cannot be read.
    :raises ValueError: if it has no public key, or what is in it is no key.
    """
    with open(path, "rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"{os.fspath(path)} is no certificate: it has more than {_MOST} bytes")
    keys: dict[str, str] = {}
    metadata: dict[str, str] = {}
    section = ""
    for raw in data.decode("utf-8", "replace").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            section = line
            continue
        name, value = name.strip(), value.strip(" \t'\"")
        if name in _KEYS:
            keys.setdefault(name, value)
        elif section == "metadata":
            metadata[name] = value
    if "public-key" not in keys:
        raise ValueError(f"{os.fspath(path)} is no certificate: it has no public-key")
    found = {
        name: check_key(f"the {name} of {os.fspath(path)}", value) for name, value in keys.items()
    }
    secret = found.get("secret-key", "")
    if secret and zmq.curve_public(secret.encode()).decode() != found["public-key"]:
        raise ValueError(f"{os.fspath(path)}: the public key is not that of the secret key")
    return Certificate(found["public-key"], secret, metadata)


def _can_be_read(name: str, value: str) -> bool:
    """Whether readers, also pyzmq's, find metadata as it was, and the keys beside it."""
    if not name or name.startswith(("#", *_KEYS)) or not f"{name}{value}".isprintable():
        return False
    is_bare = name == name.strip() and value == value.strip(" '")
    return is_bare and "=" not in name and '"' not in value


def write(
    path: Path, public_key: str, secret_key: str = "", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file of keys; one with a secret key is for its owner only.

    :raises FileExistsError: if there is such a file: keys are never overwritten.
    :raises ValueError: if the metadata cannot be written in this format.
    """
    lines = [_BANNERS[bool(secret_key)].format(datetime.datetime.now(datetime.UTC)), "metadata"]
    for name, value in (metadata or {}).items():
        if not _can_be_read(name, value):
            raise ValueError(f"a certificate cannot have the metadata {name!r}: {value!r}")
        lines.append(f'    {name} = "{value}"')
    lines += ["curve", f'    public-key = "{public_key}"']
    if secret_key:
        lines.append(f'    secret-key = "{secret_key}"')
    mode = stat.S_IRUSR | stat.S_IWUSR
    if not secret_key:
        mode |= stat.S_IRGRP | stat.S_IROTH
    # Exclusive, and with its permissions from the beginning.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
