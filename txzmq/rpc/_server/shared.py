"""Shared streams: calls with equal requests get the items of one run of the handler.

The first call begins the run. It ends when the handler ends, or when no call shares it any more:
clients have said that they leave, are lost for longer than ``ServerLimits.stream_grace``, or have
been silent for longer than ``ServerLimits.stream_silence`` (see ``Keepalive``).
"""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.context import Context
from txzmq.rpc.method import Method, Sharing

__all__ = [
    "Left",
    "SharedCallers",
    "SharedKey",
    "SharedRequest",
    "SharedRuns",
    "is_shared",
    "share",
]

#: What calls that share a run have in common: the method's path and the serialised request.
SharedKey: TypeAlias = tuple[str, bytes]
#: What a call is known by: its key; a number where its key is in use already, or not known.
_Name: TypeAlias = "CallKey | int"


#: Told when a call does not share a run any more, with how the run has ended; None if the call has
#: left before.
Left: TypeAlias = "Callable[[ResponseHead | None], None]"


class SharedRequest:
    """What a shared method gives in place of items: the interceptors have let the caller pass.

    :ivar key: the same for equal requests.
    """

    __slots__ = ("handler", "key", "method", "request")

    # Any: a server has methods of any messages; the generated base class typed the handler.
    def __init__(
        self,
        method: Method[Any, Any],
        handler: Callable[[Any, Context], Any],
        request: Message | RawMessage,
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

    def wait_for_return(self) -> None:
        """The connection of a client is lost: its calls are waited for, for a while."""
        ...

    def cancel(self, reason: str) -> None:
        """End it."""
        ...


S = TypeVar("S", bound=SharedRun)
R = TypeVar("R")


class SharedRuns(Generic[S]):
    """The runs that calls can share, and the calls that do.

    A run lives by its calls. They are known from the answer that opens their stream until the
    client says that they leave, its connection is lost and does not come back in time, or it does
    not say any more that it has them.
    """

    def __init__(self, grace: float) -> None:
        """:param grace: seconds for which a lost client may come back."""
        #: Runs belong to no call: they begin in a copy of this.
        self.surroundings = contextvars.copy_context()
        self._callers: SharedCallers[S] = SharedCallers(grace)
        # Those that have not ended, by publisher and key.
        self._runs: dict[tuple[object, SharedKey], S] = {}

    def __len__(self) -> int:
        """How many calls share runs; those whose connection is lost do not count."""
        return len(self._callers)

    def of_owner(self, owner: bytes) -> int:
        """How many of them count as an owner's."""
        return self._callers.of_owner(owner)

    def owners(self) -> Mapping[bytes, int]:
        """How many count as each owner's."""
        return self._callers.owners()

    def calls_of_peers(self) -> dict[bytes, int]:
        """How many calls of each peer share runs."""
        return self._callers.calls_of_peers()

    def callers_of(self, run: S) -> int:
        """How many calls share a run, absent ones included."""
        return self._callers.of_run(run)

    def is_used(self, run: S) -> bool:
        """Whether calls share a run, absent ones included."""
        return self._callers.of_run(run) > 0

    def find(self, publisher: object, key: SharedKey) -> S | None:
        """The run that a call can join; None if it has to begin one."""
        return self._runs.get((publisher, key))

    def begin(self, publisher: object, key: SharedKey, run: S) -> None:
        """A run begins."""
        self._runs[publisher, key] = run

    def end(
        self, publisher: object, key: SharedKey, run: S, head: ResponseHead | None = None
    ) -> None:
        """A run has ended: no call can join it, and those that share it are forgotten.

        :param head: how it has ended; None if nobody shares it.
        """
        if self._runs.get((publisher, key)) is run:  # a later run may have the key
            del self._runs[publisher, key]
        self._callers.dismiss(run, head)

    def tell(self) -> None:
        """Tell those who asked of the calls that share runs no more."""
        self._callers.tell()

    def join(
        self, run: S, key: CallKey, now: float, left: Left | None = None, owner: bytes = b""
    ) -> None:
        """A call shares a run; *left* is told when it does not any more.

        :param owner: as whose it counts; empty for the peer's.
        """
        self._callers.join(run, key, now, left, owner)

    def leave(self, run: S, peer: bytes) -> None:
        """A client says that one of its calls leaves a run."""
        self._callers.leave(run, peer)
        self._end_if_unused(run)

    def cancelled(self, key: CallKey) -> None:
        """A client cancels a call, which leaves its run if it shares one."""
        run = self._callers.leave_by_call(key)
        if run is not None:
            self._end_if_unused(run)

    def peer_lost(self, peer: bytes) -> None:
        """A client's connection is lost. It may come back by another one."""
        for run in self._callers.lost(peer):
            run.wait_for_return()

    def return_is_over(self, run: S) -> None:
        """Clients that were lost have had the time to come back."""
        self._callers.forget_absent(run)
        self._end_if_unused(run)

    def heard(self, run: S, peer: bytes, now: float) -> None:
        """A client has said something of a run."""
        self._callers.heard(run, peer, now)

    def claim(
        self, run: S, peer: bytes, calls: int, now: float, room: int, owner: bytes = b""
    ) -> None:
        """A client says how many of its calls share a run: its connection may be a new one.

        :param room: how many more calls the limits allow.
        :param owner: as whose they count; empty for the peer's.
        """
        self._callers.claim(run, peer, calls, now, room, owner)
        self._end_if_unused(run)

    def silent_since(self, run: S) -> Mapping[bytes, float]:
        """When each client that shares a run said last that it does."""
        return self._callers.silent_since(run)

    def give_up(self, run: S, peer: bytes) -> None:
        """A client has said nothing for too long: its calls share the run no more."""
        self._callers.forget(run, peer)
        self._end_if_unused(run)

    def _end_if_unused(self, run: S) -> None:
        if not self._callers.of_run(run):
            run.cancel("no call shares it any more")
        self._callers.tell()


class SharedCallers(Generic[R]):
    """The calls that share runs: each from the answer that opens its stream until it leaves."""

    def __init__(self, grace: float = 0.0) -> None:
        """:param grace: seconds that a client may need to learn of a call that it has opened."""
        self._grace = grace
        # The run of each call, by peer.
        self._runs: dict[bytes, dict[_Name, R]] = {}
        # The calls of each run, by peer, oldest first, each with the time when it joined.
        self._calls: dict[R, dict[bytes, dict[_Name, float]]] = {}
        # When each of those peers said last that it shares the run.
        self._heard: dict[R, dict[bytes, float]] = {}
        self._numbers = count()
        # How many calls of each run are present, and how many are absent: the connection of their
        # peer is lost, and its client may come back by another one.
        self._present: Counter[R] = Counter()
        self._absent: Counter[R] = Counter()
        # Those that have probably come back before they were lost; if not, the run waits for them.
        self._perhaps_absent: Counter[R] = Counter()
        self._count = 0
        # As whose the calls of each peer count, and how many do.
        self._owners: dict[bytes, bytes] = {}
        self._of_owner: Counter[bytes] = Counter()
        # Of the calls whose end somebody waits for, by peer and name; and of those that are absent.
        self._left: dict[tuple[bytes, _Name], Left] = {}
        self._left_absent: dict[R, list[Left]] = {}
        # Calls, oldest first, that were claimed while none was absent: they may be those that
        # another connection of the same client still has.
        self._moved: dict[R, dict[tuple[bytes, _Name], None]] = {}
        # Whom to tell, and what, once nothing is in the middle of a change.
        self._to_tell: list[tuple[Left, ResponseHead | None]] = []

    def tell(self) -> None:
        """Tell those who asked of the calls that share runs no more."""
        while self._to_tell:
            left, head = self._to_tell.pop(0)
            left(head)

    def __len__(self) -> int:
        """How many calls there are; absent ones do not count."""
        return self._count

    def of_owner(self, owner: bytes) -> int:
        """How many of them count as an owner's: of a user, or of a peer that is nobody's."""
        return self._of_owner[owner]

    def owners(self) -> Mapping[bytes, int]:
        """How many count as each owner's."""
        return self._of_owner

    def calls_of_peers(self) -> dict[bytes, int]:
        """How many there are of each peer."""
        return {peer: len(runs) for peer, runs in self._runs.items()}

    def of_run(self, run: R) -> int:
        """How many calls share a run, absent ones included."""
        return self._present[run] + self._absent[run] + self._perhaps_absent[run]

    def join(
        self, run: R, key: CallKey, now: float, left: Left | None = None, owner: bytes = b""
    ) -> None:
        """A call shares a run; *left* is told when it does not any more."""
        # A peer that breaks the protocol may use a key again.
        known = key in self._runs.get(key[0], ())
        self._add(run, key[0], next(self._numbers) if known else key, now, left, owner)

    def _add(
        self, run: R, peer: bytes, name: _Name, now: float, left: Left | None, owner: bytes
    ) -> None:
        # A connection is one user's, as long as it lasts.
        self._of_owner[self._owners.setdefault(peer, owner or peer)] += 1
        if left is not None:
            self._left[peer, name] = left
        self._runs.setdefault(peer, {})[name] = run
        self._calls.setdefault(run, {}).setdefault(peer, {})[name] = now
        self._heard.setdefault(run, {})[peer] = now
        self._present[run] += 1
        self._count += 1

    def leave(self, run: R, peer: bytes) -> None:
        """One of a peer's calls leaves a run; one that is absent, if the peer has none."""
        calls = self._calls.get(run, {}).get(peer)
        if calls:
            # The oldest: the peer may not have heard of the newest yet, and cancel it.
            self._remove(run, peer, next(iter(calls)))
        else:
            self._has_left(self._one_less_absent(run))

    def _has_left(self, left: Left | None, head: ResponseHead | None = None) -> None:
        if left is not None:
            self._to_tell.append((left, head))

    def _one_less_absent(self, run: R) -> Left | None:
        """One that is absent comes back, or has left; nobody knows which one."""
        if not self._absent[run]:
            if self._perhaps_absent[run] > 1:
                self._perhaps_absent[run] -= 1
            else:
                del self._perhaps_absent[run]
            return None
        waiting = self._left_absent.get(run)
        left = waiting.pop(0) if waiting else None
        if self._absent[run] > 1:
            self._absent[run] -= 1
        else:
            del self._absent[run]
            self._left_absent.pop(run, None)
        return left

    def leave_by_call(self, key: CallKey) -> R | None:
        """The client cancels a call; the run that the call has left, if it shared one."""
        run = self._runs.get(key[0], {}).get(key)
        if run is not None:
            self._remove(run, key[0], key)
        return run

    def _remove(self, run: R, peer: bytes, name: _Name, head: ResponseHead | None = None) -> None:
        self._has_left(self._left.pop((peer, name), None), head)
        self._no_guess(run, (peer, name))
        self._count -= 1
        self._present[run] -= 1
        del self._runs[peer][name]
        owner = self._owners[peer]
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]
        if not self._runs[peer]:
            del self._runs[peer], self._owners[peer]
        calls = self._calls[run]
        del calls[peer][name]
        if not calls[peer]:
            del calls[peer], self._heard[run][peer]
        if not calls:
            del self._calls[run], self._heard[run], self._present[run]

    def lost(self, peer: bytes) -> list[R]:
        """A peer's connection is lost: its calls are absent.

        :return: the run of each of them.
        """
        calls = list(self._runs.get(peer, {}).items())
        for name, run in calls:
            absent = self._perhaps_absent if self._has_moved(run, peer, name) else self._absent
            left = self._left.pop((peer, name), None)
            self._remove(run, peer, name)
            absent[run] += 1
            if left is not None:
                self._left_absent.setdefault(run, []).append(left)
        return [run for _, run in calls]

    def _has_moved(self, run: R, peer: bytes, name: _Name) -> bool:
        """A peer has a call no more: whether its client may go on with it by another connection.

        A client whose connection is made anew says by the new one that it shares a run, before the
        old one is lost. Which call of which client that was is a guess, among those of one user, or
        of nobody: it decides when the end of each is told, and nothing else.
        """
        owner = self._owners[peer]
        for other in self._moved.get(run, ()):
            whose = self._owners[other[0]]
            if other[0] != peer and (whose == owner or (owner == peer and whose == other[0])):
                left = self._left.pop((peer, name), None)
                if left is not None:
                    self._left[other] = left
                self._no_guess(run, other)
                return True
        return False

    def _no_guess(self, run: R, call: tuple[bytes, _Name]) -> None:
        """It is known of a call where it comes from, or does not matter any more."""
        moved = self._moved.get(run)
        if moved is not None:
            moved.pop(call, None)
            if not moved:
                del self._moved[run]

    def forget_absent(self, run: R, head: ResponseHead | None = None) -> None:
        """Lost peers do not come back to a run any more."""
        del self._absent[run], self._perhaps_absent[run]
        for left in self._left_absent.pop(run, ()):
            self._has_left(left, head)

    def heard(self, run: R, peer: bytes, now: float) -> None:
        """A peer has said something of a run."""
        peers = self._heard.get(run, {})
        if peer in peers:
            peers[peer] = now

    def silent_since(self, run: R) -> Mapping[bytes, float]:
        """When each peer that shares a run said last that it does."""
        return self._heard.get(run, {})

    def claim(
        self, run: R, peer: bytes, calls: int, now: float, room: int, owner: bytes = b""
    ) -> None:
        """A peer says how many of its calls share a run.

        More than are known of it: absent ones are back, or ones that were given up, as many of
        those as there is *room* for. Fewer: the others have left, and that was lost; but not those
        that have joined within the grace, of which the peer may not know yet.
        """
        self.heard(run, peer, now)
        known = self._calls.get(run, {}).get(peer, {})
        for _ in range(calls - len(known)):
            left, was_absent = None, self._absent[run] > 0
            if was_absent:
                left = self._one_less_absent(run)
            elif room > 0:
                room -= 1
            elif self._perhaps_absent[run]:
                self._one_less_absent(run)
            else:
                break
            number = next(self._numbers)  # nobody cancels it by its key
            self._add(run, peer, number, now, left, owner)
            if not was_absent:
                self._moved.setdefault(run, {})[peer, number] = None
        surplus = len(known) - calls
        for name, joined in list(known.items())[: max(0, surplus)]:
            if now - joined > self._grace:
                self._remove(run, peer, name)

    def forget(self, run: R, peer: bytes, head: ResponseHead | None = None) -> None:
        """The calls of a peer share a run no more."""
        for name in list(self._calls.get(run, {}).get(peer, ())):
            if head is None:
                self._has_moved(run, peer, name)
            self._remove(run, peer, name, head)

    def dismiss(self, run: R, head: ResponseHead | None = None) -> None:
        """A run has ended: forget its calls."""
        for peer in list(self._calls.get(run, ())):
            self.forget(run, peer, head)
        self.forget_absent(run, head)
