"""A channel: the connections to the servers of one service, opened and closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred

import txzmq
from txzmq import _check
from txzmq.auth import CurveClientCredentials
from txzmq.factory import ZmqFactory
from txzmq.rpc._client.call import CallRegistry
from txzmq.rpc._client.call_credentials import CallCredentials
from txzmq.rpc._client.calls import CallOptions, Calls
from txzmq.rpc._client.pool import SubchannelPool
from txzmq.rpc._client.retry_policy import Throttle
from txzmq.rpc._client.watched_calls import WatchedCalls
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._core.transport import Network
from txzmq.rpc._net.endpoints import checked_target
from txzmq.rpc._net.given import check_observer, network_for
from txzmq.rpc._net.names import NamedAddresses
from txzmq.rpc._net.publishers import Publishers, publisher_for, publisher_rule
from txzmq.rpc._net.secure_bind import why_secrets_are_read
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.balancing import BalancingPolicy, RoundRobin
from txzmq.rpc.client import StreamInput
from txzmq.rpc.interceptors import ClientInterceptor
from txzmq.rpc.limits import (
    BACKLOG,
    MESSAGE_SIZE,
    METADATA_SIZE,
    STREAM_WINDOW,
    STREAM_WINDOW_BYTES,
)
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.metadata import MetadataInput
from txzmq.rpc.method import Method
from txzmq.rpc.resolvers import Resolver, resolver_for
from txzmq.rpc.service_config import ServiceConfig, ServiceConfigError
from txzmq.rpc.socket_options import SocketOptions
from txzmq.rpc.streams import ResponseStream
from txzmq.rpc.watching import ChannelStats, ConnectivityState, EndpointStatus, Observer

__all__ = ["Channel", "ConnectivityState"]

Req = TypeVar("Req", bound=Message | RawMessage)
Res = TypeVar("Res", bound=Message | RawMessage)

#: For those who give a name where a policy is wanted.
_POLICIES: Final = ("PickFirst()", "RoundRobin()", "LeastLoaded()", "ConsistentHash(key)")
#: Seconds that a call may take if nobody says otherwise.
_DEFAULT_TIMEOUT: Final = 30.0


class Channel:
    """Connections to the servers of one service, for any number of clients.

    A policy chooses among the endpoints that can be reached. A call that finds none fails with
    UNAVAILABLE as soon as that is known, unless it waits for a server (*wait_for_ready*).

    Once the reactor runs, it is for the reactor's thread only: elsewhere, every method, and
    cancelling a call, raises :class:`~txzmq.WrongThreadError`, or in a forked child
    :class:`~txzmq.ForkedError`. :class:`~txzmq.rpc.Blocking` makes calls from other threads.
    """

    def __init__(
        self,
        factory: ZmqFactory | Network,
        endpoint: str | Iterable[str] | Resolver,
        *,
        policy: BalancingPolicy | None = None,
        service_config: ServiceConfig | str | Mapping[str, Any] | None = None,
        liveness: Liveness | None = None,
        timeout: float | None = _DEFAULT_TIMEOUT,
        max_timeout: float | None = None,
        wait_for_ready: bool = False,
        interceptors: Sequence[ClientInterceptor] = (),
        message_size: int = MESSAGE_SIZE,
        metadata_size: int = METADATA_SIZE,
        batching: bool = True,
        observer: Observer | None = None,
        stream_window: int = STREAM_WINDOW,
        stream_window_bytes: int = STREAM_WINDOW_BYTES,
        backlog: int = BACKLOG,
        socket_options: SocketOptions | None = None,
        publishers: Publishers = (),
        credentials: CurveClientCredentials | None = None,
        call_credentials: BearerCredentials | None = None,
    ) -> None:
        """Begin to connect; nothing is blocked.

        :param factory: owns the sockets and knows the reactor.
        :param endpoint: one address or several, such as ``tcp://127.0.0.1:5000``; a name that is
            looked up and watched, such as ``dns:///host:5000``; or a resolver. A host name in an
            address, such as ``tcp://host:5000``, is looked up and watched likewise. A range of
            ports, such as ``tcp://host:5000-5003``, is so many endpoints.
        :param policy: which of the endpoints a call goes to; None for
            what the service config says, or else :class:`~txzmq.rpc.RoundRobin`.
        :param service_config: timeouts, retries, hedging and more, by method; as gRPC's, in JSON
            or parsed.
        :param liveness: when a server counts as gone that the kernel says nothing about; None for
            the defaults.
        :param timeout: seconds for calls that bring none of their own; None for no end.
        :param max_timeout: seconds that a call may take, whatever its caller says; None for no
            such limit.
        :param wait_for_ready: for calls that do not set it; see :class:`~txzmq.rpc.Caller`.
        :param interceptors: go around every call, the first one outermost; see
            :mod:`txzmq.rpc.interceptors`.
        :param message_size: bytes that a serialised request or response may have.
        :param metadata_size: bytes that the metadata of a request may cost.
        :param batching: whether calls that are made in one turn of the reactor may travel as one
            message, to servers that understand it.
        :param observer: told of what happens to the connections; see :mod:`txzmq.rpc.watching`.
        :param stream_window: items of a stream that may have been sent and not been read: so many
            may wait here. The server may have a smaller limit. Past it, its handler waits.
        :param stream_window_bytes: bytes of them; the item that reaches them is the last.
        :param backlog: bytes of requests that may wait for their replies, or to be sent.
        :param socket_options: None for the defaults; they are for a factory's sockets only.
        :param publishers: where streams may come from beside the server's own host: addresses such
            as ``tcp://10.0.0.7`` (any port) or ``tcp://10.0.0.7:5001``, or a function that is given
            the publisher's address and the server's endpoint and says whether to connect. A server
            that names another publisher fails the stream with FAILED_PRECONDITION. Names of hosts
            are never accepted here.
        :param credentials: the client's key, and those that its servers may have; None for servers
            without. See :mod:`txzmq.auth`.
        :param call_credentials: what each call proves besides who makes it, such as a token; see
            :mod:`txzmq.rpc.authentication`. They need *credentials*, which encrypt them, unless all
            endpoints are inproc or a private ipc path, or they are told ``insecure=True``.
        :raises ValueError: if there is no endpoint, or one of them, the service config or one of
            *publishers* is malformed, or a value is out of range. The message says what is wrong
            with it.
        :raises TypeError: for a value of a wrong type; the message names the parameter.
        :raises zmq.ZMQError: if the factory was shut down.
        """
        network = network_for(factory, socket_options, credentials, CurveClientCredentials)
        options = CallOptions(
            timeout=timeout,
            max_timeout=max_timeout,
            wait_for_ready=wait_for_ready,
            message_size=message_size,
            metadata_size=metadata_size,
            backlog=backlog,
            stream_window=stream_window,
            stream_window_bytes=stream_window_bytes,
        )
        _check.functions("interceptors", interceptors, ("call", "proceed"))
        _check.boolean("batching", batching)
        check_observer(observer)
        if liveness is not None:
            _check.instance("liveness", liveness, Liveness, "a Liveness or None")
        if policy is not None:
            _check_policy(policy)
        _check_publishers(publishers)
        service_config = _config_of(service_config)
        throttling = health_check_service = outlier_detection = None
        if service_config is not None:
            throttling = service_config.retry_throttling
            health_check_service = service_config.health_check_service
            outlier_detection = service_config.outlier_detection
            policy = policy or service_config.new_policy()
        target = checked_target(endpoint, "endpoint")
        if call_credentials is not None:
            what = "a BearerCredentials or None"
            _check.instance("call_credentials", call_credentials, BearerCredentials, what)
            if credentials is None and not call_credentials.insecure:
                _check_private(target)
        resolver = resolver_for(target)
        if isinstance(network, ZmqNetwork):  # in another, what looks like a name may be none
            resolver = NamedAddresses(resolver)
        self.guard = network.guard
        self._metadata_size = metadata_size
        self._target = _named(endpoint, target)
        self._backlog = backlog
        self._notifier = Notifier(network.clock, observer)
        self._pool = SubchannelPool(
            network,
            resolver,
            policy or RoundRobin(random=network.random),
            liveness=liveness or Liveness(),
            random=network.random,
            notifier=self._notifier,
            message_size=message_size,
            batching=batching,
            user_agent=f"txzmq/{txzmq.__version__}",
            publisher_for=partial(publisher_for, allowed=publisher_rule(publishers)),
            closed=self.close,
            health_check_service=health_check_service,
            outlier_detection=outlier_detection,
            call_credentials=call_credentials,
        )
        self._call_credentials: CallCredentials | None = None
        if call_credentials is not None:
            self._call_credentials = CallCredentials(
                call_credentials, network.clock, network.guard, metadata_size, self._pool.start
            )
        self._registry = CallRegistry(
            network.clock,
            network.guard,
            network.random,
            Throttle(throttling),
            self._pool.start if self._call_credentials is None else self._call_credentials.start,
            self._pool.count,
        )
        watch = self._notifier.calls
        if watch is None:
            self._calls = Calls(self._registry, options, service_config, interceptors)
        else:
            self._calls = WatchedCalls(self._registry, options, service_config, interceptors, watch)
        self._notifier.start(self)

    # -- a Caller: the four kinds of call ----------------------------------------------------

    def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """Make a call; see :class:`~txzmq.rpc.Caller`."""
        return self._calls.call(method, request, timeout, metadata, wait_for_ready)

    def unary_stream(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """Make a call; see :class:`~txzmq.rpc.Caller`.

        *timeout* is for the whole stream, None for no end; the channel's default is for opening it.
        """
        return self._calls.stream(method, request, timeout, metadata, wait_for_ready)

    def stream_unary(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """Make a call; see :class:`~txzmq.rpc.Caller`.

        The requests are asked for as the server takes them. What asking for one raises ends the
        call. The response may come before the last request.
        """
        return self._calls.call(method, requests, timeout, metadata, wait_for_ready, streams=True)

    def stream_stream(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """Make a call; see :meth:`unary_stream` and :meth:`stream_unary`."""
        return self._calls.stream(method, requests, timeout, metadata, wait_for_ready)

    # -- opening and closing -----------------------------------------------------------------

    def close(self) -> None:
        """End all calls with ``CancelledError``, and all connections; may be called again."""
        self.guard.check()
        if self._registry.is_closing:
            return
        error = CancelledError("the channel was closed")
        self._registry.refuse()
        self._pool.close(error)
        if self._call_credentials is not None:
            self._call_credentials.close(error)
        self._registry.close(error)
        self._notifier.stop()  # last: calls have ended until now

    @property
    def target(self) -> str:
        """What the channel was made for, as it was given; several addresses with commas between.

        Of a resolver, the name of its class.
        """
        return self._target

    @property
    def metadata_size(self) -> int:
        """Bytes that the metadata of a request may cost, as it was given."""
        return self._metadata_size

    @property
    def state(self) -> ConnectivityState:
        """What the channel is doing: as its best connection, see :class:`ConnectivityState`."""
        return self._pool.state

    def wait_for_state_change(self, last: ConnectivityState) -> Deferred[ConnectivityState]:
        """Wait until the state is not *last* any more; it may be another already.

        States that pass quickly may be missed. After :meth:`close` it is SHUTDOWN, for ever. ::

            while channel.state is not ConnectivityState.READY:
                await channel.wait_for_state_change(channel.state)

        :return: a Deferred of the new state; it may be cancelled.
        :raises TypeError: if *last* is no state.
        """
        _check.instance("last", last, ConnectivityState, "a ConnectivityState")
        return self._pool.wait_for_state_change(last)

    @property
    def endpoints(self) -> list[EndpointStatus]:
        """What each connection is doing, in the order of the addresses."""
        return self._pool.statuses

    @property
    def stats(self) -> ChannelStats:
        """What it has at this moment, for metrics."""
        return ChannelStats(
            state=self.state,
            endpoints=tuple(self.endpoints),
            waiting=self._pool.waiting,
            request_bytes=self._registry.size,
            backlog=self._backlog,
        )

    @property
    def counters(self) -> Counter[str]:
        """What was dropped of incoming messages, events of the connections, and further attempts.

        :class:`~txzmq.rpc.Count` has the names and what they mean.
        """
        return self._pool.dropped + self._pool.counters


def _named(given: object, target: object) -> str:
    """What a channel is for, in words.

    :param target: the same, checked: one address or several, or a resolver.
    """
    if isinstance(given, str):
        return given
    if isinstance(target, tuple):
        return ",".join(cast("tuple[str, ...]", target))
    return type(target).__name__


def _check_policy(policy: object) -> None:
    expected = "a balancing policy, such as RoundRobin()"
    if isinstance(policy, type) or not callable(getattr(policy, "picker", None)):
        hint = _check.near(policy, _POLICIES)
        if isinstance(policy, type) and hasattr(policy, "picker"):
            hint = f"; pass an instance, {policy.__name__}(...)"
        raise _check.wrong_type("policy", policy, expected, hint)
    picker = getattr(policy, "picker")  # noqa: B009  # checkers know no object's attribute
    _check.function("policy.picker", picker, ("endpoints", "ready"), awaited=False)


def _check_private(target: object) -> None:
    """Check that nobody else can read what is sent to the endpoints, though nothing encrypts it.

    :raises ValueError: if somebody may, or nobody knows.
    """
    if isinstance(target, str):
        addresses: Iterable[object] = (target,)
    elif isinstance(target, Iterable):
        addresses = cast("Iterable[object]", target)
    else:
        addresses = (target,)
    for address in addresses:
        reason = "it is not known where they lead"
        if isinstance(address, str):
            reason = why_secrets_are_read(address)
        if reason:
            which = f"{address} is" if isinstance(address, str) else "the resolver's endpoints are"
            raise ValueError(
                f"call_credentials: {which} not encrypted, so that others may read tokens: "
                f"{reason}. Pass credentials= (docs/guide/security.md shows how), or "
                "BearerCredentials(insecure=True) to send them all the same"
            )


def _check_publishers(publishers: object) -> None:
    if callable(publishers):
        _check.function("publishers", publishers, ("publisher", "endpoint"))


def _config_of(given: object) -> ServiceConfig | None:
    """The service config that a caller gives, parsed."""
    if given is None or isinstance(given, ServiceConfig):
        return given
    if not isinstance(given, str | Mapping):
        what = "a ServiceConfig, JSON or a mapping"
        raise _check.wrong_type("service_config", given, what)
    # The cast is for pyright, which knows a mapping of what as little as the caller may.
    try:
        return ServiceConfig.parse(cast("str | Mapping[str, Any]", given))
    except ServiceConfigError as error:
        raise ServiceConfigError(error.errors, "service_config") from None
