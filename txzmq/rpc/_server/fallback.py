"""What serves the methods that no service has: a user's function says it, for each call."""

from __future__ import annotations

from collections.abc import Sequence
from types import CoroutineType
from typing import Any, Final, NamedTuple, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._identity import Identity
from txzmq._rate_limit import RateLimit
from txzmq.rpc._core.handler_style import HandlerStyle
from txzmq.rpc._server.authentication import Identified
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.status import (
    chosen_status,
    escaped_failure,
    too_much_metadata,
    unknown_method,
)
from txzmq.rpc._server.waiting import LONGEST_WAIT, WaitingCalls, WaitingOwner
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc._wire.server import Request
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.interceptors import ServerInterceptor
from txzmq.rpc.metadata import check_size
from txzmq.rpc.raw import Fallback, MethodHandler

__all__ = ["FallbackMethods", "FallbackOwner"]

_log = Logger()

_TOO_LONG: Final = ResponseHead(
    Code.UNAVAILABLE,
    f"the server could not find out within {LONGEST_WAIT:g} s what serves the method; the call was "
    "not executed",
)
_FAILED: Final = ResponseHead(
    Code.INTERNAL,
    "the server failed to find out what serves the method, and has logged why; the call was not "
    "executed",
)


class FallbackOwner(WaitingOwner, Protocol):
    """What a server's calls are handed back to."""

    def accept(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        caller: Identified,
        method: ServedMethod,
        /,
    ) -> None:
        """Take a request on, or refuse it, now that it is known what serves it."""
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


class _Asked(NamedTuple):
    """A call, while it is found out what serves it.

    :ivar identity: who calls.
    :ivar peer: whose the connection is.
    :ivar is_repeat: whether the same request has come before, and may have been executed.
    """

    listener: Listener
    request: Request
    arrived: float
    identity: Identity | None
    peer: Identity | None
    is_repeat: bool

    @property
    def path(self) -> str:
        """Of the method that is called."""
        return self.request.head.path


class FallbackMethods:
    """Asks what serves each call of a method that no service has; keeps nothing of the answers.

    Whoever may call chooses the paths, so that what is kept by path would grow without end.
    """

    __slots__ = ("_fallback", "_interceptors", "_limit", "_owner", "_style", "_waiting")

    def __init__(
        self,
        fallback: Fallback,
        interceptors: Sequence[ServerInterceptor],
        style: HandlerStyle,
        owner: FallbackOwner,
        waiting: WaitingCalls,
    ) -> None:
        """
        :param interceptors: go around each handler.
        :param style: how the handlers run.
        :param waiting: where calls wait, if the answer takes time.
        """
        self._fallback = fallback
        self._interceptors = tuple(interceptors)
        self._style = style
        self._owner = owner
        self._waiting = waiting
        self._limit = RateLimit(owner.clock)

    def begin(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        peer: Identity | None,
        *,
        is_repeat: bool,
    ) -> None:
        """Find out what serves a request; it is handed back or answered, now or later.

        :param identity: who calls.
        :param peer: whose the connection is.
        :param is_repeat: whether the same request has come before, and may have been executed.
        """
        asked = _Asked(listener, request, arrived, identity, peer, is_repeat)
        try:
            # Any: whatever a user's function returns.
            found: Any = self._fallback(asked.path)
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises refuses
            self._refuse(asked, self._status_of(error, Failure()))  # type: ignore[no-untyped-call]  # Twisted's
            return
        if isinstance(found, CoroutineType):
            found = Deferred.fromCoroutine(found)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a user's
        if isinstance(found, Deferred):
            self._wait(asked, found)  # pyright: ignore[reportUnknownArgumentType]  # a user's
        else:
            self._found(asked, found)

    def _wait(self, asked: _Asked, found: Deferred[Any]) -> None:
        def known(result: object) -> None:
            if isinstance(result, Failure):
                error = cast("BaseException", result.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
                self._refuse(asked, self._status_of(error, result))
            else:
                self._found(asked, result)

        refusal = self._waiting.wait(
            *asked[:-1], "fallback", found, known, is_repeat=asked.is_repeat
        )
        if refusal is not None:
            self._refuse(asked, refusal)

    def _found(self, asked: _Asked, found: object) -> None:
        if found is None:
            self._refuse(asked, unknown_method(asked.path))
            return
        if not isinstance(found, MethodHandler):
            self._wrong(asked, f"a MethodHandler or None, not {_check.shown(found)}")
            return
        # Any: of methods of any messages.
        served: MethodHandler[Any, Any] = found  # pyright: ignore[reportUnknownVariableType]  # a user's
        if served.method.path != asked.path:
            self._wrong(asked, f"the method that it is asked for, not {served.method.path}")
            return
        handler = served.handler
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        interceptors, known = self._interceptors, served.known
        handler = self._style.wrap(handler)
        method = ServedMethod(served.method, handler, name, interceptors, known=known)
        listener, request, arrived, identity, peer, _ = asked
        caller = Identified(False, identity, peer)  # it may make the call, and is asked no more
        self._owner.accept(listener, request, arrived, caller, method)

    def _wrong(self, asked: _Asked, due: str) -> None:
        """Refuse a call for which the function has returned something else than is due."""
        if self._limit.take():
            _log.error(
                "fallback must return {due}; the call of {path} is refused",
                due=due,
                path=asked.path,
            )
        self._refuse(asked, _FAILED)

    def _refuse(self, asked: _Asked, status: ResponseHead) -> None:
        status = status._replace(not_executed=not asked.is_repeat)
        self._owner.refuse(asked.listener, asked.request, asked.arrived, asked.identity, status)

    def _status_of(self, error: BaseException, failure: Failure) -> ResponseHead:
        """The answer to a call for which the function has failed.

        The error of a call that it made itself is no answer, as in handlers.
        """
        if isinstance(error, RpcError) and not error.method:
            chosen = chosen_status(error)
            if chosen is not None:
                limit = self._owner.limits.metadata_size
                if check_size(chosen.trailing, limit):
                    return chosen
                return too_much_metadata("response", limit)
        if isinstance(error, DeferredTimeoutError):
            return _TOO_LONG
        if self._limit.take():
            _log.failure(
                "fallback raised an exception; its call is refused", escaped_failure(failure)
            )
        return _FAILED
