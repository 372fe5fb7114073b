"""Several servers, each asked on its own by one channel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from txzmq._cli.admin_service import all_pages
from txzmq._cli.rates import MethodRates, Snapshot, rates_between
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import Session, Target
from txzmq._reactor import monotonic
from txzmq.rpc.admin import (
    MAX_PAGE,
    AdminClient,
    GetServerRequest,
    GetServerResponse,
    ListMethodsRequest,
    ListMethodsResponse,
    MethodFigures,
)
from txzmq.rpc.balancing import Endpoint, Picker
from txzmq.rpc.errors import DeadlineExceeded, RpcError
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.watching import ConnectivityState, EndpointStatus

__all__ = ["ServerView", "Servers"]

T = TypeVar("T")
E = TypeVar("E", bound=Endpoint)

#: A server that comes back is seen after three seconds or less.
_LIVENESS: Final = Liveness(max_backoff=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """A server, as far as it is known.

    :ivar trouble: why it has told nothing; empty if it has.
    :ivar error: what it answered instead, if it answered.
    :ivar server: what it has in all; None if it does not tell.
    """

    address: str
    trouble: str = ""
    error: RpcError | None = None
    server: GetServerResponse | None = None
    methods: Sequence[MethodRates] = ()


class _Aim:
    """Sends a call to the server that is named while it is made (a balancing policy)."""

    def __init__(self) -> None:
        self._address = ""

    def call(self, address: str, make: Callable[[], T]) -> T:
        """Make a call to the server at an address, and to no other one in its place."""
        self._address = address
        try:
            return make()
        finally:
            self._address = ""

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        """See :class:`~txzmq.rpc.balancing.BalancingPolicy`."""
        by_address = {endpoint.address: endpoint for endpoint in ready}

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E | None:
            return by_address.get(self._address)

        return pick


class Servers:
    """The servers of a target, whichever they are at the moment."""

    def __init__(self, runtime: Runtime, endpoint: str, target: Target, timeout: float) -> None:
        """
        :param timeout: seconds for what a server is asked.
        :raises Problem: if an option is wrong.
        """
        self._aim = _Aim()
        self._clock = monotonic(runtime.clock)
        self._timeout = timeout
        # Any: options of all calls.
        self._options: dict[str, Any] = {"timeout": timeout, "metadata": target.metadata()}
        self.session = Session(runtime, endpoint, target, policy=self._aim, liveness=_LIVENESS)
        self._admin = AdminClient(self.session.channel)
        self._before: dict[str, Snapshot] = {}

    async def ask(self) -> list[ServerView]:
        """What each has done since it was asked before."""
        endpoints = self.session.channel.endpoints
        there = {endpoint.address for endpoint in endpoints}
        self._before = {key: each for key, each in self._before.items() if key in there}
        asked = [Deferred.fromCoroutine(self._ask(endpoint)) for endpoint in endpoints]
        try:
            return [await each for each in asked]
        except BaseException:
            for each in asked:
                each.addErrback(lambda _: None)
                each.cancel()
            raise

    async def _ask(self, endpoint: EndpointStatus) -> ServerView:
        address = endpoint.address
        if endpoint.state is not ConnectivityState.READY:
            return ServerView(address=address, trouble=_trouble(endpoint))
        try:
            snapshot = await self._snapshot(address)
        except DeadlineExceeded:
            return ServerView(address=address, trouble=f"no answer within {self._timeout:g} s")
        except RpcError as error:
            return ServerView(address=address, trouble=str(error), error=error)
        before = self._before.get(address)
        self._before[address] = snapshot
        rates = rates_between(before, snapshot)
        return ServerView(address=address, server=snapshot.server, methods=rates)

    async def _snapshot(self, address: str) -> Snapshot:
        # Both at once, so that they tell of one moment.
        seconds = self._clock.seconds()
        server = Deferred.fromCoroutine(self._server(address))
        methods, bounds = await self._methods(address)
        return Snapshot(seconds=seconds, server=await server, methods=methods, bounds=bounds)

    async def _server(self, address: str) -> GetServerResponse | None:
        try:
            return await self._aim.call(
                address, lambda: self._admin.get_server(GetServerRequest(), **self._options)
            )
        except (RpcError, CancelledError):
            return None  # it is too old to tell, or the other question has failed as well

    async def _methods(self, address: str) -> tuple[dict[str, MethodFigures], tuple[float, ...]]:
        def page(token: str) -> Deferred[ListMethodsResponse]:
            request = ListMethodsRequest(page_size=MAX_PAGE, page_token=token)
            ask = partial(self._admin.list_methods, request, **self._options)
            return self._aim.call(address, ask)

        pages = await all_pages(page)
        methods = {each.path: each for one in pages for each in one.methods}
        return methods, tuple(pages[-1].seconds_bounds)


def _trouble(endpoint: EndpointStatus) -> str:
    if endpoint.state is ConnectivityState.TRANSIENT_FAILURE:
        return f"gone: {endpoint.reason}" if endpoint.reason else "gone"
    return endpoint.reason or "connecting"
