"""A set that remembers the order in which its items were added."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

__all__ = ["OrderedSet"]

T = TypeVar("T")


class OrderedSet(OrderedDict[T, None]):
    """A set in the order of addition.

    The items are the keys of an OrderedDict, since a plain dict takes ever longer to find its first
    key when the first is always the one to be removed.
    """

    __slots__ = ()

    def add(self, item: T) -> None:
        """Add an item at the end; one that is there stays where it is."""
        self[item] = None

    def discard(self, item: T) -> None:
        """Remove an item, if it is there."""
        self.pop(item, None)

    def first(self) -> T:
        """The item that was added first.

        :raises StopIteration: if the set is empty.
        """
        return next(iter(self))

    def pop_first(self) -> T:
        """Remove the item that was added first, and return it.

        :raises KeyError: if the set is empty.
        """
        return self.popitem(last=False)[0]
