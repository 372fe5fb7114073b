"""Makes a channel's calls, of all four kinds: from what the caller gives to a call on its way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from typing import Any, Final

from google.protobuf.message import EncodeError
from twisted.internet.defer import CancelledError, Deferred, fail

from txzmq import _check
from txzmq.rpc._client.call import Call, CallRegistry, outcome_of, too_large
from txzmq.rpc._client.intercepted import ClientCallEnd, InterceptedCall, InterceptedStream
from txzmq.rpc._client.received_stream import ReceivedStream
from txzmq.rpc._client.request_stream import Requests, RequestsCall
from txzmq.rpc._client.response_stream import ClientStream
from txzmq.rpc._client.retried_call import RetriedCall
from txzmq.rpc._client.stream_opening import StreamOpener
from txzmq.rpc._client.stream_reader import OpenResponseStream, opened
from txzmq.rpc._core.interceptors import chain_client
from txzmq.rpc._wire.headers import OpenStream, RequestHead, to_us
from txzmq.rpc.client import (
    CallSpec,
    ResponseMetadata,
    check_method,
    check_request,
    check_timeout,
    wanted_metadata,
    wrong_request,
)
from txzmq.rpc.context import Context, get_current
from txzmq.rpc.errors import DeadlineExceeded, ResourceExhausted, RpcError, Unavailable
from txzmq.rpc.interceptors import ClientCall, ClientInterceptor, ClientProceed, parts_of
from txzmq.rpc.metadata import MetadataInput, check_size, normalise
from txzmq.rpc.method import Kind, Method
from txzmq.rpc.service_config import RetryPolicy, ServiceConfig
from txzmq.rpc.streams import ResponseStream

__all__ = ["NOT_MADE", "STREAMED", "CallOptions", "Calls"]

#: Of most timeouts; others are looked at more closely.
_NUMBERS: Final = frozenset({int, float})
_ENDLESS: Final = math.inf
#: In place of a request, where they stream: the body of the opening call is empty then.
STREAMED: Final = object()
#: A member of an enumeration is slow to read.
_UNARY: Final = Kind.UNARY_UNARY
#: Seconds that are 0 microseconds in a header.
_NO_TIME: Final = 0.5e-6
#: What making a call raises where it cannot be made; the caller gets it by the call's Deferred.
#: TypeError and ValueError it gets at once: they are mistakes in its code.
NOT_MADE: Final = (RpcError, CancelledError, EncodeError)
#: The same where interceptors go on with a call; their caller gets all by its Deferred.
_NOT_GONE_ON: Final = (*NOT_MADE, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallOptions:
    """What a channel says of its calls; see :class:`~txzmq.rpc.Channel`."""

    timeout: float | None
    max_timeout: float | None
    wait_for_ready: bool
    message_size: int
    metadata_size: int
    backlog: int
    stream_window: int
    stream_window_bytes: int

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        for name in ("timeout", "max_timeout"):
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=True, endless="None")
        _check.boolean("wait_for_ready", self.wait_for_ready)
        for name in ("message_size", "stream_window", "stream_window_bytes"):
            _check.integer(name, getattr(self, name), 1)
        for name in ("metadata_size", "backlog"):
            _check.integer(name, getattr(self, name))


class Calls:
    """Makes calls: checks them, gives them their deadlines, and hands them to the pool."""

    def __init__(
        self,
        registry: CallRegistry,
        options: CallOptions,
        config: ServiceConfig | None,
        interceptors: Sequence[ClientInterceptor],
    ) -> None:
        self._registry = registry
        self._clock = registry.clock
        self._guard = registry.guard
        guard = registry.guard
        self._check_thread = guard.check_call if guard.has_reactor else guard.check_anew
        self._options = options
        self._config = config
        self._window = OpenStream(options.stream_window, options.stream_window_bytes)
        #: What a call with one request and one response becomes, unless a policy repeats it.
        self._unary = Call
        self._chain = chain_client(interceptors, self._proceed) if interceptors else None

    # -- what callers ask for ----------------------------------------------------------------

    def call(
        self,
        # Any: the caller's signature typed the result.
        method: Method[Any, Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
        *,
        streams: bool = False,
    ) -> Deferred[Any]:
        """Make a call that has one response.

        :param streams: whether *request* gives a stream of requests.
        :raises TypeError: if an argument has a wrong type.
        :raises ValueError: for a timeout that is not a number, and malformed metadata.
        """
        if self._guard.thread != get_ident():
            self._check_thread()
        try:
            spec = self._spec(
                method, request, timeout, metadata, wait_for_ready, self._options.timeout
            )
            if self._chain is not None:
                return self._intercept(self._chain, spec)
            call = self._make_with_requests(spec) if streams else self._make_unary(spec)
        except NOT_MADE as error:
            return fail(outcome_of(error, method, sent=False))
        except AttributeError:
            check_method(method)
            raise
        if isinstance(call, RetriedCall):
            call.start()
        else:
            self._registry.start(call)
        return call.deferred

    def stream(
        self,
        method: Method[Any, Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
    ) -> ResponseStream[Any]:
        """Open a stream of responses; it fails if the call cannot be made.

        :param timeout: seconds for the whole stream; None for no end.
        :raises TypeError: and ValueError, as :meth:`call`.
        """
        if self._guard.thread != get_ident():
            self._check_thread()
        try:
            spec = self._spec(method, request, timeout, metadata, wait_for_ready, None)
            if self._chain is not None:
                return InterceptedStream(self._intercept(self._chain, spec))
            return OpenResponseStream(self._open(spec))
        except NOT_MADE as error:
            return InterceptedStream(fail(outcome_of(error, method, sent=False)))
        except AttributeError:
            check_method(method)
            raise

    # -- from what they give to a specification ----------------------------------------------

    def _spec(
        self,
        method: Method[Any, Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
        default_timeout: float | None,
    ) -> CallSpec:
        """What a call is made of.

        :param default_timeout: seconds for a call without a timeout of its own; None for no end.
        :raises TypeError: if an option has a wrong type; ValueError for a wrong value.
        """
        pairs = () if metadata is None else normalise(metadata)
        if self._config is not None:
            config = self._config.for_method(method.path)
            if timeout is not None and timeout.__class__ not in _NUMBERS:
                check_timeout(timeout)
            if config.timeout is not None and (timeout is None or timeout > config.timeout):
                timeout = config.timeout
            if wait_for_ready is None:
                wait_for_ready = config.wait_for_ready
        parent = get_current()
        left = self._seconds(timeout, default_timeout, parent)
        wanted = wanted_metadata.get()
        if wanted is None and self._chain is not None:
            wanted = ResponseMetadata()
        if wait_for_ready is None:
            wait_for_ready = self._options.wait_for_ready
        elif wait_for_ready.__class__ is not bool:
            _check.boolean("wait_for_ready", wait_for_ready)  # type: ignore[unreachable]  # untyped callers
        try:
            deadline = None if left is None else self._clock.seconds() + left
        except OverflowError:
            check_timeout(left)
            raise
        return CallSpec(method, request, deadline, pairs, wait_for_ready, wanted, parent)

    def _seconds(
        self, timeout: float | None, default: float | None, parent: Context | None
    ) -> float | None:
        """Seconds for a call: its own or the default, no more than the cap and its parent's."""
        if timeout is None:
            timeout = default
        else:
            if timeout.__class__ not in _NUMBERS or timeout != timeout:
                check_timeout(timeout)
            if timeout == _ENDLESS:
                timeout = None
        most = self._options.max_timeout
        if most is not None and (timeout is None or timeout > most):
            timeout = most
        inherited = None if parent is None else parent.time_remaining()
        if inherited is None:
            return timeout
        return inherited if timeout is None else min(timeout, inherited)

    # -- interceptors ------------------------------------------------------------------------

    def _intercept(
        self, chain: ClientProceed, spec: CallSpec, end: ClientCallEnd | None = None
    ) -> Deferred[Any]:
        """:param end: where the end of the call is told."""
        if self._registry.is_closing:
            raise Unavailable("the channel is closed")
        if spec.parent is not None:
            spec.parent.check()
        method = spec.method
        if method.kind is not _UNARY or not isinstance(spec.request, method.request_type):
            check_request(method, spec.request)
        outer = InterceptedCall(self._registry, spec, end)
        streams = method.kind is not _UNARY and method.kind.response_streaming
        expected = ResponseStream if streams else method.response_type
        return outer.start(chain, ClientCall(outer, self._clock, spec), expected)

    def _proceed(self, call: ClientCall) -> Deferred[Any]:
        """The end of the interceptors' chain."""
        port, spec = parts_of(call)
        if port.over:
            return fail(CancelledError("an interceptor went on with a call that was over"))
        parent = get_current()
        if parent is not spec.parent:
            spec = spec.replace(parent=parent)
        taken = port.taken
        if taken is not None and spec.request is taken[0]:
            spec = spec.replace(request=type(taken[0]).FromString(taken[1]))
        kind = spec.method.kind
        is_unary = kind is _UNARY
        try:
            if is_unary:
                made = self._make_unary(spec)
            elif kind.response_streaming:
                stream = self._open(spec)
                port.goes_by(stream)
                return opened(stream)
            else:
                made = self._make_with_requests(spec)
        except _NOT_GONE_ON as error:
            return fail(error)
        if isinstance(made, RetriedCall):
            port.goes_by(made)
            made.start()
        else:
            port.went_on(made, made.deferred, spec, made.body if is_unary else None)
            self._registry.start(made)
        return made.deferred

    # -- making calls ------------------------------------------------------------------------

    def _make_unary(self, spec: CallSpec) -> Call | RetriedCall:
        """Make a call with one request and one response; it is still to be started.

        :raises RpcError: if a limit forbids it, or TypeError.
        """
        registry, path, metadata = self._registry, spec.method.path, spec.metadata
        deadline = spec.deadline
        left = None if deadline is None else deadline - self._clock.seconds()
        body, response_size = self._check(spec, spec.request, left)
        timeout_us = None if left is None else to_us(left)
        if metadata:
            head = RequestHead(path, timeout_us, metadata)
        else:
            head = _plain_head(path, timeout_us, metadata)
        if self._config is not None:
            config = self._config.for_method(path)
            policy = config.retry_policy or config.hedging_policy
            if policy is not None:
                retried = RetriedCall(registry, policy, spec, head, body, response_size)
                return self._begun(retried, spec)
        call = self._unary(registry, spec, head, body, response_size)
        registry.begun(call)
        if spec.parent is not None:
            spec.parent.adopt(call.deferred)
        return call

    def _begun(self, call: RetriedCall, spec: CallSpec) -> RetriedCall:
        self._registry.logical_begun(call)
        if spec.parent is not None:
            spec.parent.adopt(call.deferred)
        return call

    def _make_with_requests(self, spec: CallSpec) -> Call | RetriedCall:
        """Make a call with a stream of requests and one response; it is still to be started.

        :raises RpcError: if a limit forbids it, or TypeError.
        """
        method = spec.method
        check_request(method, spec.request)
        left = self._left(spec)
        body, response_size = self._check(spec, STREAMED, left)
        requests = Requests(method, spec.request, self._request_size(method))
        head = RequestHead(
            method.path,
            None if left is None else to_us(left),
            spec.metadata,
            open_stream=OpenStream(requests=requests.id),
        )
        policy = self._retry_policy(method)
        if policy is not None:
            requests.hold()
            retried = RetriedCall(self._registry, policy, spec, head, body, response_size, requests)
            requests.when_failed(retried.requests_failed)
            return self._begun(retried, spec)
        call = RequestsCall(requests, self._registry, spec, head, body, response_size)
        requests.when_failed(call.requests_failed)
        self._registry.begun(call)
        if spec.parent is not None:
            spec.parent.adopt(call.deferred)
        return call

    def _open(self, spec: CallSpec) -> ReceivedStream:
        """Begin a stream of responses.

        :raises RpcError: if a limit forbids it, or TypeError.
        """
        method, registry = spec.method, self._registry
        streams = method.kind.request_streaming
        if streams:
            check_request(method, spec.request)
        request = STREAMED if streams else spec.request
        body, response_size = self._check(spec, request, self._left(spec))
        policy = self._retry_policy(method)
        stream = ClientStream(registry, spec, response_size, self._window)
        requests = None
        if streams:
            requests = Requests(method, spec.request, self._request_size(method))
            requests.when_failed(stream.cancel)
            if policy is not None:
                requests.hold()
        opener = StreamOpener(
            registry,
            spec,
            RequestHead(method.path, None, spec.metadata, open_stream=self._window),
            body,
            response_size,
            requests=requests,
            policy=policy,
            opening_time=self._opening_time,
        )
        stream.open(opener)
        return stream

    def _left(self, spec: CallSpec) -> float | None:
        return None if spec.deadline is None else spec.deadline - self._clock.seconds()

    def _opening_time(self, left: float | None) -> float | None:
        """Seconds for a call that opens a stream, by those that are left of the stream."""
        return self._seconds(left, self._options.timeout, get_current())

    def _retry_policy(self, method: Method[Any, Any]) -> RetryPolicy | None:
        """By which a call that streams is repeated; none is hedged."""
        return None if self._config is None else self._config.for_method(method.path).retry_policy

    # -- what is checked ---------------------------------------------------------------------

    # Any: whatever the caller gave.
    def _check(self, spec: CallSpec, request: Any, left: float | None) -> tuple[bytes, int]:
        """The serialised request, and how large a response may be.

        :param request: the request; ``STREAMED`` where they stream.
        :raises RpcError: if a limit forbids the call.
        :raises TypeError: if the method takes other requests.
        :raises CancelledError: in a handler whose call is over.
        """
        if self._registry.is_closing:
            raise Unavailable("the channel is closed")
        if spec.parent is not None:
            spec.parent.check()
        method, options, waiting = spec.method, self._options, self._registry.size
        if isinstance(request, method.request_type):
            body = request.SerializeToString()
        elif request is STREAMED:
            body = b""
        else:
            raise wrong_request(method, request)
        response_size = options.message_size
        if self._config is not None:
            config = self._config.for_method(method.path)
            response_size = _smaller(response_size, config.max_response_message_bytes)
            _check_request(body, config.max_request_message_bytes)
        if len(body) > options.message_size:
            raise too_large("request", len(body), options.message_size)
        if waiting and waiting + len(body) > options.backlog:
            raise ResourceExhausted(
                f"{waiting} bytes of requests wait, and the client's limit is "
                f"{options.backlog} (Channel's backlog); the call was not executed"
            )
        if spec.metadata and not check_size(spec.metadata, options.metadata_size):
            raise ResourceExhausted(
                f"the metadata is over the client's limit of {options.metadata_size} bytes "
                "(Channel's metadata_size)"
            )
        if left is not None and left <= _NO_TIME:
            raise DeadlineExceeded("no time was left for the call; it was not executed")
        return body, response_size

    def _request_size(self, method: Method[Any, Any]) -> int:
        """Bytes that an item of a stream of requests may have."""
        size = self._options.message_size
        if self._config is None:
            return size
        return _smaller(size, self._config.for_method(method.path).max_request_message_bytes)


#: Most calls have one that came before. Metadata is not kept.
_plain_head = lru_cache(maxsize=1_024)(RequestHead)


def _smaller(size: int, other: int | None) -> int:
    return size if other is None else min(size, other)


def _check_request(body: bytes, limit: int | None) -> None:
    if limit is not None and len(body) > limit:
        raise ResourceExhausted(
            f"the request has {len(body)} bytes, over the service config's limit of {limit} "
            "(maxRequestMessageBytes)"
        )
