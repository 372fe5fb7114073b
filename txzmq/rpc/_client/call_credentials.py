"""Adds a token to each attempt of a call, and has calls wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._reactor import Clock
from txzmq.rpc._client.call import Call
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.errors import ResourceExhausted
from txzmq.rpc.metadata import check_size

__all__ = ["CallCredentials"]

_KEY: Final = "authorization"


class CallCredentials:
    """What is between a channel's calls and its connections (a Route of calls that wait here)."""

    def __init__(
        self,
        credentials: BearerCredentials,
        clock: Clock,
        guard: Guard,
        metadata_size: int,
        start: Callable[[Call], None],
    ) -> None:
        """
        :param metadata_size: bytes of metadata that a request may have.
        :param start: gives a call to a connection.
        """
        self._credentials = credentials
        self._clock = clock
        self._guard = guard
        self._metadata_size = metadata_size
        self._start = start
        # Calls that wait for a token, and what each waits for.
        self._waiting: dict[Call, Deferred[str]] = {}

    obstacle = "get_token has not answered yet"
    #: No server is chosen yet.
    address = ""

    def start(self, call: Call) -> None:
        """Give a call to a connection, with a token, as soon as there is one."""
        if any(key == _KEY for key, _ in call.spec.metadata):
            self._start(call)  # its caller knows better
            return
        token = self._credentials.token(self._clock)
        if isinstance(token, str):
            self._send(call, token)
            return
        call.queued(self)
        self._waiting[call] = token
        token.addCallbacks(self._got, self._failed, (call,), errbackArgs=(call,))

    def _got(self, token: str, call: Call) -> None:
        if self._guard.report_wrong_thread(self._failed_elsewhere, call):
            return
        if self._waiting.pop(call, None) is not None:
            call.has_waited(self._clock.seconds())
            self._send(call, token)

    def _failed(self, failure: Failure, call: Call) -> None:
        if self._guard.report_wrong_thread(self._failed_elsewhere, call):
            return
        if self._waiting.pop(call, None) is not None:
            call.fail(cast("BaseException", failure.value))  # pyright: ignore[reportUnknownMemberType]  # Twisted's

    def _failed_elsewhere(self, call: Call, failure: Failure) -> None:
        """What get_token has returned was fired in another thread."""
        self._failed(failure, call)

    def _send(self, call: Call, token: str) -> None:
        others = tuple(pair for pair in call.head.metadata if pair[0] != _KEY)
        metadata = (*others, (_KEY, f"Bearer {token}"))
        if not check_size(metadata, self._metadata_size):
            call.fail(
                ResourceExhausted(
                    f"the metadata with the token is over the client's limit of "
                    f"{self._metadata_size} bytes (Channel's metadata_size)"
                )
            )
            return
        call.carry(metadata, self._rejected)
        self._start(call)

    def _rejected(self, call: Call) -> bool:
        """A server has refused a call's token: whether to make it again, with another one."""
        token = next(value for key, value in call.head.metadata if key == _KEY)
        assert isinstance(token, str), "it is no -bin"
        return self._credentials.rejected(token.removeprefix("Bearer "), self._clock)

    # -- a Route -----------------------------------------------------------------------------

    def withdraw(self, call: Call) -> None:
        """A call waits no more."""
        token = self._waiting.pop(call, None)
        if token is not None:
            token.cancel()

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`: no server knows of it."""
        self.withdraw(call)

    def id_of(self, counter: int) -> bytes:
        """Empty: no request was sent by it."""
        return b""

    def close(self, error: Exception) -> None:
        """End the calls that wait."""
        for call in list(self._waiting):
            self.withdraw(call)
            call.fail(error)
