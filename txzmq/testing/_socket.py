"""What all sockets of a network in memory have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.task import Clock

from txzmq._reactor import Timer
from txzmq.rpc._core.transport import Handler
from txzmq.testing._faults import MessageKind

__all__ = ["RETRY", "Medium", "MemorySocket"]

H = TypeVar("H", bound=Handler)

#: Virtual seconds between attempts to connect.
RETRY: Final = 0.1


class Medium(Protocol):
    """What carries messages, and what befalls them.

    :ivar clock: the virtual time.
    :ivar tells_of_loss: whether servers are told of lost connections.
    """

    clock: Clock
    tells_of_loss: bool

    def is_full(self) -> bool:
        """Whether a sender's queue is full."""
        ...

    def loses_at_close(self) -> bool:
        """Whether clients lose what was sent just before a socket is closed."""
        ...

    def carry(self, arrive: Callable[[], None], kind: MessageKind, parts: Sequence[bytes]) -> None:
        """Call *arrive* later for a message: once, twice or never."""
        ...


def _plan_nothing() -> None:
    """What a socket that is closed does in place of planning a flush."""


class MemorySocket(Generic[H]):
    """What all sockets of a network in memory have in common."""

    def __init__(self, clock: Clock, handler: H) -> None:
        self.handler = handler
        self.clock = clock
        self._open = True
        # No ResettableTimer: a flush is planned for each message.
        self._flush: Timer | None = None
        self._plan_flush: Callable[[], Timer | None] = partial(clock.callLater, 0, self._flush_now)

    def flush_soon(self) -> None:
        if self._flush is None:
            self._flush = self._plan_flush()

    def _flush_now(self) -> None:
        self._flush = None
        self.handler.flush()

    def close(self) -> None:
        self._open = False
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._plan_flush = _plan_nothing
        # Later, so that messages sent before still arrive.
        self.clock.callLater(0, self.cut)

    def cut(self) -> None:
        """Break every connection of this socket."""
        raise NotImplementedError
