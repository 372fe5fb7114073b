"""Whether servers and channels have given back all that calls took; see txzmq.testing."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq._reactor import Clock, default_reactor
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc.channel import Channel
from txzmq.rpc.server import Server
from txzmq.testing._leftovers import Leftover, Unfinished, find

__all__ = ["AnyChannel", "End", "all_given_back", "assert_all_given_back", "check_ends"]


class AnyChannel(Protocol):
    """A :class:`~txzmq.rpc.Channel`, or a :class:`~txzmq.rpc.grpc.GrpcChannel`.

    No type names the latter here, since it needs an extra.
    """

    @property
    def target(self) -> str:
        """What the channel was made for."""
        ...

    def close(self) -> None:
        """End all calls, and all connections."""
        ...


#: What calls are made with, or served by.
End: TypeAlias = Server | AnyChannel

#: What an end that is open keeps without a call: its connections, and who is told of their ends;
#: replies that are kept for requests which may come again, for as long as the limits say.
_KEPT_WHEN_OPEN: Final = re.compile(
    r"(\._peers|\.latest|\._staying|\._pings|\._endedFds|\.discarded"
    r"|\.replies\._(kept|shares|heaviest)|\.replies\._shares\[\]\.keys"
    r"|\._ages(\[\]\._ages)?(\._deadlines\._buckets(\[\])?|\._subscribers)?)$"
)
#: Seconds between two looks.
_PAUSE: Final = 0.01
#: How many paths a message shows where calls explain them, and where none does.
_SHOWN: Final = (5, 30)


def assert_all_given_back(*ends: End) -> None:
    """Assert that servers and channels have given back all that calls took.

    That is: no call, stream or handler is left, none of them has a place or bytes that count
    towards a limit, and nothing waits for what will not come. Of an end that is closed, no timer
    runs either. An end that is open may keep its connections, and replies of
    ``ServerLimits.reply_cache``. (A channel whose service config has a ``healthCheckConfig`` has a
    stream of its own as long as it is open: close it first.)

    It looks at once. In virtual time, let pass what has to pass before, such as
    ``network.advance(5)``; over sockets, wait by :func:`all_given_back`.

    :param ends: any number of servers and channels, open or closed.
    :raises AssertionError: if something is left. The message has each call with its method, since
        when it is there and what to do.
    :raises TypeError: if there is no end, or one is neither a server nor a channel.
    """
    check_ends("ends", ends)
    problems = _problems(ends)
    if problems:
        raise AssertionError("\n".join(["not all was given back:", *problems]))


def all_given_back(*ends: End, within: float = 5.0, clock: Clock | None = None) -> Deferred[None]:
    """Wait until servers and channels have given back all that calls took.

    For ends that have real sockets: a server hears of a client's end a moment later. ::

        channel.close()
        await server.stop(0)
        await all_given_back(server, channel)

    :param ends: as of :func:`assert_all_given_back`.
    :param within: how many seconds to wait at most; 0 to look once.
    :param clock: whose seconds they are, and calls later; None for the process's reactor.
    :return: fires when nothing is left. After *within* seconds it fails with AssertionError, as
        :func:`assert_all_given_back` does. It may be cancelled.
    :raises TypeError: for a value of a wrong type; ValueError if *within* is below 0, or no number.
    """
    check_ends("ends", ends)
    _check.number("within", within)
    if clock is not None:
        _check.clock("clock", clock)
    return _Waiting(ends, within, default_reactor() if clock is None else clock).deferred


class _Waiting:
    """Looks again and again."""

    def __init__(self, ends: tuple[End, ...], within: float, clock: Clock) -> None:
        self._ends = ends
        self._clock = clock
        self._end = clock.seconds() + within
        self.deferred: Deferred[None] = TaskDeferred(self._cancelled)
        self._look()

    def _look(self) -> None:
        try:
            assert_all_given_back(*self._ends)
        except AssertionError as error:
            left = self._end - self._clock.seconds()
            if left > 0:
                self._call = self._clock.callLater(min(_PAUSE, left), self._look)
            else:
                self.deferred.errback(error)
        else:
            self.deferred.callback(None)

    def _cancelled(self, _: Deferred[None]) -> None:
        self._call.cancel()


def check_ends(name: str, ends: tuple[object, ...]) -> None:
    """Check that there are servers and channels, and nothing else.

    :param name: what they are called.
    :raises TypeError: if not.
    """
    if not ends:
        raise TypeError("there is nothing to look at: pass servers and channels")
    for end in ends:
        if not isinstance(end, (Server, Channel)) and not _is_grpc_channel(end):
            hint = ""
            if hasattr(end, "_channel"):
                hint = "; a client has none of its calls: pass its channel"
            elif hasattr(end, "__txzmq_service__"):
                hint = "; a service has none of its calls: pass its server"
            raise _check.wrong_type(name, end, "a Server or a Channel", hint)


def _is_grpc_channel(end: object) -> bool:
    # Not imported: it needs an extra, and who has such a channel has imported it.
    module = sys.modules.get("txzmq.rpc.grpc")
    return module is not None and isinstance(end, module.GrpcChannel)


def _problems(ends: Iterable[End]) -> list[str]:
    """What is left, in lines."""
    problems: list[str] = []
    for end in ends:
        is_closed = _is_closed(end)
        found, unfinished = find(end, are_closed=is_closed)
        if not is_closed:
            found = [each for each in found if not _KEPT_WHEN_OPEN.search(each.path)]
        if found:
            problems += _of_end(end, is_closed, found, unfinished)
    return problems


def _is_closed(end: End) -> bool:
    # There is no public way to know.
    if isinstance(end, Server):
        return bool(vars(end)["_is_stopped"])
    return bool(vars(end)["_registry"].end is not None)


def _of_end(
    end: End, is_closed: bool, found: list[Leftover], unfinished: list[Unfinished]
) -> Iterator[str]:
    state = "closed" if is_closed else "open"
    what = "Server" if isinstance(end, Server) else f"{type(end).__name__} to {end.target}"
    yield f"- {what} ({state}):"
    calls = _grouped(unfinished)
    for group in calls:
        yield f"  - {_of_call(group, is_closed=is_closed)}"
    paths, most = [str(each) for each in found], _SHOWN[not calls]
    if calls:
        yield "  Of that there is left:"
    else:
        yield (
            "  No call is known that would explain this. If your code has none that goes on, it is "
            "a fault of txzmq: please report it with this text."
        )
    yield from (f"    {path}" for path in paths[:most])
    if len(paths) > most:
        yield f"    and more in {len(paths) - most} places"


def _grouped(unfinished: Iterable[Unfinished]) -> list[list[Unfinished]]:
    """The calls of each method. What stands for one call in several tables counts once."""
    methods: defaultdict[str, list[Unfinished]] = defaultdict(list)
    for each in unfinished:
        methods[each.method].append(each)
    groups: list[list[Unfinished]] = []
    for calls in methods.values():
        kinds: defaultdict[str, list[Unfinished]] = defaultdict(list)
        for each in calls:
            kinds[each.kind].append(each)
        # Of equal numbers, those of which most is known: a stream, not the call that opens it.
        groups.append(max(kinds.values(), key=_knowledge))
    return groups


def _knowledge(calls: list[Unfinished]) -> tuple[int, bool, bool]:
    """How many calls there are, and what is known of them: their state, and since when."""
    return len(calls), bool(calls[0].stream), calls[0].age is not None


def _of_call(calls: list[Unfinished], *, is_closed: bool) -> str:
    first = calls[0]
    what = "stream" if first.stream else "call"
    number = f"a {what}" if len(calls) == 1 else f"{len(calls)} {what}s"
    ages = [each.age for each in calls if each.age is not None]
    since = f", for {max(ages):.3g} s" if ages else ""
    return f"{number} of {first.method}{since}: {_advice(first, is_closed=is_closed)}"


def _advice(call: Unfinished, *, is_closed: bool) -> str:
    if not call.is_served:
        if call.stream == "ending":
            return "its end is known and was not read; read it to its end, or cancel() it"
        if call.stream:
            return "it was neither read to its end nor cancelled; do either, or close the channel"
        return "it has not ended; await its result, cancel its Deferred, or close the channel"
    if call.waits:
        return "it waits for a place on the server; let those that run end, or stop the server"
    if call.runs and is_closed:
        return (
            "its handler was cancelled and has not ended; let CancelledError through, and fire or "
            "cancel the Deferreds that it awaits"
        )
    if call.runs:
        return (
            "its handler has not ended; fire what it awaits, have the client cancel the call, or "
            "stop the server"
        )
    return "its handler has ended, and the client has not had all; let more time pass"
