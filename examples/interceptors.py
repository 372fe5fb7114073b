"""Interceptors to take over and change: authentication, a token that is renewed, logging.

Served and called with them::

    server = Server(factory, [Greeter()], interceptors=[log_requests, Authenticate(check)])
    channel = Channel(factory, endpoint, interceptors=[log_calls, TokenSource(fetch)])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from txzmq.rpc import (
    CallRecord,
    ClientCall,
    ClientProceed,
    Context,
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


def log_calls(call: ClientCall, proceed: ClientProceed) -> Any:
    """On a client: a line for each call of any kind, when it has truly ended."""
    call.ended().addCallback(_log_line)
    return proceed(call)


def log_requests(request: Any, context: Context, proceed: ServerProceed) -> Any:
    """On a server: a line for each call of any kind, when it has truly ended."""
    context.ended().addCallback(_log_line)
    return proceed(request)


def _log_line(record: CallRecord) -> None:
    _log.info(
        "{path} {outcome} {seconds:.6f} s, {requests} requests, {responses} responses",
        path=record.method,
        outcome=record.code.name,
        seconds=record.seconds,
        requests=record.requests,
        responses=record.responses,
    )
