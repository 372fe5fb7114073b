"""Who may call what: looked at before anything is parsed, queued or found in a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, cast

from twisted.logger import Logger

from txzmq import _check
from txzmq._identity import Identity
from txzmq._rate_limit import RateLimit
from txzmq._reactor import Clock
from txzmq.rpc._server.status import chosen_status, too_much_metadata
from txzmq.rpc._wire.control import CONTROL_PATHS
from txzmq.rpc._wire.headers import RequestHead, ResponseHead
from txzmq.rpc.authorization import Authorize
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.metadata import check_size

__all__ = ["Access", "Caller"]

_log = Logger()

_NOBODY: Final = ResponseHead(
    Code.UNAUTHENTICATED,
    "the server does not know who calls, or not any more; the call was not executed",
)


class Caller(Protocol):
    """Who has sent a request."""

    @property
    def authenticates(self) -> bool:
        """Whether only those are let in who have authenticated."""
        ...

    @property
    def identity(self) -> Identity | None:
        """Who it is; None where nobody has authenticated."""
        ...


class Access:
    """Decides about requests."""

    __slots__ = ("_authorize", "_count", "_limit", "_metadata_size")

    def __init__(
        self,
        authorize: Authorize | None,
        count: Callable[[str], None],
        clock: Clock,
        metadata_size: int,
    ) -> None:
        """
        :param count: counts a request that was refused.
        :param metadata_size: bytes of metadata that an answer may have.
        """
        self._authorize = authorize
        self._count = count
        self._metadata_size = metadata_size
        self._limit = RateLimit(clock)

    def refusal(self, caller: Caller, head: RequestHead) -> ResponseHead | None:
        """Why a request is not served; None if it may be.

        By control calls clients reach nothing but their own calls and streams, so that who has
        authenticated may make them.
        """
        identity = caller.identity
        if identity is None and caller.authenticates:
            self._count("request of somebody unknown")
            return _NOBODY
        if self._authorize is None or head.path in CONTROL_PATHS:
            return None
        answer = self._ask(self._authorize, identity, head)
        if answer is True:
            return None
        self._count("request denied")
        if isinstance(answer, ResponseHead):
            return answer
        if identity is None:
            return ResponseHead(
                Code.UNAUTHENTICATED, f"{head.path} is not for everybody; the call was not executed"
            )
        return ResponseHead(
            Code.PERMISSION_DENIED,
            f"{identity.name} may not call {head.path}; the call was not executed",
        )

    def _ask(
        self, authorize: Authorize, identity: Identity | None, head: RequestHead
    ) -> ResponseHead | bool:
        """Whether a user's function allows a call, or the answer that it has chosen."""
        try:
            allowed = cast("object", authorize(identity, head.path, head.metadata))
        except RpcError as error:
            chosen = chosen_status(error)
            if chosen is not None:
                if check_size(chosen.trailing, self._metadata_size):
                    return chosen
                return too_much_metadata("response", self._metadata_size)
            allowed = error
        except Exception:  # noqa: BLE001 - whatever a user's function raises denies
            if self._may_log():
                _log.failure(
                    "authorize raised an exception; the call of {path} is denied", path=head.path
                )
            return False
        if not isinstance(allowed, bool):
            if self._may_log():
                _log.error(
                    "authorize must return True or False, not {answer}; the call of {path} is "
                    "denied",
                    answer=_check.shown(allowed),
                    path=head.path,
                )
            return False
        return allowed

    def _may_log(self) -> bool:
        """Whether there is a line left for this: a peer may cause it with each call."""
        return self._limit.take()
