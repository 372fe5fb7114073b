"""Interceptors to take over and change: authentication, a token that is renewed, logging.

Served and called with them::

    server = Server(factory, [Greeter()], interceptors=[log_requests(reactor), Authenticate(check)])
    channel = Channel(factory, endpoint, interceptors=[log_calls(reactor), TokenSource(fetch)])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from txzmq.rpc import (
    ClientCall,
    ClientInterceptor,
    ClientProceed,
    Code,
    Context,
    RpcError,
    ServerInterceptor,
    ServerProceed,
    Unauthenticated,
)

_log = Logger()


class Authenticate:
    """On a server: lets through whose ``authorization`` carries a token that is valid."""

    def __init__(self, is_valid: Callable[[str], bool]) -> None:
        self._is_valid = is_valid

    async def __call__(self, request: Any, context: Context, proceed: ServerProceed) -> Any:
        scheme, _, token = str(dict(context.metadata).get("authorization", "")).partition(" ")
        if scheme != "Bearer" or not self._is_valid(token):
            raise Unauthenticated("a valid token is needed")
        return await proceed(request)


class TokenSource:
    """On a client: brings a token along, and once a new one if it is not valid any more."""

    def __init__(self, fetch: Callable[[], str]) -> None:
        self._fetch = fetch
        self._token: str | None = None

    async def __call__(self, call: ClientCall, proceed: ClientProceed) -> Any:
        token = self._token or self._renew()
        try:
            return await proceed(self._with(call, token))
        except Unauthenticated:
            pass  # the server has not executed the call, so it may be made again
        if self._token == token:  # otherwise another call has renewed it meanwhile
            self._renew()
        return await proceed(self._with(call, self._token or ""))

    def _renew(self) -> str:
        self._token = self._fetch()
        return self._token

    def _with(self, call: ClientCall, token: str) -> ClientCall:
        return call.replace(metadata=(*call.metadata, ("authorization", f"Bearer {token}")))


class Clock(Protocol):
    """Tells the time: a reactor, or ``task.Clock`` in tests."""

    def seconds(self) -> float: ...


def log_calls(clock: Clock) -> ClientInterceptor:
    """On a client: a line for each call, with its outcome and how long it took."""

    async def log_call(call: ClientCall, proceed: ClientProceed) -> Any:
        started, outcome = clock.seconds(), Code.CANCELLED
        try:
            response = await proceed(call)
            outcome = Code.OK
            return response
        except RpcError as error:
            outcome = error.code
            raise
        finally:
            _log_line(call.method.path, outcome, clock.seconds() - started)

    return log_call


def log_requests(clock: Clock) -> ServerInterceptor:
    """On a server: a line for each request, with its outcome and how long it took."""

    async def log_request(request: Any, context: Context, proceed: ServerProceed) -> Any:
        started, outcome = clock.seconds(), Code.UNKNOWN
        try:
            response = await proceed(request)
            outcome = Code.OK
            return response
        except CancelledError:
            outcome = Code.CANCELLED
            raise
        except RpcError as error:
            if not error.method:  # otherwise it is of a call that the handler made: no answer
                outcome = error.code
            raise
        finally:
            _log_line(context.method, outcome, clock.seconds() - started)

    return log_request


def _log_line(path: str, outcome: Code, seconds: float) -> None:
    _log.info("{path} {outcome} {seconds:.6f} s", path=path, outcome=outcome.name, seconds=seconds)
