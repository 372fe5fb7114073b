"""The server's side of a call."""

from __future__ import annotations

import contextvars
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._reactor import Timer
from txzmq.factory import ZmqFactory
from txzmq.rpc._admission import Admission, Place
from txzmq.rpc._deadlines import Deadlines
from txzmq.rpc._open_door import check_endpoint
from txzmq.rpc._wire.headers import OK, RequestHead, ResponseHead, encode_response
from txzmq.rpc._wire.metadata import check_size
from txzmq.rpc._wire.server import CallKey, Refusal, Request, ServerWire
from txzmq.rpc.context import Context, set_current
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.limits import MAX_CANCELLED, MESSAGE_SIZE, ServerLimits
from txzmq.rpc.method import Kind, Method, Service
from txzmq.rpc.transport import Network, SendResult, ServerTransport, ZmqNetwork
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["Server", "ServiceHandler", "StreamResult", "UnaryResult"]

T = TypeVar("T")

#: What a handler of a method with one response may return: the response, a Deferred of it, or a
#: coroutine (an ``async def`` handler).
UnaryResult: TypeAlias = T | Deferred[T] | Coroutine[Deferred[Any], Any, T]
#: What a handler of a method with a stream of responses may return; an async generator is one.
StreamResult: TypeAlias = Iterable[T] | AsyncIterable[T]

_log = Logger()
_CANCEL: Final = "/txzmq.rpc.v1.Control/Cancel"
#: Seconds after which a reply is tried again that a slow peer had no room for.
_RETRY: Final = 0.02
_US: Final = 1_000_000


class ServiceHandler(Protocol):
    """An instance of a generated ``<Service>Base``."""

    #: The service that it implements.
    __txzmq_service__: ClassVar[Service]


class _Entry:
    """A method that the server has."""

    __slots__ = ("handler", "method", "path", "request_type", "response_type", "unary")

    # Any: a server has methods of any messages; the generated base class typed the handler.
    def __init__(self, method: Method[Any, Any], handler: Callable[[Any, Context], Any]) -> None:
        self.method = method
        self.handler = handler
        self.path = method.path
        self.request_type: type[Message] = method.request_type
        self.response_type: type[Message] = method.response_type
        self.unary = method.kind is Kind.UNARY_UNARY


class _Call:
    """A call that the server has taken on."""

    __slots__ = (
        "answered",
        "body",
        "connection",
        "context",
        "deadline",
        "deferred",
        "entry",
        "key",
        "place",
        "queued",
        "registered",
        "tick",
    )

    def __init__(
        self,
        connection: _Connection,
        key: CallKey,
        entry: _Entry,
        context: Context,
        deadline: float | None,
        body: bytes,
    ) -> None:
        self.connection = connection
        self.key = key
        self.entry = entry
        self.context = context
        self.deadline = deadline
        #: The serialised request; given up when the handler starts.
        self.body = body
        #: Of the handler's result; None while the call is queued.
        self.deferred: Deferred[Any] | None = None
        #: Nobody waits for the handler's result any more.
        self.answered = False
        self.place = Place(key[0], entry.path)
        self.queued = False
        #: Whether cancellation, loss of the peer and the deadline find the call.
        self.registered = False
        self.tick = 0


class _Connection:
    """One listening socket and the calls that came by it (a :class:`ServerHandler`)."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wire: ServerWire[_Call] = ServerWire()
        self.transport: ServerTransport | None = None
        self._blocked: dict[bytes, deque[list[bytes]]] = {}
        self._retry: Timer | None = None

    def received(self, message: list[bytes]) -> None:
        """Serve a request, or refuse it."""
        event = self.wire.receive(message)
        if isinstance(event, Request):
            self.server.accept(self, event)
        elif isinstance(event, Refusal):
            self.answer(event.key, ResponseHead(Code.INTERNAL, event.reason))

    def peer_lost(self, peer: bytes) -> None:
        """End the calls of a client that has gone."""
        self._blocked.pop(peer, None)
        for call in self.wire.lost(peer):
            self.server.abandon(call, "the client has gone")

    def answer(self, key: CallKey, head: ResponseHead, body: bytes = b"") -> None:
        """Send the reply to a request; later, if its peer has no room now."""
        peer = key[0]
        try:
            header = encode_response(head)
        except Exception:  # noqa: BLE001 - whatever a handler put in, its caller gets an answer
            _log.failure("a status or its metadata cannot be sent: {head!r}", head=head)
            header = encode_response(
                ResponseHead(Code.INTERNAL, "the handler's status or metadata cannot be sent")
            )
            body = b""
        message = [*key, b"", header, body]
        if peer in self._blocked:
            self._blocked[peer].append(message)
        elif self._send(message) is SendResult.BLOCKED:
            self._blocked[peer] = deque([message])
            self._retry_later()

    def _send(self, message: list[bytes]) -> SendResult:
        if self.transport is None:
            return SendResult.UNREACHABLE
        result = self.transport.send_message(message)
        if result is SendResult.UNREACHABLE:
            self.server.count("reply to a peer that has gone")
        return result

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = self.server.clock.callLater(_RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        for peer, messages in list(self._blocked.items()):
            while messages and self._send(messages[0]) is not SendResult.BLOCKED:
                messages.popleft()
            if not messages:
                del self._blocked[peer]
        if self._blocked:
            self._retry_later()

    @property
    def is_flushed(self) -> bool:
        """Whether all replies are on their way."""
        return not self._blocked

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        self.transport = None
        self.server.closed()

    def close(self) -> None:
        """Stop listening."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._blocked.clear()
        if self.transport is not None:
            self.transport.close()
            self.transport = None


class Server:
    """Serves services at any number of endpoints.

    Handlers run in the reactor's thread, which alone may use a server once the reactor runs:
    elsewhere, :meth:`listen` and :meth:`stop` raise :class:`~txzmq.WrongThreadError`, or in a
    forked child :class:`~txzmq.ForkedError`. A handler whose Deferred is fired in another thread
    has failed.
    """

    def __init__(
        self,
        factory: ZmqFactory | Network,
        services: Sequence[ServiceHandler],
        *,
        limits: ServerLimits | None = None,
        debug: bool = False,
    ) -> None:
        """
        :param factory: owns the sockets and knows the reactor.
        :param services: instances of subclasses of generated ``<Service>Base`` classes.
        :param limits: None for the defaults.
        :param debug: send clients the text of unexpected exceptions, not only the id under which
            they were logged. Not for production: the text may hold secrets.
        :raises ValueError: if two of them implement one service.
        """
        self._network: Network = ZmqNetwork(factory) if isinstance(factory, ZmqFactory) else factory
        self.clock = self._network.clock
        self.guard = self._network.guard
        self.limits = limits or ServerLimits()
        self._counters: Counter[str] = Counter()
        self._debug = debug
        self._entries = _entries(services)
        self._connections: list[_Connection] = []
        self._deadlines: Deadlines[_Call] = Deadlines(self.clock, self._too_late)
        self._admission: Admission[_Call] = Admission(self.limits)
        self._serving = False
        self._stopping: Deferred[None] | None = None
        self._stop_timer: Timer | None = None

    def listen(self, address: str, *, insecure: bool = False) -> str:
        """Serve at *address*; may be called for more addresses.

        :param address: such as ``tcp://127.0.0.1:*`` (any free port), ``ipc:///run/user/1/greeter``.
        :param insecure: listen even where strangers can reach it.
        :return: the endpoint really bound, to connect to.
        :raises InsecureBindError: if strangers can reach *address*.
        :raises zmq.ZMQError: if it cannot be bound.
        :raises RuntimeError: after :meth:`stop`.
        """
        self.guard.check()
        if self._stopping is not None:
            raise RuntimeError("the server is stopped")
        if not insecure:
            check_endpoint(address)
        connection = _Connection(self)
        # As large as a message may be with its header; what is larger ends the connection.
        options = {"MAXMSGSIZE": max(self.limits.message_size, MESSAGE_SIZE) + 65_536}
        transport = self._network.listen(address, connection, options)
        connection.transport = transport
        self._connections.append(connection)
        return transport.endpoint

    @property
    def counters(self) -> Counter[str]:
        """What was refused or dropped, by reason, over all endpoints."""
        return sum((connection.wire.dropped for connection in self._connections), +self._counters)

    def count(self, reason: str) -> None:
        """Count something that was refused or dropped."""
        self._counters[reason] += 1

    @property
    def running(self) -> int:
        """How many handlers have started and not ended."""
        return self._admission.running

    @property
    def queued(self) -> int:
        """How many calls wait for a place."""
        return self._admission.queued

    # -- a call's life: accept, run, finish --------------------------------------------------

    def accept(self, connection: _Connection, request: Request) -> None:
        """Take a request on, or refuse it."""
        key, head, body = request
        entry = self._entries.get(head.path)
        if entry is None and head.path == _CANCEL:
            self._cancel(connection, key, body)
            return
        refusal = self._refusal(entry, request)
        if entry is None or refusal is not None:
            connection.answer(key, refusal or _unknown_method(head))
            return
        deadline = self._deadline(head.timeout_us)
        peer = "" if connection.transport is None else connection.transport.peer_address(key[0])
        context = Context(head.path, head.metadata, peer, clock=self.clock, deadline=deadline)
        call = _Call(connection, key, entry, context, deadline, body)
        if self._admission.may_run(call.place):
            self._run(call)
        else:
            self._queue(call)

    def _queue(self, call: _Call) -> None:
        reason = self._admission.why_not(call.place)
        if reason is not None:
            self.count("shed request")
            self._answer(
                call,
                ResponseHead(Code.RESOURCE_EXHAUSTED, f"the call was not executed: {reason}"),
            )
            return
        call.queued = True
        self._register(call)
        self._admission.enqueue(call.place, call)

    def _register(self, call: _Call) -> None:
        if call.registered:
            return
        call.registered = True
        call.connection.wire.start(call.key, call)
        if call.deadline is not None:
            call.tick = self._deadlines.set(call, call.deadline)

    def _forget(self, call: _Call) -> None:
        if call.registered:
            call.registered = False
            self._deadlines.remove(call, call.tick)
            call.connection.wire.finish(call.key)

    def _serve_queue(self) -> None:
        """Start what may run now that something has ended."""
        if self._serving:
            return  # further up in the stack: a handler that ended at once
        self._serving = True
        try:
            while (call := self._admission.next_call()) is not None:
                call.queued = False
                self._run(call)
        finally:
            self._serving = False

    def _refusal(self, entry: _Entry | None, request: Request) -> ResponseHead | None:
        """Why a request is not taken on; None if it is."""
        head = request.head
        if self._stopping is not None:
            return ResponseHead(
                Code.UNAVAILABLE, "the server is shutting down; the call was not executed"
            )
        if entry is None:
            return _unknown_method(head)
        if not entry.unary:
            return ResponseHead(
                Code.UNIMPLEMENTED, f"{head.path} streams, and this server has unary calls only"
            )
        if head.timeout_us == 0:
            self.count("late request")
            return ResponseHead(
                Code.DEADLINE_EXCEEDED, "the request came too late; the call was not executed"
            )
        if len(request.body) > self.limits.message_size:
            return _too_large("request", len(request.body), self.limits.message_size)
        if head.metadata and not check_size(head.metadata, self.limits.metadata_size):
            return self._too_much_metadata("request")
        return None

    def _too_much_metadata(self, what: str) -> ResponseHead:
        return ResponseHead(
            Code.RESOURCE_EXHAUSTED,
            f"the metadata of the {what} is over the server's limit of "
            f"{self.limits.metadata_size} bytes (ServerLimits.metadata_size)",
        )

    def _deadline(self, timeout_us: int | None) -> float | None:
        limits = self.limits
        timeout = limits.default_timeout if timeout_us is None else timeout_us / _US
        if limits.max_timeout is not None:
            timeout = limits.max_timeout if timeout is None else min(timeout, limits.max_timeout)
        return None if timeout is None else self.clock.seconds() + timeout

    def _run(self, call: _Call) -> None:
        """Start the handler; most handlers are done before this returns."""
        entry, body, call.body = call.entry, call.body, b""
        try:
            message = entry.request_type.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self._answer(
                call, ResponseHead(Code.INTERNAL, f"the request to {entry.path} cannot be parsed")
            )
            return
        surroundings = contextvars.copy_context()
        surroundings.run(set_current, call.context)
        try:
            result: Any = surroundings.run(entry.handler, message, call.context)
            if isinstance(result, CoroutineType):
                # pyright knows nothing of what a handler awaits, and need not.
                result = surroundings.run(Deferred.fromCoroutine, result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - whatever a handler raises is the caller's answer
            self._fail(call, Failure())  # type: ignore[no-untyped-call]  # Twisted's
            return
        if isinstance(result, Deferred):
            self._wait(call, result)  # pyright: ignore[reportUnknownArgumentType]  # the same
        else:
            self._succeed(call, result)

    def _wait(self, call: _Call, result: Deferred[Any]) -> None:
        """Answer when the handler's result is there, unless the call is over before."""
        self._admission.started(call.place)
        call.deferred = result
        self._register(call)
        succeeded = partial(self._ended, call, self._succeed)
        failed = partial(self._ended, call, self._fail)
        result.addCallbacks(succeeded, failed)

    def _ended(self, call: _Call, finish: Callable[[_Call, Any], None], result: object) -> None:
        """The handler has ended, answered already or not: give back what the call holds."""
        if self.guard.hands_over(self._ended, call, self._fail):
            return  # the handler's Deferred was fired in another thread
        self._admission.ended(call.place)
        self._forget(call)
        if not call.answered:
            finish(call, result)
        self._serve_queue()
        if self._stopping is not None:
            self._stop_if_idle()

    def _succeed(self, call: _Call, response: object) -> None:
        entry = call.entry
        if not isinstance(response, entry.response_type):
            _log.error(
                "{path} returned {actual}, not {expected}",
                path=entry.path,
                actual=type(response).__qualname__,
                expected=entry.response_type.__qualname__,
            )
            self._answer(call, ResponseHead(Code.INTERNAL, "the handler returned a wrong type"))
            return
        try:
            body = response.SerializeToString()
        except Exception:  # noqa: BLE001 - a required field left out, or more than protobuf can
            self._fail(call, Failure())  # type: ignore[no-untyped-call]  # Twisted's
            return
        limit = self.limits.message_size
        if len(body) > limit:
            self._answer(call, _too_large("response", len(body), limit))
            return
        self._answer(call, OK, body)

    def _fail(self, call: _Call, failure: Failure) -> None:
        self._answer(call, self._status(failure, call.entry.path))

    def _status(self, failure: Failure, path: str) -> ResponseHead:
        """The one place where what a handler raises becomes what its caller sees."""
        error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        if isinstance(error, RpcError):
            return ResponseHead(error.code, error.message, error.details, (), error.metadata)
        if isinstance(error, CancelledError):
            return ResponseHead(Code.CANCELLED, "the handler was cancelled")
        identifier = uuid.uuid4().hex
        _log.failure("{path} failed ({identifier})", failure, path=path, identifier=identifier)
        text = f": {_text_of(error)}" if self._debug else ""
        return ResponseHead(
            Code.UNKNOWN, f"the handler failed; the server logged it as {identifier}{text}"
        )

    def _answer(self, call: _Call, head: ResponseHead, body: bytes = b"") -> None:
        context = call.context
        if context.initial_metadata or context.trailing_metadata:
            head = head._replace(
                initial=context.initial_metadata,
                trailing=(*context.trailing_metadata, *head.trailing),
            )
            if not check_size((*head.initial, *head.trailing), self.limits.metadata_size):
                head, body = self._too_much_metadata("response"), b""
        call.answered = True
        if call.deferred is None:
            self._forget(call)  # otherwise it keeps its place until the handler has ended
        call.connection.answer(call.key, head, body)

    # -- ends that come from outside ---------------------------------------------------------

    def abandon(self, call: _Call, reason: str) -> None:
        """End a call whose result nobody wants; its place is free when the handler has ended."""
        if call.answered:
            return
        call.answered = True
        self._interrupt(call, reason)

    def _interrupt(self, call: _Call, reason: str) -> None:
        """Have a call end that has been answered, or whose answer nobody wants."""
        if call.queued:
            call.queued = False
            self._admission.remove(call.place, call)
        call.context.cancel(reason)
        if call.deferred is None:
            self._forget(call)
        else:
            call.deferred.cancel()

    def _too_late(self, call: _Call) -> None:
        if call.answered:
            return
        executed = "was not executed" if call.queued else "may have been executed"
        self._answer(
            call,
            ResponseHead(
                Code.DEADLINE_EXCEEDED, f"the call's time was up on the server; it {executed}"
            ),
        )
        self._interrupt(call, "its deadline has passed")

    def _cancel(self, connection: _Connection, key: CallKey, body: bytes) -> None:
        try:
            request = CancelRequest.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            connection.answer(key, ResponseHead(Code.INTERNAL, "the request cannot be parsed"))
            return
        if len(request.request_ids) > MAX_CANCELLED:
            reason = f"one Cancel ends {MAX_CANCELLED} calls at most"
            connection.answer(key, ResponseHead(Code.INVALID_ARGUMENT, reason))
            return
        for request_id in request.request_ids:
            call = connection.wire.find((*key[:-1], request_id))
            if call is not None:
                self.abandon(call, "the client cancelled it")
        connection.answer(key, OK)

    # -- stopping ----------------------------------------------------------------------------

    def stop(self, grace: float = 10.0) -> Deferred[None]:
        """Take no more calls, let those that run finish, then close.

        May be called again, and in a handler.

        :param grace: seconds until calls that still run are cancelled and answered UNAVAILABLE.
        :return: fires when everything is closed.
        """
        self.guard.check()
        waiting: Deferred[None] = Deferred()
        if self._stopping is None:
            self._stopping = Deferred()
            self._stop_timer = self.clock.callLater(grace, self._stop_now)
            self._stop_if_idle()
        self._stopping.addCallback(lambda _: waiting.callback(None))
        return waiting

    def closed(self) -> None:
        """A socket was closed under the server, with its factory: stop at once."""
        self.stop(0)
        self._stop_now()

    def _stop_if_idle(self) -> None:
        flushed = all(connection.is_flushed for connection in self._connections)
        if (
            not self._admission.running
            and not self._admission.queued
            and flushed
            and self._stop_timer is not None
        ):
            # In a turn of its own: whoever ended last may be in the middle of its work.
            self._stop_timer.cancel()
            self._stop_timer = self.clock.callLater(0, self._stop_now)

    def _stop_now(self) -> None:
        if self._stop_timer is None or self._stopping is None:
            return
        if self._stop_timer.active():
            self._stop_timer.cancel()
        self._stop_timer = None
        status = ResponseHead(
            Code.UNAVAILABLE, "the server shut down; the call may have been executed"
        )
        for connection in self._connections:
            for call in connection.wire.calls():
                if not call.answered:
                    self._answer(call, status)
                self._interrupt(call, "the server shuts down")
            connection.close()
        self._deadlines.close()
        self._stopping.callback(None)


def _entries(services: Sequence[ServiceHandler]) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for service in services:
        for method in service.__txzmq_service__.methods:
            if method.path in entries:
                raise ValueError(f"two services implement {method.path}")
            entries[method.path] = _Entry(method, getattr(service, method.name))
    return entries


def _unknown_method(head: RequestHead) -> ResponseHead:
    return ResponseHead(Code.UNIMPLEMENTED, f"the server has no method {head.path}")


def _too_large(what: str, size: int, limit: int) -> ResponseHead:
    return ResponseHead(
        Code.RESOURCE_EXHAUSTED,
        f"the {what} has {size} bytes, over the server's limit of {limit} "
        "(ServerLimits.message_size)",
    )


def _text_of(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception that cannot even say what it is
        return type(error).__name__
