"""libzmq's own proxy between two sockets, in a thread: the part of it that needs ZeroMQ."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, cast

import zmq

from txzmq._arguments import refused_option
from txzmq._backend import noSocket
from txzmq._listening import cannotListen
from txzmq._reactor import ThreadedReactor
from txzmq.auth import Credentials
from txzmq.factory import ZmqFactory

__all__ = ["Place", "ProxyStatistics", "ProxyThread"]

_numbers = itertools.count(1)
#: Milliseconds in which the proxy answers a question of this process's.
_PATIENCE: Final = 1_000
#: Seconds between two looks at whether a proxy that drains is to end at once.
_LOOK: Final = 0.05
#: Numbers of libzmq's statistics.
_NUMBERS: Final = 8
#: Seconds without a reply after which none is expected, where all that were counted have come.
#: Meanwhile clients take the last ones: their sockets forget what they have not handed out when a
#: connection ends.
_QUIET: Final = 0.3
#: Seconds for an address that was given up to be free again.
_FREE: Final = 2.0


class ProxyStatistics(NamedTuple):
    """What has passed through a proxy, as libzmq counts it: frames, of which a call has five.

    :ivar request_frames: from clients to workers.
    :ivar request_bytes: bytes of them.
    :ivar reply_frames: from workers to clients.
    :ivar reply_bytes: bytes of them.
    """

    request_frames: int = 0
    request_bytes: int = 0
    reply_frames: int = 0
    reply_bytes: int = 0

    def plus(self, other: ProxyStatistics) -> ProxyStatistics:
        """Both together."""
        return ProxyStatistics(*(mine + its for mine, its in zip(self, other, strict=True)))


class Place(NamedTuple):
    """Where one side of a proxy listens.

    :ivar address: such as ``tcp://127.0.0.1:5000``.
    :ivar options: of the socket, by libzmq's names.
    :ivar credentials: its key, and who may connect; None for none.
    """

    address: str
    options: Mapping[str, int]
    credentials: Credentials | None


class ProxyThread:
    """A ROUTER for clients and a DEALER for workers, and libzmq's proxy between them.

    The sockets are made and bound where this is made, and then belong to the thread. It is told
    what to do by a socket, as libzmq wants it.

    :ivar clients: the endpoint of the ROUTER.
    :ivar workers: the endpoint of the DEALER.
    """

    def __init__(
        self,
        factory: ZmqFactory,
        clients: Place,
        workers: Place,
        claim: Callable[[str], AbstractContextManager[None]],
        ended: Callable[[], None],
    ) -> None:
        """
        :param claim: has an address of ipc checked before it is bound.
        :param ended: called in the reactor's thread when the thread has ended.
        :raises twisted.internet.error.CannotListenError: if one cannot be listened at.
        """
        self._factory = factory
        self._ended = ended
        self._claim = claim
        self._open: list[zmq.Socket[bytes]] = []
        #: What has passed until the proxy was last started.
        self._before = ProxyStatistics()
        # Read by the thread when libzmq's proxy returns: until when replies are passed on; None
        # where the proxy is to go on, with new connections.
        self._until: float | None = None
        try:
            self._front = self._bind(zmq.ROUTER, clients)
            self._back = self._bind(zmq.DEALER, workers)
            self.clients = self._front.get_string(zmq.LAST_ENDPOINT)
            self.workers = self._back.get_string(zmq.LAST_ENDPOINT)
            name = f"inproc://txzmq.proxy.{next(_numbers)}"
            self._steered, self._steering = self._socket(zmq.PAIR), self._socket(zmq.PAIR)
            self._steered.bind(name)
            self._steering.connect(name)
            self._steering.set(zmq.RCVTIMEO, _PATIENCE)
        except BaseException:
            for socket in self._open:
                socket.close(0)
            raise
        self._thread = threading.Thread(target=self._run, name="txzmq proxy", daemon=True)

    def start(self) -> None:
        """Begin to pass messages on."""
        self._thread.start()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        try:
            socket = self._factory.context.socket(kind)
        except zmq.ZMQError as error:
            raise noSocket(self._factory.context, error) from None
        self._open.append(socket)
        return socket

    def _bind(self, kind: int, place: Place) -> zmq.Socket[bytes]:
        socket = self._socket(kind)
        for name, value in place.options.items():
            try:
                socket.set(getattr(zmq, name), value)
            except (zmq.ZMQError, TypeError) as error:
                raise refused_option(error, name, value) from None
        if place.credentials is not None:
            place.credentials.secure(socket, self._factory)
        try:
            with self._claim(place.address):
                socket.bind(place.address)
        except zmq.ZMQError as error:
            raise cannotListen(place.address, error, self._factory.connections) from None
        return socket

    # -- in the reactor's thread -------------------------------------------------------------

    @property
    def statistics(self) -> ProxyStatistics:
        """What has passed until now; the last known ones when it has ended."""
        if self._until is None and self._thread.is_alive():
            return self._before.plus(self._ask())
        return self._before

    def _ask(self) -> ProxyStatistics:
        self._steering.send(b"STATISTICS")
        # Of each side: frames received, bytes of them, frames sent, bytes of them. Other commands
        # are answered by an empty message.
        answer: list[bytes] = []
        while len(answer) != _NUMBERS:
            answer = self._steering.recv_multipart()
        return ProxyStatistics(*(struct.unpack("=Q", part)[0] for part in answer[:4]))

    def reconnect(self) -> None:
        """End all connections of clients and workers, who have to show their keys again."""
        if self._until is None:
            self._interrupt()

    def stop(self, grace: float) -> None:
        """Take no more requests; pass replies on for so many seconds, then end.

        A later call can only shorten the time.
        """
        until = time.monotonic() + grace
        if self._until is not None:
            self._until = min(self._until, until)
            return
        self._until = until
        self._interrupt()

    def _interrupt(self) -> None:
        """Have libzmq's proxy return, with nothing half passed on.

        A few messages that pass meanwhile are not counted: while it is told to pause, libzmq 4.3.5
        passes messages on all the same.
        """
        self._before = self._before.plus(self._ask())
        self._steering.send(b"TERMINATE")

    def join(self, seconds: float) -> None:
        """Wait until it has ended."""
        self._thread.join(seconds)

    # -- in its own ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                zmq.proxy_steerable(self._front, self._back, None, self._steered)
                if self._until is not None:
                    break
                for socket, address in ((self._front, self.clients), (self._back, self.workers)):
                    self._rebind(socket, address)
            self._drain()
        except zmq.ContextTerminated:
            pass
        finally:
            for socket in self._open:
                socket.close()
            cast("ThreadedReactor", self._factory.reactor).callFromThread(self._ended)

    def _rebind(self, socket: zmq.Socket[bytes], address: str) -> None:
        socket.unbind(address)
        end = time.monotonic() + _FREE
        while True:
            try:
                socket.bind(address)
            except zmq.ZMQError:
                if time.monotonic() > end:
                    raise
                time.sleep(_LOOK)  # libzmq's own thread gives it up in a moment
            else:
                return

    def _drain(self) -> None:
        """Pass on replies to the requests that workers have, until the time is over."""
        waiting = self._before.request_frames - self._before.reply_frames
        replies = reply_bytes = 0
        quiet_at = time.monotonic() + _QUIET
        while (now := time.monotonic()) < (self._until or 0.0):
            if replies >= waiting and now >= quiet_at:
                break
            if self._back.poll(int(_LOOK * 1_000), zmq.POLLIN):
                frames = self._back.recv_multipart(copy=False)
                replies += len(frames)
                reply_bytes += sum(map(len, frames))
                self._front.send_multipart(frames, copy=False)
                quiet_at = time.monotonic() + _QUIET
        self._before = self._before.plus(ProxyStatistics(0, 0, replies, reply_bytes))
