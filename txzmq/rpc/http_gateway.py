"""A gateway: web pages, curl and clients of Connect and gRPC-Web call services of txzmq.

It needs ``txzmq[gateway]``, passes the calls of all four kinds on to a channel, and needs no
generated code::

    channel = Channel(factory, "tcp://127.0.0.1:5000", wait_for_ready=True)
    methods = FirstOf(ReflectedMethods(channel), standard_methods())
    gateway = HttpGateway(channel, methods)
    listener = await gateway.listen("127.0.0.1:8080")

Connect and gRPC-Web are connectrpc's, and HTTP/1.1 is uvicorn's, so that it works where Twisted
runs on asyncio's loop: ``twistd --reactor=asyncio``, or ``asyncioreactor.install()`` before the
reactor is imported. The guide's page on gateways says what holds for calls.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq._asyncio_loop import installed_reactor, loop_of
from txzmq._listening import CannotListen, why_not
from txzmq._reactor import Reactor
from txzmq.rpc._core.asyncio_loop import run, wait_for
from txzmq.rpc._gateway.forwarding import Forwarding, Sender
from txzmq.rpc._gateway.listener import Listener
from txzmq.rpc._gateway.readiness import Readiness
from txzmq.rpc._gateway.refusals import time_is_up
from txzmq.rpc._gateway.tls import server_tls
from txzmq.rpc._net.addresses import is_ip, split_tcp
from txzmq.rpc._net.secure_bind import InsecureBindError, why_strangers_reach
from txzmq.rpc.client import Caller
from txzmq.rpc.errors import (
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
)
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.method_sources import LOCAL_SERVICES, MethodSource

try:
    from connectrpc.compression import Compression

    from txzmq.rpc._http.asgi import Receive, Scope, Send, respond
    from txzmq.rpc._http.calls import Calls, PassedMethod, seconds_before_call, sender_of_call
    from txzmq.rpc._http.content import Headers, content_of, header, query_of, seconds_of
    from txzmq.rpc._http.cors import Cors
    from txzmq.rpc._http.requests import Body
    from txzmq.rpc._http.server import CONNECTION, Facts, Limits, Server
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.http_gateway needs connectrpc 0.13 or later, and uvicorn: pip install "
        "'txzmq[gateway]'"
    ) from error

__all__ = ["Cors", "HttpGateway", "HttpListener", "server_tls"]
#: What this needs of asyncio.
_USER: Final = "uvicorn"
#: Seconds for which calls may go on when the reactor stops.
_GRACE: Final = 5.0
#: Calls that may go on at once, as in the gateway for gRPC.
_CALLS: Final = 16_384
#: Seconds for the body of a request.
_BODY: Final = 60.0
_CONNECTIONS: Final = 16_384
#: Bytes of the head of a request, which has the message where it is a GET.
_HEADER: Final = 65_536
_HEAD: Final = 10.0
_KEEP_ALIVE: Final = 75.0
_WRITE: Final = 300.0
_MAX_PORT: Final = 65_535


class HttpGateway:
    """Passes calls of Connect's and gRPC-Web's clients on to a channel, and of curl.

    It is an application for any server of ASGI: :meth:`listen` makes one of uvicorn's, or give it
    to a server of your own, by itself or below a path.

    Each call becomes one of the channel's, with what is left of its time. When the client goes
    away, the channel's is cancelled. A message is passed on when the other side has room for it.
    Binary messages pass as bytes; JSON is read and written by what *methods* tells of messages.
    Headers are metadata, both ways, but for those of the protocols' own (``connect-...``,
    ``grpc-...``) and of a single hop, such as ``connection``.

    ``/healthz`` answers while the gateway runs, and ``/readyz`` while it can reach a server.

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
        cors: Cors | None = None,
        compressions: Iterable[Compression] | None = None,
        maximum_concurrent_rpcs: int = _CALLS,
        body_timeout: float = _BODY,
        trusted_proxies: Iterable[str] = (),
        proxy_certificates: bool = False,
    ) -> None:
        """
        :param channel: to the servers. With ``wait_for_ready=True``, calls wait while none of them
            is there, as long as their deadlines allow.
        :param methods: which methods the servers have; see :mod:`txzmq.rpc.method_sources`. What
            it finds is kept by path, so they have to be few.
        :param message_size: bytes that a request or response may have, both as it is sent and
            without compression. The channel has a limit of its own, which should be the same.
        :param cors: which web pages of other origins may call; None for none.
        :param compressions: of connectrpc, such as
            ``[GzipCompression(), BrotliCompression()]``; None for gzip.
        :param maximum_concurrent_rpcs: how many calls of all clients may go on at once, open
            streams among them; further ones end with RESOURCE_EXHAUSTED.
        :param body_timeout: seconds in which a client has to send the body of a request; where
            requests stream, each part of it.
        :param trusted_proxies: networks of proxies in front of the gateway, such as ``10.0.7.0/24``
            or ``unix:``, that say in ``x-forwarded-for`` and ``x-forwarded-proto`` who calls.
            Nobody else is believed.
        :param proxy_certificates: whether they say in ``x-forwarded-client-cert`` by which
            certificate, and keep their clients from saying so themselves, which not all proxies do.
        :raises TypeError: if *methods* is no source, and for other values of a wrong type.
        :raises ValueError: for a value out of range.
        """
        if not callable(getattr(methods, "find", None)):
            raise _check.wrong_type("methods", methods, "a MethodSource")
        _check.integer("message_size", message_size, 1)
        if cors is not None:
            _check.instance("cors", cors, Cors, "a Cors or None")
        _check.integer("maximum_concurrent_rpcs", maximum_concurrent_rpcs, 1)
        _check.number("body_timeout", body_timeout, above=True)
        self._methods = methods
        self._calls = Calls(channel, methods, message_size, compressions)
        self._cors = cors
        self._forwarding = Forwarding(trusted_proxies, proxy_certificates=proxy_certificates)
        self._most = maximum_concurrent_rpcs
        self._body_timeout = body_timeout
        self._running = 0
        #: Whether it can pass calls on.
        self.readiness = Readiness(channel)
        # What was made of the methods that the source has, by path.
        self._made: dict[str, PassedMethod] = {}

    @property
    def running(self) -> int:
        """How many calls go on."""
        return self._running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; a server of ASGI calls it."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})  # which refuses it
            return
        headers, verb = scope["headers"], scope["method"]
        path = _path_of(scope).removeprefix(scope.get("root_path", ""))
        if path in ("/healthz", "/readyz"):
            await self._tell_health(path, verb, send)
            return
        if self._cors is not None:
            if await self._cors.preflight(verb, headers, send):
                return
            send = self._cors.sender(headers, send)
        self._running += 1
        try:
            await self._serve(path, scope, receive, send)
        finally:
            self._running -= 1

    async def _tell_health(self, path: str, verb: str, send: Send) -> None:
        if verb not in ("GET", "HEAD"):
            text = f"the gateway takes {path} by GET and HEAD"
            await respond(send, 405, text, [(b"allow", b"GET, HEAD")])
            return
        if path == "/healthz" or self.readiness.is_ready:
            await respond(send, 200, "ok")
        elif self.readiness.has_stopped:
            await respond(send, 503, "the gateway is shutting down")
        else:
            await respond(send, 503, "the gateway can reach no server")

    async def _serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers, verb = scope["headers"], scope["method"]
        content_type = header(headers, b"content-type")
        content = content_of(content_type) if verb == "POST" else None
        try:
            if self._running > self._most:
                raise ResourceExhausted(f"the gateway has {self._most} calls already")
            began = time.monotonic()
            passed = await self._find(path, headers)
            seconds_before_call.set(time.monotonic() - began)
            if verb not in passed.verbs:
                allow = ", ".join(passed.verbs)
                text = f"the gateway takes {path} by {' and '.join(passed.verbs)}"
                await respond(send, 405, text, [(b"allow", allow.encode())])
                return
            if verb == "GET":
                content = query_of(scope["query_string"])
            if content is None or not passed.takes(content):
                types = passed.types
                text = f"the gateway takes {path} as {', '.join(types)}; it is {content_type!r}"
                await respond(send, 415, text, [(b"accept-post", ", ".join(types).encode())])
                return
            _check_headers(headers)
            application = passed.application(content)
        except Exception as error:  # noqa: BLE001 - a source may be the user's
            refusal = self._calls.refusals.of(error, path)
            await self._calls.refuse(refusal, content, scope, receive, send)
            return
        if scope["path"] != path:
            scope = {**scope, "path": path, "root_path": ""}
        sender_of_call.set(self._sender(scope))
        streams = passed.found.kind.request_streaming
        body = Body(receive, self._body_timeout, streams=streams)
        await application(scope, body, send)

    def _sender(self, scope: Scope) -> Sender:
        """Who has sent a request."""
        extensions: dict[str, Any] = scope.get("extensions") or {}
        facts: Facts | None = extensions.get(CONNECTION)
        sender = None if facts is None else facts.senders.get(self._forwarding)
        if sender is None:
            client = scope.get("client")
            sender = self._forwarding.sender(
                client and client[0],
                secure=scope.get("scheme") == "https",
                certificate=None if facts is None else facts.certificate,
            )
            if facts is not None:
                facts.senders[self._forwarding] = sender
        return sender

    async def _find(self, path: str, headers: Headers) -> PassedMethod:
        """The method at a path.

        :raises RpcError: if there is none, or that cannot be found out.
        """
        if path.startswith(LOCAL_SERVICES):
            raise PermissionDenied(f"the gateway does not pass {path} on: ask the server itself")
        found = self._methods.find(path)
        if isinstance(found, Deferred):
            # connectrpc sees to the time of calls, and has not got this one yet.
            limit = asyncio.timeout(seconds_of(headers))
            try:
                async with limit:
                    found = await wait_for(found)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise time_is_up(sent=False) from None
        if found is None:
            raise Unimplemented(f"the gateway knows of no method {path}")
        made = self._made.get(found.path)
        if made is None or made.found is not found:
            made = self._made[found.path] = PassedMethod(found, self._calls)
        return made

    # -- listening ---------------------------------------------------------------------------------

    def listen(
        self,
        target: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
        *,
        insecure: bool = False,
        grace: float = _GRACE,
        connections: int = _CONNECTIONS,
        header_size: int = _HEADER,
        header_timeout: float = _HEAD,
        keep_alive: float = _KEEP_ALIVE,
        write_timeout: float = _WRITE,
        reactor: Reactor | None = None,
    ) -> Deferred[HttpListener]:
        """Have a server of uvicorn's take calls for this gateway, by HTTP/1.1.

        It stops when the reactor does, if it was not stopped before.

        :param target: an IP address and a port, such as ``127.0.0.1:8080`` or ``[::1]:8080``.
            Port 0 stands for one that the kernel chooses.
        :param tls: for https; :func:`server_tls` makes one of files. None for a target that only
            this machine can reach.
        :param insecure: whether to listen without TLS where strangers can reach it.
        :param grace: seconds for which calls may go on when the reactor stops.
        :param connections: how many there may be; further ones are closed, with the status 503.
        :param header_size: bytes that the head of a request may have, with the message of a GET.
        :param header_timeout: seconds that it may take.
        :param keep_alive: seconds for which a connection without a request stays open.
        :param write_timeout: seconds within which a client has to take something of what is sent.
        :param reactor: Twisted's; None for the one that is installed.
        :return: fires when clients can call. It fails with
            :class:`~twisted.internet.error.CannotListenError` where nothing can listen.
        :raises InsecureBindError: for a target that strangers can reach, without TLS.
        :raises RuntimeError: if the reactor does not run on asyncio's loop; the message says what
            to do.
        :raises ValueError: for a value out of range, and so TypeError; the message names the
            parameter.
        """
        host, port = _host_and_port(target)
        if tls is not None:
            _check.instance("tls", tls, ssl.SSLContext, "an ssl.SSLContext or None")
        _check.boolean("insecure", insecure)
        _check.number("grace", grace)
        _check.integer("connections", connections, 1)
        _check.integer("header_size", header_size, 1)
        _check.number("header_timeout", header_timeout, above=True)
        _check.number("keep_alive", keep_alive, above=True)
        _check.number("write_timeout", write_timeout, above=True)
        address = f"tcp://{target}"
        reason = "" if tls is not None or insecure else why_strangers_reach(address)
        if reason:
            raise InsecureBindError(
                f"refusing to listen at {target} without TLS: {reason}. Pass "
                "tls=server_tls(certificate, key), or insecure=True to do it all the same"
            )
        reactor = installed_reactor(_USER) if reactor is None else reactor
        loop = loop_of(reactor, _USER)
        limits = Limits(
            connections=connections,
            header_size=header_size,
            head_timeout=header_timeout,
            keep_alive=keep_alive,
            write_timeout=write_timeout,
        )

        async def start() -> HttpListener:
            listening = _bound(address, host, port)
            server = Server(self, listening, tls, limits, reactor)
            try:
                await server.start()
            except BaseException:
                listening.close()
                raise
            bound: int = listening.getsockname()[1]
            made = f"{target.rpartition(':')[0]}:{bound}"
            secure = tls is not None
            return HttpListener(server, made, grace, reactor, self.readiness, secure=secure)

        return run(start(), loop)


class HttpListener(Listener):
    """A server that takes calls for a gateway; :meth:`HttpGateway.listen` makes it."""

    def __init__(
        self,
        server: Server,
        target: str,
        grace: float,
        reactor: Reactor,
        readiness: Readiness,
        *,
        secure: bool,
    ) -> None:
        """:class:`HttpGateway` calls this."""
        self._server = server
        self._loop = loop_of(reactor, _USER)
        super().__init__(self._drain, grace, reactor, readiness)
        self._target = target
        self._secure = secure

    @property
    def target(self) -> str:
        """Where clients connect to, with the port that it has got."""
        return self._target

    @property
    def url(self) -> str:
        """The same for those who want a URL: ``http://127.0.0.1:8080``."""
        return f"{'https' if self._secure else 'http'}://{self._target}"

    def stop(self, grace: float = 0.0) -> Deferred[None]:
        """Take no more calls, and end.

        Calls go on for at most *grace*; then they are cancelled, and clients get UNAVAILABLE.

        :param grace: seconds. It may be called again with fewer.
        :return: fires when all calls have ended.
        :raises ValueError: if *grace* is negative, or TypeError if it is no number.
        """
        return super().stop(grace)

    def _drain(self, grace: float) -> Deferred[None]:
        return run(self._server.stop(grace), self._loop)


def _path_of(scope: Scope) -> str:
    """The path of a request.

    No method's has characters that are to be encoded. One that is encoded all the same stays so,
    and is no method's: a proxy in front may allow or deny paths without decoding them.
    """
    raw: bytes = scope.get("raw_path") or b""
    path: str = raw.decode("latin-1") if b"%" in raw.partition(b"?")[0] else scope["path"]
    if path[:1] != "/":
        # Clients that take the gateway for a proxy name it here, too (RFC 9112, 3.2.2).
        scheme, is_absolute, rest = path.partition("://")
        if is_absolute and scheme.lower() in ("http", "https"):
            return "/" + rest.partition("/")[2]
    return path


def _check_headers(headers: Headers) -> None:
    """:raises InvalidArgument: for what metadata cannot have; connectrpc would fail."""
    for key, value in headers:
        if not value.isascii():
            raise InvalidArgument(
                f"the gateway cannot pass the call on: the header {key.decode('latin-1')!r} has "
                "characters outside of ASCII; send it as base64 in one whose name ends in -bin"
            )


def _host_and_port(target: object) -> tuple[str, int]:
    """:raises ValueError: for what is no IP address with a port, and so TypeError."""
    _check.text("target", target, "an IP address and a port, such as '127.0.0.1:8080'")
    assert isinstance(target, str)
    host, port = split_tcp(f"tcp://{target}") or ("", "")
    # An address of IPv6 needs brackets, or one cannot tell its port.
    is_v6 = host.startswith("[") and host.endswith("]")
    if host != "localhost" and not (
        is_ip(host[1:-1]) if is_v6 else ":" not in host and is_ip(host)
    ):
        raise ValueError(
            f"target: {target!r} is no IP address with a port, such as '127.0.0.1:8080' or "
            "'[::1]:8080'; port 0 has the kernel choose one"
        )
    if not (port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT):
        raise ValueError(f"target: {target!r} has no port from 0 to {_MAX_PORT}")
    return ("127.0.0.1" if host == "localhost" else host.strip("[]")), int(port)


def _bound(address: str, host: str, port: int) -> socket.socket:
    """A socket at an address.

    :raises CannotListenError: if it cannot be there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is said, or asyncio would not turn Nagle's algorithm off for connections.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            # Of those before it, connections may be waiting for their end.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        number = error.errno or errno.EADDRNOTAVAIL
        raise CannotListen(address, number, why_not(address, number)) from None
    return bound


async def _lifespan(receive: Receive, send: Send) -> None:
    """Say to a server that it may begin, and end."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
