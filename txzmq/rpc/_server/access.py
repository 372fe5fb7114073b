"""Who may call what: looked at before anything is parsed, queued or found in a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, cast

from twisted.logger import Logger

from txzmq import _check
from txzmq._identity import Identity
from txzmq.rpc._wire.headers import RequestHead, ResponseHead
from txzmq.rpc.authorization import Authorize
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.watching import Count

__all__ = ["Access", "Caller"]

_log = Logger()

#: Of the services by which clients steer their own calls and streams.
_OWN: Final = "/txzmq.rpc.v1."
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

    __slots__ = ("_authorize", "_count")

    def __init__(self, authorize: Authorize | None, count: Callable[[str], None]) -> None:
        """:param count: counts a request that was refused."""
        self._authorize = authorize
        self._count = count

    def refusal(self, caller: Caller, head: RequestHead) -> ResponseHead | None:
        """Why a request is not served; None if it may be.

        By the control services clients reach nothing but their own calls and streams, so that who
        has authenticated may use them.
        """
        identity = caller.identity
        if identity is None and caller.authenticates:
            self._count(Count.UNAUTHENTICATED)
            return _NOBODY
        authorize = self._authorize
        if authorize is None or head.path.startswith(_OWN):
            return None
        allowed: object
        try:
            allowed = cast("object", authorize(identity, head.path, head.metadata))
        except RpcError as error:
            self._count(Count.DENIED)
            return ResponseHead(error.code, error.message)
        except Exception:  # noqa: BLE001 - whatever a user's function raises denies
            _log.failure(
                "authorize raised an exception; the call of {path} is denied", path=head.path
            )
            allowed = False
        if allowed is True:
            return None
        if allowed is not False:
            _log.error(
                "authorize must return True or False, not {answer}; the call of {path} is denied",
                answer=_check.shown(allowed),
                path=head.path,
            )
        self._count(Count.DENIED)
        if identity is None:
            return ResponseHead(
                Code.UNAUTHENTICATED, f"{head.path} is not for everybody; the call was not executed"
            )
        return ResponseHead(
            Code.PERMISSION_DENIED,
            f"{identity.name} may not call {head.path}; the call was not executed",
        )
