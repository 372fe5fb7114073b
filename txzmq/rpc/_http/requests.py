"""The requests of one call, and the body that has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from connectrpc.code import Code as ConnectCode

from txzmq.rpc._core.asyncio_loop import deferred_of, empty_context
from txzmq.rpc._http.asgi import Message, Receive
from txzmq.rpc._http.errors import Answer
from txzmq.rpc.errors import RpcError
from txzmq.rpc.raw import RawMessage
from txzmq.rpc.streams import RequestStream

__all__ = ["Body", "Requests"]

_T = TypeVar("_T")


class Body:
    """What receives the body of a request, which its client has to send in time."""

    __slots__ = ("_is_whole", "_receive", "_seconds", "_until")

    def __init__(self, receive: Receive, seconds: float, *, streams: bool) -> None:
        """:param seconds: for the whole; where requests stream, for each part."""
        self._receive = receive
        self._seconds = seconds
        self._is_whole = False
        self._until = None if streams else asyncio.get_running_loop().time() + seconds

    async def __call__(self) -> Message:
        """The next part, as ASGI has it; behind the last one, it waits for the client to go.

        :raises Answer: if it takes too long.
        """
        if self._is_whole:
            return await self._receive()
        until = self._until
        if until is None:
            until = asyncio.get_running_loop().time() + self._seconds
        limit = asyncio.timeout_at(until)
        try:
            async with limit:
                message = await self._receive()
        except TimeoutError:
            if not limit.expired():
                raise
            raise Answer(
                ConnectCode.DEADLINE_EXCEEDED,
                f"the gateway has waited for {self._seconds:g} s for the request's body",
            ) from None
        self._is_whole = not message.get("more_body", False)
        return message


class Requests(RequestStream[RawMessage]):
    """The requests of one call, as they are asked for: TCP holds up the client meanwhile."""

    def __init__(
        self, source: AsyncIterator[_T], to_raw: Callable[[_T], Coroutine[Any, Any, RawMessage]]
    ) -> None:
        """
        :param source: what connectrpc has of them, for coroutines of asyncio's.
        :param to_raw: makes of each what the servers take.
        """
        self._loop = asyncio.get_running_loop()
        # A partial function: the type of what arrives is between its two arguments.
        self._read: Callable[[], Coroutine[Any, Any, RawMessage | None]] = partial(
            _next, source, to_raw
        )
        self._reading: asyncio.Task[RawMessage | None] | None = None
        #: What it has raised for the gateway, which comes back as the outcome of the call.
        self.errors: list[Exception] = []

    async def __anext__(self) -> RawMessage:
        """For a channel, which asks in a coroutine of Twisted's."""
        self._reading = task = self._loop.create_task(self._read(), context=empty_context())
        try:
            request = await deferred_of(task)
        except RpcError as error:
            self.errors.append(error)
            raise
        if request is None:
            raise StopAsyncIteration
        return request

    async def settle(self) -> None:
        """Wait until nobody reads; a coroutine of asyncio's.

        connectrpc closes the source when a call is over, which fails while somebody reads it.
        """
        task = self._reading
        is_cancelled = False
        while task is not None and not task.done():
            task.cancel()
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                is_cancelled = True
        if is_cancelled:
            raise asyncio.CancelledError


async def _next(
    source: AsyncIterator[_T], to_raw: Callable[[_T], Coroutine[Any, Any, RawMessage]]
) -> RawMessage | None:
    async for request in source:
        return await to_raw(request)
    return None
