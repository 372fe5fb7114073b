"""The client's connections, and the calls that wait for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred, fail

from txzmq.factory import ZmqFactory
from txzmq.rpc._client.attempts import AttemptsOwner, RepeatedCall, StreamAttempts
from txzmq.rpc._client.call import Call, CallBook, outcome_of, too_large
from txzmq.rpc._client.intercepted import InterceptedCall, InterceptedStream
from txzmq.rpc._client.pool import Endpoints
from txzmq.rpc._client.request_stream import Requests, RequestsCall
from txzmq.rpc._client.response_stream import ClientStream, OpeningCall, OpenResponseStream
from txzmq.rpc._client.retry_policy import Throttle
from txzmq.rpc._core.interceptors import chain_client
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._core.transport import Network
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc._wire.headers import OpenStream, RequestHead, to_us
from txzmq.rpc.balancing import BalancingPolicy, RoundRobin
from txzmq.rpc.client import ResponseMetadata, StreamInput, wanted_metadata
from txzmq.rpc.context import Context, current_context
from txzmq.rpc.errors import (
    DeadlineExceeded,
    ResourceExhausted,
    RpcError,
    Unavailable,
)
from txzmq.rpc.interceptors import ClientCall, ClientInterceptor, ClientProceed, parts_of
from txzmq.rpc.limits import (
    BACKLOG,
    MESSAGE_SIZE,
    METADATA_SIZE,
    STREAM_WINDOW,
    STREAM_WINDOW_BYTES,
)
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.metadata import Metadata, MetadataInput, check_size, normalise
from txzmq.rpc.method import Kind, Method
from txzmq.rpc.resolvers import Resolver, resolver_for
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy, ServiceConfig
from txzmq.rpc.socket_options import SocketOptions
from txzmq.rpc.streams import ResponseStream
from txzmq.rpc.watching import ConnectivityState, EndpointStatus, Observer

__all__ = ["Channel", "ConnectivityState"]

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)

#: Seconds that are 0 microseconds in a header.
_NO_TIME: Final = 0.5e-6
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
    ) -> None:
        """Begin to connect; nothing is blocked.

        :param factory: owns the sockets and knows the reactor.
        :param endpoint: one address or several, such as ``tcp://127.0.0.1:5000``; a name that is
            looked up and watched, such as ``dns:///host:5000``; or a resolver.
        :param policy: which of the endpoints a call goes to; None for
            what the service config says, or else :class:`~txzmq.rpc.RoundRobin`.
        :param service_config: timeouts, retries, hedging and more, by method; as gRPC's, in JSON
            or parsed.
        :param liveness: when a server counts as gone that the kernel says nothing about; None for
            the defaults.
        :param timeout: seconds for calls that bring none of their own; None for no end.
        :param max_timeout: seconds that a call may take, whatever its caller says; None for no
            such limit.
        :param wait_for_ready: what calls do that do not say.
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
        :raises ValueError: if there is no endpoint, or a name or the service config is malformed.
        :raises zmq.ZMQError: if an address is none.
        """
        if isinstance(factory, ZmqFactory):
            factory = ZmqNetwork(factory, socket_options)
        network: Network = factory
        resolver = resolver_for(endpoint)
        random = network.random
        self.message_size = message_size
        self.metadata_size = metadata_size
        self._backlog = backlog
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._wait_for_ready = wait_for_ready
        self._open_stream = OpenStream(max(1, stream_window), max(1, stream_window_bytes))
        self._chain = chain_client(interceptors, self._proceed) if interceptors else None
        self.guard = network.guard
        self._clock = network.clock
        if isinstance(service_config, str | Mapping):
            service_config = ServiceConfig.parse(service_config)
        self._config = service_config
        throttling = None
        if service_config is not None:
            throttling = service_config.retry_throttling
            policy = policy or service_config.new_policy()
        watch = Notifier(self._clock, observer)
        self._book = CallBook(self._clock, self.guard, self._start)
        self._closed = False
        self._endpoints = Endpoints(
            network,
            resolver,
            policy or RoundRobin(random=random),
            liveness=liveness or Liveness(),
            random=random,
            watch=watch,
            message_size=message_size,
            batching=batching,
            closed=self.close,
        )
        self._attempts = AttemptsOwner(
            self._book,
            self._clock,
            Throttle(throttling),
            random,
            self._endpoints.start,
            self._endpoints.count,
        )
        watch.start(self)

    def _start(self, call: Call) -> None:
        """Give a call to another connection than the one that refused it."""
        self._endpoints.count("sent again")
        self._endpoints.start(call)

    # -- the four kinds of call --------------------------------------------------------------

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
        return self._call(self._make, method, request, timeout, metadata, wait_for_ready)

    def _call(
        self,
        make: Callable[..., Call | RepeatedCall],
        method: Method[Any, Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
    ) -> Deferred[Any]:
        """Make a call that has one response, of a request or a stream of them."""
        self.guard.check()
        try:
            pairs = normalise(metadata)
            if self._config is not None:
                timeout, wait_for_ready = self._configured(method, timeout, wait_for_ready)
            parent = current_context()
            left = self._time_left(timeout, parent)
            deadline = None if left is None else self._clock.seconds() + left
            wait = self._wait_for_ready if wait_for_ready is None else wait_for_ready
            wanted = wanted_metadata.get()
            if self._chain is not None:
                return self._intercept(
                    self._chain, method, request, deadline, pairs, wait, wanted, parent
                )
            call = make(method, request, left, deadline, pairs, wait, wanted, parent)
        except (RpcError, CancelledError, TypeError, ValueError) as error:
            return fail(outcome_of(error, method))
        if isinstance(call, RepeatedCall):
            call.start()
        else:
            self._endpoints.start(call)
        return call.deferred

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
        self.guard.check()
        return self._stream(method, request, timeout, metadata, wait_for_ready)

    def _stream(
        self,
        method: Method[Any, Res],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
    ) -> ResponseStream[Res]:
        """Open a stream of responses; it fails if the call cannot be made."""
        wanted = wanted_metadata.get()
        try:
            pairs = normalise(metadata)
            if self._config is not None:
                timeout, wait_for_ready = self._configured(method, timeout, wait_for_ready)
            parent = current_context()
            left = self._time_left(math.inf if timeout is None else timeout, parent)
            deadline = None if left is None else self._clock.seconds() + left
            wait = self._wait_for_ready if wait_for_ready is None else wait_for_ready
            if self._chain is not None:
                opened = self._intercept(
                    self._chain, method, request, deadline, pairs, wait, wanted, parent
                )
                return InterceptedStream(opened)
            core = self._open(method, request, left, deadline, pairs, wait, wanted, parent)
        except (RpcError, CancelledError, TypeError, ValueError) as error:
            return InterceptedStream(fail(outcome_of(error, method)))
        return OpenResponseStream(core)

    def _open(
        self,
        method: Method[Any, Any],
        request: Any,
        left: float | None,
        deadline: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
        response_metadata: ResponseMetadata | None,
        parent: Context | None,
    ) -> ClientStream:
        """Begin a stream of responses.

        :raises RpcError: if a limit forbids it, or TypeError.
        """
        streams = method.kind.request_streaming
        if streams:
            _check_source(method, request)
        message = method.request_type() if streams else request
        body, response_size = self._check(method, message, left, metadata, parent)
        stream = ClientStream(
            self._book,
            method,
            deadline,
            parent,
            response_metadata,
            response_size,
            self._open_stream,
        )
        requests, open_stream = None, self._open_stream
        if streams:
            requests = Requests(method, request, self._request_size(method), stream.cancel)
            open_stream = open_stream._replace(requests=requests.id)
        head = RequestHead(method.path, None, metadata, open_stream=open_stream)
        call = self._opening_call(stream, head, body, left, requests, wait_for_ready)
        if not streams and method.stream is not None and method.stream.resumable:
            stream.reopen = partial(self._reopen, head, body)
        policy = self._retry_policy(method)
        if policy is not None:
            again = partial(self._attempt, stream, head, body, requests, wait_for_ready)
            stream.attempts = StreamAttempts(self._attempts, policy, method, metadata, again)
            if requests is not None:
                requests.hold()
        stream.open(call, self._endpoints.start)
        return stream

    def _reopen(self, head: RequestHead, body: bytes, stream: ClientStream, sequence: int) -> None:
        """Open a stream again from an item on, as soon as a server can be reached."""
        if self._closed:
            raise Unavailable("the channel is closed")
        self._endpoints.count("stream resumed")
        left = stream.deadline
        if left is not None:
            left = max(0.0, left - self._clock.seconds())
        head = head._replace(open_stream=self._open_stream._replace(sequence=sequence))
        call = self._opening_call(stream, head, body, left, None, wait_for_ready=True)
        stream.open_again(call, self._endpoints.start)

    def _attempt(
        self,
        stream: ClientStream,
        head: RequestHead,
        body: bytes,
        requests: Requests | None,
        wait_for_ready: bool,
    ) -> None:
        """Open a stream again from its beginning, as its policy wants it."""
        attempts = stream.attempts
        assert attempts is not None, "it has a policy"
        left = stream.deadline
        if left is not None:
            left = max(0.0, left - self._clock.seconds())
        head = attempts.head(head)
        if requests is not None:
            open_stream = self._open_stream._replace(requests=requests.id)
            head = head._replace(open_stream=open_stream)
        call = self._opening_call(
            stream, head, body, left, requests, wait_for_ready, attempts.opened_by
        )
        call.used = attempts.used
        stream.open_again(call, self._endpoints.start)

    def _retry_policy(self, method: Method[Any, Any]) -> RetryPolicy | None:
        """By which a call that streams is repeated; none is hedged."""
        return None if self._config is None else self._config.for_method(method.path).retry_policy

    def _opening_call(
        self,
        stream: ClientStream,
        head: RequestHead,
        body: bytes,
        left: float | None,
        requests: Requests | None,
        wait_for_ready: bool,
        opened_by: float | None = None,
    ) -> OpeningCall:
        """:param opened_by: when it has to have been answered; None for the channel's timeout."""
        timeout = self._time_left(left, current_context())
        if opened_by is None and timeout is not None:
            opened_by = self._clock.seconds() + timeout
        call = OpeningCall(
            self._book,
            stream.method,
            head._replace(timeout_us=None if left is None else max(1, to_us(left))),
            body,
            opened_by,
            wait_for_ready,
            None,
            None,
            stream.response_size,
            stream_deadline=stream.deadline,
            requests=requests,
        )
        self._book.begun(call)
        return call

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
        make = self._make_with_requests
        return self._call(make, method, requests, timeout, metadata, wait_for_ready)

    def _make_with_requests(
        self,
        method: Method[Any, Any],
        source: Any,
        left: float | None,
        deadline: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
        response_metadata: ResponseMetadata | None,
        parent: Context | None,
    ) -> RequestsCall:
        _check_source(method, source)
        _, response_size = self._check(method, method.request_type(), left, metadata, parent)
        call = RequestsCall(
            self._book,
            method,
            RequestHead(method.path, None if left is None else to_us(left), metadata),
            b"",
            deadline,
            wait_for_ready,
            parent,
            response_metadata,
            response_size,
        )
        requests = Requests(method, source, self._request_size(method), call.requests_failed)
        call.requests = requests
        call.head = call.head._replace(open_stream=OpenStream(requests=requests.id))
        policy = self._retry_policy(method)
        if policy is not None:
            call.attempts = StreamAttempts(self._attempts, policy, method, metadata, call.again)
            requests.hold()
        self._book.begun(call)
        if parent is not None:
            parent.adopt(call.deferred)
        return call

    def _request_size(self, method: Method[Any, Any]) -> int:
        if self._config is None:
            return self.message_size
        limit = self._config.for_method(method.path).max_request_message_bytes
        return _smaller(self.message_size, limit)

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
        self.guard.check()
        return self._stream(method, requests, timeout, metadata, wait_for_ready)

    def _intercept(
        self,
        chain: ClientProceed,
        method: Method[Any, Any],
        request: object,
        deadline: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
        wanted: ResponseMetadata | None,
        parent: Context | None,
    ) -> Deferred[Any]:
        if self._closed:
            raise Unavailable("the channel is closed")
        if parent is not None:
            parent.check()
        outer = InterceptedCall(self._book, method, deadline, parent)
        call = ClientCall(
            outer,
            self._clock,
            method,
            request,
            deadline,
            metadata,
            wait_for_ready,
            ResponseMetadata() if wanted is None else wanted,
        )
        streams = method.kind is not Kind.UNARY_UNARY and method.kind.response_streaming
        return outer.start(chain, call, ResponseStream if streams else method.response_type)

    def _proceed(self, call: ClientCall) -> Deferred[Any]:
        """The end of the interceptors' chain."""
        outer, method, request, deadline, metadata, wait_for_ready, response = parts_of(call)
        if outer.over:
            return fail(CancelledError("an interceptor went on with a call that was over"))
        left = None if deadline is None else max(0.0, deadline - self._clock.seconds())
        parent = current_context()
        arguments = (
            method,
            request,
            left,
            deadline,
            metadata,
            wait_for_ready,
            response,
            parent,
        )
        try:
            if method.kind is Kind.UNARY_UNARY:
                made = self._make(*arguments)
            elif method.kind.response_streaming:
                return self._open(*arguments).opened()
            else:
                made = self._make_with_requests(*arguments)
        except (RpcError, CancelledError, TypeError, ValueError) as error:
            return fail(error)
        if isinstance(made, RepeatedCall):
            made.start()
        else:
            outer.went_on(made.deferred, made.deadline, made.parent)
            self._endpoints.start(made)
        return made.deferred

    def _make(
        self,
        method: Method[Any, Any],
        request: Message,
        left: float | None,
        deadline: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
        response_metadata: ResponseMetadata | None,
        parent: Context | None,
    ) -> Call | RepeatedCall:
        body, response_size = self._check(method, request, left, metadata, parent)
        timeout_us = None if left is None else to_us(left)
        if metadata:
            head = RequestHead(method.path, timeout_us, metadata)
        else:
            head = _plain_head(method.path, timeout_us, metadata)
        policy: RetryPolicy | HedgingPolicy | None = None
        if self._config is not None:
            config = self._config.for_method(method.path)
            policy = config.retry_policy or config.hedging_policy
        call: Call | RepeatedCall
        if policy is not None:
            call = RepeatedCall(
                self._attempts,
                policy,
                method,
                head,
                body,
                deadline,
                wait_for_ready,
                parent,
                response_metadata,
                response_size,
            )
            self._book.compound_begun(call)
        else:
            call = Call(
                self._book,
                method,
                head,
                body,
                deadline,
                wait_for_ready,
                parent,
                response_metadata,
                response_size,
            )
            self._book.begun(call)
        if parent is not None:
            parent.adopt(call.deferred)
        return call

    def _check(
        self,
        method: Method[Any, Any],
        request: Message,
        left: float | None,
        metadata: Metadata,
        parent: Context | None,
    ) -> tuple[bytes, int]:
        """The serialised request, and how large a response may be.

        :raises RpcError: if a limit forbids the call.
        :raises TypeError: if the method takes other requests.
        :raises CancelledError: in a handler whose call is over.
        """
        if self._closed:
            raise Unavailable("the channel is closed")
        if parent is not None:
            parent.check()
        if not isinstance(request, method.request_type):
            raise TypeError(
                f"{method.path} takes {method.request_type.__name__}, not {type(request).__name__}"
            )
        body = request.SerializeToString()
        response_size = self.message_size
        if self._config is not None:
            config = self._config.for_method(method.path)
            response_size = _smaller(response_size, config.max_response_message_bytes)
            _check_request(body, config.max_request_message_bytes)
        if len(body) > self.message_size:
            raise too_large("request", len(body), self.message_size)
        if self._book.size and self._book.size + len(body) > self._backlog:
            raise ResourceExhausted(
                f"{self._book.size} bytes of requests wait, and the client's limit is "
                f"{self._backlog} (Channel's backlog); the call was not executed"
            )
        if metadata and not check_size(metadata, self.metadata_size):
            raise ResourceExhausted(
                f"the metadata is over the client's limit of {self.metadata_size} bytes "
                "(Channel's metadata_size)"
            )
        if left is not None and left <= _NO_TIME:
            raise DeadlineExceeded("no time was left for the call; it was not executed")
        return body, response_size

    def _configured(
        self, method: Method[Any, Any], timeout: float | None, wait_for_ready: bool | None
    ) -> tuple[float | None, bool | None]:
        """What the service config says of time and waiting, where the call does not."""
        assert self._config is not None
        config = self._config.for_method(method.path)
        if config.timeout is not None and (timeout is None or timeout > config.timeout):
            timeout = config.timeout
        return timeout, config.wait_for_ready if wait_for_ready is None else wait_for_ready

    def _time_left(self, timeout: float | None, parent: Context | None) -> float | None:
        """Seconds for a call: its own or the channel's, no more than the cap and its parent's."""
        if timeout is None:
            timeout = self._timeout
        elif math.isnan(timeout):
            raise ValueError("the timeout is not a number")
        elif timeout == math.inf:
            timeout = None
        if self._max_timeout is not None and (timeout is None or timeout > self._max_timeout):
            timeout = self._max_timeout
        inherited = None if parent is None else parent.time_remaining()
        if inherited is None:
            return timeout
        return inherited if timeout is None else min(timeout, inherited)

    def close(self) -> None:
        """End all calls with ``CancelledError``, and all connections; may be called again."""
        self.guard.check()
        if self._closed:
            return
        self._closed = True
        error = CancelledError("the channel was closed")
        self._endpoints.close(error)
        self._book.close(error)

    @property
    def state(self) -> ConnectivityState:
        """What the channel is doing: as its best connection, see :class:`ConnectivityState`."""
        return self._endpoints.state

    def wait_for_state_change(self, last: ConnectivityState) -> Deferred[ConnectivityState]:
        """Wait until the state is not *last* any more; it may be another already.

        States that pass quickly may be missed. After :meth:`close` it is SHUTDOWN, for ever. ::

            while channel.state is not ConnectivityState.READY:
                await channel.wait_for_state_change(channel.state)

        :return: a Deferred of the new state; it may be cancelled.
        """
        return self._endpoints.wait_for_state_change(last)

    @property
    def endpoints(self) -> list[EndpointStatus]:
        """What each connection is doing, in the order of the addresses."""
        return self._endpoints.statuses

    @property
    def counters(self) -> Counter[str]:
        """What was dropped of incoming messages, what befell the connections, and further attempts.

        :class:`~txzmq.rpc.Count` has the names and what they mean.
        """
        return self._endpoints.dropped + self._endpoints.counters


#: Most calls have one that came before. Metadata is not kept.
_plain_head = lru_cache(maxsize=1_024)(RequestHead)


def _check_source(method: Method[Any, Any], source: object) -> None:
    if not isinstance(source, (Iterable, AsyncIterable)):
        raise TypeError(f"{method.path} takes an iterable of requests, not {source!r:.100}")


def _smaller(size: int, other: int | None) -> int:
    return size if other is None else min(size, other)


def _check_request(body: bytes, limit: int | None) -> None:
    if limit is not None and len(body) > limit:
        raise ResourceExhausted(
            f"the request has {len(body)} bytes, over the service config's limit of {limit} "
            "(maxRequestMessageBytes)"
        )
