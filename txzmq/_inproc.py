"""Which inproc addresses are bound: libzmq tells nobody, so the connections of a factory do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from txzmq._ordered_set import OrderedSet

__all__ = ["InprocAddresses"]

#: Called with whether the address is bound now.
Watcher = Callable[[bool], None]


class InprocAddresses:
    """The inproc addresses at which connections of one factory listen, and who wants to know."""

    def __init__(self) -> None:
        # By address, who is bound to it.
        self._bound: dict[str, object] = {}
        self._watchers: dict[str, OrderedSet[Watcher]] = {}

    def isBound(self, address: str) -> bool:
        """Whether a connection listens at *address*."""
        return address in self._bound

    def bind(self, address: str, owner: object) -> None:
        """A connection listens at *address* from now on."""
        self._bound[address] = owner
        self._tell(address)

    def unbind(self, owner: object) -> None:
        """A connection does not listen any more, wherever it did."""
        for address in [address for address, one in self._bound.items() if one is owner]:
            del self._bound[address]
            self._tell(address)

    def watch(self, address: str, watcher: Watcher) -> Callable[[], None]:
        """Have *watcher* called whenever somebody begins or ceases to listen at *address*.

        :return: a function that takes this back; it may be called again.
        """
        self._watchers.setdefault(address, OrderedSet()).add(watcher)
        return partial(self._forget, address, watcher)

    def _forget(self, address: str, watcher: Watcher) -> None:
        watchers = self._watchers.get(address)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[address]

    def _tell(self, address: str) -> None:
        for watcher in list(self._watchers.get(address, ())):
            watcher(self.isBound(address))
