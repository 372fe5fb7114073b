"""The loop of asyncio's on which Twisted's reactor runs, for what needs one."""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

from txzmq._reactor import Reactor

__all__ = ["installed_reactor", "loop_beneath", "loop_of"]

#: What to do where Twisted runs on something else.
_DO: Final = (
    "needs a reactor on asyncio's loop: run twistd --reactor=asyncio, or begin the program with "
    "asyncioreactor.install(), of twisted.internet, before anything imports "
    "twisted.internet.reactor"
)


def installed_reactor(who: str) -> Reactor:
    """The reactor; none is installed here, which would take the choice from the application.

    :param who: needs it, for the message.
    :raises RuntimeError: if there is none.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None:
        raise RuntimeError(f"no reactor is installed yet, and {who} {_DO}")
    return cast("Reactor", reactor)


def loop_of(reactor: object, who: str) -> asyncio.AbstractEventLoop:
    """The loop on which a reactor runs.

    :param who: needs it, for the message.
    :raises RuntimeError: if it runs on none.
    """
    loop = loop_beneath(reactor)
    if loop is None:
        raise RuntimeError(f"Twisted runs on {type(reactor).__name__}, and {who} {_DO}")
    return loop


def loop_beneath(reactor: object) -> asyncio.AbstractEventLoop | None:
    """The loop on which a reactor runs; None where it runs on none."""
    # The name is private to Twisted, which has no other for it.
    loop = getattr(reactor, "_asyncioEventloop", None)
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None
