"""The client's side of a call."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq.rpc._wire.metadata import MetadataInput
from txzmq.rpc.method import Method
from txzmq.rpc.streams import ResponseStream

__all__ = ["Caller", "StreamInput"]

T = TypeVar("T")
Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)

#: What a client hands to a method that takes a stream of requests.
StreamInput: TypeAlias = Iterable[T] | AsyncIterable[T]


class Caller(Protocol):
    """Makes calls: what a generated client needs of a channel.

    :class:`~txzmq.rpc.Channel` is one; tests use others. All four take:

    :param method: which method to call, from generated code.
    :param timeout: seconds until the call fails with DEADLINE_EXCEEDED; None for the channel's
        default.
    :param metadata: pairs of key and value that travel with the request.
    :param wait_for_ready: whether to wait, at most until the deadline, while no server can be
        reached, rather than to fail with UNAVAILABLE; None for the channel's default.
    """

    def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """One request, one response."""
        ...

    def unary_stream(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """One request, any number of responses."""
        ...

    def stream_unary(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """Any number of requests, one response."""
        ...

    def stream_stream(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """Any number of requests, any number of responses."""
        ...
