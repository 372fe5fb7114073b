"""Who calls, by what the call carries: found out before anything else is done for a call."""

from __future__ import annotations

from types import CoroutineType
from typing import Any, Final, NamedTuple, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._identity import Identity
from txzmq._rate_limit import RateLimit
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.status import chosen_status, too_much_metadata
from txzmq.rpc._server.waiting import LONGEST_WAIT, WaitingCalls, WaitingOwner
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc._wire.server import Request
from txzmq.rpc.authentication import Authenticate
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.metadata import check_size

__all__ = ["Authentication", "AuthenticationOwner", "Identified"]

_log = Logger()

_TOO_LONG: Final = ResponseHead(
    Code.UNAVAILABLE,
    f"the server could not find out within {LONGEST_WAIT:g} s who calls; the call was not executed",
    not_executed=True,
)
_FAILED: Final = ResponseHead(
    Code.INTERNAL,
    "the server failed to find out who calls, and has logged why; the call was not executed",
    not_executed=True,
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


class AuthenticationOwner(WaitingOwner, Protocol):
    """What a server's calls are handed back to."""

    def accept(
        self, listener: Listener, request: Request, arrived: float, caller: Identified, /
    ) -> None:
        """Take a request on, or refuse it, now that it is known who has sent it."""
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


class Authentication:
    """Asks who makes each call; those wait meanwhile for which that takes time."""

    __slots__ = (
        "_authenticate",
        "_guards_all",
        "_limit",
        "_owner",
        "_waiting",
    )

    def __init__(
        self,
        authenticate: Authenticate,
        owner: AuthenticationOwner,
        waiting: WaitingCalls,
        *,
        authorizes: bool,
    ) -> None:
        """
        :param waiting: where calls wait, if it takes time.
        :param authorizes: whether there is a rule, which decides about who is not known.
        """
        self._authenticate = authenticate
        self._owner = owner
        self._waiting = waiting
        self._guards_all = not authorizes
        self._limit = RateLimit(owner.clock)

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
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises refuses
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

    def _wait(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        peer: Identity | None,
        found: Deferred[Any],
    ) -> None:
        def known(result: object) -> None:
            if isinstance(result, Failure):
                error = cast("BaseException", result.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
                self._refuse(listener, request, arrived, peer, self._status_of(error))
            else:
                self._found(listener, request, arrived, peer, result)

        refusal = self._waiting.wait(
            listener, request, arrived, None, peer, "authenticate", found, known
        )
        if refusal is not None:
            self._owner.refuse(listener, request, arrived, peer, refusal)
