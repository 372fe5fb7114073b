"""Calls that wait until something is known of them: who makes them, or what serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._identity import Identity
from txzmq._reactor import Clock
from txzmq.rpc._core.cancelling import cancel
from txzmq.rpc._server.call import OpenCalls, ServedCall
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._wire.headers import ResponseHead, from_us
from txzmq.rpc._wire.server import Request
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import Method
from txzmq.rpc.records import CallEnd
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["LONGEST_WAIT", "WaitingCalls", "WaitingOwner"]

#: Seconds for which a call waits until something is known of it.
LONGEST_WAIT: Final = 10.0


def _unserved(request: Any, context: Context) -> Any:
    raise NotImplementedError  # nobody is served before that is known


#: In place of the method of a call that waits: whether there is one is looked at afterwards, so
#: that nobody learns it who is not known.
_ANY: Final = ServedMethod(
    Method("/txzmq.rpc.v1.Any/Any", "any", CancelRequest, CancelRequest), _unserved, "nobody"
)


class WaitingOwner(Protocol):
    """What a server's calls are handed back to."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def limits(self) -> ServerLimits:
        """The limits of the server."""
        ...

    def count(self, reason: str) -> None:
        """Count a request that was refused."""
        ...

    def refuse(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        status: ResponseHead,
        /,
    ) -> None:
        """Answer a request that is not taken on."""
        ...

    def settled(self) -> None:
        """A call waits no more that nobody is to be answered for."""
        ...

    def end_of_waiting(
        self, listener: Listener, request: Request, arrived: float, identity: Identity | None, /
    ) -> CallEnd | None:
        """Where the end is told of a call that ends while it waits; None if nobody observes."""
        ...

    def too_much(self, peer: bytes, size: int) -> ResponseHead | None:
        """Why so many more bytes of requests are not held; None if they are."""
        ...


class _WaitingCall(ServedCall):
    """A call of which something is not known yet.

    It is found by all that can end it, as any other call: by its client, who cancels or is lost, by
    its deadline, by the server that stops, and by the revocation of a key.
    """

    __slots__ = ("_asked", "_is_repeat")

    def __init__(self, asked: str, is_repeat: bool, *arguments: Any) -> None:
        """
        :param asked: who is asked, for the log.
        :param is_repeat: whether the same request has come before.
        :param arguments: as a :class:`ServedCall`'s.
        """
        super().__init__(*arguments)
        self._asked = asked
        self._is_repeat = is_repeat

    @property
    def may_have_run(self) -> bool:
        """Whether its handler was called, for the same request that came before."""
        return self._is_repeat

    @property
    def requests_taken(self) -> int:
        """As the record of a call that is refused: 1, but for a stream of requests."""
        end = self.context.end
        return 0 if end and end.record and end.record.kind.request_streaming else 1

    def interrupt(self, reason: str, calls: OpenCalls) -> None:
        """Ask no more."""
        if self.deferred is not None:
            cancel(self.deferred, self._asked)
        elif self.registered:
            self.settle(calls)


class WaitingCalls:
    """The calls of a server that wait for what a user's function has to say of them."""

    __slots__ = ("_guard", "_of_peer", "_open_calls", "_owner", "_streams", "count")

    def __init__(self, owner: WaitingOwner, guard: Guard, open_calls: OpenCalls) -> None:
        self._owner = owner
        self._guard = guard
        self._open_calls = open_calls
        #: How many calls wait.
        self.count = 0
        self._of_peer: dict[bytes, int] = {}
        # The ids of the streams of requests of calls that wait, with how many.
        self._streams: dict[bytes, int] = {}

    def awaits(self, requests: bytes) -> bool:
        """Whether a stream of requests is that of a call that waits."""
        return requests in self._streams

    def wait(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        peer: Identity | None,
        asked: str,
        answer: Deferred[Any],
        known: Callable[[object], None],
        *,
        is_repeat: bool = False,
    ) -> ResponseHead | None:
        """Have a call wait, unless too many do.

        :param identity: who calls, as far as it is known.
        :param peer: whose the connection is.
        :param asked: who is asked, for the log.
        :param answer: what it waits for, at most :data:`LONGEST_WAIT` seconds.
        :param known: called with the answer, or the Failure, unless the call is over before.
        :param is_repeat: whether the same request has come before.
        :return: why it does not wait; None if it does.
        """
        key, head, body = request
        clock = self._owner.clock
        context = Context(head.path, clock=clock, arrived=arrived)
        context.identify(identity, peer)
        end = self._owner.end_of_waiting(listener, request, arrived, identity or peer)
        if end is not None:
            context.watch_end(end)
        timeout_us = head.timeout_us
        deadline = None if timeout_us is None else arrived + from_us(timeout_us)
        call = _WaitingCall(asked, is_repeat, listener, key, _ANY, context, deadline, body)
        refusal = self._no_room(call)
        if refusal is not None:
            answer.addErrback(_ignored)
            cancel(answer, asked)
            return refusal
        requests = b"" if head.open_stream is None else head.open_stream.requests
        self._change(call.place[0], requests, 1)
        answer.addTimeout(LONGEST_WAIT, cast("Any", clock))  # an IReactorTime, by another name
        call.wait_for(answer, self._open_calls)

        def answered(result: object) -> None:
            if self._guard.report_wrong_thread(answered):
                return  # with a Failure in place of the result
            self._change(call.place[0], requests, -1)
            call.handler_ended(self._open_calls)
            if call.settled:
                self._owner.settled()  # nobody waits for it any more, but a server that stops
            else:
                known(result)

        answer.addBoth(answered)
        return None

    def _no_room(self, call: ServedCall) -> ResponseHead | None:
        """Why a call does not wait; None if it may."""
        limits, peer = self._owner.limits, call.place[0]
        reason = ""
        if self.count >= limits.queued:
            reason = f"{limits.queued} calls wait on the server (ServerLimits.queued)"
        elif self._of_peer.get(peer, 0) >= limits.queued_per_peer:
            reason = (
                f"{limits.queued_per_peer} calls of this client wait on the server "
                "(ServerLimits.queued_per_peer)"
            )
        if reason:
            self._owner.count("shed request")
            return ResponseHead(
                Code.RESOURCE_EXHAUSTED, f"the call was not executed: {reason}", not_executed=True
            )
        refusal = self._owner.too_much(peer, call.size)
        return None if refusal is None else refusal._replace(not_executed=True)

    def _change(self, peer: bytes, requests: bytes, by: int) -> None:
        """One more call waits, or one less."""
        self.count += by
        counts = [(self._of_peer, peer)]
        if requests:
            counts.append((self._streams, requests))
        for count, name in counts:
            left = count.get(name, 0) + by
            if left:
                count[name] = left
            else:
                del count[name]


def _ignored(failure: Failure) -> None:
    """Nobody has to be told."""
