"""Shared streams: calls with equal requests get the items of one run of the handler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.context import Context
from txzmq.rpc.method import Method, Sharing

__all__ = ["Members", "SharedKey", "SharedRequest", "is_shared", "share"]

S = TypeVar("S")

#: What calls that share a run have in common: the method's path and the serialised request.
SharedKey: TypeAlias = tuple[str, bytes]
#: What a call is known by: its key; a number where the key is another's, or not known.
_Name: TypeAlias = "CallKey | int"


class SharedRequest:
    """What a shared method gives instead of items: who may have them is known now.

    :ivar key: the same for equal requests.
    """

    __slots__ = ("handler", "key", "method", "request")

    # Any: a server has methods of any messages; the generated base class typed the handler.
    def __init__(
        self, method: Method[Any, Any], handler: Callable[[Any, Context], Any], request: Message
    ) -> None:
        self.method = method
        self.handler = handler
        self.request = request
        self.key = (method.path, request.SerializeToString(deterministic=True))


def is_shared(method: Method[Any, Any]) -> bool:
    """Whether callers with equal requests share the items."""
    return method.stream is not None and method.stream.sharing is Sharing.SHARED


def share(
    method: Method[Any, Any], handler: Callable[[Any, Context], Any]
) -> Callable[[Any, Context], Any]:
    """In place of a handler, behind the interceptors: they see each subscriber, it does not."""

    def shared(request: Any, context: Context) -> SharedRequest:
        return SharedRequest(method, handler, request)

    return shared


class Members(Generic[S]):
    """Calls that take part in shared streams, from the answer that lets them until they leave."""

    def __init__(self) -> None:
        # By peer and opening call, and the other way round, oldest first.
        self._streams: dict[bytes, dict[_Name, S]] = {}
        self._calls: dict[S, dict[bytes, list[_Name]]] = {}
        self._numbers = count()
        # Of peers whose connection is gone. Their clients may be back by another one.
        self._absent: Counter[S] = Counter()
        self._count = 0

    def __len__(self) -> int:
        """How many there are, of peers that are there."""
        return self._count

    def of_peer(self, peer: bytes) -> int:
        """How many of them are a peer's."""
        return len(self._streams.get(peer, ()))

    def of_stream(self, stream: S) -> int:
        """How many take part in a stream, those included whose connection is gone."""
        return sum(map(len, self._calls.get(stream, {}).values())) + self._absent[stream]

    def join(self, stream: S, key: CallKey) -> None:
        """A call takes part."""
        # A peer that keeps to no rules may use a key again.
        known = key in self._streams.get(key[0], ())
        self._add(stream, key[0], next(self._numbers) if known else key)

    def _add(self, stream: S, peer: bytes, name: _Name) -> None:
        self._streams.setdefault(peer, {})[name] = stream
        self._calls.setdefault(stream, {}).setdefault(peer, []).append(name)
        self._count += 1

    def leave(self, stream: S, peer: bytes) -> bool:
        """One of a peer's calls is done with a stream; whether it was there."""
        calls = self._calls.get(stream, {}).get(peer)
        if calls:
            # The oldest: the newest may be one of which the peer has not heard, and which it still
            # cancels.
            self._remove(stream, peer, calls[0])
            return True
        self._one_less_absent(stream)
        return False

    def _one_less_absent(self, stream: S) -> None:
        if self._absent[stream] > 1:
            self._absent[stream] -= 1
        else:
            del self._absent[stream]

    def leave_by_call(self, key: CallKey) -> S | None:
        """The client has cancelled a call that takes part; the stream, if there is one."""
        stream = self._streams.get(key[0], {}).get(key)
        if stream is not None:
            self._remove(stream, key[0], key)
        return stream

    def _remove(self, stream: S, peer: bytes, name: _Name) -> None:
        self._count -= 1
        del self._streams[peer][name]
        if not self._streams[peer]:
            del self._streams[peer]
        calls = self._calls[stream]
        calls[peer].remove(name)
        if not calls[peer]:
            del calls[peer]
        if not calls:
            del self._calls[stream]

    def lost(self, peer: bytes) -> list[S]:
        """A peer's connection is gone: its calls count for the streams alone.

        :return: the stream of each.
        """
        calls = list(self._streams.get(peer, {}).items())
        for name, stream in calls:
            self._remove(stream, peer, name)
            self._absent[stream] += 1
        return [stream for _, stream in calls]

    def came_back(self, stream: S, peer: bytes, calls: int) -> int:
        """A peer says that so many calls of its take part; how many of them were absent."""
        back = 0
        present = len(self._calls.get(stream, {}).get(peer, ()))
        while self._absent[stream] and present + back < calls:
            self._one_less_absent(stream)
            self._add(stream, peer, next(self._numbers))  # nobody cancels such a call
            back += 1
        return back

    def dismiss(self, stream: S) -> None:
        """A stream is over."""
        for peer, calls in list(self._calls.get(stream, {}).items()):
            for name in list(calls):
                self._remove(stream, peer, name)
        del self._absent[stream]
