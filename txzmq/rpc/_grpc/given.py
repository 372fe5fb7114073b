"""What a channel of gRPC's and a gateway check alike: targets, arguments, and asyncio's loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final, cast

from txzmq import _check
from txzmq._reactor import Reactor

__all__ = ["address_of", "check_options", "check_target", "installed_reactor", "loop_of"]

#: How addresses begin that are none of gRPC's.
_SCHEMES: Final = ("tcp://", "http://", "https://", "grpc://", "grpcs://", "ipc://", "inproc://")
#: Those of gRPC's targets whose sockets are files.
_UNIX: Final = "unix:"
#: What to do where Twisted runs on something else.
_DO: Final = (
    "grpc.aio needs a reactor on asyncio's loop: run twistd --reactor=asyncio, or begin the "
    "program with asyncioreactor.install(), of twisted.internet, before anything imports "
    "twisted.internet.reactor"
)


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


def installed_reactor() -> Reactor:
    """The reactor; none is installed here, which would take the choice from the application.

    :raises RuntimeError: if there is none.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None:
        raise RuntimeError(f"no reactor is installed yet, and {_DO}")
    return cast("Reactor", reactor)


def loop_of(reactor: object) -> asyncio.AbstractEventLoop:
    """The loop on which a reactor runs.

    :raises RuntimeError: if it runs on none.
    """
    # The name is private to Twisted, which has no other for it.
    loop = getattr(reactor, "_asyncioEventloop", None)
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise RuntimeError(f"Twisted runs on {type(reactor).__name__}, and {_DO}")
    return loop
