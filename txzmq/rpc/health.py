"""gRPC's health service: whether a server, and each of its services, takes calls.

Given to a server, it knows the server's other services, and says that they serve until it is told
otherwise::

    health = Health()
    server = Server(factory, [Orders(), health])
    health.set("acme.orders.v1.Orders", ServingStatus.NOT_SERVING)

It serves ``grpc.health.v1.Health`` (Check, List and Watch), as
https://github.com/grpc/grpc/blob/master/doc/health-checking.md has it. :class:`HealthClient` calls
it, with the messages that are here; generated code and message classes of others do as well.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq._ordered_set import OrderedSet
from txzmq.rpc._core.hosting import Hosted
from txzmq.rpc._services.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from txzmq.rpc._services.grpc.health.v1.health_txzmq import HealthBase, HealthClient
from txzmq.rpc.context import Context
from txzmq.rpc.errors import NotFound, ResourceExhausted, Unavailable
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import Service

__all__ = [
    "MAX_LISTED",
    "OVERALL",
    "SERVICE_NAME",
    "Health",
    "HealthCheckRequest",
    "HealthCheckResponse",
    "HealthClient",
    "HealthListRequest",
    "HealthListResponse",
    "ServingStatus",
]

#: The name of the health service itself.
SERVICE_NAME: Final = "grpc.health.v1.Health"
#: The name under which the server as a whole is asked for.
OVERALL: Final = ""
#: So many services does List tell, as its proto says.
MAX_LISTED: Final = 100


class ServingStatus(enum.IntEnum):
    """``grpc.health.v1.HealthCheckResponse.ServingStatus``."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    #: The server does not know the service; only those who watch are told so.
    SERVICE_UNKNOWN = 3


class Health(Hosted, HealthBase):
    """Serves the status of a server's services; an instance is for one server.

    The server as a whole has the name ``""``. It and all services that are given to the server are
    SERVING, unless :meth:`set` has said otherwise, before or after. When the server stops they all
    become NOT_SERVING, those who watch are told, and then their streams end.

    For the reactor's thread only.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, ServingStatus] = {OVERALL: ServingStatus.SERVING}
        self._is_served = False
        # All stay NOT_SERVING.
        self._shuts_down = False
        # The server stops: nobody is to watch any more.
        self._is_ending = False
        # By service: those who wait for another status.
        self._watching: dict[str, OrderedSet[Deferred[None]]] = {}

    # -- what the application says -----------------------------------------------------------

    def set(self, service: str, status: ServingStatus) -> None:
        """Say how a service does, and tell those who watch it if that is new.

        After :meth:`enter_graceful_shutdown` it does nothing.

        :param service: the full name, such as ``acme.orders.v1.Orders``, also of one that the
            server does not have; ``""`` for the server as a whole.
        :param status: UNKNOWN, SERVING or NOT_SERVING.
        :raises ValueError: for SERVICE_UNKNOWN; :meth:`clear` has a service forgotten.
        :raises TypeError: for a value of a wrong type.
        """
        _check.text("service", service, "the full name of a service, or an empty one", empty=True)
        _check.instance("status", status, ServingStatus, "a ServingStatus")
        if status is ServingStatus.SERVICE_UNKNOWN:
            raise ValueError(
                "status must not be SERVICE_UNKNOWN, which those are told who watch a service that "
                "has no status; clear() takes the status away"
            )
        if not self._shuts_down:
            self._change(service, status)

    def clear(self, service: str) -> None:
        """Forget a service: Check answers NOT_FOUND, and those who watch get SERVICE_UNKNOWN.

        After :meth:`enter_graceful_shutdown`, and for a service that has no status, it does
        nothing.

        :raises ValueError: for ``""``: a server always has a status.
        :raises TypeError: if *service* is no str.
        """
        _check.text("service", service, "the full name of a service")
        if not self._shuts_down and self._statuses.pop(service, None) is not None:
            self._wake(service)

    @property
    def statuses(self) -> Mapping[str, ServingStatus]:
        """The status of each service, by its full name, and of the server as a whole, by ``""``."""
        return MappingProxyType(self._statuses)

    def enter_graceful_shutdown(self) -> None:
        """Say NOT_SERVING of everything, for good: :meth:`set` does nothing any more.

        ``Server.stop`` does it by itself. Call it earlier where clients and balancers are to look
        elsewhere while the server still takes calls. May be called again.
        """
        if not self._shuts_down:
            self._shuts_down = True
            for service in self._statuses.copy():
                self._change(service, ServingStatus.NOT_SERVING)

    def _change(self, service: str, status: ServingStatus) -> None:
        if self._statuses.get(service) is not status:
            self._statuses[service] = status
            self._wake(service)

    def _wake(self, service: str) -> None:
        # Not the set itself: who is woken leaves it.
        for waiting in [*self._watching.pop(service, ())]:
            waiting.callback(None)

    # -- what the server says ----------------------------------------------------------------

    def __txzmq_served__(self, services: Sequence[Service], limits: ServerLimits) -> None:
        if self._is_served:
            raise ValueError("services: this Health is another server's; make one for each server")
        self._is_served = True
        status = ServingStatus.NOT_SERVING if self._shuts_down else ServingStatus.SERVING
        for service in services:
            self._statuses.setdefault(service.name, status)

    def __txzmq_stopping__(self) -> None:
        self.enter_graceful_shutdown()
        self._is_ending = True
        for service in self._watching.copy():
            self._wake(service)

    # -- what clients ask --------------------------------------------------------------------

    def check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """The status of one service; ``NotFound`` for one that has none."""
        status = self._statuses.get(request.service)
        if status is None:
            raise NotFound("the server knows no service of this name")
        return _response(status)

    def list(self, request: HealthListRequest, context: Context) -> HealthListResponse:
        """The status of each service; ``ResourceExhausted`` for more than 100."""
        if len(self._statuses) > MAX_LISTED:
            raise ResourceExhausted(
                f"{len(self._statuses)} services have a status, and List tells {MAX_LISTED}"
            )
        statuses = {name: _response(status) for name, status in self._statuses.items()}
        return HealthListResponse(statuses=statuses)

    async def watch(
        self, request: HealthCheckRequest, context: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status of one service, and then each new one.

        A client that does not read gets the newest when it reads on, not all that there were since
        its window was full.
        """
        service = request.service
        told: ServingStatus | None = None
        while True:
            status = self._statuses.get(service, ServingStatus.SERVICE_UNKNOWN)
            if status is not told:
                told = status
                yield _response(status)
            elif self._is_ending:
                raise Unavailable("the server is shutting down")
            else:
                await self._news(service)

    async def _news(self, service: str) -> None:
        """Wait until the service has another status, or the server stops."""
        waiting: Deferred[None] = Deferred()
        watching = self._watching.setdefault(service, OrderedSet())
        watching.add(waiting)
        try:
            await waiting
        finally:  # the stream was cancelled, or has been woken and is in none
            watching.discard(waiting)
            if not watching and self._watching.get(service) is watching:
                del self._watching[service]


def _response(status: ServingStatus) -> HealthCheckResponse:
    return HealthCheckResponse(status=HealthCheckResponse.ServingStatus.Value(status.name))
