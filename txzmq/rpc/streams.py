"""Streams of messages: what a streaming client method returns, what a streaming handler gets."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from txzmq.rpc.errors import Unimplemented
from txzmq.rpc.method import Method

__all__ = ["RequestStream", "ResponseStream", "UnimplementedResponseStream"]

T = TypeVar("T")


class ResponseStream(abc.ABC, AsyncIterator[T], Generic[T]):
    """The responses of one streaming call, in the order in which the server sent them.

    ``async for`` reads it; it ends when the server's handler ends, and raises
    :class:`~txzmq.rpc.RpcError` where that failed. One reader at a time.
    """

    __slots__ = ()

    @abc.abstractmethod
    def cancel(self) -> None:
        """End the stream early: nothing more arrives, and the server's handler is cancelled.

        Does nothing when the stream has ended.
        """


class RequestStream(abc.ABC, AsyncIterator[T], Generic[T]):
    """The requests of one client-streaming call, in the order in which the client sent them.

    ``async for`` reads it in a handler; it ends when the client has sent its last request.
    """

    __slots__ = ()


class UnimplementedResponseStream(ResponseStream[T]):
    """Stands for a stream while no transport for streams exists: raises UNIMPLEMENTED."""

    __slots__ = ("_path",)

    def __init__(self, method: Method[Any, Any]) -> None:
        self._path = method.path

    async def __anext__(self) -> T:
        raise Unimplemented(f"{self._path} streams, and this txzmq has unary calls only")

    def cancel(self) -> None:
        """Nothing runs."""
