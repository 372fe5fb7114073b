"""What a channel of gRPC's and a gateway check alike: targets and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from txzmq import _check

__all__ = ["WHO", "address_of", "check_options", "check_target"]

#: How addresses begin that are none of gRPC's.
_SCHEMES: Final = ("tcp://", "http://", "https://", "grpc://", "grpcs://", "ipc://", "inproc://")
#: Those of gRPC's targets whose sockets are files.
_UNIX: Final = "unix:"
#: What needs a reactor on asyncio's loop.
WHO: Final = "grpc.aio"


def check_target(name: str, target: object) -> None:
    """Check where gRPC is to connect to, or to listen.

    :raises ValueError: for an address that is none of gRPC's, and so TypeError.
    """
    _check.text(name, target, "a target of gRPC's, such as '127.0.0.1:50051'")
    assert isinstance(target, str)
    for scheme in _SCHEMES:
        if target.startswith(scheme):
            rest = target.removeprefix(scheme).rstrip("/")
            hint = f"unix:{rest}" if scheme == "ipc://" else rest
            raise ValueError(
                f"{name}: {target!r} is no target of gRPC's, which has no {scheme}: use {hint!r}"
            )


def address_of(target: str) -> str:
    """A target as an address of ZeroMQ's, by which is judged who reaches it."""
    if target.startswith(_UNIX):
        return f"ipc://{target.removeprefix(_UNIX).removeprefix('//')}"
    if target.startswith("unix-abstract:"):
        return "ipc://@"
    return f"tcp://{target.rpartition('/')[2]}"


def check_options(options: object) -> None:
    """Check arguments for gRPC itself.

    :raises TypeError: if they are no pairs.
    """
    what = "a sequence of pairs of the name of an argument and its value"
    if isinstance(options, str | bytes) or not isinstance(options, Sequence):
        raise _check.wrong_type("options", options, what)
    for pair in cast("Sequence[object]", options):
        if not _is_argument(pair):
            raise _check.wrong_type("options", pair, what)


def _is_argument(pair: object) -> bool:
    match pair:
        case (str(), str() | int()):
            return True
        case _:
            return False
