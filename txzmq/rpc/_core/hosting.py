"""What a server tells those of its services that are about the server itself."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import Service

__all__ = ["Hosted"]


class Hosted(abc.ABC):
    """A service that is told what its server serves, and when it stops.

    The names are no names of a method: an rpc may have any other.
    """

    __slots__ = ()

    @abc.abstractmethod
    def __txzmq_served__(self, services: Sequence[Service], limits: ServerLimits) -> None:
        """A server was made that has this service.

        :param services: all of the server's, this one among them.
        :raises ValueError: if it cannot serve this server; the server is not made.
        """

    @abc.abstractmethod
    def __txzmq_stopping__(self) -> None:
        """The server begins to stop: it takes no more calls, and those that run may go on."""
