"""Plain calls with one request and one response, in the least time.

connectrpc's application serves all kinds of call by one way, with a task that watches each client
and several generators. Most calls need little of it: the request is a POST of Connect's with a
length, and the server of this package cancels calls whose clients go. These are answered here, byte
for byte as connectrpc does it; it gets the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from connectrpc.compression import Compression
from connectrpc.errors import ConnectError
from connectrpc.method import MethodInfo
from connectrpc.request import Headers, RequestContext

from txzmq.rpc._gateway.refusals import time_is_up
from txzmq.rpc._http.asgi import Application, Receive, Scope, Send
from txzmq.rpc._http.errors import answer_of
from txzmq.rpc._http.server import CONNECTION, is_ending

__all__ = ["Refuse", "UnaryApplication"]

# Any: requests and responses are bytes.
_Context: TypeAlias = "RequestContext[Any, Any]"

#: Headers with which a request is not plain.
_NOT_PLAIN: Final = frozenset({"content-encoding", "expect", "transfer-encoding"})
#: Digits that connectrpc takes of a timeout.
_MOST_DIGITS: Final = 10


class Refuse(Protocol):
    """Answers a call with an error."""

    def __call__(
        self,
        error: ConnectError | None,
        context: _Context,
        scope: Scope,
        receive: Receive,
        send: Send,
        /,
    ) -> Awaitable[None]:
        """
        :param error: None for a call that ends because its server does.
        :param context: with the metadata of the answer.
        """
        ...


class UnaryApplication:
    """What serves the calls of a method with one request and one response, in one format."""

    def __init__(
        self,
        inner: Application,
        method: MethodInfo[Any, Any],
        call: Callable[[bytes, _Context], Awaitable[bytes]],
        refuse: Refuse,
        *,
        codec: str,
        size: int,
        compressions: Iterable[Compression],
    ) -> None:
        """
        :param inner: connectrpc's, for what is not plain.
        :param call: makes a call; it fails with a ConnectError.
        :param codec: the name of the format.
        :param size: bytes that a request may have.
        :param compressions: for responses.
        """
        self._inner = inner
        self._method = method
        self._call = call
        self._refuse = refuse
        self._type = f"application/{codec}".encode()
        self._size = size
        self._compressions: dict[str, Compression | None] = {
            **{each.name(): each for each in compressions},
            "identity": None,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, of which *scope* has ASCII only."""
        headers = self._plain_headers(scope)
        if headers is None:
            await self._inner(scope, receive, send)
            return
        timeout = headers.get("connect-timeout-ms")
        milliseconds = int(timeout) if timeout else None
        context: _Context = RequestContext(
            method=self._method,
            http_method="POST",
            request_headers=Headers(headers),
            timeout_ms=milliseconds,
        )
        limit = asyncio.timeout(None if milliseconds is None else milliseconds / 1_000)
        try:
            async with limit:
                request = await _body(receive)
                if request is None:
                    return  # the client is gone
                response = await self._call(request, context)
        except ConnectError as raised:
            error = raised
        except TimeoutError:
            if not limit.expired():
                raise
            error = answer_of(time_is_up(sent=True))  # or not; nobody knows here
        except asyncio.CancelledError:
            if is_ending():
                with suppress(Exception):  # what ends the call matters more
                    await self._refuse(None, context, scope, receive, send)
            raise
        else:
            accepted = headers.get("accept-encoding")
            compression = self._compression(accepted) if accepted else None
            await self._send(response, compression, context, send)
            return
        await self._refuse(error, context, scope, receive, send)

    def _plain_headers(self, scope: Scope) -> dict[str, str] | None:
        """The headers of a plain request; None of any other."""
        # Other servers tell of clients that go only who receives what they send.
        if scope["method"] != "POST" or CONNECTION not in scope.get("extensions", ()):
            return None
        pairs = scope["headers"]
        headers = {key.decode("ascii"): value.decode("ascii") for key, value in pairs}
        length = headers.get("content-length", "")
        timeout = headers.get("connect-timeout-ms", "0") or "0"
        is_plain = (
            len(headers) == len(pairs)
            and headers.get("content-type", "").encode() == self._type
            and _NOT_PLAIN.isdisjoint(headers)
            and headers.get("connect-protocol-version", "1") == "1"
            and _is_number(length)
            and int(length) <= self._size
            and _is_number(timeout)
        )
        return headers if is_plain else None

    def _compression(self, accepted: str) -> Compression | None:
        """As connectrpc chooses it: the first that is known."""
        for name in accepted.split(","):
            if name.strip() in self._compressions:
                return self._compressions[name.strip()]
        return None

    async def _send(
        self, response: bytes, compression: Compression | None, context: _Context, send: Send
    ) -> None:
        encoding = b"identity"
        if compression is not None:
            response = compression.compress(response)
            encoding = compression.name().encode()
        headers = [
            (b"content-type", self._type),
            (b"content-encoding", encoding),
            (b"vary", b"Accept-Encoding"),
        ]
        for key, value in context.response_headers.allitems():
            headers.append((key.encode(), value.encode()))
        for key, value in context.response_trailers.allitems():
            headers.append((f"trailer-{key}".encode(), value.encode()))
        await send(
            {"type": "http.response.start", "status": 200, "headers": headers, "trailers": False}
        )
        await send({"type": "http.response.body", "body": response, "more_body": False})


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; None where the client goes before it is whole."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
