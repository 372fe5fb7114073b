"""A ZeroMQ socket in the Twisted reactor."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import get_ident
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeAlias, cast

import zmq
from twisted.internet.interfaces import IFileDescriptor, IReadDescriptor
from twisted.logger import Logger
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    classImplements,  # pyright: ignore[reportUnknownVariableType]
)

from txzmq._arguments import (
    endpoint_address,
    refused_address,
    refused_option,
    require_open,
    socket_option,
    wrong_type,
)
from txzmq._backend import SHARES_MEMORY, noSocket, recv, send
from txzmq._budget import TRACKED, ByteBudget
from txzmq._guard import Guard
from txzmq._inproc import InprocAddresses
from txzmq._listening import cannotListen
from txzmq._next_turn import NextTurn
from txzmq._reactor import Reactor
from txzmq._send_result import SendResult
from txzmq._timer import ResettableTimer
from txzmq._watched_socket import WatchedSocket, watch
from txzmq.auth import Credentials, Domains

__all__ = [
    "NOBLOCK",
    "Factory",
    "Monitor",
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

# Calls a function whose log lines get the connection's prefix. Any: Twisted leaves it untyped.
_callWithLogger: Callable[..., object] = cast("Any", log).callWithLogger
# Plain ints: pyzmq's enums cost more than the call that they are for.
NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_SNDMORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_get: Callable[[zmq.Socket[bytes], int], int] = cast("Any", zmq.Socket[bytes].get)
# As above, without the watching of the connection's own socket class.
_unbind = zmq.Socket[bytes].unbind

_INPROC: Final = "inproc://"
_WRITE_ONLY: Final = frozenset({zmq.PUB, zmq.PUSH})
_SOCKET_GONE: Final = frozenset({zmq.ENOTSOCK, zmq.ETERM})
#: A part of so many bytes or more goes to libzmq without a copy, where that is safe. To copy a
#: smaller one costs less than libzmq's notice that it is done with it.
_NO_COPY: Final = 256 * 1024 if SHARES_MEMORY else sys.maxsize
#: Seconds until a blocked send is tried again, at first and at most, on sockets whose events do
#: not say which peer has room.
_FIRST_RETRY: Final = 0.001
_LAST_RETRY: Final = 0.02
#: Seconds until receiving is tried again after an error.
_RETRY_RECEIVE: Final = 0.1


class ZmqEndpointType:
    """How a socket is attached to an endpoint."""

    #: Bind, and listen for connections.
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


class Factory(Domains, Protocol):
    """What a connection needs of its factory; a :class:`~txzmq.ZmqFactory` is one.

    The methods are there for applications, which reach the factory by ``connection.factory``.
    """

    #: Milliseconds for which a closed socket keeps unsent messages; -1 for ever.
    lingerPeriod: int

    @property
    def guard(self) -> Guard:
        """Says whether the current thread may use the factory's connections."""
        ...

    @property
    def reactor(self) -> Reactor:
        """The reactor of all its connections."""
        ...

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The ZeroMQ context, which makes the sockets."""
        ...

    @property
    def connections(self) -> set[ZmqConnection]:
        """All connections that are open; each adds and removes itself."""
        ...

    @property
    def inproc(self) -> InprocAddresses:
        """Where its connections listen by inproc; each says so when it binds and closes."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it was shut down, so that it makes no more sockets."""
        ...

    def shutdown(self) -> None:
        """Close all connections and the context."""
        ...

    def registerForShutdown(self) -> None:
        """Have :meth:`shutdown` called when the reactor stops."""
        ...

    def callWhenClosed(self, callback: Callable[[], None], /) -> Callable[[], None]:
        """Have *callback* called by :meth:`shutdown`, before the connections are closed.

        :return: a function that takes this back.
        """
        ...


class Monitor(Protocol):
    """What a connection needs of its monitor; a :class:`~txzmq.ZmqMonitor` is one."""

    def shutdown(self) -> None:
        """Stop watching the connection."""
        ...

    def collected(self) -> None:
        """Stop libzmq's events, in any thread: the connection is garbage."""
        ...

    def catchUp(self) -> None:
        """Tell the handler, now, of all events so far."""
        ...


def toBytes(part: Part, name: str = "a message part") -> bytes:
    """The bytes of one message part; str becomes UTF-8.

    Like pyzmq, it takes any buffer, such as an ``array.array``.

    :param name: what an error calls it.
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
        raise wrong_type(name, "bytes or str", part) from None


def _toParts(message: Part | Sequence[Part]) -> list[bytes]:
    if isinstance(message, (str, bytes, bytearray, zmq.Frame)):
        return [toBytes(message)]
    if isinstance(message, memoryview):
        return [bytes(message)]
    try:
        parts = list(map(toBytes, message))
    except TypeError:
        # Old applications have no type checker.
        if isinstance(message, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise
        raise wrong_type("a message", "bytes or str, or a sequence of them", message) from None
    if not parts:
        raise ValueError("a message has at least one part")
    return parts


def _set(socket: zmq.Socket[bytes], name: str, option: int, value: int | bytes) -> None:
    """Set an option; *name* is what an error calls it."""
    try:
        socket.set(option, value)
    except (zmq.ZMQError, TypeError) as error:
        raise refused_option(error, name, value) from None


class ZmqConnection:
    """A ZeroMQ socket that the reactor reads: the base of all connection classes.

    Subclasses set :attr:`socketType` and override :meth:`messageReceived`. Messages arrive in the
    order in which libzmq hands them out, one call of :meth:`messageReceived` each, never before
    the subclass's ``__init__`` has returned. An exception in :meth:`messageReceived` is logged, and
    the next message is read.

    The class attributes are options of the socket; override them in a subclass, or on the class,
    before making an instance.

    :ivar factory: the :class:`~txzmq.ZmqFactory`; None after :meth:`shutdown`.
    :ivar socket: the ``zmq.Socket``; None after :meth:`shutdown`.
    :ivar endpoints: every :class:`ZmqEndpoint` bound or connected so far.
    :ivar fd: the descriptor that libzmq signals. It may be readable while no message waits.
    :ivar queue: for subclasses that queue what they cannot send yet; unused here.
    :ivar monitor: the :class:`~txzmq.ZmqMonitor` that watches this connection, or None; it is shut
        down with the connection.
    :ivar discarded: how many incoming messages were dropped, by reason.
    """

    #: The type of the socket, such as ``zmq.PULL``; set by each subclass.
    socketType: ClassVar[int] = cast("int", None)
    #: Whether multicast may reach its own host. Without effect: libzmq 3 and later always allow it.
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
    #: The byte that separates tag and message in the framing of PUB and SUB.
    topicSep: bytes = b"\0"
    #: Further options of the socket by libzmq's names, such as ``{"IMMEDIATE": 1}``; they are set
    #: last, before the first bind or connect.
    socketOptions: Mapping[str, int | bytes] = {}
    #: Keys to authenticate with, and whom to talk to; see :mod:`txzmq.auth`. None for no security.
    credentials: Credentials | None = None
    #: Which of several server keys of credentials to use; counted on after each failure.
    _serverKey: int = 0
    #: Bytes of large messages that :meth:`trySend` lets libzmq hold for each peer; None for any. It
    #: needs messages that are sent without a copy.
    _byteBudget: ByteBudget | None = None
    #: After so many messages, :meth:`doRead` returns, and reads on in the reactor's next turn.
    readMessageBudget: int = 1000
    #: After so many seconds, :meth:`doRead` returns, and reads on in the reactor's next turn.
    readTimeBudget: float = 0.01

    def __init__(
        self,
        factory: Factory,
        endpoint: ZmqEndpoint | None = None,
        identity: Part | None = None,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        """Make the socket and attach it to *endpoint*; more may follow by :meth:`addEndpoints`.

        :param factory: a :class:`~txzmq.ZmqFactory`, which has the ZeroMQ context and the reactor.
        :param endpoint: where to bind or connect.
        :param identity: the socket's routing id; None to have libzmq make one. Two peers with the
            same identity get each other's messages.
        :param credentials: in place of the class's :attr:`credentials`; None for those.
        :raises ValueError: if the endpoint's type is neither bind nor connect.
        :raises zmq.ZMQError: if libzmq refuses an option or the endpoint, or the factory is shut
            down, or there are no more sockets or file descriptors, as the message says. Nothing is
            left open after an exception.
        :raises WrongThreadError: in another thread than the reactor's, as from all methods.
        :raises ForkedError: in a child of the process that made *factory*, as from all methods.
        """
        if not isinstance(getattr(factory, "guard", None), Guard):
            raise wrong_type("factory", "a ZmqFactory", factory)
        if not isinstance(self.socketType, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # None here
            raise TypeError(f"{type(self).__name__} has no socketType; use a subclass")
        if credentials is not None:
            self.credentials = credentials
        if self.credentials is not None and not isinstance(self.credentials, Credentials):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise wrong_type("credentials", "of txzmq.auth, or None", self.credentials)
        self.guard = factory.guard
        self.guard.check()
        self.factory: Factory | None = factory
        self.endpoints: list[ZmqEndpoint] = []
        self.identity = None if identity is None else toBytes(identity, "identity")
        self.queue: deque[Any] = deque()
        self.discarded: Counter[str] = Counter()
        self._nextTurn = NextTurn(factory.reactor, self._retry)
        self._retryDelay = 0.0
        self._reading = False
        self._sendBlocked = False
        self._sent = False
        self._turnEndWanted = False
        self.monitor: Monitor | None = None
        # Whether it listens by inproc.
        self._isInproc = False

        require_open(factory.closed)
        self._retryTimer = ResettableTimer(factory.reactor, self._retry)
        # The context makes it, so that its destroy() knows the socket.
        try:
            socket = factory.context.socket(self.socketType, socket_class=WatchedSocket)
        except zmq.ZMQError as error:
            raise noSocket(factory.context, error) from None
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
        watch(socket, self)
        factory.connections.add(self)
        # Later, since messages may wait already, and the subclass is not initialised yet.
        self.scheduleRead()

    def _setOptions(self, socket: zmq.Socket[bytes]) -> None:
        """Set what must be set before the first bind or connect."""
        assert self.factory is not None
        for name, option, value in (
            ("lingerPeriod", zmq.LINGER, self.factory.lingerPeriod),
            ("multicastRate", zmq.RATE, self.multicastRate),
            ("highWaterMark", zmq.SNDHWM, self.highWaterMark),
            ("highWaterMark", zmq.RCVHWM, self.highWaterMark),
        ):
            _set(socket, name, option, value)
        # Those are libzmq's own where they are not set.
        on = bool(self.tcpKeepalive)
        for name, option, value in (
            ("tcpKeepalive", zmq.TCP_KEEPALIVE, self.tcpKeepalive),
            ("tcpKeepaliveCount", zmq.TCP_KEEPALIVE_CNT, on and self.tcpKeepaliveCount),
            ("tcpKeepaliveIdle", zmq.TCP_KEEPALIVE_IDLE, on and self.tcpKeepaliveIdle),
            (
                "tcpKeepaliveInterval",
                zmq.TCP_KEEPALIVE_INTVL,
                on and self.tcpKeepaliveInterval,
            ),
            ("reconnectInterval", zmq.RECONNECT_IVL, self.reconnectInterval),
            ("reconnectIntervalMax", zmq.RECONNECT_IVL_MAX, self.reconnectIntervalMax),
        ):
            if value:
                _set(socket, name, option, value)
        if self.identity is not None:
            _set(socket, "identity", zmq.ROUTING_ID, self.identity)
        for name, setting in self.socketOptions.items():
            _set(socket, f"socketOptions[{name!r}]", socket_option(name), setting)
        if self.credentials is not None:  # last: nothing undoes them
            self.credentials.secure(socket, self.factory, self._serverKey)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.factory!r}, {self.endpoints!r})"

    # -- endpoints ---------------------------------------------------------------------------

    def addEndpoints(self, endpoints: Iterable[ZmqEndpoint]) -> None:
        """Bind or connect to more endpoints, of any mix of transports.

        :raises ValueError: if the type of an endpoint is neither bind nor connect.
        :raises zmq.ZMQError: if libzmq refuses one; those before it stay attached. Where an address
            cannot be listened at, it is also Twisted's ``CannotListenError``.
        """
        # Old applications have no type checker. An endpoint is iterable, and no sequence of them.
        given: object = endpoints
        if isinstance(given, (str, bytes, ZmqEndpoint)) or not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("endpoints", "a sequence of ZmqEndpoint", given)
        for endpoint in endpoints:
            self._attach(endpoint)
            self.endpoints.append(endpoint)

    def _attach(self, endpoint: ZmqEndpoint) -> None:
        address = endpoint_address(endpoint)
        if endpoint.type == ZmqEndpointType.bind:
            self._bind(address)
            if address.startswith(_INPROC) and self.factory is not None:
                self.factory.inproc.bind(address, self)
                self._isInproc = True
        elif endpoint.type == ZmqEndpointType.connect:
            try:
                self._openSocket().connect(address)
            except zmq.ZMQError as error:
                raise refused_address(error, address) from None
        else:
            raise ValueError(f"the type of {endpoint!r} must be 'bind' or 'connect'")

    def _bind(self, address: str) -> None:
        try:
            self._openSocket().bind(address)
        except zmq.ZMQError as error:
            others = () if self.factory is None else self.factory.connections
            raise refused_address(cannotListen(address, error, others), address) from None

    def lastEndpoint(self) -> str:
        """The address bound or connected last; a wildcard port is replaced by the real one."""
        return self._openSocket().get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _openSocket(self) -> zmq.Socket[bytes]:
        """The socket, for use in the reactor's thread.

        :raises zmq.ZMQError: ENOTSOCK after :meth:`shutdown`, libzmq's error for a closed socket.
        """
        if self.guard.thread != get_ident():
            self.guard.check_anew()
        if self.socket is None:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        return self.socket

    def shutdown(self) -> None:
        """Close the socket and leave the reactor.

        libzmq goes on sending in the background for the factory's ``lingerPeriod``. May be called
        from :meth:`messageReceived`, and again.
        """
        factory, socket = self.factory, self.socket
        if factory is None or socket is None:
            return
        self.guard.check()
        if self.monitor is not None:
            # First: libzmq cannot close a context while a monitor's socket is open.
            self.monitor.shutdown()
        self._nextTurn.stop()
        self._retryTimer.stop()
        factory.reactor.removeReader(self)
        factory.connections.discard(self)
        self.factory = self.socket = None
        watch(socket, None)  # so that its close() does not shut this down again
        if self._isInproc:
            self._unbindInproc(socket)
        socket.close()
        if self._isInproc:
            factory.inproc.unbind(self)

    def _unbindInproc(self, socket: zmq.Socket[bytes]) -> None:
        """Free the addresses now: libzmq does so only when its own thread has closed the socket."""
        for endpoint in self.endpoints:
            address = endpoint_address(endpoint)
            if endpoint.type == ZmqEndpointType.bind and address.startswith(_INPROC):
                with suppress(zmq.ZMQError):  # the application has done it
                    _unbind(socket, address)

    def collected(self) -> None:
        """Called when the connection is garbage, and its socket is still open.

        Called in any thread, so it must not use the reactor.
        """
        if self.monitor is not None:
            self.monitor.collected()

    # -- its monitor -------------------------------------------------------------------------

    def attachMonitor(self, monitor: Monitor) -> None:
        """Have *monitor* shut down with this connection; for :class:`~txzmq.ZmqMonitor`."""
        self.monitor = monitor

    def detachMonitor(self, monitor: Monitor) -> bool:
        """Undo :meth:`attachMonitor`.

        :return: whether *monitor* was attached.
        """
        if self.monitor is not monitor:
            return False
        self.monitor = None
        return True

    # -- IReadDescriptor, IFileDescriptor, ILoggingContext -----------------------------------

    def fileno(self) -> int:
        """The descriptor that libzmq signals; -1 after :meth:`shutdown`."""
        return -1 if self.socket is None else self.fd

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when it stops reading the descriptor."""
        if self.factory is not None and not self.guard.forked:
            self.factory.reactor.removeReader(self)

    def logPrefix(self) -> str:
        """What log lines of the reader begin with."""
        return "ZMQ"

    def doRead(self) -> None:
        """Receive messages until none waits, or the budget of this turn is spent.

        Called by the reactor when libzmq signals the descriptor. Never raises.
        """
        self._read(signalled=True)

    def scheduleRead(self) -> None:
        """Read in the reactor's next turn, whatever the descriptor says.

        To be called after the socket was used, since almost any use may have consumed the signal.
        """
        if not (self._reading or self._nextTurn.is_due) and self.factory is not None:
            self.guard.check()
            self._nextTurn.start()

    def scheduleTurnEnd(self) -> None:
        """Have :meth:`turnEnded` called: in this turn if messages are being read, else in the next.

        While messages are read, it is called after the first of them and after the last.
        """
        self._turnEndWanted = True
        if not self._nextTurn.is_due:
            self.scheduleRead()

    def _retryLater(self, delay: float) -> None:
        """Read again after *delay* seconds, unless that is planned already."""
        if self.factory is not None and not self._retryTimer.is_running:
            self._retryTimer.start(delay)

    def _retry(self) -> None:
        _callWithLogger(self, self._read)  # as reactors call doRead

    def _read(self, *, signalled: bool = False) -> None:
        if self._nextTurn.is_due:
            self._nextTurn.stop()
        if self._reading:
            return
        if self.guard.forked:
            self._readInChild()
            return
        if signalled:
            waits = True
        else:
            self._endTurn()
            # To ask is cheaper than to fail to receive.
            waits = bool(self._events() & zmq.POLLIN)
        if waits:
            waits = not self._readSome()
            if self._endTurn() and not waits:
                # Sending may have consumed the signal of messages that arrived meanwhile.
                waits = bool(self._events() & zmq.POLLIN)
        if waits:
            self.scheduleRead()
            return
        if self.socket is not None and (self._sendBlocked or self.socketType in _WRITE_ONLY):
            self._lookAtEvents(signalled)
        if self.socket is not None:
            self._callHook(self.drained)

    def _endTurn(self) -> bool:
        """Call :meth:`turnEnded` if it was asked for.

        :return: whether it was.
        """
        if not self._turnEndWanted:
            return False
        self._turnEndWanted = False
        self._reading = True  # so that what is sent schedules no read: the caller looks again
        try:
            self._callHook(self.turnEnded)
        finally:
            self._reading = False
        return True

    def _readInChild(self) -> None:
        # The reader stays: an epoll reactor would remove it from the parent's, too.
        self._reading = True
        _log.critical(
            "{connection} does nothing in this process, a forked child of the one that made it. "
            "A .tac file is read before twistd forks: there, connect and listen in startService().",
            connection=self,
        )

    def _readSome(self) -> bool:
        """Dispatch messages now, as many as the budget of one turn allows.

        :return: whether all messages that had arrived are dispatched.
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
            except BaseException as error:  # noqa: BLE001 - one that escapes would end all reading
                self._cannotReceive(error)
                return True
            if self.factory is None:
                break  # a hook shut the connection down
            try:
                self.messageReceived(message)
            except BaseException:  # noqa: BLE001 - as above; Twisted goes on after a SystemExit too
                _log.failure("{connection} failed on a message", connection=self)
            if self._turnEndWanted and count == budget:
                # The answer to a lone message does not wait until it is known to be alone.
                self._turnEndWanted = False
                self._callHook(self.turnEnded)
            count -= 1
            if count <= 0 or time.monotonic() >= end:
                return False
            if count == budget - 1 and not self._events() & zmq.POLLIN:
                return (
                    True  # most messages are alone, and to ask is cheaper than to fail to receive
                )
        return True

    def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
        """Receive one message, as a list of its parts.

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
        """Handle an error other than EAGAIN, so that the reactor does not spin on it."""
        errno = error.errno if isinstance(error, zmq.ZMQError) else None
        if errno in _SOCKET_GONE:
            # Somebody closed the socket or the context.
            self._callHook(self.shutdown)
            return
        # Such an error leaves the signal on the descriptor, and the reactor would call doRead()
        # without end. Asking for the events consumes the signal.
        events = self._events()
        if errno == zmq.EFSM:
            return  # a REQ or REP socket of a user's own class, which has to send first
        _log.failure(
            "{connection} cannot receive",
            Failure(error),  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
            connection=self,
        )
        if events & zmq.POLLIN:
            self._retryLater(_RETRY_RECEIVE)

    def _events(self) -> int:
        """The socket's ``zmq.EVENTS``; 0 if libzmq cannot tell."""
        if self.socket is None:
            return 0
        try:
            return _get(self.socket, zmq.EVENTS)
        except zmq.ZMQError as error:
            if error.errno in _SOCKET_GONE:
                self._callHook(self.shutdown)
            return 0

    def _messageWaits(self) -> bool:
        """Whether a message has arrived that was not received yet."""
        waits = bool(self._events() & zmq.POLLIN)
        if waits:
            self.scheduleRead()  # to ask has consumed its signal
        return waits

    def _lookAtEvents(self, signalled: bool) -> None:
        """Consume the signal of a socket that is not read; tell when a blocked send may go on."""
        events = self._events()
        if events & zmq.POLLIN and self.socketType not in _WRITE_ONLY:
            # A message arrived just now, and asking consumed its signal.
            self.scheduleRead()
        if not (self._sendBlocked and events & zmq.POLLOUT):
            return
        if self._retryTimer.is_running:
            if not signalled:
                return
            self._retryTimer.stop()
        self._sendBlocked = self._sent = False
        self._callHook(self.readyToSend)
        if self._sendBlocked and not self._sent:
            # A ROUTER or XPUB reports POLLOUT when any peer has room, so to try again at once could
            # go on without end. A signal may come before the delay is over.
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
        :raises zmq.ZMQError: ENOTSOCK after :meth:`shutdown`; other errors of libzmq.
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
        """As :meth:`send`, but a full queue and a missing peer are results, not exceptions.

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
            # To ask for the events is cheaper than a turn that reads nothing.
            if (
                not self._nextTurn.is_due
                and not self._reading
                and (self._sendBlocked or self._events() & zmq.POLLIN)
            ):
                self.scheduleRead()
        return SendResult.SENT

    def _sendLarge(
        self, socket: zmq.Socket[bytes], parts: Sequence[bytes], budget: ByteBudget
    ) -> None:
        """Send a message whose last part is large.

        :raises zmq.Again: if the byte budget of the peer has no room.
        """
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
        """:return: the tracker of the last part if *track* is true, else None."""
        try:
            return cls._sendOnce(socket, parts, track)
        except zmq.Again:
            # libzmq processes commands (a peer came, a peer has room) at most once in a
            # millisecond when it sends, but always when it is asked for the events.
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
                    # The peer went away in mid-message. libzmq drops everything up to the last part
                    # of the message; without one it would drop the next message instead.
                    with suppress(zmq.ZMQError):
                        send(socket, b"", NOBLOCK)
                raise
        return None

    def readyToSend(self) -> None:
        """Called when libzmq takes messages again after :meth:`send` raised ``zmq.Again``.

        A ROUTER or XPUB does not tell for which peer, so sending may fail again; then this is
        called again. Does nothing here; for subclasses that queue.
        """

    def turnEnded(self) -> None:
        """Called after :meth:`scheduleTurnEnd`.

        Does nothing here; for subclasses that collect messages and send them together.
        """

    def drained(self) -> None:
        """Called when every message that had arrived has been received.

        Does nothing here; for subclasses.
        """

    def messageReceived(self, message: list[bytes]) -> None:
        """Called with each complete message, as a list of its parts; subclasses override it."""
        raise NotImplementedError(self)

    def discard(self, reason: str) -> None:
        """Count an incoming message that was dropped.

        :param reason: a key of :attr:`discarded`; one of a few fixed texts.
        """
        self.discarded[reason] += 1
        if self.discarded[reason] == 1:
            # Once per connection and reason: a peer must not be able to fill the log.
            _log.warn(
                "{connection} dropped a message: {reason}; later ones are only counted",
                connection=self,
                reason=reason,
            )


# Not the decorator: mypy and pyright lose the type of a class decorated by zope.
classImplements(ZmqConnection, IReadDescriptor, IFileDescriptor)
