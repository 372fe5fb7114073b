"""Who may call what: looked at before anything is parsed, queued or found in a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._escape import text_of
from txzmq._identity import ANYBODY, AUTHENTICATED, Identity
from txzmq._rate_limit import RateLimit
from txzmq._reactor import Clock
from txzmq.rpc._server.status import (
    chosen_status,
    escaped_failure,
    too_much_metadata,
)
from txzmq.rpc._wire.control import CONTROL_PATHS
from txzmq.rpc._wire.headers import RequestHead, ResponseHead
from txzmq.rpc.authorization import Authorize, MethodPath, Permissions
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.metadata import check_size
from txzmq.rpc.method import Method

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

    __slots__ = ("_allowed", "_authorize", "_count", "_limit", "_metadata_size", "_paths")

    def __init__(
        self,
        authorize: Authorize | None,
        methods: Sequence[Method[Any, Any]],
        count: Callable[[str], None],
        clock: Clock,
        metadata_size: int,
    ) -> None:
        """
        :param methods: those that are served.
        :param count: counts a request that was refused.
        :param metadata_size: bytes of metadata that an answer may have.
        :raises ValueError: if *authorize* does not know what they require.
        """
        self._authorize = authorize
        # Who may call what is served, by a table.
        self._allowed = _allowed(authorize, methods)
        self._paths = {method.path: MethodPath(method.path, method.requires) for method in methods}
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
        path = head.path
        allowed = self._allowed.get(path)
        if allowed is not None:
            # As is_among() does it; written out, since each call comes this way.
            if identity is None:
                if ANYBODY in allowed:
                    return None
            elif (
                AUTHENTICATED in allowed
                or ANYBODY in allowed
                or not allowed.isdisjoint(identity.groups)
            ):
                return None
            answer: ResponseHead | bool = False
        elif self._authorize is None or path in CONTROL_PATHS:
            return None
        else:
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
            path = self._paths.get(head.path) or MethodPath(head.path)
            allowed = cast("object", authorize(identity, path, head.metadata))
        except RpcError as error:
            chosen = chosen_status(error)
            if chosen is not None:
                if check_size(chosen.trailing, self._metadata_size):
                    return chosen
                return too_much_metadata("response", self._metadata_size)
            allowed = error
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises denies
            if self._may_log():
                self._log_raised(error, head)
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

    @staticmethod
    def _log_raised(error: BaseException, head: RequestHead) -> None:
        """Log what a user's function has raised; without its text if a token may be in it."""
        text = text_of(error)
        values = [value for _, value in head.metadata if value]
        if any(value in text for each in values for value in _shown_as(each)):
            _log.error(
                "authorize raised {error}, whose text has metadata of the call and is not shown; "
                "the call of {path} is denied",
                error=type(error).__name__,
                path=head.path,
            )
            return
        _log.failure(
            "authorize raised an exception; the call of {path} is denied",
            escaped_failure(Failure()),  # type: ignore[no-untyped-call]  # Twisted's
            path=head.path,
        )

    def _may_log(self) -> bool:
        """Whether there is a line left for this: a peer may cause it with each call."""
        return self._limit.take()


def _shown_as(value: str | bytes) -> tuple[str, ...]:
    """What may be in a text that shows a value of metadata: for instance only the token in it."""
    if isinstance(value, bytes):
        return repr(value)[2:-1], value.decode("utf-8", "replace")
    return value, value.rpartition(" ")[2] or value


def _allowed(
    authorize: Authorize | None, methods: Sequence[Method[Any, Any]]
) -> dict[str, frozenset[str]]:
    """The groups that may call what is served, by its path; empty if no table says so.

    :raises ValueError: if there is no rule where a method requires a word, or a table lacks one.
    """
    required = [method for method in methods if method.requires]
    if authorize is None and required:
        first = required[0]
        raise ValueError(
            f"authorize: {first.path} requires {first.requires!r}, and the server has no rule of "
            f"who may call what: authorize=permissions({{{first.requires!r}: {{'staff'}}}}), or "
            "{'anybody'} for everybody"
        )
    if not isinstance(authorize, Permissions):
        return {}
    unused = authorize.words.difference(method.requires for method in required)
    if unused:  # no error: servers may share a table
        _log.info(
            "authorize has words that no method of this server requires: {words}",
            words=", ".join(sorted(unused)),
        )
    return authorize.for_methods(methods)
