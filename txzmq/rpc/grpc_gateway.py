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
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._asyncio_loop import installed_reactor, loop_of
from txzmq._listening import CannotListen, why_not
from txzmq._reactor import Reactor
from txzmq.rpc._net.addresses import split_tcp
from txzmq.rpc._net.secure_bind import InsecureBindError, why_strangers_reach
from txzmq.rpc.client import Caller, ResponseMetadata
from txzmq.rpc.context import detached
from txzmq.rpc.errors import (
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Unavailable,
    Unimplemented,
)
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
        WHO,
        address_of,
        check_options,
        check_target,
    )
    from txzmq.rpc._grpc.heads import empty_context
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

_log = Logger()
#: Seconds for a call whose client says none, whatever the channel has for others.
_OWN: Final = math.inf
#: Seconds to wait at the end of a client's requests, to learn whether the call was cancelled.
_LOST: Final = 0.01
#: How many times its own limit of a message gRPC may receive: what is between is refused in words
#: of the gateway.
_ABOVE: Final = 2
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

    The servers see the gateway as their client, with the gateway's key and address. Calls of
    ``txzmq.rpc.v1`` are refused: a server answers them to callers on its own machine, and a gateway
    may be on it while its callers are not.
    """

    def __init__(
        self, channel: Caller, methods: MethodSource, *, message_size: int = MESSAGE_SIZE
    ) -> None:
        """
        :param channel: to the servers. With ``wait_for_ready=True``, calls wait while none of them
            is there, as long as their deadlines allow.
        :param methods: which methods the servers have; see :mod:`txzmq.rpc.method_sources`. What
            it finds is kept by path, so they have to be few.
        :param message_size: bytes that a request or response may have. The channel has a limit of
            its own, which should be the same.
        :raises TypeError: if *methods* is no source, or *message_size* no integer.
        :raises ValueError: if *message_size* is less than 1.
        """
        if not callable(getattr(methods, "find", None)):
            raise _check.wrong_type("methods", methods, "a MethodSource")
        _check.integer("message_size", message_size, 1)
        self._channel = channel
        self._methods = methods
        self._size = message_size
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
            found = self._methods.find(path)
            if not isinstance(found, Deferred):
                return self._passed(path, found)[1]
        except Exception as error:  # noqa: BLE001 - a source may be the user's
            return _handler(Kind.STREAM_STREAM, partial(self._refuse, self._error(error, path)))
        # Whether requests stream is not known yet, and on the wire it makes no difference.
        return _handler(Kind.STREAM_STREAM, partial(self._find_and_pass, path, found))

    def _passed(self, path: str, found: Method[Any, Any] | None) -> tuple[_Raw, _Handler]:
        """A method as the servers have it, and what passes its calls on.

        :raises Unimplemented: if there is none.
        """
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
        found: Deferred[Method[Any, Any] | None],
        _: object,
        context: _Context,
    ) -> None:
        try:
            method, _handler = self._passed(path, await _wait_for(found))
        except Exception as error:  # noqa: BLE001 - a source may be the user's
            refusal = self._error(error, path)
        else:
            await self._pass_streams(method, None, context)
            return
        await _abort(refusal, context)

    async def _pass_request(self, method: _Raw, request: bytes, context: _Context) -> bytes:
        """A call with one request and one response, in the least time."""
        received = ResponseMetadata()
        try:
            self._check_size("request", len(request))
            return await self._one(method, RawMessage(request), context, received)
        except Exception as error:  # noqa: BLE001 - the client is to learn of it
            refusal = self._error(error, method.path)
        if received.initial:
            await _written(context.send_initial_metadata(end_to_end(received.initial)))
        return await _abort(refusal, context)

    async def _pass_streams(self, method: _Raw, _: object, context: _Context) -> None:
        """A call of any kind."""
        received = ResponseMetadata()
        begun = False
        try:
            given: Any = _Requests(context, self._check_size)
            if not method.kind.request_streaming:
                given = await self._only(method, given)
            if method.kind.response_streaming:
                stream = self._open(method, given, context)
                try:
                    initial = await _wait_for(stream.received_initial_metadata())
                    begun = True
                    await _written(context.send_initial_metadata(end_to_end(initial)))
                    while (item := await _next(stream)) is not None:
                        self._check_size("response", len(item))
                        await _written(context.write(bytes(item)))  # no subclass
                    context.set_trailing_metadata(end_to_end(stream.trailing_metadata))
                finally:
                    stream.cancel()
            else:
                await _written(context.write(await self._one(method, given, context, received)))
            return
        except Exception as error:  # noqa: BLE001 - the client is to learn of it
            refusal = self._error(error, method.path)
        if received.initial and not begun:
            await _written(context.send_initial_metadata(end_to_end(received.initial)))
        await _abort(refusal, context)

    async def _only(self, method: _Raw, requests: _Requests) -> RawMessage:
        """The request of a call that has one."""
        request = await requests.read()
        if request is None:
            raise Unimplemented(f"the gateway got no request for {method.path}, which takes one")
        return request

    async def _one(
        self, method: _Raw, given: Any, context: _Context, received: ResponseMetadata
    ) -> bytes:
        """The response of a call that has one."""
        kind, channel = method.kind, self._channel
        make = channel.stream_unary if kind.request_streaming else channel.unary_unary
        metadata = _metadata_of(context)
        with detached(), received:
            call = make(method, given, timeout=_left(context), metadata=metadata)
        response = await _wait_for(call)
        self._check_size("response", len(response))
        if received.initial:
            await _written(context.send_initial_metadata(end_to_end(received.initial)))
        if received.trailing:
            context.set_trailing_metadata(end_to_end(received.trailing))
        return bytes(response)  # gRPC takes no subclass

    def _open(self, method: _Raw, given: Any, context: _Context) -> ResponseStream[RawMessage]:
        kind, channel = method.kind, self._channel
        make = channel.stream_stream if kind.request_streaming else channel.unary_stream
        metadata = _metadata_of(context)
        with detached():
            return make(method, given, timeout=_left(context), metadata=metadata)

    def _check_size(self, what: str, size: int) -> None:
        if size > self._size:
            raise ResourceExhausted(
                f"the gateway does not pass on a {what} of {size} bytes: its message_size is "
                f"{self._size}"
            )

    def _error(self, error: Exception, path: str) -> RpcError:
        """What a client is told of what was raised."""
        if isinstance(error, RpcError):
            return error
        if isinstance(error, CancelledError):
            return Unavailable(
                "the gateway is shutting down, and has ended the call; it may have been executed"
            )
        failure = Failure(error)  # type: ignore[no-untyped-call]  # Twisted's
        _log.failure("the gateway failed to pass a call of {path} on", failure, path=path)
        return Internal("the gateway failed to pass the call on; its log says why")

    # -- listening ---------------------------------------------------------------------------------

    def listen(
        self,
        target: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        *,
        insecure: bool = False,
        grace: float = _GRACE,
        maximum_concurrent_rpcs: int = _CALLS,
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
        if address.startswith("tcp://") and not (split_tcp(address) or ("", ""))[1]:
            raise ValueError(f"target: {target!r} has no port; port 0 has the kernel choose one")
        if credentials is not None:
            what = "a grpc.ServerCredentials or None"
            _check.instance("credentials", credentials, grpc.ServerCredentials, what)
        _check.boolean("insecure", insecure)
        _check.number("grace", grace)
        _check.integer("maximum_concurrent_rpcs", maximum_concurrent_rpcs, 1)
        check_options(options)
        reason = "" if credentials is not None or insecure else why_strangers_reach(address)
        if reason:
            raise InsecureBindError(
                f"refusing to listen at {target} without TLS: {reason}. Pass "
                "credentials=grpc.ssl_server_credentials(...), or insecure=True to do it all the "
                "same"
            )
        reactor = installed_reactor(WHO) if reactor is None else reactor
        loop = loop_of(reactor, WHO)
        arguments: list[tuple[str, Any]] = [  # Any: str or int
            ("grpc.max_receive_message_length", min(self._size * _ABOVE, 2**31 - 1)),
            ("grpc.so_reuseport", 0),  # or two gateways would share a port, and nobody know
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
            await server.start()
            if address.startswith("tcp://"):
                made = f"{target.rpartition(':')[0]}:{port}"
            else:
                made = target
            return GrpcListener(server, made, grace, reactor)

        return _run(start(), loop)


class GrpcListener:
    """A server of gRPC's that takes calls for a gateway; :meth:`GrpcGateway.listen` makes it."""

    def __init__(
        self,
        server: grpc.aio.Server,
        target: str,
        grace: float,
        reactor: Reactor,
    ) -> None:
        """:class:`GrpcGateway` calls this."""
        self._server = server
        self._target = target
        self._grace = grace
        self._loop = loop_of(reactor, WHO)
        self._reactor = reactor
        self._forked = False
        self._trigger = reactor.addSystemEventTrigger("before", "shutdown", self._stopping)
        _listeners.add(self)

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
        _check.number("grace", grace)
        trigger, self._trigger = self._trigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)
        return self._stop(grace)

    def _stop(self, grace: float) -> Deferred[None]:
        return _run(self._server.stop(grace or None), self._loop)

    def _stopping(self) -> Deferred[None] | None:
        """The reactor is about to stop."""
        self._trigger = None
        # A forked child may stop the reactor that it has from its parent; the server is not its.
        return None if self._forked else self._stop(self._grace)

    def forked(self) -> None:
        """This is a forked child, and the server is its parent's; txzmq calls this."""
        self._forked = True


class _Requests(RequestStream[RawMessage]):
    """The requests of one call, as they are asked for: HTTP/2 holds up the client meanwhile."""

    def __init__(self, context: _Context, check_size: Callable[[str, int], None]) -> None:
        self._context = context
        self._check_size = check_size
        self._loop = asyncio.get_running_loop()

    async def __anext__(self) -> RawMessage:
        """For a channel, which asks in a coroutine of Twisted's."""
        request = await _run(self.read(), self._loop)
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
        self._check_size("request", len(message))
        return RawMessage(message)


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


def _metadata_of(context: _Context) -> Metadata:
    """The metadata of a client as the channel takes them.

    :raises InvalidArgument: if it does not.
    """
    metadata = end_to_end(context.invocation_metadata())
    try:
        return normalise(metadata)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the gateway cannot pass the call on: {error}") from None


def _wait_for(deferred: Deferred[_T]) -> asyncio.Future[_T]:
    """The outcome of a Deferred, for asyncio to await; cancelled if nobody waits for it."""
    return deferred.asFuture(asyncio.get_running_loop())


async def _next(stream: ResponseStream[RawMessage]) -> RawMessage | None:
    """The next item; None at the end. If it is there already, nobody waits."""
    results: list[RawMessage | None] = []
    reading = Deferred.fromCoroutine(_read(stream))
    reading.addCallback(results.append)
    if results:
        return results[0]
    await _wait_for(reading)
    return results[0]


async def _read(stream: ResponseStream[RawMessage]) -> RawMessage | None:
    return await anext(stream, None)


def _run(coroutine: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> Deferred[_T]:
    """Run a coroutine of asyncio's, which belongs to no call."""
    task = loop.create_task(coroutine, context=empty_context())
    return cast("Deferred[_T]", Deferred.fromFuture(task))  # pyright: ignore[reportUnknownMemberType]  # Twisted's


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


# -- forked children -------------------------------------------------------------------------------

_listeners: weakref.WeakSet[GrpcListener] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for listener in list(_listeners):
        listener.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
