"""Connections that are made anew because the server asks for it, while all goes on.

The one that there is stays in use until the other one can take its place; then it closes when its
calls have been answered. Streams go on by the other one, if that reaches the same server: behind
one address there may be several.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from twisted.logger import Logger

from txzmq._ordered_set import OrderedSet
from txzmq.rpc._client.subchannel import Subchannel
from txzmq.rpc.watching import ConnectivityState

__all__ = ["RenewalOwner", "Renewals"]

_log = Logger()


class RenewalOwner(Protocol):
    """Whose connections are made anew."""

    def connect_anew(self, address: str) -> Subchannel:
        """Another connection to an address.

        :raises Exception: if there is no room for a socket, for instance.
        """
        ...

    def replace(self, subchannel: Subchannel, successor: Subchannel) -> None:
        """Give calls to the one that takes the other's place."""
        ...


class Renewals:
    """The connections of a channel that are to be replaced, and those that have been."""

    def __init__(self, owner: RenewalOwner) -> None:
        self._owner = owner
        # By the connection in use: what is to take its place; and the other way round.
        self._successors: dict[Subchannel, Subchannel] = {}
        self._predecessors: dict[Subchannel, Subchannel] = {}
        # Those that have been replaced, until their calls have been answered.
        self._retired: OrderedSet[Subchannel] = OrderedSet()

    def __iter__(self) -> Iterator[Subchannel]:
        """Those that calls are not given to: not yet, or not any more."""
        yield from [*self._predecessors, *self._retired]

    def begin(self, subchannel: Subchannel) -> None:
        """Make a connection that is to take the place of one."""
        try:
            successor = self._owner.connect_anew(subchannel.address)
        except Exception as error:  # noqa: BLE001 - whatever a socket lacks
            # The server ends the connection then, which is made anew as ever.
            address = subchannel.address
            _log.warn("cannot connect to {address} anew: {error}", address=address, error=error)
            return
        self._successors[subchannel] = successor
        self._predecessors[successor] = subchannel

    def changed(self, subchannel: Subchannel) -> bool:
        """A connection has another state; whether it is one that nobody else is to be told of."""
        if subchannel in self._successors and subchannel.state is not ConnectivityState.READY:
            self.drop(subchannel)  # the ordinary way to another connection is taken
        predecessor = self._predecessors.get(subchannel)
        if predecessor is not None:
            if subchannel.state is ConnectivityState.READY:
                self._look_who_it_is(predecessor, subchannel)
            # Where it is refused, it tries again: the server may fail to decide for a moment, or be
            # another one. Whose key is nobody's any more is told so by the server, on both.
            return True
        return subchannel in self._retired

    def _look_who_it_is(self, subchannel: Subchannel, successor: Subchannel) -> None:
        """Replace a connection, when it is known whether both reach the same server."""
        if not subchannel.has_streams:
            self._replace(subchannel, successor, is_same=True)
            return
        epochs: list[bytes] = []

        def answered(epoch: bytes) -> None:
            epochs.append(epoch)
            is_ready = successor.state is ConnectivityState.READY  # else it is asked again
            if len(epochs) == 2 and is_ready and self._successors.get(subchannel) is successor:
                is_same = epochs[0] == epochs[1] != b""
                self._replace(subchannel, successor, is_same=is_same)

        # Where a socket is full, nothing is known.
        for each in (subchannel, successor):
            if not each.ask_epoch(answered):
                answered(b"")

    def _replace(self, subchannel: Subchannel, successor: Subchannel, *, is_same: bool) -> None:
        self._forget(subchannel)
        self._retired.add(subchannel)
        if is_same:
            subchannel.hand_over(successor)
        # Before the old one gives back the calls that it has not sent.
        self._owner.replace(subchannel, successor)
        subchannel.retire()
        successor.is_in_use()

    def _forget(self, subchannel: Subchannel) -> Subchannel | None:
        successor = self._successors.pop(subchannel, None)
        if successor is not None:
            del self._predecessors[successor]
        return successor

    def drop(self, subchannel: Subchannel) -> None:
        """A connection is not to be replaced any more."""
        successor = self._forget(subchannel)
        if successor is not None:
            successor.close()
            subchannel.stay()  # should it be told again, it is another matter

    def left(self, subchannel: Subchannel) -> bool:
        """A connection has closed; whether it was one that had been replaced."""
        was_retired = subchannel in self._retired
        self._retired.discard(subchannel)
        return was_retired

    def clear(self) -> None:
        """The channel is closed."""
        self._successors.clear()
        self._predecessors.clear()
        self._retired.clear()
