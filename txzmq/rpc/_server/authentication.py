"""Who calls, by what the call carries: found out before anything else is done for a call."""

from __future__ import annotations

from types import CoroutineType
from typing import Any, Final, NamedTuple, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._guard import Guard
from txzmq._identity import Identity
from txzmq._rate_limit import RateLimit
from txzmq._reactor import Clock
from txzmq.rpc._core.cancelling import cancel
from txzmq.rpc._server.call import OpenCalls, ServedCall
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.status import chosen_status, too_much_metadata
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc._wire.server import Request
from txzmq.rpc.authentication import Authenticate
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.metadata import check_size
from txzmq.rpc.method import Method
from txzmq.rpc.records import CallEnd
from txzmq.rpc.v1.control_pb2 import CancelRequest

__all__ = ["Authentication", "AuthenticationOwner", "Identified"]

_log = Logger()

#: Seconds for which a call waits until it is known who makes it.
_LONGEST: Final = 10.0
_TOO_LONG: Final = ResponseHead(
    Code.UNAVAILABLE,
    f"the server could not find out within {_LONGEST:g} s who calls; the call was not executed",
    not_executed=True,
)
_FAILED: Final = ResponseHead(
    Code.INTERNAL,
    "the server failed to find out who calls, and has logged why; the call was not executed",
    not_executed=True,
)


def _unserved(request: Any, context: Context) -> Any:
    raise NotImplementedError  # nobody is served before it is known who calls


#: In place of the method of a call that waits: whether there is one is looked at afterwards, so
#: that nobody learns it who is not known.
_ANY: Final = ServedMethod(
    Method("/txzmq.rpc.v1.Any/Any", "any", CancelRequest, CancelRequest), _unserved, "nobody"
)


class Identified(NamedTuple):
    """Who has sent a request, once that is known (a :class:`Caller`).

    :ivar authenticates: whether only those are let in who have authenticated.
    :ivar identity: who calls.
    :ivar peer_identity: whose the connection is.
    """

    authenticates: bool
    identity: Identity | None
    peer_identity: Identity | None


class AuthenticationOwner(Protocol):
    """What a server's calls are handed back to."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def limits(self) -> ServerLimits:
        """The limits of the server."""
        ...

    def accept(
        self, listener: Listener, request: Request, arrived: float, caller: Identified, /
    ) -> None:
        """Take a request on, or refuse it, now that it is known who has sent it."""
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

    def end_of_unidentified(
        self, listener: Listener, request: Request, arrived: float, peer: Identity | None, /
    ) -> CallEnd | None:
        """Where the end is told of a call that ends before it is known who makes it.

        None if nobody observes.
        """
        ...

    def deny(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        peer: Identity | None,
        status: ResponseHead,
        /,
    ) -> None:
        """Answer a call that may not be made, and tell of it."""
        ...

    def too_much(self, peer: bytes, size: int) -> ResponseHead | None:
        """Why so many more bytes of requests are not held; None if they are."""
        ...


class _Unidentified(ServedCall):
    """A call of which it is not known yet who makes it.

    It is found by all that can end it, as any other call: by its client, who cancels or is lost, by
    the server that stops, and by the revocation of a key.
    """

    __slots__ = ()

    @property
    def may_have_run(self) -> bool:
        """Whether its handler was called."""
        return False

    @property
    def requests_taken(self) -> int:
        """As the record of a call that is refused: 1, but for a stream of requests."""
        end = self.context.end
        return 0 if end and end.record and end.record.kind.request_streaming else 1

    def interrupt(self, reason: str, calls: OpenCalls) -> None:
        """Ask no more who makes it."""
        if self.deferred is not None:
            cancel(self.deferred, "authenticate")
        elif self.registered:
            self.settle(calls)


class Authentication:
    """Asks who makes each call; those wait meanwhile for which that takes time."""

    __slots__ = (
        "_authenticate",
        "_guard",
        "_guards_all",
        "_limit",
        "_of_peer",
        "_open_calls",
        "_owner",
        "_streams",
        "waiting",
    )

    def __init__(
        self,
        authenticate: Authenticate,
        owner: AuthenticationOwner,
        guard: Guard,
        open_calls: OpenCalls,
        *,
        authorizes: bool,
    ) -> None:
        """:param authorizes: whether there is a rule, which decides about who is not known."""
        self._authenticate = authenticate
        self._owner = owner
        self._guard = guard
        self._open_calls = open_calls
        self._guards_all = not authorizes
        self._limit = RateLimit(owner.clock)
        #: How many calls wait.
        self.waiting = 0
        self._of_peer: dict[bytes, int] = {}
        # The ids of the streams of requests of calls that wait, with how many.
        self._streams: dict[bytes, int] = {}

    def awaits(self, requests: bytes) -> bool:
        """Whether a stream of requests is that of a call that waits."""
        return requests in self._streams

    def begin(self, listener: Listener, request: Request, arrived: float) -> None:
        """Find out who has sent a request; it is handed back or answered, now or later."""
        _, head, _ = request
        peer = listener.identity
        if peer is None and listener.authenticates:
            self._hand_back(listener, request, arrived, None, None)
            return
        if head.metadata and not check_size(head.metadata, self._owner.limits.metadata_size):
            refused = too_much_metadata("request", self._owner.limits.metadata_size)
            status = refused._replace(not_executed=True)
            self._owner.refuse(listener, request, arrived, peer, status)
            return
        try:
            # Any: whatever a user's function returns.
            found: Any = self._authenticate(peer, head.path, head.metadata)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises refuses
            self._refuse(listener, request, arrived, peer, self._status_of(error))
            return
        if isinstance(found, CoroutineType):
            found = Deferred.fromCoroutine(found)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a user's
        if isinstance(found, Deferred):
            self._wait(listener, request, arrived, peer, found)  # pyright: ignore[reportUnknownArgumentType]  # a user's
        else:
            self._found(listener, request, arrived, peer, found)

    def _found(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        peer: Identity | None,
        found: object,
    ) -> None:
        if found is None or isinstance(found, Identity):
            self._hand_back(listener, request, arrived, peer, found)
            return
        if self._limit.take():
            _log.error(
                "authenticate must return an Identity or None, not {answer}; the call of {path} is "
                "refused",
                answer=_check.shown(found),
                path=request.head.path,
            )
        self._refuse(listener, request, arrived, peer, _FAILED)

    def _hand_back(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        peer: Identity | None,
        identity: Identity | None,
    ) -> None:
        # Whose key is not known, or not any more, is nobody, whatever the call carries.
        is_unknown = listener.authenticates and peer is None
        caller = Identified(is_unknown or self._guards_all, identity, peer)
        self._owner.accept(listener, request, arrived, caller)

    def _refuse(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        peer: Identity | None,
        head: ResponseHead,
    ) -> None:
        """Answer a call that cannot be told whose it is, or whose user is refused.

        :param peer: whose the connection is.
        """
        if head.code is Code.UNAUTHENTICATED:
            self._owner.count("request of somebody unknown")
        elif head.code is Code.PERMISSION_DENIED:
            self._owner.count("request denied")
        else:
            self._owner.refuse(listener, request, arrived, peer, head)
            return
        self._owner.deny(listener, request, arrived, peer, peer, head)

    def _status_of(self, error: BaseException) -> ResponseHead:
        """The answer to a call that cannot be told whose it is."""
        chosen = chosen_status(error) if isinstance(error, RpcError) else None
        if chosen is not None:
            limit = self._owner.limits.metadata_size
            if not check_size(chosen.trailing, limit):
                chosen = too_much_metadata("response", limit)
            return chosen._replace(not_executed=True)
        if isinstance(error, DeferredTimeoutError):
            return _TOO_LONG
        if self._limit.take():
            # Without its text, and without its traceback's values: a token may be in them.
            _log.error(
                "authenticate raised {error}; its calls are refused", error=type(error).__name__
            )
        return _FAILED

    # -- calls that wait ---------------------------------------------------------------------

    def _wait(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        peer: Identity | None,
        found: Deferred[Any],
    ) -> None:
        key, head, body = request
        clock = self._owner.clock
        context = Context(head.path, clock=clock, arrived=arrived)
        context.identify(None, peer)
        end = self._owner.end_of_unidentified(listener, request, arrived, peer)
        if end is not None:
            context.watch_end(end)
        call = _Unidentified(listener, key, _ANY, context, None, body)
        refusal = self._no_room(call)
        if refusal is not None:
            found.addErrback(_ignored)
            cancel(found, "authenticate")
            self._owner.refuse(listener, request, arrived, peer, refusal)
            return
        requests = b"" if head.open_stream is None else head.open_stream.requests
        self._change(call.place[0], requests, 1)
        found.addTimeout(_LONGEST, cast("Any", clock))  # an IReactorTime, by another name
        call.wait_for(found, self._open_calls)

        def known(result: object) -> None:
            if self._guard.report_wrong_thread(known):
                return  # with a Failure in place of the result
            self._change(call.place[0], requests, -1)
            call.handler_ended(self._open_calls)
            if call.settled:
                self._owner.settled()  # nobody waits for it any more, but a server that stops
                return
            if isinstance(result, Failure):
                error = cast("BaseException", result.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
                self._refuse(listener, request, arrived, peer, self._status_of(error))
            else:
                self._found(listener, request, arrived, peer, result)

        found.addBoth(known)

    def _no_room(self, call: ServedCall) -> ResponseHead | None:
        """Why a call does not wait; None if it may."""
        limits, peer = self._owner.limits, call.place[0]
        reason = ""
        if self.waiting >= limits.queued:
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
        self.waiting += by
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
