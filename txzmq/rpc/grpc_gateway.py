"""A gateway: clients of gRPC, in any language, call services of txzmq; needs ``txzmq[grpc]``.

It passes the calls of all four kinds on to a channel as bytes, and needs no generated code::

    channel = Channel(factory, "tcp://127.0.0.1:5000", wait_for_ready=True)
    methods = FirstOf(ReflectedMethods(channel), standard_methods())
    gateway = GrpcGateway(channel, methods)
    listener = await gateway.listen("127.0.0.1:50051")

It works by ``grpc.aio``, and so where Twisted runs on asyncio's loop: ``twistd --reactor=asyncio``,
or ``asyncioreactor.install()`` before the reactor is imported. The guide's page on gateways says
what holds for calls.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._asyncio_loop import installed_reactor, loop_of
from txzmq._listening import CannotListen, why_not
from txzmq._reactor import Reactor
from txzmq.rpc._core.asyncio_loop import next_item, run, wait_for
from txzmq.rpc._gateway.forwarding import Forwarding
from txzmq.rpc._gateway.listener import Listener
from txzmq.rpc._gateway.readiness import GATEWAY, Readiness
from txzmq.rpc._gateway.refusals import Refusals
from txzmq.rpc._net.addresses import split_tcp
from txzmq.rpc._net.secure_bind import InsecureBindError, why_strangers_reach
from txzmq.rpc.client import Caller, ResponseMetadata
from txzmq.rpc.context import detached
from txzmq.rpc.errors import (
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Unavailable,
    Unimplemented,
)
from txzmq.rpc.health import HealthCheckRequest, HealthCheckResponse, ServingStatus
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.metadata import Metadata, normalise
from txzmq.rpc.method import Kind, Method
from txzmq.rpc.method_sources import LOCAL_SERVICES, MethodSource
from txzmq.rpc.raw import RawMessage, raw_method
from txzmq.rpc.streams import RequestStream, ResponseStream

try:
    import grpc
    import grpc.aio

    from txzmq.rpc._grpc.given import (
        GRPC,
        address_of,
        check_options,
        check_target,
    )
    from txzmq.rpc._grpc.senders import Senders
    from txzmq.rpc._grpc.statuses import end_to_end, status_of, trailing_of
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.grpc_gateway needs grpcio 1.75.1 or later: pip install 'txzmq[grpc]'"
    ) from error

__all__ = ["GrpcGateway", "GrpcListener"]

_T = TypeVar("_T")
_Raw: TypeAlias = Method[RawMessage, RawMessage]
#: What grpc.aio takes for a method. Any: requests and responses are bytes.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

#: What a source of methods has said: a method, that there is none, or what it has failed with.
_Outcome: TypeAlias = "Method[Any, Any] | Exception | None"

#: Who can be asked for the health of the gateway itself.
_CHECK: Final = "/grpc.health.v1.Health/Check"
_WATCH: Final = "/grpc.health.v1.Health/Watch"
_HEALTH: Final = frozenset({_CHECK, _WATCH})
#: Seconds for a call whose client says none, whatever the channel has for others.
_OWN: Final = math.inf
#: Seconds to wait at the end of a client's requests, to learn whether the call was cancelled.
_LOST: Final = 0.01
#: How many times its own limit of a message gRPC may receive: what is between is refused in words
#: of the gateway.
_ABOVE: Final = 2
#: The largest number that its options take.
_MOST: Final = 2**31 - 1
#: Seconds until a silent client is pinged, and that it may take to answer.
_KEEPALIVE: Final = 20.0
_KEEPALIVE_TIMEOUT: Final = 15.0
#: Seconds for which calls may go on when the reactor stops.
_GRACE: Final = 5.0
#: Calls that may go on at once: as many as wait on a server of txzmq's, by default.
_CALLS: Final = 16_384


class GrpcGateway(grpc.GenericRpcHandler):
    """Passes calls of gRPC's clients on to a channel.

    It is a handler for a server of ``grpc.aio``: :meth:`listen` makes one, or give it to a server
    of your own, behind its other handlers, as it answers for all methods.

    Each call becomes one of the channel's, with what is left of its time. When the client cancels
    it, or is lost, the channel's is cancelled, too. A message is passed on when the other side has
    room for it. Metadata pass both ways, but for those of gRPC's own (``grpc-...``) and of a single
    hop, such as ``connection``.

    The servers see the gateway as their client, with the gateway's key and address. Who its own
    client is, it tells them by metadata, which :mod:`txzmq.rpc.forwarded` reads. Calls of
    ``txzmq.rpc.v1`` are refused: a server answers them to callers on its own machine, and a gateway
    may be on it while its callers are not.
    """

    def __init__(
        self,
        channel: Caller,
        methods: MethodSource,
        *,
        message_size: int = MESSAGE_SIZE,
        trusted_proxies: Iterable[str] = (),
        proxy_certificates: bool = False,
    ) -> None:
        """
        :param channel: to the servers. With ``wait_for_ready=True``, calls wait while none of them
            is there, as long as their deadlines allow.
        :param methods: which methods the servers have; see :mod:`txzmq.rpc.method_sources`. What
            it finds is kept by path, so they have to be few.
        :param message_size: bytes that a request or response may have. The channel has a limit of
            its own, which should be the same.
        :param trusted_proxies: networks of proxies in front of the gateway, such as ``10.0.7.0/24``
            or ``unix:``, that say in ``x-forwarded-for`` and ``x-forwarded-proto`` who calls.
            Nobody else is believed.
        :param proxy_certificates: whether they say in ``x-forwarded-client-cert`` by which
            certificate, and keep their clients from saying so themselves, which not all proxies do.
        :raises TypeError: if *methods* is no source, *message_size* no integer,
            *trusted_proxies* no networks, or *proxy_certificates* neither True nor False.
        :raises ValueError: if *message_size* is less than 1, or a network none.
        """
        if not callable(getattr(methods, "find", None)):
            raise _check.wrong_type("methods", methods, "a MethodSource")
        _check.integer("message_size", message_size, 1)
        self._channel = channel
        self._methods = methods
        self._size = message_size
        self._refusals = Refusals()
        #: Whether it can pass calls on.
        self.readiness = Readiness(channel)
        self._senders = Senders(Forwarding(trusted_proxies, proxy_certificates=proxy_certificates))
        # What was made of the methods that the source has, by path.
        self._made: dict[str, tuple[Method[Any, Any], _Raw, _Handler]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler:
        """What serves a call; ``grpc.aio`` asks for it."""
        path = handler_call_details.method
        try:
            if path.startswith(LOCAL_SERVICES):
                raise PermissionDenied(
                    f"the gateway does not pass {path} on: ask the server itself"
                )
            source = self._methods.find(path)
            found: Deferred[_Outcome] | Method[Any, Any] | None
            found = source.addErrback(_kept) if isinstance(source, Deferred) else source
            if path in _HEALTH:
                # Only the request says whose health is asked for.
                return _handler(Kind.STREAM_STREAM, partial(self._tell_health, path, found))
            if not isinstance(found, Deferred):
                return self._passed(path, found)[1]
        except Exception as error:  # noqa: BLE001 - a source may be the user's
            return _handler(
                Kind.STREAM_STREAM, partial(self._refuse, self._refusals.of(error, path))
            )
        # Whether requests stream is not known yet, and on the wire it makes no difference.
        return _handler(Kind.STREAM_STREAM, partial(self._find_and_pass, path, found))

    def _passed(self, path: str, found: _Outcome) -> tuple[_Raw, _Handler]:
        """A method as the servers have it, and what passes its calls on.

        :raises Unimplemented: if there is none.
        """
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise Unimplemented(f"the gateway knows of no method {path}")
        made = self._made.get(found.path)
        if made is None or made[0] is not found:
            method = raw_method(
                found.path,
                found.kind,
                idempotency_level=found.idempotency_level,
                stream=found.stream,
            )
            passing = self._pass_request if found.kind is Kind.UNARY_UNARY else self._pass_streams
            kind = Kind.UNARY_UNARY if found.kind is Kind.UNARY_UNARY else Kind.STREAM_STREAM
            made = self._made[found.path] = found, method, _handler(kind, partial(passing, method))
        return made[1], made[2]

    # -- one call: coroutines of asyncio's, run by grpc.aio, which cancels them with the call ------

    async def _refuse(self, error: RpcError, _: object, context: _Context) -> None:
        await _abort(error, context)

    async def _find_and_pass(
        self,
        path: str,
        found: Deferred[_Outcome],
        _: object,
        context: _Context,
    ) -> None:
        try:
            method, _handler = self._passed(path, await wait_for(found))
        except Exception as error:  # noqa: BLE001 - a source may be the user's
            refusal = self._refusals.of(error, path)
        else:
            await self._pass_streams(method, None, context)
            return
        await _abort(refusal, context)

    async def _tell_health(
        self,
        path: str,
        found: Deferred[_Outcome] | Method[Any, Any] | None,
        _: object,
        context: _Context,
    ) -> None:
        """Answer for the gateway, or have a server answer."""
        requests = _Requests(context, self._check_size)
        try:
            request = await self._only(path, requests)
            if _asks_for_gateway(request):
                await self._tell_own_health(context, watches=path == _WATCH)
                return
            method = await wait_for(found) if isinstance(found, Deferred) else found
            raw, _handler = self._passed(path, method)
        except Exception as error:  # noqa: BLE001 - a source may be the user's
            refusal = self._refusals.of(error, path, requests.errors)
        else:
            await self._pass_streams(raw, request, context)
            return
        finally:
            if isinstance(found, Deferred):
                found.cancel()  # nobody has waited for it, perhaps
        await _abort(refusal, context)

    async def _tell_own_health(self, context: _Context, *, watches: bool) -> None:
        """Whether the gateway can pass calls on, and each change where the client watches."""
        readiness = self.readiness
        while True:
            ready = readiness.is_ready
            status = ServingStatus.SERVING if ready else ServingStatus.NOT_SERVING
            value = HealthCheckResponse.ServingStatus.Value(status.name)
            response = HealthCheckResponse(status=value)
            await _written(context.write(response.SerializeToString()))
            if not watches:
                return
            if readiness.has_stopped:
                raise Unavailable("the gateway is shutting down")
            await wait_for(readiness.wait_for_change(ready))

    async def _pass_request(self, method: _Raw, request: bytes, context: _Context) -> bytes:
        """A call with one request and one response, in the least time."""
        received = ResponseMetadata()
        try:
            self._check_size("request", len(request))
            return await self._one(method, RawMessage(request), context, received)
        except Exception as error:  # noqa: BLE001 - the client is to learn of it
            refusal = self._refusals.of(error, method.path)
        if received.initial:
            await _written(context.send_initial_metadata(end_to_end(received.initial)))
        return await _abort(refusal, context)

    async def _pass_streams(self, method: _Raw, request: Any, context: _Context) -> None:
        """A call of any kind.

        :param request: the only one, where it was read already; gRPC's own iterator otherwise.
        """
        received = ResponseMetadata()
        begun = False
        requests = _Requests(context, self._check_size)
        try:
            given: Any = requests
            if isinstance(request, RawMessage):
                given = request
            elif not method.kind.request_streaming:
                given = await self._only(method.path, requests)
            if method.kind.response_streaming:
                stream = self._open(method, given, context)
                try:
                    initial = await wait_for(stream.received_initial_metadata())
                    begun = True
                    await _written(context.send_initial_metadata(end_to_end(initial)))
                    while (item := await next_item(stream)) is not None:
                        self._check_size("response", len(item))
                        await _written(context.write(bytes(item)))  # no subclass
                    context.set_trailing_metadata(end_to_end(stream.trailing_metadata))
                finally:
                    stream.cancel()
            else:
                await _written(context.write(await self._one(method, given, context, received)))
            return
        except Exception as error:  # noqa: BLE001 - the client is to learn of it
            refusal = self._refusals.of(error, method.path, requests.errors)
        if received.initial and not begun:
            await _written(context.send_initial_metadata(end_to_end(received.initial)))
        await _abort(refusal, context)

    async def _only(self, path: str, requests: _Requests) -> RawMessage:
        """The request of a call that has one."""
        request = await requests.read()
        if request is None:
            raise Unimplemented(f"the gateway got no request for {path}, which takes one")
        return request

    async def _one(
        self, method: _Raw, given: Any, context: _Context, received: ResponseMetadata
    ) -> bytes:
        """The response of a call that has one."""
        kind, channel = method.kind, self._channel
        make = channel.stream_unary if kind.request_streaming else channel.unary_unary
        metadata = self._metadata_of(context)
        with detached(), received:
            call = make(method, given, timeout=_left(context), metadata=metadata)
        response = await wait_for(call)
        self._check_size("response", len(response))
        if received.initial:
            await _written(context.send_initial_metadata(end_to_end(received.initial)))
        if received.trailing:
            context.set_trailing_metadata(end_to_end(received.trailing))
        return bytes(response)  # gRPC takes no subclass

    def _open(self, method: _Raw, given: Any, context: _Context) -> ResponseStream[RawMessage]:
        kind, channel = method.kind, self._channel
        make = channel.stream_stream if kind.request_streaming else channel.unary_stream
        metadata = self._metadata_of(context)
        with detached():
            return make(method, given, timeout=_left(context), metadata=metadata)

    def _metadata_of(self, context: _Context) -> Metadata:
        """The metadata of a client, and who it is, as the channel takes them.

        :raises InvalidArgument: if it does not.
        """
        sent = self._senders.of(context).metadata(end_to_end(context.invocation_metadata()))
        try:
            return normalise(sent)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"the gateway cannot pass the call on: {error}") from None

    def _check_size(self, what: str, size: int) -> None:
        if size > self._size:
            raise ResourceExhausted(
                f"the gateway does not pass on a {what} of {size} bytes: its message_size is "
                f"{self._size}"
            )

    # -- listening ---------------------------------------------------------------------------------

    def listen(
        self,
        target: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        *,
        insecure: bool = False,
        grace: float = _GRACE,
        maximum_concurrent_rpcs: int = _CALLS,
        keepalive: float = _KEEPALIVE,
        keepalive_timeout: float = _KEEPALIVE_TIMEOUT,
        options: Sequence[tuple[str, str | int]] = (),
        reactor: Reactor | None = None,
    ) -> Deferred[GrpcListener]:
        """Have a server of gRPC's take calls for this gateway.

        It stops when the reactor does, if it was not stopped before.

        :param target: where, as gRPC has it: ``127.0.0.1:50051``, ``[::1]:50051``,
            ``unix:/run/gateway.sock``. Port 0 stands for one that the kernel chooses.
        :param credentials: of TLS, by ``grpc.ssl_server_credentials``; with
            ``require_client_auth=True`` it is mutual. None for a target that only this machine, or
            only this user, can reach.
        :param insecure: whether to listen without TLS where strangers can reach it.
        :param grace: seconds for which calls may go on when the reactor stops.
        :param maximum_concurrent_rpcs: how many calls of all clients may go on at once, open
            streams among them; further ones end with RESOURCE_EXHAUSTED, in gRPC's words.
        :param keepalive: seconds without a sign of life after which a client is pinged while it has
            calls: nothing else notices that its machine is off, or its process stopped.
        :param keepalive_timeout: seconds that it may take to answer, before its calls are
            cancelled.
        :param options: other arguments of gRPC's servers, such as
            ``("grpc.max_connection_age_ms", 600_000)``. They come behind those that are set here.
        :param reactor: Twisted's; None for the one that is installed.
        :return: fires when clients can call. It fails with
            :class:`~twisted.internet.error.CannotListenError` where nothing can listen.
        :raises InsecureBindError: for a target that strangers can reach, without TLS.
        :raises RuntimeError: if the reactor does not run on asyncio's loop; the message says what
            to do.
        :raises ValueError: for a value out of range, and so TypeError; the message names the
            parameter.
        """
        check_target("target", target)
        address = address_of(target)
        host, port = split_tcp(address) or ("", "")
        if address.startswith("tcp://") and not port:
            raise ValueError(f"target: {target!r} has no port; port 0 has the kernel choose one")
        if host == "*":
            raise ValueError(f"target: gRPC has no *: use '0.0.0.0:{port}', or '[::]:{port}'")
        if credentials is not None:
            what = "a grpc.ServerCredentials or None"
            _check.instance("credentials", credentials, grpc.ServerCredentials, what)
        _check.boolean("insecure", insecure)
        _check.number("grace", grace)
        _check.integer("maximum_concurrent_rpcs", maximum_concurrent_rpcs, 1)
        _check.number("keepalive", keepalive, above=True)
        _check.number("keepalive_timeout", keepalive_timeout, above=True)
        check_options(options)
        reason = "" if credentials is not None or insecure else why_strangers_reach(address)
        if reason:
            raise InsecureBindError(
                f"refusing to listen at {target} without TLS: {reason}. Pass "
                "credentials=grpc.ssl_server_credentials(...), or insecure=True to do it all the "
                "same"
            )
        reactor = installed_reactor(GRPC) if reactor is None else reactor
        loop = loop_of(reactor, GRPC)
        pending = min(maximum_concurrent_rpcs, _MOST)
        arguments: list[tuple[str, Any]] = [  # Any: str or int
            ("grpc.max_receive_message_length", min(self._size * _ABOVE, _MOST)),
            ("grpc.so_reuseport", 0),  # or two gateways would share a port, and nobody know
            # Those that gRPC has and grpc.aio has not taken yet: gRPC cancels some of more than
            # 1,000, and all of more than 3,000, without a word of why.
            ("grpc.server.max_pending_requests", pending),
            ("grpc.server.max_pending_requests_hard_limit", pending),
            ("grpc.keepalive_time_ms", _milliseconds(keepalive)),
            ("grpc.keepalive_timeout_ms", _milliseconds(keepalive_timeout)),
            ("grpc.http2.ping_timeout_ms", _milliseconds(keepalive_timeout)),  # or it takes 60 s
            *options,
        ]

        async def start() -> GrpcListener:
            server = grpc.aio.server(
                options=arguments, maximum_concurrent_rpcs=maximum_concurrent_rpcs
            )
            server.add_generic_rpc_handlers([self])
            try:
                if credentials is None:
                    port = server.add_insecure_port(target)
                else:
                    port = server.add_secure_port(target, credentials)
            except RuntimeError as error:
                raise _cannot_listen(address) from error
            starting = loop.create_task(server.start())
            try:
                await asyncio.shield(starting)
            except asyncio.CancelledError:
                # gRPC can stop what has started, not what is about to.
                await starting
                await server.stop(None)
                raise
            if address.startswith("tcp://"):
                made = f"{target.rpartition(':')[0]}:{port}"
            else:
                made = target
            return GrpcListener(server, made, grace, reactor, self.readiness)

        return run(start(), loop)


class GrpcListener(Listener):
    """A server of gRPC's that takes calls for a gateway; :meth:`GrpcGateway.listen` makes it."""

    def __init__(
        self,
        server: grpc.aio.Server,
        target: str,
        grace: float,
        reactor: Reactor,
        readiness: Readiness,
    ) -> None:
        """:class:`GrpcGateway` calls this."""
        loop = loop_of(reactor, GRPC)
        super().__init__(
            lambda grace: run(server.stop(grace or None), loop), grace, reactor, readiness
        )
        self._target = target

    @property
    def target(self) -> str:
        """Where clients of gRPC connect to, with the port that it has got."""
        return self._target

    def stop(self, grace: float = 0.0) -> Deferred[None]:
        """Take no more calls, and end.

        Clients are told to connect elsewhere. Calls go on for at most *grace*; then their handlers
        are cancelled, and clients get UNAVAILABLE or CANCELLED from gRPC.

        :param grace: seconds. It may be called again with fewer.
        :return: fires when all calls have ended.
        :raises ValueError: if *grace* is negative, or TypeError if it is no number.
        """
        return super().stop(grace)


class _Requests(RequestStream[RawMessage]):
    """The requests of one call, as they are asked for: HTTP/2 holds up the client meanwhile."""

    def __init__(self, context: _Context, check_size: Callable[[str, int], None]) -> None:
        self._context = context
        self._check_size = check_size
        self._loop = asyncio.get_running_loop()
        #: What it has raised for the gateway, which comes back as the outcome of the call.
        self.errors: list[RpcError] = []

    async def __anext__(self) -> RawMessage:
        """For a channel, which asks in a coroutine of Twisted's."""
        request = await run(self.read(), self._loop)
        if request is None:
            raise StopAsyncIteration
        return request

    async def read(self) -> RawMessage | None:
        """The next one, or None behind the last; a coroutine of asyncio's."""
        message: Any = await self._context.read()  # or EOF, of which grpcio's stubs do not know
        if message is grpc.aio.EOF:
            # gRPC says the same where the client is lost, has cancelled the call or has sent what
            # is too large, and cancels this coroutine a moment later. The handler must not take
            # what has arrived for all.
            await asyncio.sleep(_LOST)
            return None
        try:
            self._check_size("request", len(message))
        except RpcError as error:
            self.errors.append(error)
            raise
        return RawMessage(message)


def _milliseconds(seconds: float) -> int:
    return min(max(1, round(seconds * 1_000)), 2**31 - 1)


def _kept(failure: Failure) -> Exception:
    """What a source has failed with, for who comes to ask.

    Nobody does where gRPC ends the call before, as it does with those that are too many.
    """
    return cast("Exception", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's


def _asks_for_gateway(request: bytes) -> bool:
    try:
        return HealthCheckRequest.FromString(request).service == GATEWAY
    except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
        return False  # a server says what is wrong with it


def _handler(kind: Kind, function: Any) -> _Handler:
    make: Any = getattr(grpc, f"{kind.name.lower()}_rpc_method_handler")
    made: _Handler = make(function)
    return made


async def _abort(error: RpcError, context: _Context) -> NoReturn:
    """End a call with an error.

    :raises grpc.aio.AbortError: as grpc.aio wants it.
    :raises asyncio.CancelledError: if the client is gone.
    """
    try:
        await context.abort(status_of(error), error.message, trailing_of(error))
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:
        raise asyncio.CancelledError("the client is gone") from gone


async def _written(writing: Awaitable[None]) -> None:
    """Wait until gRPC has taken what is sent to a client.

    :raises asyncio.CancelledError: if the client is gone, which gRPC may notice here first.
    """
    try:
        await writing
    except grpc.aio.BaseError as error:
        raise asyncio.CancelledError("the client is gone") from error


def _left(context: _Context) -> float:
    """Seconds that a call may take; no end where its client has set none."""
    # grpcio's stubs do not say that there may be none.
    left = cast("float | None", context.time_remaining())
    return _OWN if left is None else left


def _cannot_listen(address: str) -> CannotListen:
    """The error for an address that gRPC did not bind, without saying why."""
    number = errno.EADDRINUSE
    if address.startswith("tcp://"):
        host, port = split_tcp(address) or ("", "")
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
                probe.bind(found[0][4])
        except OSError as error:
            is_system = not isinstance(error, socket.gaierror)
            number = (error.errno if is_system else None) or errno.EADDRNOTAVAIL
    elif not os.path.isdir(os.path.dirname(address.removeprefix("ipc://")) or "."):
        number = errno.ENOENT
    return CannotListen(address, number, why_not(address, number))
