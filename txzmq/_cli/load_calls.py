"""Calls whose requests are encoded once, and whose responses nobody parses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from twisted.internet.defer import Deferred

from txzmq._cli.given import given_values
from txzmq._cli.messages import parse
from txzmq._cli.runtime import Runtime
from txzmq._cli.types import to_method
from txzmq.rpc.client import Caller
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import Method
from txzmq.rpc.raw import RawMessage, raw_method
from txzmq.rpc.streams import ResponseStream

__all__ = ["Calls", "encoded"]


async def encoded(
    runtime: Runtime, method: MethodDescriptor, pool: DescriptorPool, data: str | None
) -> list[RawMessage]:
    """The requests that ``-d`` gives; of a method that takes one, an empty one if it gives none.

    :raises Problem: if one is malformed.
    """
    found = to_method(method, pool)
    requests: list[RawMessage] = []
    async for value in given_values(runtime, data, "json"):
        request = parse(value, found.request_type, pool, "json", allow_unknown=False)
        requests.append(RawMessage(request.SerializeToString()))
    if not requests and not found.kind.request_streaming:
        requests.append(RawMessage())
    return requests


class Calls:
    """Makes calls of one method, by several channels in turn.

    :ivar path: that of the method.
    :ivar are_streams: whether a call has a stream of responses.
    :ivar responses: how many have come by streams, of all calls.
    """

    def __init__(
        self,
        channels: Sequence[Caller],
        method: Method[Any, Any],
        requests: Sequence[RawMessage],
        *,
        timeout: float,
        metadata: Metadata,
        most_responses: int | None = None,
    ) -> None:
        """
        :param method: whose path, kind and options hold.
        :param requests: of a method that takes one, each in turn; else all of them in each call.
        :param timeout: seconds for each call.
        :param most_responses: after which a stream is left; None for reading it to its end.
        """
        raw = raw_method(
            method.path,
            method.kind,
            idempotency_level=method.idempotency_level,
            stream=method.stream,
        )
        self.path = method.path
        self.are_streams = method.kind.response_streaming
        self.responses = 0
        self._timeout = timeout
        self._most = most_responses
        streams = method.kind.request_streaming
        given: Sequence[Any] = [requests] if streams else requests
        # Any: as the kind of the method has it.
        options: dict[str, Any] = {"timeout": timeout, "metadata": metadata or None}
        # Its members are named as the methods of a channel are.
        name = method.kind.name.lower()
        makers = cycle([getattr(channel, name) for channel in channels])
        following = cycle(given).__next__

        def make() -> Any:
            return next(makers)(raw, following(), **options)

        self._make = make
        #: Makes a call; the Deferred fires when it has ended.
        self.call: Callable[[], Deferred[Any]] = self._read if self.are_streams else make

    def _read(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._read_all(self._make()))

    async def _read_all(self, stream: ResponseStream[RawMessage]) -> None:
        left = self._most
        async with stream:
            async for _ in stream:
                self.responses += 1
                if left is not None:
                    left -= 1
                    if left <= 0:
                        return
