"""A TCP proxy that treats connections badly, in the test's own reactor."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone

from txzmq import ZmqFactory
from txzmq._reactor import Timer
from txzmq.rpc.transport import SubscriberHandler, SubscriberTransport, ZmqNetwork


class Proxy:
    """Passes TCP connections on from a port of its own, as well or badly as it is told.

    What is set applies to connections that there are, too.

    :ivar latency: seconds that everything takes, each way.
    :ivar jitter: seconds, up to which more is added at random; the order stays.
    :ivar slice_size: bytes that are passed on at a time, each in a turn of its own; 0 for all.
    :ivar black_hole: whether nothing is passed on either way, and nothing said; what came in
        meanwhile is passed on afterwards, as TCP would.
    :ivar accepted: connections that there have been.
    """

    def __init__(self, reactor: Any, target: str) -> None:
        """
        :param reactor: the test's; Any, for Twisted types it with zope interfaces.
        :param target: where to pass connections on to, such as ``tcp://127.0.0.1:5000``.
        """
        self._reactor = reactor
        self._target = _host_and_port(target)
        self.latency = 0.0
        self.jitter = 0.0
        self.slice_size = 0
        self._black_hole = False
        self.accepted = 0
        self._pairs: set[_Pair] = set()
        self._port: Any = None
        self._number = 0
        self.listen()

    @property
    def endpoint(self) -> str:
        """Where it listens; the same again after :meth:`refuse` and :meth:`listen`."""
        return f"tcp://127.0.0.1:{self._number}"

    @property
    def connections(self) -> int:
        """How many it has now."""
        return len(self._pairs)

    @property
    def black_hole(self) -> bool:
        return self._black_hole

    @black_hole.setter
    def black_hole(self, value: bool) -> None:
        self._black_hole = value
        for pair in list(self._pairs):
            for half in pair.halves:
                half.pump()

    def listen(self) -> None:
        """Take connections (again)."""
        factory: Any = Factory.forProtocol(lambda: _Pair(self).halves[0])
        factory.noisy = False
        self._port = self._reactor.listenTCP(self._number, factory, interface="127.0.0.1")
        self._number = self._port.getHost().port

    def refuse(self) -> Any:
        """Take no connections any more; those that there are stay. Fires when that is so."""
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def cut(self) -> None:
        """Close all connections, in good order (FIN)."""
        for pair in list(self._pairs):
            pair.end(abort=False)

    def reset(self) -> None:
        """Close all connections with a reset (RST)."""
        for pair in list(self._pairs):
            pair.end(abort=True)

    def inject(self, garbage: bytes, *, to_client: bool) -> None:
        """Slip bytes into all connections, between what the peers have sent."""
        for pair in list(self._pairs):
            pair.halves[0 if to_client else 1].write(garbage)

    async def close(self) -> None:
        """Stop listening, and drop all connections."""
        await_port = self.refuse()
        if await_port is not None:
            await await_port
        self.reset()

    # -- for its connections ---------------------------------------------------------------------

    def connect(self, pair: _Pair) -> None:
        """A client has come: connect to the target for it."""
        self.accepted += 1
        self._pairs.add(pair)
        factory: Any = Factory.forProtocol(lambda: pair.halves[1])
        factory.noisy = False
        connecting = HostnameEndpoint(self._reactor, *self._target).connect(factory)
        connecting.addErrback(lambda _: pair.end(abort=True))

    def ended(self, pair: _Pair) -> None:
        """A connection is gone."""
        self._pairs.discard(pair)

    def delay(self) -> float:
        """Seconds that something takes which comes in now."""
        return self.latency + self.jitter * random.random()

    def later(self, seconds: float, half: _Half) -> Timer:
        """Pump *half* then."""
        return cast(Timer, self._reactor.callLater(seconds, half.pump))

    def now(self) -> float:
        """The reactor's time."""
        return float(self._reactor.seconds())


class ProxiedPublishers(ZmqNetwork):
    """Reaches publishers through proxies of its own."""

    def __init__(self, factory: ZmqFactory) -> None:
        super().__init__(factory)
        self._proxied_in: Any = factory.reactor
        #: By the publishers' addresses.
        self.proxies: dict[str, Proxy] = {}

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> SubscriberTransport:
        proxy = self.proxies.get(address)
        if proxy is None:
            proxy = self.proxies[address] = Proxy(self._proxied_in, address)
        return super().subscribe(proxy.endpoint, handler, options)


class _Pair:
    """The two connections of which one is made."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        #: Towards the client, and towards the target.
        self.halves = (_Half(self), _Half(self))

    def other(self, half: _Half) -> _Half:
        return self.halves[1 if half is self.halves[0] else 0]

    def made(self, half: _Half) -> None:
        if half is self.halves[0]:
            self.proxy.connect(self)

    def end(self, *, abort: bool) -> None:
        self.proxy.ended(self)
        for half in self.halves:
            half.end(abort=abort)


class _Half(Protocol):
    """One of the two; what is to be written to it waits in its queue."""

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: Timer | None = None
        self._link: Any = None  # the transport, while it is connected

    # Before connectionMade; typed, which Twisted's attribute `transport` is not.
    def makeConnection(self, transport: Any) -> None:
        self._link = transport
        base: Any = super()
        base.makeConnection(transport)

    def connectionMade(self) -> None:
        self._link.setTcpNoDelay(True)
        self._pair.made(self)
        self.pump()

    def dataReceived(self, data: bytes) -> None:
        self._pair.other(self).write(data)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self._link = None
        self._pair.end(abort=False)

    def write(self, data: bytes) -> None:
        proxy = self._pair.proxy
        when = proxy.now() + proxy.delay()
        if self._queue:
            when = max(when, self._queue[-1][0])
        self._queue.append((when, data))
        if self._timer is None:
            self.pump()

    def pump(self) -> None:
        """Write what is due."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        proxy = self._pair.proxy
        if self._link is None or proxy.black_hole:
            return
        while self._queue:
            when, data = self._queue[0]
            wait = when - proxy.now()
            if wait > 0:
                self._timer = proxy.later(wait, self)
                return
            self._queue.popleft()
            try:
                # Past Twisted's buffer, in which slices would come together again.
                sent = self._link.getHandle().send(data[: proxy.slice_size or len(data)])
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reactor is about to tell that the connection is gone
            if len(data) > sent:
                self._queue.appendleft((when, data[sent:]))
                self._timer = proxy.later(0 if sent else 0.001, self)
                return

    def end(self, *, abort: bool) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._queue.clear()
        if self._link is not None:
            if abort:
                self._link.abortConnection()
            else:
                self._link.loseConnection()


def _host_and_port(endpoint: str) -> tuple[bytes, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]").encode(), int(port)
