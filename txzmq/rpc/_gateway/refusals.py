"""What clients of a gateway are told of calls that fail behind it."""

from __future__ import annotations

from collections.abc import Container
from time import monotonic
from typing import Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._rate_limit import KindLimits, Time
from txzmq.rpc.errors import (
    Code,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    RpcError,
    Unavailable,
)

__all__ = ["Refusals"]

_log = Logger()
#: Codes with which a channel says that no server is there for it; that its own key or token is not
#: good enough is none of the client's business.
_NO_SERVER: Final = frozenset({Code.UNAVAILABLE, Code.UNAUTHENTICATED})


class _Monotonic:
    """The system's time."""

    def seconds(self) -> float:
        return monotonic()


class Refusals:
    """Chooses the words for clients, who may be anybody.

    What a server has answered passes as it is, and so does what the gateway itself has raised, or
    an interceptor of its channel's. What the channel says for itself names addresses, and reasons
    that help whoever runs the gateway: it goes to the log, and clients get other words.
    """

    def __init__(self, time: Time | None = None) -> None:
        """:param time: for how often there are lines in the log; None for the system's."""
        self._lines = KindLimits(time or _Monotonic())

    def of(self, error: Exception, path: str, own: Container[Exception] = ()) -> RpcError:
        """What a client is told.

        :param path: of the method, ``/package.Service/Method``.
        :param own: errors of the gateway's that have come back through the channel.
        """
        if isinstance(error, RpcError):
            if error.answered or error.sent is None or error in own:
                return error
            return self._of_channel(error, error.sent, path)
        if isinstance(error, CancelledError):
            return Unavailable(
                "the gateway is shutting down, and has ended the call; it may have been executed"
            )
        failure = Failure(error)  # type: ignore[no-untyped-call]  # Twisted's
        _log.failure("the gateway failed to pass a call of {path} on", failure, path=path)
        return Internal("the gateway failed to pass the call on; its log says why")

    def _of_channel(self, error: RpcError, sent: bool, path: str) -> RpcError:
        executed = "it may have been executed" if sent else "it was not executed"
        service = path[1:].rpartition("/")[0]
        if error.code is Code.DEADLINE_EXCEEDED:
            told: RpcError = DeadlineExceeded(f"the time of the call was up; {executed}")
        elif error.code is Code.RESOURCE_EXHAUSTED:
            # Limits of sizes, which say by how much, and name nobody.
            return ResourceExhausted(f"the gateway cannot pass the call on: {error.message}")
        elif error.code in _NO_SERVER:
            lost = "has lost the server" if sent else "cannot reach a server"
            told = Unavailable(f"the gateway {lost} of {service}; the call was {_SENT[sent]}")
        else:
            told = RpcError(error.code, "the gateway failed to pass the call on; its log says why")
        left_out = self._lines.take((service, error.code, sent))
        if left_out is not None:
            _log.warn(
                "a call of {path} has failed at the gateway: {reason} ({left_out} more like it)",
                path=path,
                reason=error,
                left_out=left_out,
            )
        return told


_SENT: Final = {False: "not sent", True: "sent, and may have been executed"}
