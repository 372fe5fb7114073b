"""Uvicorn's server in a loop that is not its own, with bounds on what clients may do to it."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
import sys
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import h11
import uvicorn
from twisted.logger import Logger
from twisted.python.failure import Failure
from uvicorn.lifespan.off import LifespanOff
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from txzmq._rate_limit import KindLimits, RateLimit
from txzmq._reactor import Clock
from txzmq.rpc._gateway.certificates import ClientCertificate, certificate_of
from txzmq.rpc._gateway.forwarding import Forwarding, Sender
from txzmq.rpc._http.asgi import Message, Receive, Scope, Send, respond

__all__ = ["CONNECTION", "Facts", "Limits", "Server", "is_ending"]

_log = Logger()

#: The extension of a request's scope that has :class:`Facts`.
CONNECTION: Final = "txzmq.connection"
#: Seconds between two looks after what clients do.
_TICK: Final = 0.5
#: Seconds that a handshake of TLS may take.
_HANDSHAKE: Final = 10.0
#: Seconds for which a client may go on with a body whose answer it has.
_REST: Final = 5.0
#: Seconds that an end may take when all calls have been told of it.
_END: Final = 1.0
#: Seconds for which connections without a request stay open when it stops: a client may be about to
#: send one, and would not know whether it was executed.
_IDLE: Final = 1.0
#: Where in ``tcp_info`` of Linux the state of a connection is, and those in which the peer is gone:
#: TCP_CLOSE and TCP_CLOSE_WAIT.
_GONE: Final = frozenset({7, 8})
#: Of TCP, where the system has them: after 20 s without a sign of life a client is asked for one,
#: each 5 s, and taken for lost when three were not answered.
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
#: Both say where a request ends. A proxy in front that believes the other one takes the rest of
#: this request for the next, of another client (RFC 9112, 6.1).
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})


_TOO_MANY: Final = "the gateway has too many connections"

#: Calls that end because their server does.
_ending: Final[weakref.WeakSet[asyncio.Task[Any]]] = weakref.WeakSet()


def is_ending() -> bool:
    """Whether the call whose task this is was cancelled because its server ends."""
    return asyncio.current_task() in _ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may do.

    :ivar connections: how many there may be at once.
    :ivar header_size: bytes that the head of a request may have.
    :ivar head_timeout: seconds that it may take.
    :ivar keep_alive: seconds for which a connection without a request stays open.
    :ivar write_timeout: seconds in which a client has to take something of what is sent to it.
    """

    connections: int
    header_size: int
    head_timeout: float
    keep_alive: float
    write_timeout: float


class Server(uvicorn.Server):
    """Listens at a socket, and serves an application; it leaves signals and logging alone."""

    def __init__(
        self,
        application: Any,  # of ASGI's
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        limits: Limits,
        clock: Clock,
    ) -> None:
        """:param clock: for the log."""
        self._listening = listening
        self._tls = tls
        self._ticking: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._closes_idle = False
        self._lost = asyncio.Event()
        self.log = Log(clock)
        config = uvicorn.Config(
            application,
            # To uvicorn a class; it is only called.
            http=cast("type[asyncio.Protocol]", partial(Connection, self, limits)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # To uvicorn an integer; the loop takes any number.
            timeout_keep_alive=cast("int", limits.keep_alive),
            h11_max_incomplete_event_size=limits.header_size,
        )
        super().__init__(config)

    async def start(self) -> None:
        """Take connections."""
        config = self.config
        config.load()
        self.lifespan = LifespanOff(config)
        await self.on_tick(0)  # the headers that all responses have
        loop = asyncio.get_running_loop()
        make: Any = config.http_protocol_class
        server = await loop.create_server(
            partial(make, config=config, server_state=self.server_state, app_state={}),
            sock=self._listening,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else _HANDSHAKE,
            backlog=config.backlog,
        )
        self.servers = [server]
        self._ticking = loop.create_task(self._tick(), context=contextvars.Context())

    @property
    def is_stopping(self) -> bool:
        """Whether a connection has no further request behind the next one."""
        return self._stopping is not None

    @property
    def closes_idle(self) -> bool:
        """Whether it takes no more requests."""
        return self._closes_idle

    async def _tick(self) -> None:
        counter = 0
        while True:
            await asyncio.sleep(_TICK)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("Connection", connection).look_after(now)
            counter += 1
            if counter * _TICK >= 1:
                counter = 0
                await self.on_tick(0)  # which writes the date anew

    async def stop(self, grace: float) -> None:
        """Take no more connections, and end those that there are; may be called again.

        :param grace: seconds for which calls may go on.
        """
        loop = asyncio.get_running_loop()
        if self._stopping is None:
            self._stopping = loop.create_task(self._drain(), context=contextvars.Context())
            self._stopping.add_done_callback(self._stopped)
        elif self._ending is not None:
            self._ending.cancel()
        if not self._stopping.done():
            self._ending = loop.call_later(grace, self._end)
        await asyncio.shield(self._stopping)

    async def _drain(self) -> None:
        """Take no more connections, and wait until those that there are have ended."""
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listening in server.sockets:
                loop.remove_reader(listening.fileno())
        # What the loop has accepted becomes a connection now; behind the next line it would be
        # forgotten, and stay open (https://github.com/python/cpython/issues/109564).
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            cast("Connection", connection).is_last()
        if self._closes_idle:
            self._close_idle()  # those that have come meanwhile
        else:
            self._closing = loop.call_later(_IDLE, self._close_idle)
        while state.connections or state.tasks:
            self._lost = asyncio.Event()
            if state.tasks:
                await asyncio.wait(state.tasks)
            elif state.connections:
                await self._lost.wait()
        for server in self.servers:
            await server.wait_closed()

    def connection_lost(self) -> None:
        """One connection is lost; it is called by each."""
        self._lost.set()

    def _close_idle(self) -> None:
        """Close connections without a request."""
        self._closes_idle = True
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def _end(self) -> None:
        """The grace is over: end all calls, and a moment later all connections."""
        self._close_idle()
        for connection in list(self.server_state.connections):
            cast("Connection", connection).end()
        loop = asyncio.get_running_loop()
        self._ending = loop.call_later(_END, self._abort)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            cast("Connection", connection).transport.abort()

    def _stopped(self, _: object) -> None:
        for timer in (self._ending, self._closing):
            if timer is not None:
                timer.cancel()
        if self._ticking is not None:
            self._ticking.cancel()


class Facts:
    """What there is to know of a connection besides what ASGI tells of each request.

    :ivar certificate: by which its client has authenticated.
    :ivar senders: who has sent its requests, by those who have found it out.
    """

    __slots__ = ("certificate", "senders")

    def __init__(self, transport: asyncio.Transport) -> None:
        secured: Any = transport.get_extra_info("ssl_object")
        self.certificate: ClientCertificate | None = None
        if secured is not None:
            der: bytes | None = secured.getpeercert(binary_form=True)
            if der is not None:
                self.certificate = certificate_of(der, secured.getpeercert())
        self.senders: dict[Forwarding, Sender] = {}


class _Output:
    """A transport that can hold back what is written, to send it in one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None
        # What uvicorn calls most.
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, now or with what follows."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def hold(self) -> None:
        """Hold back what is written from now on."""
        self._held = []

    def let_go(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, None
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def close(self) -> None:
        """Close it when all is sent."""
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))
        self._transport.close()


def _with_length(head: Message, body: Message) -> Message:
    """The head of a response that says how long its only body is, which is in no chunks then."""
    headers = head.get("headers", ())
    if head["status"] == 204 or any(key == b"content-length" for key, _ in headers):
        return head
    length = (b"content-length", b"%d" % len(body.get("body", b"")))
    return {**head, "headers": [*headers, length]}


class Connection(H11Protocol):
    """One connection of a client's."""

    def __init__(self, server: Server, limits: Limits, /, **given: Any) -> None:
        super().__init__(**given)
        self._owner = server
        self._log = server.log
        self.logger = cast("Any", server.log)
        self.access_log = False
        self._application = self.app
        self.app = cast("Any", self._run)
        self._limits = limits
        # The call that runs, or has run last.
        self._task: asyncio.Task[Any] | None = None
        # What it waits for, and since when.
        self._phase: tuple[object, ...] = ()
        self._since = 0.0

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, which may be cancelled."""
        self._task = asyncio.current_task()
        scope["extensions"] = {CONNECTION: self._facts}

        head: Message | None = None

        async def send_together(message: Message) -> None:
            nonlocal head
            if self.transport.is_closing():
                await asyncio.sleep(0)  # it is about to be lost, which cancels this call
            elif message["type"] == "http.response.start":
                if self._owner.is_stopping:
                    closing = (b"connection", b"close")
                    message = {**message, "headers": [*message["headers"], closing]}
                head = message
            elif head is None:
                await send(message)
            else:
                started, head = head, None
                if not message.get("more_body", False):
                    started = _with_length(started, message)
                if self._owner.is_stopping:
                    headers = [*started.get("headers", ()), (b"connection", b"close")]
                    started = {**started, "headers": headers}
                self._output.hold()
                try:
                    await send(started)
                    await send(message)
                finally:
                    self._output.let_go()

        try:
            if _LENGTHS.issubset(key for key, _ in scope["headers"]):
                text = "the gateway takes Content-Length or Transfer-Encoding, not both"
                await respond(cast("Any", send_together), 400, text, [(b"connection", b"close")])
                return
            await self._application(
                cast("Any", scope), cast("Any", receive), cast("Any", send_together)
            )
        except asyncio.CancelledError:
            # It is this connection that has cancelled it; the answer, if there is somebody to take
            # it, has been given.
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See :class:`asyncio.Protocol`."""
        self._output = _Output(transport)
        super().connection_made(cast("Any", self._output))
        _keep_alive(transport.get_extra_info("socket"))
        self._facts = Facts(transport)
        if len(self.connections) > self._limits.connections:
            self._log.refused(f"more than {self._limits.connections} connections")
            self._refuse()
        elif self._owner.closes_idle:
            transport.close()  # its handshake of TLS has taken until now

    def _refuse(self) -> None:
        text = f"{_TOO_MANY}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        head = h11.Response(status_code=503, headers=headers, reason=b"Service Unavailable")
        for event in (head, h11.Data(data=text), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def eof_received(self) -> None:
        """The client sends no more, and asyncio closes what it cannot know to be half open.

        That may take as long as something is left to be sent: the call need not wait for it.
        """
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        super().connection_lost(exc)
        self._cancel()
        self._owner.connection_lost()

    def is_last(self) -> None:
        """Close the connection behind the response of the request that runs, or of the next."""
        if not self._is_idle:
            self.cycle.keep_alive = False

    def end(self) -> None:
        """Have the call end at once that runs, if one does."""
        if self._task is not None and not self._is_idle:
            _ending.add(self._task)
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._is_idle:
            self._task.cancel()

    @property
    def _is_idle(self) -> bool:
        """Whether there is no request, or its response has been sent."""
        # To uvicorn's types there is always one.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _leave(self) -> None:
        """Cancel the call that runs, if one does: nothing of it is sent any more."""
        if not self._is_idle:
            self.cycle.disconnected = True
            self._cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn calls this, also while a call runs."""
        state = self.conn.our_state
        self._leave()
        if state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    # -- what clients must not do for too long -----------------------------------------------------

    def look_after(self, now: float) -> None:
        """End the connection if its client is gone, or takes too long.

        :param now: the loop's time.
        """
        transport = self.transport
        # Nothing is read, so that nobody notices the end of the connection.
        if self.flow.read_paused and not self._is_idle and _is_gone(transport):
            transport.abort()
            return
        phase, most = self._waits_for()
        if phase != self._phase or not phase:
            self._phase, self._since = phase, now
        elif now - self._since >= most:
            self._log.refused(f"a client took too long with {phase[0]}")
            transport.abort()

    def _waits_for(self) -> tuple[tuple[object, ...], float]:
        """What its client is to do, and in how many seconds; nothing if that is for others."""
        limits = self._limits
        # One that closes stays open as long as its client takes nothing of what is left.
        if self.flow.write_paused or self.transport.is_closing():
            size = cast("Any", self.transport).get_write_buffer_size()
            return ("taking a response", size), limits.write_timeout
        if not self._is_idle:
            return (), 0.0
        if self.conn.their_state is h11.IDLE:
            if self.timeout_keep_alive_task is not None:
                return (), 0.0  # uvicorn ends it
            return ("the head of a request", self.cycle), limits.head_timeout
        return ("the rest of a request", self.cycle), _REST


def _keep_alive(sock: Any) -> None:
    """Have TCP notice the loss of a client that says nothing, as when its machine is off."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_gone(transport: asyncio.Transport) -> bool:
    """Whether the peer of a connection has closed it; False where the system does not say."""
    sock: Any = transport.get_extra_info("socket")
    if not sys.platform.startswith("linux") or sock is None or sock.family == socket.AF_UNIX:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE
    except OSError:
        return False


class Log:
    """Takes uvicorn's log: as much of it as tells something, and not as often as clients like."""

    #: None of uvicorn's levels is as high, so that it does not ask for what is not logged.
    level: Final = 100

    def __init__(self, clock: Clock) -> None:
        self._warnings = RateLimit(clock)
        self._failures = KindLimits(clock)

    def info(self, *_: object, **__: object) -> None:
        """Uvicorn's own steps, which the listener knows."""

    log = debug = info

    def warning(self, text: str) -> None:
        """What uvicorn says of clients that do wrong."""
        self.refused(text)

    def refused(self, text: str) -> None:
        """Say what a client has done wrong."""
        if self._warnings.take():
            more = self._warnings.take_suppressed()
            _log.warn(
                "the gateway has refused a client: {why}{more}",
                why=text.rstrip("."),
                more=f" ({more} more were not logged)" if more else "",
            )
        else:
            self._warnings.suppress()

    def error(self, text: str, *values: object, exc_info: BaseException | None = None) -> None:
        """What has gone wrong here."""
        if exc_info is None:
            _log.error("the gateway failed: {why}", why=(text % values).strip())
            return
        left_out = self._failures.take(type(exc_info).__qualname__)
        if left_out is not None:
            failure = Failure(exc_info)  # type: ignore[no-untyped-call]  # Twisted's
            _log.failure("the gateway failed ({left_out} more like it)", failure, left_out=left_out)
