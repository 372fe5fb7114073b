"""Calls of gRPC servers by generated clients of txzmq; needs the extra ``txzmq[grpc]``.

A :class:`GrpcChannel` takes the place of a :class:`~txzmq.rpc.Channel`. The clients that are made
with it, the errors, deadlines, interceptors and observers are the same::

    channel = GrpcChannel("127.0.0.1:50051")
    hello = HelloClient(channel)
    response = await hello.say_hello(SayHelloRequest(name="World"))

It works by ``grpc.aio``, and so where Twisted runs on asyncio's loop: ``twistd --reactor=asyncio``,
or ``asyncioreactor.install()`` before the reactor is imported.
"""

from __future__ import annotations

import json
import os
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred, succeed

import txzmq
from txzmq import _check
from txzmq._asyncio_loop import installed_reactor, loop_of
from txzmq._guard import Guard
from txzmq._reactor import Reactor, monotonic
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc._client.call import Call, CallRegistry
from txzmq.rpc._client.call_credentials import CallCredentials
from txzmq.rpc._client.calls import CallOptions
from txzmq.rpc._client.retry_policy import Throttle
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._net.given import check_observer
from txzmq.rpc._net.secure_bind import why_secrets_are_read
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.client import StreamInput
from txzmq.rpc.interceptors import ClientInterceptor
from txzmq.rpc.limits import (
    BACKLOG,
    MESSAGE_SIZE,
    METADATA_SIZE,
    STREAM_WINDOW,
    STREAM_WINDOW_BYTES,
)
from txzmq.rpc.metadata import MetadataInput
from txzmq.rpc.method import Method
from txzmq.rpc.service_config import ServiceConfig, ServiceConfigError
from txzmq.rpc.streams import ResponseStream
from txzmq.rpc.watching import (
    ChannelStats,
    ConnectivityState,
    EndpointChange,
    EndpointStatus,
    Observer,
)

try:
    import grpc
    import grpc.aio

    from txzmq.rpc._grpc.calls import GrpcCalls, WatchedGrpcCalls
    from txzmq.rpc._grpc.given import (
        GRPC,
        address_of,
        check_options,
        check_target,
    )
    from txzmq.rpc._grpc.transport import GrpcTransport
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.grpc needs grpcio 1.75.1 or later: pip install 'txzmq[grpc]'"
    ) from error

__all__ = ["GrpcChannel"]

Req = TypeVar("Req", bound=Message | RawMessage)
Res = TypeVar("Res", bound=Message | RawMessage)

#: Seconds that a call may take if nobody says otherwise.
_DEFAULT_TIMEOUT: Final = 30.0
#: Seconds that a server may take to answer a ping.
_KEEPALIVE_TIMEOUT: Final = 20.0
#: Under which a token is sent.
_AUTHORIZATION: Final = "authorization"
#: Of a service config: what gRPC alone judges.
_OF_GRPC: Final = ("loadBalancingConfig", "loadBalancingPolicy", "healthCheckConfig")


class GrpcChannel:
    """A channel to gRPC servers: a :class:`~txzmq.rpc.Caller` over ``grpc.aio``.

    Generated clients, and calls of raw methods, work over it as over a
    :class:`~txzmq.rpc.Channel`. It begins to connect at once, and is closed when the reactor stops,
    if it was not before. As a channel, it is for the reactor's thread only.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        service_config: str | Mapping[str, Any] | None = None,
        timeout: float | None = _DEFAULT_TIMEOUT,
        max_timeout: float | None = None,
        wait_for_ready: bool = False,
        interceptors: Sequence[ClientInterceptor] = (),
        message_size: int = MESSAGE_SIZE,
        metadata_size: int = METADATA_SIZE,
        observer: Observer | None = None,
        stream_window: int = STREAM_WINDOW,
        stream_window_bytes: int = STREAM_WINDOW_BYTES,
        backlog: int = BACKLOG,
        call_credentials: BearerCredentials | None = None,
        keepalive: float | None = None,
        keepalive_timeout: float = _KEEPALIVE_TIMEOUT,
        options: Sequence[tuple[str, str | int]] = (),
        reactor: Reactor | None = None,
    ) -> None:
        """Begin to connect; nothing is blocked.

        :param target: where the servers are, as gRPC has it: ``127.0.0.1:50051``,
            ``dns:///host:50051``, ``unix:/run/hello.sock``.
        :param credentials: of TLS, for instance ``grpc.ssl_channel_credentials()``, with a key and
            a certificate for mutual TLS; None for servers without.
        :param service_config: gRPC's, in JSON or parsed. gRPC itself retries by it, and balances.
        :param timeout: seconds for calls with one response that bring none of their own; None for
            no end. Streams have no other end than their own timeout.
        :param max_timeout: seconds that a call may take, whatever its caller says; None for no
            such limit.
        :param wait_for_ready: for calls that do not set it; see :class:`~txzmq.rpc.Caller`.
        :param interceptors: go around every call, the first one outermost; see
            :mod:`txzmq.rpc.interceptors`.
        :param message_size: bytes that a serialised request or response may have.
        :param metadata_size: bytes that the metadata of a request may cost.
        :param observer: told of what happens to the channel and to calls; see
            :mod:`txzmq.rpc.watching`.
        :param stream_window: items of a stream that may have arrived and not been read. Past it
            nothing is read, so that HTTP/2 holds up the server.
        :param stream_window_bytes: bytes of them; the item that reaches them is the last.
        :param backlog: bytes of requests that may wait for their responses.
        :param call_credentials: what each call proves besides; see :mod:`txzmq.rpc.authentication`.
            They need *credentials*, unless the target is a socket that only this user can reach, or
            they are told ``insecure=True``.
        :param keepalive: seconds without a sign of life after which a server is pinged while calls
            are open; None for gRPC's default, never. Servers of gRPC end connections that ping more
            often than they allow, every 5 minutes unless they are told otherwise.
        :param keepalive_timeout: seconds that it may take to answer.
        :param options: other arguments of gRPC's channels, such as
            ``("grpc.ssl_target_name_override", "example.org")``. They come behind those that the
            parameters above set.
        :param reactor: Twisted's; None for the one that is installed.
        :raises RuntimeError: if the reactor does not run on asyncio's loop; the message says what
            to do.
        :raises ValueError: for a value out of range, and so TypeError; the message names the
            parameter.
        """
        calls = CallOptions(
            timeout=timeout,
            max_timeout=max_timeout,
            wait_for_ready=wait_for_ready,
            message_size=message_size,
            metadata_size=metadata_size,
            backlog=backlog,
            stream_window=stream_window,
            stream_window_bytes=stream_window_bytes,
        )
        check_target("target", target)
        if credentials is not None:
            what = "a grpc.ChannelCredentials or None"
            _check.instance("credentials", credentials, grpc.ChannelCredentials, what)
        _check.functions("interceptors", interceptors, ("call", "proceed"))
        check_observer(observer)
        if call_credentials is not None:
            what = "a BearerCredentials or None"
            _check.instance("call_credentials", call_credentials, BearerCredentials, what)
            if credentials is None and not call_credentials.insecure:
                _check_private(target)
        if keepalive is not None:
            _check.number("keepalive", keepalive, above=True)
        _check.number("keepalive_timeout", keepalive_timeout, above=True)
        check_options(options)
        given, config = _configs_of(service_config)
        reactor = installed_reactor(GRPC) if reactor is None else reactor
        loop = loop_of(reactor, GRPC)
        clock = monotonic(reactor)
        self.guard = Guard(lambda: reactor)
        arguments: list[tuple[str, Any]] = [  # Any: str or int
            ("grpc.max_receive_message_length", message_size),
            ("grpc.max_send_message_length", message_size),
            ("grpc.secondary_user_agent", f"txzmq/{txzmq.__version__}"),
        ]
        if keepalive is not None:
            arguments.append(("grpc.keepalive_time_ms", max(1, round(keepalive * 1000))))
            answer = max(1, round(keepalive_timeout * 1000))
            arguments.append(("grpc.keepalive_timeout_ms", answer))
            arguments.append(("grpc.http2.ping_timeout_ms", answer))  # or gRPC waits for 60 s
        if given is not None:
            arguments.append(("grpc.service_config", given))
        arguments.extend(options)

        def make() -> grpc.aio.Channel:
            if credentials is None:
                return grpc.aio.insecure_channel(target, options=arguments)
            return grpc.aio.secure_channel(target, credentials, options=arguments)

        self._target = target
        self._metadata_size = metadata_size
        self._backlog = backlog
        self._given_credentials = call_credentials
        self._clock = clock
        self._counters: Counter[str] = Counter()
        # Fires when it is closed.
        self._closing: Deferred[object] = succeed(None)
        self._waiters: list[Deferred[ConnectivityState]] = []
        self._notifier = Notifier(clock, observer)
        self._transport = GrpcTransport(
            clock, loop, target, make, self._changed, self._unauthenticated
        )
        start = self._transport.start
        self._call_credentials: CallCredentials | None = None
        if call_credentials is not None:
            self._call_credentials = CallCredentials(
                call_credentials, clock, self.guard, metadata_size, start
            )
            start = self._call_credentials.start
        # No randomness is asked for: nothing here is repeated.
        self._registry = CallRegistry(
            clock, self.guard, Random(), Throttle(None), start, self._count
        )
        watch = self._notifier.calls
        if watch is None:
            self._calls = GrpcCalls(self._registry, calls, config, interceptors)
        else:
            self._calls = WatchedGrpcCalls(self._registry, calls, config, interceptors, watch)
        self._reactor = reactor
        self._trigger = reactor.addSystemEventTrigger("before", "shutdown", self._stopping)
        _channels.add(self)
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

        *timeout* is for the whole stream, None for no end. The stream is open when its initial
        metadata has arrived; some servers send them with the first item.
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
        """End all calls with ``CancelledError``, and the connection; may be called again."""
        self.guard.check()
        if self._registry.is_closing:
            return
        error = CancelledError("the channel was closed")
        self._registry.refuse()
        self._closing = self._transport.close(error)
        self._closing.addBoth(self._closed)  # asyncio.run() cancels what is left at its end
        if self._call_credentials is not None:
            self._call_credentials.close(error)
        self._registry.close(error)
        self._notifier.stop()  # last: calls have ended until now

    def _closed(self, _: object) -> None:
        """Nothing is left of it in asyncio's loop."""
        trigger, self._trigger = self._trigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)

    def _stopping(self) -> Deferred[object]:
        """The reactor is about to stop; asyncio's loop is to end what it does for the channel."""
        self._trigger = None
        if not self.guard.forked:  # a child may stop the reactor that it has from its parent
            self.close()
        return self._closing

    #: What it is called by OpenTelemetry's conventions.
    rpc_system: Final = "grpc"

    @property
    def target(self) -> str:
        """What the channel was made for, as it was given."""
        return self._target

    @property
    def metadata_size(self) -> int:
        """Bytes that the metadata of a request may cost, as it was given."""
        return self._metadata_size

    @property
    def state(self) -> ConnectivityState:
        """What gRPC's channel is doing; see :class:`~txzmq.rpc.ConnectivityState`."""
        return self._transport.state

    def wait_for_state_change(self, last: ConnectivityState) -> Deferred[ConnectivityState]:
        """Wait until the state is not *last* any more; it may be another already.

        As :meth:`Channel.wait_for_state_change <txzmq.rpc.Channel.wait_for_state_change>`.

        :return: a Deferred of the new state; it may be cancelled.
        :raises TypeError: if *last* is no state.
        """
        _check.instance("last", last, ConnectivityState, "a ConnectivityState")
        if self.state is not last:
            return succeed(self.state)
        waiter: Deferred[ConnectivityState] = TaskDeferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    @property
    def endpoints(self) -> list[EndpointStatus]:
        """What gRPC's channel is doing, as one endpoint: gRPC does not tell of the others."""
        transport = self._transport
        return [
            EndpointStatus(
                address=self._target,
                state=transport.state,
                reason=transport.obstacle,
                load=transport.load,
            )
        ]

    @property
    def stats(self) -> ChannelStats:
        """What it has at this moment, for metrics."""
        return ChannelStats(
            state=self.state,
            endpoints=tuple(self.endpoints),
            waiting=self._transport.waiting,
            request_bytes=self._registry.size,
            backlog=self._backlog,
        )

    @property
    def counters(self) -> Counter[str]:
        """Empty: gRPC does not tell of what it drops, and of further attempts."""
        return Counter(self._counters)

    # -- what happens ------------------------------------------------------------------------

    def _count(self, name: str) -> None:
        self._counters[name] += 1

    def _changed(self, previous: ConnectivityState, state: ConnectivityState) -> None:
        failed = state is ConnectivityState.TRANSIENT_FAILURE
        reason = self._transport.obstacle if failed else ""
        change = EndpointChange(address=self._target, previous=previous, state=state, reason=reason)
        self._notifier.endpoint(change)
        self._notifier.channel(previous, state)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(state)

    def _unauthenticated(self, call: Call) -> None:
        """A server does not know who calls: the next call is to have another token.

        This one is not made again, as a Channel does it: gRPC does not tell whether a handler has
        seen it.
        """
        credentials = self._given_credentials
        if credentials is None or any(key == _AUTHORIZATION for key, _ in call.spec.metadata):
            return
        for key, value in call.head.metadata:
            if key == _AUTHORIZATION and isinstance(value, str):
                credentials.rejected(value.removeprefix("Bearer "), self._clock)


# -- what is given --------------------------------------------------------------------------------


def _check_private(target: str) -> None:
    """Check that nobody else can read what is sent there, though nothing encrypts it.

    :raises ValueError: if somebody may, or nobody knows.
    """
    reason = why_secrets_are_read(address_of(target))
    if reason:
        raise ValueError(
            f"call_credentials: {target} is not encrypted, so that others may read tokens: "
            f"{reason}. Pass credentials=grpc.ssl_channel_credentials(), or "
            "BearerCredentials(insecure=True) to send them all the same"
        )


def _configs_of(given: object) -> tuple[str | None, ServiceConfig | None]:
    """A service config as gRPC gets it, and what holds here: timeouts and limits of methods.

    :raises ServiceConfigError: if it is invalid, of which gRPC would tell nobody.
    """
    if given is None:
        return None, None
    if isinstance(given, ServiceConfig) or not isinstance(given, str | Mapping):
        hint = ": gRPC gets the JSON itself" if isinstance(given, ServiceConfig) else ""
        raise _check.wrong_type("service_config", given, "JSON or a mapping", hint)
    try:
        root: Any = json.loads(given) if isinstance(given, str) else dict(cast("Any", given))
        own = root
        if isinstance(root, dict):
            keys = cast("dict[str, Any]", root)
            own = {key: value for key, value in keys.items() if key not in _OF_GRPC}
        config = ServiceConfig.parse(own)
    except ValueError as error:
        errors = error.errors if isinstance(error, ServiceConfigError) else (str(error),)
        raise ServiceConfigError(errors, "service_config") from None
    return json.dumps(root), config.without_attempts()


# -- forked children ------------------------------------------------------------------------------

_channels: weakref.WeakSet[GrpcChannel] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for channel in list(_channels):
        channel.guard.fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
