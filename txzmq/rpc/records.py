"""How calls ended: one record for each, the same on both sides and for all four kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from twisted.internet.defer import CancelledError, Deferred

from txzmq.rpc.errors import Code, RpcError, to_code
from txzmq.rpc.method import Kind

__all__ = ["NOT_ASKED", "CallEnd", "CallRecord", "status_of_end"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """How a call ended.

    :ivar method: ``/package.Service/Method``.
    :ivar kind: which of requests and responses stream.
    :ivar code: how it ended. On the server, what it says to the client; CANCELLED where nobody
        waits any more. On the client, what its caller gets; UNKNOWN where that is no
        :class:`~txzmq.rpc.RpcError`.
    :ivar message: the message of the error; empty where the code is OK.
    :ivar seconds: until the end of the call, by a clock that nobody sets: on the server from the
        request's arrival, on the client from when an interceptor asked.
    :ivar requests: on the client, how many requests were sent, or wait for it; on the server, how
        many the handler was given.
    :ivar responses: on the server, how many the handler gave; on the client, how many arrived.
    """

    method: str
    kind: Kind
    code: Code
    message: str
    seconds: float
    requests: int
    responses: int


class CallEnd:
    """The end of a call that somebody waits for; made when the first one asks.

    :ivar is_over: whether the call has ended.
    """

    __slots__ = ("_record", "_told", "begun", "is_over")

    def __init__(self, begun: float = 0.0, *, is_over: bool = False) -> None:
        """
        :param begun: from when its seconds count, by the clock.
        :param is_over: for a call that ended when nobody had asked: there is no record of it.
        """
        self.begun = begun
        self.is_over = is_over
        self._record: CallRecord | None = None
        self._told: list[Callable[[CallRecord], object]] = []

    def tell(self, told: Callable[[CallRecord], object]) -> None:
        """Call *told* with the record, once; at once if the call has ended.

        :raises RuntimeError: if the call ended when nobody had asked.
        """
        if self._record is not None:
            told(self._record)
        elif self.is_over:
            raise RuntimeError(
                "the call has ended, and no record was made of it: ask for its end before going on"
            )
        else:
            self._told.append(told)

    def wait(self) -> Deferred[CallRecord]:
        """Fires with the record, and never fails. To cancel it has no effect on others.

        :raises RuntimeError: as :meth:`tell`.
        """
        waiting: Deferred[CallRecord] = Deferred()

        def told(record: CallRecord) -> None:
            if not waiting.called:  # or cancelled
                waiting.callback(record)

        self.tell(told)
        return waiting

    def reach(self, record: CallRecord) -> None:
        """The call has ended; does nothing if that is known."""
        if self.is_over:
            return
        self.is_over = True
        self._record = record
        told, self._told = self._told, []
        for tell in told:
            tell(record)


#: Of a call that has ended when nobody had asked.
NOT_ASKED: Final = CallEnd(is_over=True)


# Any: an error of whatever kind.
def status_of_end(outcome: Any) -> tuple[Code, str]:
    """Code and message of what a call ended with: an error, or anything else for success."""
    if not isinstance(outcome, BaseException) or isinstance(outcome, StopAsyncIteration):
        return Code.OK, ""
    if isinstance(outcome, RpcError):
        return to_code(outcome.code), outcome.message
    if isinstance(outcome, (CancelledError, asyncio.CancelledError)):
        return Code.CANCELLED, str(outcome)
    return Code.UNKNOWN, f"{type(outcome).__name__}: {outcome}"
