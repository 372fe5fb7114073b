"""Shared streams: calls with equal requests get the items of one run of the handler.

The first call begins the run. It ends when the handler ends, when the last call has left and nobody
subscribes any more, or when nobody has subscribed for ``ServerLimits.stream_grace`` (clients that
crashed do not leave; see ``ServedStream.grace_is_over``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.context import Context
from txzmq.rpc.method import Method, Sharing

__all__ = ["SharedCallers", "SharedKey", "SharedRequest", "SharedRuns", "is_shared", "share"]

#: What calls that share a run have in common: the method's path and the serialised request.
SharedKey: TypeAlias = tuple[str, bytes]
#: What a call is known by: its key; a number where its key is in use already, or not known.
_Name: TypeAlias = "CallKey | int"


class SharedRequest:
    """What a shared method gives in place of items: the interceptors have let the caller pass.

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
    """Wrap the handler of a shared method: each call gets a :class:`SharedRequest` in its place.

    The handler itself is called once, when the run begins.
    """

    def shared(request: Any, context: Context) -> SharedRequest:
        return SharedRequest(method, handler, request)

    return shared


class SharedRun(Protocol):
    """What is needed of a stream that calls share."""

    @property
    def is_multicast(self) -> bool:
        """Whether the publisher is not told of subscriptions: then each call counts as one."""
        ...

    @property
    def subscribers(self) -> int:
        """How many subscriptions it has."""
        ...

    def subscribed(self) -> None:
        """Somebody subscribes to it."""
        ...

    def unsubscribed(self) -> None:
        """Somebody does not subscribe to it any more."""
        ...

    def cancel(self, reason: str) -> None:
        """End it."""
        ...


S = TypeVar("S", bound=SharedRun)
R = TypeVar("R")


class SharedRuns(Generic[S]):
    """The runs that calls can share, and the calls that do."""

    def __init__(self) -> None:
        self._callers: SharedCallers[S] = SharedCallers()
        # Those that have not ended, by publisher and key.
        self._runs: dict[tuple[object, SharedKey], S] = {}

    def __len__(self) -> int:
        """How many calls share runs; those whose connection is lost do not count."""
        return len(self._callers)

    def of_peer(self, peer: bytes) -> int:
        """How many of them are a peer's."""
        return self._callers.of_peer(peer)

    def find(self, publisher: object, key: SharedKey) -> S | None:
        """The run that a call can join; None if it has to begin one."""
        return self._runs.get((publisher, key))

    def begin(self, publisher: object, key: SharedKey, run: S) -> None:
        """A run begins."""
        self._runs[publisher, key] = run

    def end(self, publisher: object, key: SharedKey, run: S) -> None:
        """A run has ended: no call can join it, and those that share it are forgotten."""
        if self._runs.get((publisher, key)) is run:  # a later run may have the key
            del self._runs[publisher, key]
        self._callers.dismiss(run)

    def join(self, run: S, key: CallKey) -> None:
        """A call shares a run."""
        self._callers.join(run, key)
        if run.is_multicast:
            run.subscribed()

    def leave(self, run: S, peer: bytes) -> None:
        """A client says that one of its calls leaves a run."""
        if self._callers.leave(run, peer):
            self._left(run)
        else:
            self.end_if_unused(run)

    def cancelled(self, key: CallKey) -> None:
        """A client cancels a call, which leaves its run if it shares one."""
        run = self._callers.leave_by_call(key)
        if run is not None:
            self._left(run)

    def _left(self, run: S) -> None:
        if run.is_multicast:
            run.unsubscribed()
        self.end_if_unused(run)

    def peer_lost(self, peer: bytes) -> None:
        """A client's connection is lost. It may come back by another one."""
        for run in self._callers.lost(peer):
            if run.is_multicast:
                run.unsubscribed()

    def came_back(self, run: S, peer: bytes, calls: int) -> None:
        """A client speaks for so many calls that share a run: its connection may be a new one."""
        for _ in range(self._callers.came_back(run, peer, calls)):
            if run.is_multicast:
                run.subscribed()

    def end_if_unused(self, run: S) -> None:
        """End a run that no call shares, and to which nobody subscribes."""
        if not run.subscribers and not self._callers.of_run(run):
            run.cancel("nobody subscribes to it any more")


class SharedCallers(Generic[R]):
    """The calls that share runs: each from the answer that opens its stream until it leaves."""

    def __init__(self) -> None:
        # The run of each call, by peer.
        self._runs: dict[bytes, dict[_Name, R]] = {}
        # The calls of each run, by peer, oldest first.
        self._calls: dict[R, dict[bytes, list[_Name]]] = {}
        self._numbers = count()
        # How many calls of each run are absent: the connection of their peer is lost, and its
        # client may come back by another one.
        self._absent: Counter[R] = Counter()
        self._count = 0

    def __len__(self) -> int:
        """How many calls there are; absent ones do not count."""
        return self._count

    def of_peer(self, peer: bytes) -> int:
        """How many of them are a peer's."""
        return len(self._runs.get(peer, ()))

    def of_run(self, run: R) -> int:
        """How many calls share a run, absent ones included."""
        return sum(map(len, self._calls.get(run, {}).values())) + self._absent[run]

    def join(self, run: R, key: CallKey) -> None:
        """A call shares a run."""
        # A peer that breaks the protocol may use a key again.
        known = key in self._runs.get(key[0], ())
        self._add(run, key[0], next(self._numbers) if known else key)

    def _add(self, run: R, peer: bytes, name: _Name) -> None:
        self._runs.setdefault(peer, {})[name] = run
        self._calls.setdefault(run, {}).setdefault(peer, []).append(name)
        self._count += 1

    def leave(self, run: R, peer: bytes) -> bool:
        """One of a peer's calls leaves a run; whether it was there, and not absent."""
        calls = self._calls.get(run, {}).get(peer)
        if calls:
            # The oldest: the peer may not have heard of the newest yet, and cancel it.
            self._remove(run, peer, calls[0])
            return True
        self._one_less_absent(run)
        return False

    def _one_less_absent(self, run: R) -> None:
        if self._absent[run] > 1:
            self._absent[run] -= 1
        else:
            del self._absent[run]

    def leave_by_call(self, key: CallKey) -> R | None:
        """The client cancels a call; the run that the call has left, if it shared one."""
        run = self._runs.get(key[0], {}).get(key)
        if run is not None:
            self._remove(run, key[0], key)
        return run

    def _remove(self, run: R, peer: bytes, name: _Name) -> None:
        self._count -= 1
        del self._runs[peer][name]
        if not self._runs[peer]:
            del self._runs[peer]
        calls = self._calls[run]
        calls[peer].remove(name)
        if not calls[peer]:
            del calls[peer]
        if not calls:
            del self._calls[run]

    def lost(self, peer: bytes) -> list[R]:
        """A peer's connection is lost: its calls are absent.

        :return: the run of each of them.
        """
        calls = list(self._runs.get(peer, {}).items())
        for name, run in calls:
            self._remove(run, peer, name)
            self._absent[run] += 1
        return [run for _, run in calls]

    def came_back(self, run: R, peer: bytes, calls: int) -> int:
        """A peer says that so many of its calls share a run; how many of them were absent."""
        back = 0
        present = len(self._calls.get(run, {}).get(peer, ()))
        while self._absent[run] and present + back < calls:
            self._one_less_absent(run)
            self._add(run, peer, next(self._numbers))  # nobody cancels such a call by its key
            back += 1
        return back

    def dismiss(self, run: R) -> None:
        """A run has ended: forget its calls."""
        for peer, calls in list(self._calls.get(run, {}).items()):
            for name in list(calls):
                self._remove(run, peer, name)
        del self._absent[run]
