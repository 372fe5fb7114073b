"""A ZeroMQ socket in the Twisted reactor."""

from __future__ import annotations

import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias, cast

import zmq
from twisted.internet.interfaces import IFileDescriptor, IReadDescriptor
from twisted.logger import Logger
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    classImplements,  # pyright: ignore[reportUnknownVariableType]
)

from txzmq._backend import recv, send
from txzmq._budget import TRACKED, ByteBudget
from txzmq._reactor import Timer
from txzmq._send_result import SendResult

if TYPE_CHECKING:
    from txzmq.factory import ZmqFactory
    from txzmq.monitor import ZmqMonitor

__all__ = [
    "NOBLOCK",
    "Part",
    "SendResult",
    "ZmqConnection",
    "ZmqEndpoint",
    "ZmqEndpointType",
    "toBytes",
]

#: One part of a message as a caller may give it; str is sent as UTF-8.
Part: TypeAlias = str | bytes | bytearray | memoryview | zmq.Frame

_log = Logger()

# With its prefix in the log lines. Any: Twisted leaves it untyped.
_callWithLogger: Callable[..., object] = cast("Any", log).callWithLogger
# Plain ints: pyzmq's enums cost more than the call that they are for.
NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_SNDMORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_get: Callable[[zmq.Socket[bytes], int], int] = cast("Any", zmq.Socket[bytes].get)

_WRITE_ONLY: Final = frozenset({zmq.PUB, zmq.PUSH})
_SOCKET_GONE: Final = frozenset({zmq.ENOTSOCK, zmq.ETERM})
#: Bytes from which on a part goes to libzmq without a copy. To be told that libzmq is done with
#: it costs more than to copy a smaller one.
_NO_COPY: Final = 256 * 1024
#: Seconds until the next try, where nothing tells when one is worth it.
_FIRST_RETRY: Final = 0.001
_LAST_RETRY: Final = 0.02
_RETRY_RECEIVE: Final = 0.1


class ZmqEndpointType:
    """How an endpoint comes to be: "bound" or "connected"."""

    #: Bind, listen for connections.
    bind: Final = "bind"
    #: Connect to another endpoint.
    connect: Final = "connect"


class ZmqEndpoint(NamedTuple):
    """Where and how a socket is attached.

    :ivar type: :attr:`ZmqEndpointType.bind` or :attr:`ZmqEndpointType.connect`.
    :ivar address: a ZeroMQ address: ``tcp://``, ``ipc://``, ``inproc://``, ``epgm://``, ...
    """

    type: str
    address: str


def toBytes(part: Part) -> bytes:
    """The bytes of one message part; str becomes UTF-8.

    Any buffer will do, as it does for pyzmq: an array, for instance.

    :raises TypeError: if *part* is neither text nor a buffer.
    """
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, zmq.Frame):
        return part.bytes  # on PyPy it is no buffer
    try:
        return bytes(memoryview(part))
    except TypeError:
        kind = type(part).__name__
        raise TypeError(f"a message part must be bytes or str, not {kind}") from None


def _toParts(message: Part | Sequence[Part]) -> list[bytes]:
    if isinstance(message, (str, bytes, bytearray, zmq.Frame)):
        return [toBytes(message)]
    if isinstance(message, memoryview):
        return [bytes(message)]
    parts = [toBytes(part) for part in message]
    if not parts:
        raise ValueError("a message has at least one part")
    return parts


class _WatchedSocket(zmq.Socket[bytes]):
    """A socket that tells its connection when somebody else touches it.

    Almost every libzmq call may consume the signal on the socket's file descriptor while input
    waits, so whoever uses ``connection.socket`` directly would make the reactor miss messages.
    """

    # A class attribute, because zmq.Socket takes other names for socket options.
    connection: ZmqConnection | None = None

    def touched(self) -> None:
        """Have the connection look for messages."""
        if self.connection is not None:
            self.connection.scheduleRead()

    def check(self) -> None:
        """Raise unless the current thread may touch the socket."""
        if self.connection is not None:
            self.connection.guard.check()

    def __del__(self) -> None:
        # With its connection, and in whatever thread; a child leaves its parent's socket alone.
        connection, self.connection = self.connection, None
        if connection is not None:
            if connection.guard.forked:
                return
            connection.collected()
            super().close()  # without zmq.Socket's warning: the factory's context has one for all
        super().__del__()

    def close(self, linger: int | None = None) -> None:
        """Close the socket and shut its connection down, whoever asked for it.

        The connection must leave the reactor before its descriptor is used again.
        """
        self.check()
        connection, self.connection = self.connection, None
        if connection is not None:
            if linger is not None:
                self.set(zmq.LINGER, linger)
            connection.shutdown()
        super().close(linger)


def _reporting(name: str) -> Callable[..., Any]:
    """The method *name* of ``zmq.Socket``, in the reactor's thread only; reports the touch."""
    original = getattr(zmq.Socket, name)

    @functools.wraps(original)
    def method(self: _WatchedSocket, *args: Any, **kwargs: Any) -> Any:
        self.check()
        try:
            return original(self, *args, **kwargs)
        finally:
            self.touched()

    return method


for _name in (
    "bind",
    "connect",
    "disconnect",
    "get",
    "getsockopt",
    "monitor",
    "poll",
    "recv",
    "recv_into",
    "send",
    "set",
    "setsockopt",
    "unbind",
):
    if hasattr(zmq.Socket, _name):  # recv_into came with pyzmq 27.1
        setattr(_WatchedSocket, _name, _reporting(_name))


class ZmqConnection:
    """A ZeroMQ socket that the reactor reads: the base of all connection classes.

    Subclasses set :attr:`socketType` and override :meth:`messageReceived`. Messages arrive in the
    order in which libzmq hands them out, one call of :meth:`messageReceived` each, never before
    the subclass's ``__init__`` has returned. An exception in :meth:`messageReceived` is logged and
    the next message is read.

    The class attributes are options of the socket; override them in a subclass, or on the class,
    before making an instance.

    :ivar factory: the :class:`~txzmq.ZmqFactory`; None after :meth:`shutdown`.
    :ivar socket: the ``zmq.Socket``; None after :meth:`shutdown`.
    :ivar endpoints: every :class:`ZmqEndpoint` bound or connected so far.
    :ivar fd: the descriptor that libzmq signals; readable does not mean that a message waits.
    :ivar queue: kept for subclasses that queue what they cannot send yet; unused here.
    :ivar monitor: the :class:`~txzmq.ZmqMonitor` that watches this connection, or None; it is shut
        down with the connection.
    :ivar discarded: how many incoming messages were dropped, by reason.
    """

    #: The type of the socket, such as ``zmq.PULL``; set by each subclass.
    socketType: ClassVar[int] = cast("int", None)
    #: May multicast go back to its own host? libzmq 3 and later always loop it back.
    allowLoopbackMulticast: bool = False
    #: Maximum rate of multicast, kilobits per second.
    multicastRate: int = 100
    #: Maximum number of messages that libzmq queues for one peer and direction; 0 for no limit.
    highWaterMark: int = 0
    #: 1 to turn TCP keepalive on, 0 to leave the system's default.
    tcpKeepalive: int = 0
    #: TCP_KEEPCNT, probes; 0 for the system's default. With :attr:`tcpKeepalive`.
    tcpKeepaliveCount: int = 0
    #: TCP_KEEPIDLE, seconds; 0 for the system's default. With :attr:`tcpKeepalive`.
    tcpKeepaliveIdle: int = 0
    #: TCP_KEEPINTVL, seconds; 0 for the system's default. With :attr:`tcpKeepalive`.
    tcpKeepaliveInterval: int = 0
    #: Milliseconds before the first attempt to reconnect; 0 for libzmq's default.
    reconnectInterval: int = 100
    #: Milliseconds that the growing interval may reach; 0 for a constant interval.
    reconnectIntervalMax: int = 0
    #: What separates tag and message in the framing of PUB and SUB; one byte.
    topicSep: bytes = b"\0"
    #: Further options of the socket by libzmq's names, such as ``{"IMMEDIATE": 1}``; they are set
    #: last, before the first bind or connect.
    socketOptions: Mapping[str, int | bytes] = {}
    #: Bytes of large messages that :meth:`trySend` lets libzmq hold for each peer; None for any.
    _byteBudget: ByteBudget | None = None
    #: After so many messages, one :meth:`doRead` lets the rest of the reactor have its turn.
    readMessageBudget: int = 1000
    #: After so many seconds, one :meth:`doRead` lets the rest of the reactor have its turn.
    readTimeBudget: float = 0.01

    def __init__(
        self,
        factory: ZmqFactory,
        endpoint: ZmqEndpoint | None = None,
        identity: Part | None = None,
    ) -> None:
        """Make the socket and attach it to *endpoint*; more may follow by :meth:`addEndpoints`.

        :param factory: owns the ZeroMQ context, knows the reactor.
        :param endpoint: where to bind or connect.
        :param identity: the socket's routing id. Leave it alone unless you know how it works:
            two peers with one identity steal each other's messages.
        :raises ValueError: if the endpoint's type is neither bind nor connect.
        :raises zmq.ZMQError: if libzmq refuses an option or the endpoint, or the factory is shut
            down. Nothing is left open after an exception.
        :raises WrongThreadError: in another thread than the reactor's, as from all methods.
        :raises ForkedError: in a child of the process that made *factory*, as from all methods.
        """
        self.guard = factory.guard
        self.guard.check()
        self.factory: ZmqFactory | None = factory
        self.endpoints: list[ZmqEndpoint] = []
        self.identity = None if identity is None else toBytes(identity)
        self.queue: deque[Any] = deque()
        self.discarded: Counter[str] = Counter()
        self._readCall: Timer | None = None
        self._retryCall: Timer | None = None
        self._retryDelay = 0.0
        self._reading = False
        self._sendBlocked = False
        self._sent = False
        self._turnEndWanted = False
        self.monitor: ZmqMonitor | None = None

        if factory.closed:
            raise zmq.ZMQError(zmq.ETERM)
        # Made by the context, so that its destroy() knows the socket.
        socket = factory.context.socket(self.socketType, socket_class=_WatchedSocket)
        self.socket: zmq.Socket[bytes] | None = socket
        try:
            self.fd: int = _get(socket, zmq.FD)
            self._setOptions(socket)
            if endpoint:
                self.addEndpoints([endpoint])
            factory.reactor.addReader(self)
        except BaseException:
            self.socket = None
            socket.close(linger=0)
            raise
        socket.connection = self
        factory.connections.add(self)
        # Not now: messages may wait already, and the subclass is not initialised yet.
        self.scheduleRead()

    def _setOptions(self, socket: zmq.Socket[bytes]) -> None:
        """Set what must be set before the first bind or connect."""
        assert self.factory is not None
        socket.set(zmq.LINGER, self.factory.lingerPeriod)
        socket.set(zmq.RATE, self.multicastRate)
        socket.set(zmq.SNDHWM, self.highWaterMark)
        socket.set(zmq.RCVHWM, self.highWaterMark)
        if self.tcpKeepalive:
            socket.set(zmq.TCP_KEEPALIVE, self.tcpKeepalive)
            for option, value in (
                (zmq.TCP_KEEPALIVE_CNT, self.tcpKeepaliveCount),
                (zmq.TCP_KEEPALIVE_IDLE, self.tcpKeepaliveIdle),
                (zmq.TCP_KEEPALIVE_INTVL, self.tcpKeepaliveInterval),
            ):
                if value:
                    socket.set(option, value)
        if self.reconnectInterval:
            socket.set(zmq.RECONNECT_IVL, self.reconnectInterval)
        if self.reconnectIntervalMax:
            socket.set(zmq.RECONNECT_IVL_MAX, self.reconnectIntervalMax)
        if self.identity is not None:
            socket.set(zmq.ROUTING_ID, self.identity)
        for name, setting in self.socketOptions.items():
            socket.set(zmq.SocketOption[name], setting)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.factory!r}, {self.endpoints!r})"

    # -- endpoints ---------------------------------------------------------------------------

    def addEndpoints(self, endpoints: Iterable[ZmqEndpoint]) -> None:
        """Bind or connect to more endpoints, of any mix of transports.

        :raises ValueError: if the type of an endpoint is neither bind nor connect.
        :raises zmq.ZMQError: if libzmq refuses one; those before it stay attached.
        """
        for endpoint in endpoints:
            self._attach(endpoint)
            self.endpoints.append(endpoint)

    def _attach(self, endpoint: ZmqEndpoint) -> None:
        if endpoint.type == ZmqEndpointType.bind:
            self._openSocket().bind(endpoint.address)
        elif endpoint.type == ZmqEndpointType.connect:
            self._openSocket().connect(endpoint.address)
        else:
            raise ValueError(f"the type of {endpoint!r} must be 'bind' or 'connect'")

    def lastEndpoint(self) -> str:
        """The address that was bound or connected last, with a wildcard port made real."""
        return self._openSocket().get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _openSocket(self) -> zmq.Socket[bytes]:
        """The socket, in the reactor's thread.

        :raises zmq.ZMQError: ENOTSOCK after :meth:`shutdown`, as libzmq says it of a closed one.
        """
        if self.guard.thread != get_ident():
            self.guard.look()
        if self.socket is None:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        return self.socket

    def shutdown(self) -> None:
        """Close the socket and leave the reactor.

        Unsent messages are kept for the factory's ``lingerPeriod``, in the background. May be
        called from :meth:`messageReceived`, and again.
        """
        factory, socket = self.factory, self.socket
        if factory is None or socket is None:
            return
        self.guard.check()
        if self.monitor is not None:
            # First: libzmq cannot close a context while a monitor's socket is open.
            self.monitor.shutdown()
        for call in (self._readCall, self._retryCall):
            if call is not None and call.active():
                call.cancel()
        self._readCall = self._retryCall = None
        factory.reactor.removeReader(self)
        factory.connections.discard(self)
        self.factory = self.socket = None
        socket.connection = None  # which its close() would shut down
        socket.close()

    def collected(self) -> None:
        """Called when the connection is garbage, and its socket is still open.

        In any thread, so nothing of the reactor's may be used.
        """
        if self.monitor is not None:
            self.monitor.collected()

    # -- IReadDescriptor, IFileDescriptor, ILoggingContext -----------------------------------

    def fileno(self) -> int:
        """The descriptor that libzmq signals; -1 after :meth:`shutdown`."""
        return -1 if self.socket is None else self.fd

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when it will not read the descriptor any more."""
        if self.factory is not None and not self.guard.forked:
            self.factory.reactor.removeReader(self)

    def logPrefix(self) -> str:
        """How log lines from within the reader begin."""
        return "ZMQ"

    def doRead(self) -> None:
        """Receive what waits, until nothing does or the budget of this turn is spent.

        Called by the reactor when libzmq signals the descriptor. Never raises.
        """
        self._read(signalled=True)

    def scheduleRead(self) -> None:
        """Read in the reactor's next turn, whatever the descriptor says.

        For after a touch of the socket, because almost any may have consumed the signal.
        """
        if self._readCall is None and not self._reading and self.factory is not None:
            self.guard.check()
            # As reactors call doRead.
            self._readCall = self.factory.reactor.callLater(0, _callWithLogger, self, self._read)

    def scheduleTurnEnd(self) -> None:
        """Have :meth:`turnEnded` called once, in this turn if messages are being read, or the next.

        While messages are read that is after the first of them, and after the last.
        """
        self._turnEndWanted = True
        if self._readCall is None:
            self.scheduleRead()

    def _retryLater(self, delay: float) -> None:
        """Read again after *delay* seconds, if nothing makes it happen before."""
        if self._retryCall is None and self.factory is not None:
            self._retryCall = self.factory.reactor.callLater(
                delay, _callWithLogger, self, self._retry
            )

    def _retry(self) -> None:
        self._retryCall = None
        self._read()

    def _read(self, *, signalled: bool = False) -> None:
        if self._readCall is not None:
            if self._readCall.active():
                self._readCall.cancel()
            self._readCall = None
        if self._reading:
            return
        if self.guard.forked:
            self._readInChild()
            return
        if signalled:
            waits = True
        else:
            self._endTurn()
            # Cheaper than to fail to receive.
            waits = bool(self._events() & zmq.POLLIN)
        if waits:
            waits = not self._readSome()
            if self._endTurn() and not waits:
                # What was sent may have consumed the signal of what arrived meanwhile.
                waits = bool(self._events() & zmq.POLLIN)
        if waits:
            self.scheduleRead()
            return
        if self.socket is not None and (self._sendBlocked or self.socketType in _WRITE_ONLY):
            self._lookAtEvents(signalled)
        if self.socket is not None:
            self._callHook(self.drained)

    def _endTurn(self) -> bool:
        """Call :meth:`turnEnded` if that is wanted; whether it was."""
        if not self._turnEndWanted:
            return False
        self._turnEndWanted = False
        self._reading = True  # whoever sends need not schedule a read
        try:
            self._callHook(self.turnEnded)
        finally:
            self._reading = False
        return True

    def _readInChild(self) -> None:
        # The reader stays: an epoll reactor would take it from the parent's.
        self._reading = True
        _log.critical(
            "{connection} does nothing in this process, a forked child of the one that made it. "
            "A .tac file is read before twistd forks: there, connect and listen in startService().",
            connection=self,
        )

    def _readSome(self) -> bool:
        """Dispatch messages now, as many as the budget of one turn allows.

        :return: whether all that had arrived are dispatched.
        """
        self._reading = True
        try:
            return self._readWithinBudget()
        finally:
            self._reading = False

    def _readWithinBudget(self) -> bool:
        if self.socketType in _WRITE_ONLY:
            return True
        count = budget = self.readMessageBudget
        end = time.monotonic() + self.readTimeBudget
        while self.socket is not None:
            try:
                message = self._receive(self.socket)
            except zmq.Again:
                return True
            except BaseException as error:  # noqa: BLE001 - one that escapes ends all reading
                self._cannotReceive(error)
                return True
            if self.factory is None:
                break  # shut down by a hook in between
            try:
                self.messageReceived(message)
            except BaseException:  # noqa: BLE001 - as above; Twisted goes on after a SystemExit too
                _log.failure("{connection} failed on a message", connection=self)
            if self._turnEndWanted and count == budget:
                # A lone message's answer need not wait until it is known to be alone.
                self._turnEndWanted = False
                self._callHook(self.turnEnded)
            count -= 1
            if count <= 0 or time.monotonic() >= end:
                return False
            if count == budget - 1 and not self._events() & zmq.POLLIN:
                return True  # cheaper than to fail to receive: most messages are alone
        return True

    def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
        """One whole message.

        :raises zmq.Again: if none waits.
        """
        frame = recv(socket, NOBLOCK, copy=False)  # a Frame knows .more; asking libzmq is slow
        message = [frame.bytes]
        while frame.more:
            # The rest of a multipart message is always there with its first part.
            frame = recv(socket, NOBLOCK, copy=False)
            message.append(frame.bytes)
        return message

    def _cannotReceive(self, error: BaseException) -> None:
        """Receiving failed, not for want of messages: make sure that it does not fail for ever."""
        errno = error.errno if isinstance(error, zmq.ZMQError) else None
        if errno in _SOCKET_GONE:
            # Somebody closed the socket or the context.
            self._callHook(self.shutdown)
            return
        # Other than EAGAIN, an error leaves the signal on the descriptor, and the reactor would
        # call without end. Asking for the events takes it away.
        events = self._events()
        if errno == zmq.EFSM:
            return  # a REQ or REP socket of a user's own class, which is to send first
        _log.failure(
            "{connection} cannot receive",
            Failure(error),  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
            connection=self,
        )
        if events & zmq.POLLIN:
            self._retryLater(_RETRY_RECEIVE)

    def _events(self) -> int:
        """What libzmq says may be done with the socket; nothing if that cannot be asked."""
        if self.socket is None:
            return 0
        try:
            return _get(self.socket, zmq.EVENTS)
        except zmq.ZMQError as error:
            if error.errno in _SOCKET_GONE:
                self._callHook(self.shutdown)
            return 0

    def _lookAtEvents(self, signalled: bool) -> None:
        """Take the signal of a socket that cannot be read; go on with a send that had to stop."""
        events = self._events()
        if events & zmq.POLLIN and self.socketType not in _WRITE_ONLY:
            # It arrived just now, and asking consumed its signal.
            self.scheduleRead()
        if not (self._sendBlocked and events & zmq.POLLOUT):
            return
        if self._retryCall is not None:
            if not signalled:
                return
            self._retryCall.cancel()
            self._retryCall = None
        self._sendBlocked = self._sent = False
        self._callHook(self.readyToSend)
        if self._sendBlocked and not self._sent:
            # ROUTER and XPUB say that they can send when they can to any peer, so asking again at
            # once would go on without end. The signal may come before the time is over.
            self._retryDelay = min(max(self._retryDelay * 2, _FIRST_RETRY), _LAST_RETRY)
            self._retryLater(self._retryDelay)
        else:
            self._retryDelay = 0.0

    def _callHook(self, hook: Callable[..., object], *args: object) -> None:
        """Call what a subclass may override; an exception is logged."""
        try:
            hook(*args)
        except BaseException:  # noqa: BLE001 - whatever it is, the reader must stay alive
            _log.failure("{connection} failed in {hook}", connection=self, hook=hook)

    # -- messages ----------------------------------------------------------------------------

    def send(self, message: Part | Sequence[Part]) -> None:
        """Send one message, now, or not at all.

        :param message: bytes or str, or a sequence of them for a multipart message.
        :raises zmq.Again: if the high-water mark is reached or there is no peer; nothing is
            queued. :meth:`readyToSend` is called when it is worth trying again.
        :raises zmq.ZMQError: ENOTSOCK after :meth:`shutdown`, or what else libzmq says.
        :raises TypeError: if a part is neither text nor bytes; nothing is sent.
        :raises ValueError: if *message* has no parts.
        """
        socket = self._openSocket()
        parts = _toParts(message)
        try:
            self._sendParts(socket, parts)
            self._sent = True
        except zmq.Again:
            self._sendBlocked = True
            raise
        finally:
            self.scheduleRead()

    def trySend(self, parts: Sequence[bytes]) -> SendResult:
        """As :meth:`send`, for callers to whom a full queue is nothing exceptional.

        :param parts: at least one part, bytes only.
        :raises zmq.ZMQError: ENOTSOCK after :meth:`shutdown`.
        """
        socket = self._openSocket()
        try:
            if self._byteBudget is not None and len(parts[-1]) >= TRACKED:
                self._sendLarge(socket, parts, self._byteBudget)
            else:
                self._sendParts(socket, parts)
            self._sent = True
        except zmq.Again:
            self._sendBlocked = True
            return SendResult.BLOCKED
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return SendResult.UNREACHABLE
        finally:
            # To ask is cheaper than a turn that finds nothing.
            if (
                self._readCall is None
                and not self._reading
                and (self._sendBlocked or self._events() & zmq.POLLIN)
            ):
                self.scheduleRead()
        return SendResult.SENT

    def _sendLarge(
        self, socket: zmq.Socket[bytes], parts: Sequence[bytes], budget: ByteBudget
    ) -> None:
        """Send a message whose last part is large, if the peer's share of memory has room."""
        peer = parts[0] if self.socketType == zmq.ROUTER else b""
        size = len(parts[-1])
        if not budget.has_room(peer, size):
            raise zmq.Again
        track = budget.wants_tracker(peer, size)
        budget.add(peer, size, self._sendParts(socket, parts, track=track))

    @classmethod
    def _sendParts(
        cls, socket: zmq.Socket[bytes], parts: Sequence[bytes], *, track: bool = False
    ) -> Any:
        """:return: of the last part, where *track* asks for it."""
        try:
            return cls._sendOnce(socket, parts, track)
        except zmq.Again:
            # For a millisecond after it did so, a send does not look whether peers came or have
            # made room. Asking for the events does.
            if not _get(socket, zmq.EVENTS) & zmq.POLLOUT:
                raise
            return cls._sendOnce(socket, parts, track)

    @staticmethod
    def _sendOnce(socket: zmq.Socket[bytes], parts: Sequence[bytes], track: bool) -> Any:
        last = len(parts) - 1
        for index, part in enumerate(parts):
            flags = NOBLOCK if index == last else _NOBLOCK_SNDMORE
            try:
                if track and index == last:
                    return send(socket, part, flags, copy=False, track=True)
                if len(part) < _NO_COPY:
                    send(socket, part, flags)
                else:
                    send(socket, part, flags, copy=False)
            except zmq.Again:
                if 0 < index < last:
                    # The peer went away in mid-message: libzmq swallows all up to the last part
                    # of a message, so without it the next message would be swallowed instead.
                    with suppress(zmq.ZMQError):
                        send(socket, b"", NOBLOCK)
                raise
        return None

    def readyToSend(self) -> None:
        """Called when libzmq takes messages again after :meth:`send` raised ``zmq.Again``.

        A ROUTER or XPUB cannot tell for which peer it does, so that sending may fail again; then
        this is called again. Does nothing here; for subclasses that queue.
        """

    def turnEnded(self) -> None:
        """Called after :meth:`scheduleTurnEnd`.

        Does nothing here; for subclasses that send what has come together, all at once.
        """

    def drained(self) -> None:
        """Called when every message that had arrived has been received.

        Does nothing here; for subclasses that have something to do in between.
        """

    def messageReceived(self, message: list[bytes]) -> None:
        """Called with each complete message, as a list of its parts; subclasses override it."""
        raise NotImplementedError(self)

    def discard(self, reason: str) -> None:
        """Count an incoming message that was dropped.

        :param reason: one of a few fixed words, a key of :attr:`discarded`.
        """
        self.discarded[reason] += 1
        if self.discarded[reason] == 1:
            # Once per connection: a peer must not be able to fill the log.
            _log.warn(
                "{connection} dropped a message: {reason}; later ones are only counted",
                connection=self,
                reason=reason,
            )


# Not the decorator: mypy and pyright lose the type of a class decorated by zope.
classImplements(ZmqConnection, IReadDescriptor, IFileDescriptor)
