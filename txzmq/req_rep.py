"""Requests and replies, over DEALER and ROUTER.

A request is ``[request id, b"", *parts]``, a reply the same with the request's id; a ROUTER in
between puts its routing ids in front. So any number of requests may wait for their replies, which
come in any order.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import zmq
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone

from txzmq._arguments import wrong_type
from txzmq._backend import frameProperty, recv
from txzmq._identity import Identity
from txzmq._ids import request_ids
from txzmq._ordered_set import OrderedSet
from txzmq._reactor import Timer
from txzmq._task_deferred import TaskDeferred
from txzmq.auth import Credentials, CurveServerCredentials
from txzmq.connection import NOBLOCK, Factory, Part, ZmqConnection, ZmqEndpoint, toBytes
from txzmq.monitor import SocketEvent, ZmqMonitor

__all__ = [
    "RequestId",
    "ZmqREPConnection",
    "ZmqREQConnection",
    "ZmqRequestTimeoutError",
    "ZmqXREPConnection",
    "ZmqXREQConnection",
]

T = TypeVar("T")

# The events that tell when a connection begins to use a descriptor, and when it ends.
_FD_EVENTS: Final = int(zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)


def _first(mapping: Mapping[Any, T]) -> T:
    return next(iter(mapping.values()))


def _checkTimeout(timeout: float | None) -> None:
    """Raise unless *timeout* is None, or seconds that are not negative."""
    if timeout is None:
        return
    try:
        valid = timeout >= 0
    except TypeError:  # old applications have no type checker
        raise TypeError(f"timeout must be seconds or None, not {timeout!r}") from None
    if not valid:
        raise ValueError(f"a timeout cannot be negative or no number: {timeout}")


class ZmqRequestTimeoutError(Exception):
    """No reply came in time; the argument is the request's id."""


class ZmqREQConnection(ZmqConnection):
    """Sends requests, and gives each reply to the one who asked.

    The socket is a DEALER, so any number of requests may wait for their replies.
    """

    socketType = zmq.DEALER

    #: Seconds after which a request without a timeout of its own fails; None for never.
    defaultRequestTimeout: float | None = None
    #: Whether a request waits here as long as nobody is connected who could take it, and is never
    #: sent once it has timed out or was cancelled. Otherwise, as in txZMQ, libzmq has it at once,
    #: and a server that comes later gets it however old it is. Sets ``IMMEDIATE``.
    holdUntilConnected: bool = False

    def __init__(
        self,
        factory: Factory,
        endpoint: ZmqEndpoint | None = None,
        identity: Part | None = None,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        """As :class:`ZmqConnection`."""
        self._requests: dict[bytes, tuple[Deferred[list[bytes]], Timer | None]] = {}
        # Those that are not sent yet, the oldest first.
        self._held: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._makeId = request_ids()
        super().__init__(factory, endpoint, identity, credentials=credentials)

    def _setOptions(self, socket: zmq.Socket[bytes]) -> None:
        if self.holdUntilConnected:
            socket.set(zmq.IMMEDIATE, 1)
        super()._setOptions(socket)

    def _getNextId(self) -> Part:
        """The id of the next request; no id is used twice.

        May be overridden, or assigned on the instance. A replacement must not repeat ids either.
        """
        return self._makeId()

    def sendMsg(self, *messageParts: Part, timeout: float | None = None) -> Deferred[list[bytes]]:
        """Send a request.

        :param messageParts: the parts of the request.
        :param timeout: seconds; None for :attr:`defaultRequestTimeout`.
        :return: the parts of the reply. It fails with :class:`ZmqRequestTimeoutError` when the
            time is up, and with ``ConnectionDone`` when this connection is shut down first.
            Cancelling it forgets the request.
        :raises zmq.Again: if the request cannot be sent now; it is not queued, unless
            :attr:`holdUntilConnected` is set.
        :raises TypeError: if a part is neither text nor bytes, or *timeout* no number.
        :raises ValueError: if *timeout* is negative, or :meth:`_getNextId` returned the id of a
            request that still waits; nothing is sent.
        """
        if timeout is None:
            timeout = self.defaultRequestTimeout
        _checkTimeout(timeout)
        requestId = toBytes(self._getNextId())
        if requestId in self._requests or not requestId:
            raise ValueError(f"the request id {requestId!r} is empty or in use")
        if self.holdUntilConnected:
            self._sendOrHold(requestId, [requestId, b"", *map(toBytes, messageParts)])
        else:
            self.send([requestId, b"", *messageParts])
        deferred: Deferred[list[bytes]] = TaskDeferred(lambda _: self._cancelled(requestId))
        self._requests[requestId] = (deferred, self._startTimer(requestId, timeout))
        return deferred

    def _sendOrHold(self, requestId: bytes, message: list[bytes]) -> None:
        if self._held:
            self._openSocket()  # or it is closed
            self._held[requestId] = message  # behind those that wait
            return
        try:
            self.send(message)
        except zmq.Again:
            self._held[requestId] = message

    def readyToSend(self) -> None:
        """Send the requests that were held back; an override must call this."""
        while self._held:
            requestId, message = next(iter(self._held.items()))
            try:
                self.send(message)
            except zmq.Again:
                return
            self._held.pop(requestId, None)

    def _startTimer(self, requestId: bytes, timeout: float | None) -> Timer | None:
        if timeout is None:
            return None
        assert self.factory is not None, "send() succeeded, so the connection is open"
        timer: Timer = self.factory.reactor.callLater(timeout, self._timedOut, requestId)
        return timer

    def _forget(self, requestId: bytes) -> Deferred[list[bytes]] | None:
        """Stop waiting for a reply; the caller must fire the Deferred that is returned."""
        self._held.pop(requestId, None)
        deferred, timer = self._requests.pop(requestId, (None, None))
        if timer is not None and timer.active():
            timer.cancel()
        return deferred

    def _cancelled(self, requestId: bytes) -> None:
        self.guard.check()
        self._forget(requestId)  # Twisted fires its Deferred

    def _timedOut(self, requestId: bytes) -> None:
        deferred = self._forget(requestId)
        if deferred is not None:
            deferred.errback(ZmqRequestTimeoutError(requestId))

    def messageReceived(self, message: list[bytes]) -> None:
        """Fire the Deferred of a request; drop and count a reply that nobody waits for."""
        if len(message) < 2 or message[1]:
            self.discard("malformed")
            return
        deferred = self._forget(message[0])
        if deferred is None:
            # The request timed out or was cancelled, or the reply is a duplicate or a forgery.
            self.discard("unexpected reply")
            return
        deferred.callback(message[2:])

    def shutdown(self) -> None:
        """As :meth:`ZmqConnection.shutdown`; requests that wait fail with ``ConnectionDone``."""
        super().shutdown()
        for requestId in list(self._requests):
            deferred = self._forget(requestId)
            if deferred is not None:
                deferred.errback(ConnectionDone("the connection was shut down"))


class RequestId(bytes):
    """The id of a request as :meth:`ZmqREPConnection.gotMessage` gets it.

    It equals the id on the wire, and also knows the way back: two clients may choose the same id,
    and each must get its own reply.

    :ivar routing: the routing ids in front of the id, outermost first.
    :ivar forgotten: whether the request was forgotten before its reply, because its peer's
        connection was lost or too many requests waited.
    :ivar answered: whether it was replied to.
    """

    routing: tuple[bytes, ...] = ()
    forgotten = False
    answered = False

    @classmethod
    def of(cls, requestId: bytes, routing: Iterable[bytes]) -> RequestId:
        """Join an id and its way back."""
        self = cls(requestId)
        self.routing = tuple(routing)
        return self


# Requests by their ``id()``, since equal ones may come twice.
_Requests: TypeAlias = dict[int, RequestId]


class _Peer:
    """A peer that sent a request: its connection, and its requests that wait for a reply."""

    __slots__ = ("address", "fd", "requests")

    def __init__(self) -> None:
        #: The IP address that it connected from, as libzmq reports it; empty if it does not.
        self.address = ""
        #: The descriptor of its connection; None for inproc, and once the connection is lost.
        self.fd: int | None = None
        self.requests: _Requests = {}


def _isGenerated(peerId: bytes) -> bool:
    """Whether libzmq generated this routing id: a zero byte and a counter of 32 bits.

    No peer gets it a second time. A peer that chose its own routing id may come back with it.
    """
    return len(peerId) == 5 and peerId[0] == 0


def _isOlder(peerId: bytes, other: bytes) -> bool:
    """Whether *peerId* connected before *other*; False unless both ids were generated."""
    if not (_isGenerated(peerId) and _isGenerated(other)):
        return False
    ahead = int.from_bytes(other[1:], "big") - int.from_bytes(peerId[1:], "big")
    return ahead & 0xFFFFFFFF < 0x80000000  # the counter may wrap around


class ZmqREPConnection(ZmqConnection):
    """Receives requests and answers them, in any order.

    The socket is a ROUTER. Override :meth:`gotMessage`, or assign it on the instance. Requests of
    plain REQ sockets, which have no id, are accepted, too.

    A request is forgotten when its peer's connection is lost, unless the peer chose its own
    identity: then it may come back, and gets its reply. inproc does not tell that a peer has gone;
    there, only :attr:`maxPendingRequests` bounds how many requests are kept.
    """

    socketType = zmq.ROUTER

    #: How many requests may wait for :meth:`reply`; beyond it the oldest are forgotten.
    maxPendingRequests: int = 100_000
    #: Whether a client that connects with the identity of one that is connected takes its place, as
    #: one does that has restarted before libzmq noticed its end. Otherwise libzmq ignores whatever
    #: it sends until then. Sets ``ROUTER_HANDOVER``. Turn it off where strangers can connect: with
    #: it, a client takes another's place, and gets its replies, by naming its identity.
    handover: bool = True
    #: The events that :meth:`gotEvent` gets, a mask of ``zmq.Event``.
    monitorEvents: int = int(zmq.EVENT_DISCONNECTED)

    def __init__(
        self,
        factory: Factory,
        endpoint: ZmqEndpoint | None = None,
        identity: Part | None = None,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        """As :class:`ZmqConnection`."""
        # The requests that wait for a reply, the oldest first. In a plain dict it takes ever longer
        # to find the first item when that is always the one to remove.
        self._waiting: OrderedDict[int, RequestId] = OrderedDict()
        # The same by id and way back; there is nearly always one of each.
        self._pending: dict[bytes, dict[tuple[bytes, ...], _Requests]] = {}
        self._peers: dict[bytes, _Peer] = {}
        # Of the message that was received last: the key of who has sent it.
        self._userId: str | int | None = None
        # By descriptor, the peers that are connected and have sent something.
        self._peerOfFd: dict[int, bytes] = {}
        # Descriptors whose last connection has ended, and no other has begun.
        self._endedFds: set[int] = set()
        # Peers whose connection has ended, while messages of theirs may be unread.
        self._lostPeers: OrderedSet[bytes] = OrderedSet()
        # With several I/O threads, "accepted" may come after the first message of a connection.
        self._eventsInOrder = False
        super().__init__(factory, None, identity, credentials=credentials)
        self._eventsInOrder = factory.context.get(zmq.IO_THREADS) == 1
        try:
            ZmqMonitor(self, self._gotEvent, self.monitorEvents | _FD_EVENTS)
            if endpoint:
                self.addEndpoints([endpoint])
        except BaseException:
            super().shutdown()  # a subclass's own may need attributes that are not set yet
            raise

    def _setOptions(self, socket: zmq.Socket[bytes]) -> None:
        if self.handover:
            socket.set(zmq.ROUTER_HANDOVER, 1)
        super()._setOptions(socket)

    # -- requests ----------------------------------------------------------------------------

    def messageReceived(self, message: list[bytes]) -> None:
        """Remember the way back of a request, and pass its parts on to :meth:`gotMessage`."""
        try:
            delimiter = message.index(b"", 1)
        except ValueError:
            self.discard("malformed")
            return
        requestId = RequestId.of(message[delimiter - 1], message[: delimiter - 1])
        self._remember(message[0], requestId)
        self.gotMessage(requestId, *message[delimiter + 1 :])

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        """Called with each request; answer it with :meth:`reply`, now or later."""
        raise NotImplementedError(self)

    def reply(self, messageId: bytes, *messageParts: Part) -> None:
        """Answer a request, once. A reply to a peer that has gone is dropped and counted.

        :param messageId: as :meth:`gotMessage` got it. A plain copy is accepted unless two peers
            wait for a reply to the same id.
        :param messageParts: the parts of the reply.
        :raises KeyError: if no such request waits, or it was answered.
        :raises ValueError: if *messageId* is a plain copy, and two peers chose the same id.
        :raises zmq.Again: if the high-water mark to the peer is reached and ``ROUTER_MANDATORY``
            is set; the request can be answered later.
        """
        requestId = self._find(messageId)
        if requestId is not None:
            try:
                self.send([*requestId.routing, requestId, b"", *messageParts])
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._forget(requestId)
                requestId = None
        if requestId is None:
            self.discard("reply to a peer that has gone")
            return
        requestId.answered = True
        self._forget(requestId)

    def sender(self) -> Identity | None:
        """Who has sent the message that is being dispatched, as the credentials know them now.

        None where nobody has authenticated, and where the key was revoked since.
        """
        credentials, key = self.credentials, self._userId
        if isinstance(credentials, CurveServerCredentials) and isinstance(key, str):
            return credentials.clients.get(key)
        return None

    def _remember(self, peerId: bytes, requestId: RequestId) -> None:
        peer = self._peers.get(peerId)
        if peer is None:
            peer = self._peers[peerId] = _Peer()
        peer.requests[id(requestId)] = requestId
        routes = self._pending.get(requestId)
        if routes is None:
            routes = self._pending[requestId] = {}
        routes.setdefault(requestId.routing, {})[id(requestId)] = requestId
        self._waiting[id(requestId)] = requestId
        if len(self._waiting) > self.maxPendingRequests:
            self._forget(_first(self._waiting))
            self.discard("request never answered")

    def _find(self, messageId: bytes) -> RequestId | None:
        """The request that a reply is for; None if it was forgotten."""
        # Old applications have no type checker.
        if not isinstance(messageId, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("messageId", "what gotMessage got", messageId)
        routes = self._pending.get(messageId, {})
        if isinstance(messageId, RequestId):
            if messageId.forgotten:
                return None
            waiting = routes.get(messageId.routing)
            if waiting and id(messageId) in waiting:
                return messageId
            if not waiting or messageId.answered:
                raise KeyError(bytes(messageId))
            return _first(waiting)
        if not routes:
            raise KeyError(bytes(messageId))
        if len(routes) > 1:
            raise ValueError(f"several peers wait for a reply to the id {bytes(messageId)!r}")
        return _first(_first(routes))

    def _forget(self, requestId: RequestId) -> None:
        """Remove a request from those that wait for a reply."""
        requestId.forgotten = not requestId.answered
        del self._waiting[id(requestId)]
        routes = self._pending[requestId]
        waiting = routes[requestId.routing]
        del waiting[id(requestId)]
        if not waiting:
            del routes[requestId.routing]
            if not routes:
                del self._pending[requestId]
        peerId = requestId.routing[0] if requestId.routing else bytes(requestId)
        peer = self._peers[peerId]
        del peer.requests[id(requestId)]
        if peer.fd is None and not peer.requests:
            del self._peers[peerId]

    # -- peers -------------------------------------------------------------------------------
    #
    # A message tells on which descriptor it came, and an event which descriptor was closed. They
    # come through different sockets, in any order, and by the time that either is read another
    # connection may use the descriptor. Two rules keep them apart. Before the first message of a
    # peer is noted, all events so far are read, so that none is left of earlier users of the
    # descriptor. And all that a peer sent is read before it is forgotten.

    def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
        """As of the base class; note the connection on which a peer's first message came."""
        peerId = recv(socket, NOBLOCK)
        # A ROUTER's message always has a second part.
        frame = second = recv(socket, NOBLOCK, copy=False)
        message = [peerId, frame.bytes]
        while frame.more:
            frame = recv(socket, NOBLOCK, copy=False)
            message.append(frame.bytes)
        if self.credentials is not None:
            self._userId = frameProperty(second, "User-Id")
        peer = self._peers.get(peerId)
        if peer is None or peer.fd is None:
            self._noteConnection(peerId, second)
        return message

    def _noteConnection(self, peerId: bytes, frame: zmq.Frame) -> None:
        fd = frameProperty(frame, zmq.SRCFD)
        if not isinstance(fd, int) or peerId in self._lostPeers:
            return  # inproc, which has no descriptors; or the connection is lost already
        if self.monitor is not None:
            self.monitor.catchUp()
        peer = self._peers.setdefault(peerId, _Peer())
        peer.address = str(frameProperty(frame, "Peer-Address") or "")
        other = self._peerOfFd.get(fd)
        ended = fd in self._endedFds and self._eventsInOrder
        if ended or (other is not None and _isOlder(peerId, other)):
            self._lost(peerId)
            return
        if other is not None:
            self._lost(other)  # the event of its end is missing
        peer.fd = fd
        self._peerOfFd[fd] = peerId

    def peerAddress(self, peerId: bytes) -> str:
        """The IP address that a peer connected from; empty if the transport has none."""
        peer = self._peers.get(peerId)
        return "" if peer is None else peer.address

    def peerDescriptor(self, peerId: bytes) -> int | None:
        """The descriptor of a peer's connection, which is libzmq's; None if it is not known.

        It is not known over inproc, and once the connection is lost.
        """
        peer = self._peers.get(peerId)
        return None if peer is None else peer.fd

    def _gotEvent(self, event: SocketEvent) -> None:
        if event.event == zmq.EVENT_DISCONNECTED:
            self._endedFds.add(event.value)
            peerId = self._peerOfFd.pop(event.value, None)
            if peerId is not None:
                self._lost(peerId)
        elif event.event & _FD_EVENTS:
            self._endedFds.discard(event.value)
        if event.event & self.monitorEvents:
            self.gotEvent(event)

    def gotEvent(self, event: SocketEvent) -> None:
        """Called with each event of :attr:`monitorEvents`; does nothing here, for subclasses."""

    def _lost(self, peerId: bytes) -> None:
        """Forget a peer once the socket is drained: messages of its may be unread."""
        self._peers[peerId].fd = None
        self._lostPeers.add(peerId)
        self.scheduleRead()

    def drained(self) -> None:
        """Forget the peers whose connections were lost; an override must call this."""
        if self._lostPeers:
            lost, self._lostPeers = self._lostPeers, OrderedSet()
            for peerId in lost:
                self._forgetPeer(peerId)

    def _forgetPeer(self, peerId: bytes) -> None:
        peer = self._peers.get(peerId)
        if peer is not None and peer.fd is None:
            if _isGenerated(peerId):
                for requestId in list(peer.requests.values()):
                    self._forget(requestId)
            if not peer.requests:
                self._peers.pop(peerId, None)
        self._callHook(self.peerLost, peerId)

    def peerLost(self, peerId: bytes) -> None:
        """Called when the connection of a peer that sent requests was lost.

        All messages that it sent have been received. Does nothing here; for subclasses.

        :param peerId: its routing id.
        """


class ZmqXREPConnection(ZmqREPConnection):
    """The name that :class:`ZmqREPConnection` had before txZMQ 0.6; deprecated."""

    def __init__(self, factory: Factory, *endpoints: ZmqEndpoint) -> None:
        """As :class:`ZmqREPConnection`, with any number of endpoints."""
        warnings.warn(
            "ZmqXREPConnection is deprecated, use ZmqREPConnection or ZmqRouterConnection",
            DeprecationWarning,
            stacklevel=2,
        )
        super().__init__(factory)
        self.addEndpoints(endpoints)


class ZmqXREQConnection(ZmqREQConnection):
    """The name that :class:`ZmqREQConnection` had before txZMQ 0.6; deprecated."""

    def __init__(self, factory: Factory, *endpoints: ZmqEndpoint) -> None:
        """As :class:`ZmqREQConnection`, with any number of endpoints."""
        warnings.warn(
            "ZmqXREQConnection is deprecated, use ZmqREQConnection or ZmqDealerConnection",
            DeprecationWarning,
            stacklevel=2,
        )
        super().__init__(factory)
        self.addEndpoints(endpoints)
