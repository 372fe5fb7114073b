"""Who is connected to a server, what runs there, and how near it is to its limits, by calls.

Given to a server, it tells what that has at the moment when somebody asks::

    server = Server(factory, [Orders(), Admin(channels={"stock": stock_channel})])

    peers = await AdminClient(channel).list_peers(ListPeersRequest())

Only callers on the server's own machine may ask: those of an endpoint on loopback, inproc or a
private ipc path, and not through a proxy. On a server that knows who calls, by ``credentials`` or
``authenticate``, ``authorize`` decides, if there is one; it lets callers from elsewhere in if it is
a function that allows the call, or a table with a row of the method or of
``/txzmq.rpc.v1.Admin/*``. Others get PERMISSION_DENIED.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol, TypeVar, cast

from google.protobuf.timestamp_pb2 import Timestamp

from txzmq import _check
from txzmq.rpc._core.inspection import (
    Inspecting,
    Inspector,
    LimitUse,
    MethodState,
    OpenStreamState,
    PeerState,
)
from txzmq.rpc.context import Context
from txzmq.rpc.errors import InvalidArgument
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import Kind, Service
from txzmq.rpc.metrics import BUCKETS, UNKNOWN, MethodMetrics, Metrics
from txzmq.rpc.records import Side
from txzmq.rpc.v1.admin_pb2 import (
    ChannelFigures,
    Endpoint,
    GetLimitsRequest,
    GetLimitsResponse,
    GetServerRequest,
    GetServerResponse,
    Limit,
    ListEndpointsRequest,
    ListEndpointsResponse,
    ListMethodsRequest,
    ListMethodsResponse,
    ListPeersRequest,
    ListPeersResponse,
    ListStreamsRequest,
    ListStreamsResponse,
    MethodFigures,
    Peer,
    StreamFigures,
)
from txzmq.rpc.v1.admin_txzmq import AdminBase, AdminClient
from txzmq.rpc.watching import ChannelStats, Observer

__all__ = [
    "MAX_PAGE",
    "PAGE",
    "SERVICE_NAME",
    "Admin",
    "AdminClient",
    "ChannelFigures",
    "Endpoint",
    "GetLimitsRequest",
    "GetLimitsResponse",
    "GetServerRequest",
    "GetServerResponse",
    "Limit",
    "ListEndpointsRequest",
    "ListEndpointsResponse",
    "ListMethodsRequest",
    "ListMethodsResponse",
    "ListPeersRequest",
    "ListPeersResponse",
    "ListStreamsRequest",
    "ListStreamsResponse",
    "MethodFigures",
    "Peer",
    "StreamFigures",
    "WatchedChannel",
]

T = TypeVar("T")

#: The name of the admin service itself.
SERVICE_NAME: Final = "txzmq.rpc.v1.Admin"
#: How many are listed at once where a request does not say; and at most.
PAGE: Final = 100
MAX_PAGE: Final = 1_000
#: Digits of a page token that is a number.
_MOST_DIGITS: Final = 20


class WatchedChannel(Protocol):
    """A channel, as far as it is told of."""

    @property
    def stats(self) -> ChannelStats:
        """What it has at this moment."""
        ...


class Admin(Inspecting, AdminBase):
    """Tells what a server has; an instance is for one server.

    Where a server has one, it remembers of each connection when it came, and counts its calls, and
    the calls of each method as :class:`~txzmq.rpc.metrics.Metrics` do. Everything else is looked up
    when somebody asks.
    """

    def __init__(
        self,
        *,
        channels: Mapping[str, WatchedChannel] | Sequence[WatchedChannel] = (),
        metrics: Metrics | None = None,
    ) -> None:
        """
        :param channels: channels of this process, whose endpoints it tells, by names of your
            choice; in a sequence they are called by their places, from ``0``.
        :param metrics: that are the server's observer, or a part of it, so that its calls are not
            counted twice; None to count them here.
        :raises TypeError: for a value of a wrong type.
        """
        self._channels = _named(channels)
        if metrics is not None:
            _check.instance("metrics", metrics, Metrics, "a Metrics or None")
        self._own_metrics = Metrics() if metrics is None else None
        self._metrics = metrics or self._own_metrics or Metrics()
        # None before it is given to a server.
        self._inspector: Inspector | None = None
        self._since = 0.0

    # -- what the server says ----------------------------------------------------------------

    def __txzmq_served__(self, services: Sequence[Service], limits: ServerLimits) -> None:
        if self._inspector is not None:
            raise ValueError("services: this Admin is another server's; make one for each server")

    def __txzmq_stopping__(self) -> None:
        """Nothing: a server that stops takes no questions, either."""

    @property
    def __txzmq_observer__(self) -> Observer | None:
        return self._own_metrics

    def __txzmq_inspects__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._since = time.time()

    @property
    def _server(self) -> Inspector:
        assert self._inspector is not None, "only its server calls it"
        return self._inspector

    # -- what clients ask --------------------------------------------------------------------

    def get_server(self, request: GetServerRequest, context: Context) -> GetServerResponse:
        """What the server is, since when it has run, and what it has in all."""
        state = self._server.server()
        return GetServerResponse(
            instance=self._metrics.instance,
            name=self._metrics.name,
            version=self._metrics.version,
            since=_when(self._since),
            running=state.running,
            running_limit=state.running_limit,
            queued=state.queued,
            streams=state.streams,
            peers=state.peers,
        )

    def list_peers(self, request: ListPeersRequest, context: Context) -> ListPeersResponse:
        """The connections of clients, the oldest first."""
        size, after = _size(request.page_size), _number(request.page_token)
        peers = self._server.peers(after, size + 1)
        now = time.time()
        return ListPeersResponse(
            peers=[_peer(peer, now) for peer in peers[:size]],
            next_page_token=str(peers[size - 1].number) if len(peers) > size else "",
        )

    def list_methods(self, request: ListMethodsRequest, context: Context) -> ListMethodsResponse:
        """The methods that the server has, by their paths, and figures of their calls."""
        size, after = _size(request.page_size), request.page_token
        figures = {each.method: each for each in self._metrics.methods if each.side is Side.SERVER}
        states = [*self._server.methods()]
        if UNKNOWN in figures:
            states.append(MethodState(UNKNOWN, Kind.UNARY_UNARY, 0))
            states.sort()
        page = [*islice((state for state in states if state.path > after), size + 1)]
        return ListMethodsResponse(
            methods=[_method(state, figures.get(state.path)) for state in page[:size]],
            next_page_token=page[size - 1].path if len(page) > size else "",
            seconds_bounds=BUCKETS,
        )

    def list_streams(self, request: ListStreamsRequest, context: Context) -> ListStreamsResponse:
        """The streams of responses that have not come to their end, the oldest first."""
        size, after = _size(request.page_size), _number(request.page_token)
        streams = self._server.streams(after, size + 1)
        now = time.time()
        return ListStreamsResponse(
            streams=[_stream(stream, now) for stream in streams[:size]],
            next_page_token=str(streams[size - 1].number) if len(streams) > size else "",
        )

    def get_limits(self, request: GetLimitsRequest, context: Context) -> GetLimitsResponse:
        """The server's limits, and how much of each is used."""
        return GetLimitsResponse(limits=[_limit(use) for use in self._server.limits()])

    def list_endpoints(
        self, request: ListEndpointsRequest, context: Context
    ) -> ListEndpointsResponse:
        """The endpoints of the channels that it was given."""
        size, after = _size(request.page_size), _number(request.page_token)
        channels = [(name, channel.stats) for name, channel in self._channels.items()]
        endpoints = [
            Endpoint(
                channel=name,
                address=each.address,
                state=each.state.name,
                reason=each.reason,
                calls=each.load,
            )
            for name, stats in channels
            for each in stats.endpoints
        ]
        end = after + size
        return ListEndpointsResponse(
            endpoints=endpoints[after:end],
            next_page_token=str(end) if len(endpoints) > end else "",
            channels=[_channel(name, stats) for name, stats in channels],
        )


# -- what they are given ----------------------------------------------------------------------


def _named(channels: object) -> dict[str, WatchedChannel]:
    expected = "channels by name, or a sequence of them"
    if isinstance(channels, Mapping):
        # The casts are for pyright, which knows a collection of what as little as the caller may.
        named = [*cast("Mapping[object, object]", channels).items()]
    elif isinstance(channels, Iterable) and not isinstance(channels, str | bytes):
        each = cast("Iterable[object]", channels)
        named = [(str(place), channel) for place, channel in enumerate(each)]
    else:
        raise _check.wrong_type("channels", channels, expected)
    checked: dict[str, WatchedChannel] = {}
    for name, channel in named:
        _check.text("channels", name, "the name of a channel")
        if isinstance(channel, type) or not isinstance(
            getattr(channel, "stats", None), ChannelStats
        ):
            raise _check.wrong_type(f"channels[{name!r}]", channel, "a Channel")
        checked[cast("str", name)] = cast("WatchedChannel", channel)
    return checked


def _size(wanted: int) -> int:
    """How many to list.

    :raises InvalidArgument: for a negative number.
    """
    if wanted < 0:
        raise InvalidArgument(f"page_size must be 0 or more, not {wanted}")
    return min(wanted, MAX_PAGE) or PAGE


def _number(token: str) -> int:
    """The number behind which to go on.

    :raises InvalidArgument: if it is no token that was given.
    """
    if not token:
        return 0
    if len(token) > _MOST_DIGITS or not (token.isascii() and token.isdigit()):
        raise InvalidArgument("page_token must be the next_page_token of another response")
    return int(token)


# -- what they answer -------------------------------------------------------------------------


def _when(seconds: float) -> Timestamp:
    """A time, given in seconds since 1970."""
    nanos = round(seconds * 1_000) * 1_000_000  # milliseconds: clocks agree no better
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9)


def _peer(peer: PeerState, now: float) -> Peer:
    return Peer(
        id=peer.number,
        identity=peer.identity,
        public_key=peer.public_key,
        address=peer.address,
        endpoint=peer.endpoint,
        since=_when(now - peer.age),
        user_agent=peer.user_agent,
        proxy=peer.is_proxy,
        calls_started=peer.started,
        calls_running=peer.running,
        calls_queued=peer.queued,
        streams=peer.streams,
        shared_streams=peer.shared_streams,
        unacknowledged_items=peer.unacknowledged_items,
        unacknowledged_bytes=peer.unacknowledged_bytes,
        backlog_bytes=peer.backlog_bytes,
    )


def _method(state: MethodState, figures: MethodMetrics | None) -> MethodFigures:
    answer = MethodFigures(path=state.path, kind=state.kind.name.lower(), queued=state.queued)
    if figures is None:
        return answer
    seconds = figures.seconds
    answer.MergeFrom(
        MethodFigures(
            started=figures.started,
            in_flight=max(0, figures.in_flight),  # metrics that were given later
            ended={code.name: each.count for code, each in figures.by_code.items()},
            seconds_p50=seconds.quantile(0.5),
            seconds_p90=seconds.quantile(0.9),
            seconds_p99=seconds.quantile(0.99),
            seconds_counts=seconds.counts if seconds.count else (),
            requests=figures.requests,
            responses=figures.responses,
            request_bytes=figures.request_bytes,
            response_bytes=figures.response_bytes,
        )
    )
    return answer


def _stream(stream: OpenStreamState, now: float) -> StreamFigures:
    return StreamFigures(
        id=stream.number,
        method=stream.method,
        state=StreamFigures.State.Value(stream.state.name),
        peer_id=stream.peer,
        identity=stream.identity,
        since=_when(now - stream.age),
        shared=stream.is_shared,
        callers=stream.callers,
        items=stream.items,
        unacknowledged_items=stream.unacknowledged_items,
        unacknowledged_bytes=stream.unacknowledged_bytes,
        window_items=stream.window_items,
        window_bytes=stream.window_bytes,
        running=stream.is_running,
        blocked=stream.is_blocked,
    )


def _limit(use: LimitUse) -> Limit:
    return Limit(
        name=use.name,
        method=use.method,
        value=use.value,
        used=use.used,
        fullest=use.fullest,
        unit=use.unit,
    )


def _channel(name: str, stats: ChannelStats) -> ChannelFigures:
    return ChannelFigures(
        name=name,
        state=stats.state.name,
        endpoints=len(stats.endpoints),
        waiting=stats.waiting,
        request_bytes=stats.request_bytes,
        backlog=stats.backlog,
    )
