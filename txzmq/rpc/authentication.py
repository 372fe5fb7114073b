"""Who calls, call by call: what a call carries besides the key of its connection.

A server finds out who calls by the metadata of the call, ``Server(authenticate=...)``, before it
asks ``authorize``, parses, queues or looks anything up. :class:`txzmq.rpc.tokens.BearerTokens` does
it by a JSON Web Token::

    server = Server(factory, [Orders()], credentials=credentials, authenticate=tokens)

A client adds a token to each of its calls, and renews it in time::

    channel = Channel(
        factory, endpoint, credentials=credentials, call_credentials=BearerCredentials(get_token)
    )
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeAlias, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._escape import text_of
from txzmq._identity import Identity
from txzmq._jwt import expiry_of
from txzmq._reactor import Clock
from txzmq.rpc.errors import RpcError, Unavailable
from txzmq.rpc.metadata import Metadata

__all__ = ["AccessToken", "Authenticate", "BearerCredentials", "GetToken"]

#: What :data:`Authenticate` returns: who calls; None for nobody that is known.
_Who: TypeAlias = Identity | None
#: Given whose the connection is (None on a server without ``credentials``), the path of a method
#: and the metadata of the request: who calls. None is for nobody that is known: the call is
#: refused, unless ``authorize`` allows it to anybody. An :class:`~txzmq.rpc.RpcError` that it
#: raises is the answer; anything else that it raises refuses the call. It may return a Deferred of
#: its own, or be a coroutine: the call waits, for 10 seconds at most.
Authenticate: TypeAlias = Callable[
    [Identity | None, str, Metadata],
    _Who | Deferred[_Who] | Deferred[Identity] | Coroutine[Deferred[Any], Any, _Who],
]


class AccessToken(NamedTuple):
    """A token, and until when it can be used.

    :ivar token: as it is sent, behind ``Bearer``.
    :ivar expires_at: seconds since 1970, as ``time.time()`` has it; None if that is not known.
    """

    token: str
    expires_at: float | None = None

    def __repr__(self) -> str:
        return f"AccessToken(expires_at={self.expires_at})"  # a token is a secret


#: What gives a token: a str, or an :class:`AccessToken`. Of a str that is a JSON Web Token, ``exp``
#: says when it expires; any other is used until a server refuses it.
GetToken: TypeAlias = Callable[
    [],
    str
    | AccessToken
    | Deferred[str]
    | Deferred[AccessToken]
    | Coroutine[Deferred[Any], Any, str]
    | Coroutine[Deferred[Any], Any, AccessToken],
]

#: RFC 6750, section 2.1.
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)
#: Seconds from a failure of *get_token* until it is called again: the first, and the longest.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
#: Seconds in which servers' refusals lead to one new token at most.
_REJECTED_PAUSE: Final = 10.0
#: A token is renewed in the last tenth of its time, if that is less than ``renew_before``.
_PART: Final = 10


class BearerCredentials:
    """A client's tokens: gets one when it is needed, and keeps it until it expires.

    Give it to ``Channel(call_credentials=...)``, which adds ``authorization: Bearer TOKEN`` to each
    call, and to each attempt of a call. Several channels of one reactor may share it. A call that
    brings ``authorization`` metadata of its own goes as it is.

    While there is no token, calls wait, for as long as their own time lasts; all wait for one call
    of *get_token*. Shortly before a token expires, a new one is asked for, and calls go on with the
    old one meanwhile. If a server refuses a token, another is asked for, once in ten seconds at
    most, and the call is made once more.

    A call fails with UNAVAILABLE if *get_token* fails, or with the :class:`~txzmq.rpc.RpcError`
    that it raises. After a failure it is not asked again for a second, and after further ones for
    up to a minute; calls that need a token fail meanwhile.

    :ivar insecure: whether to send tokens over connections that are not encrypted.
    """

    def __init__(
        self,
        get_token: GetToken,
        *,
        renew_before: float = 60.0,
        timeout: float = 30.0,
        insecure: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        :param get_token: returns a token, a Deferred of one, or is a coroutine.
        :param renew_before: seconds before its end that a token is renewed; of a token that lives
            for less than ten times as long, in the last tenth of its time.
        :param timeout: seconds that *get_token* may take.
        :param insecure: send tokens also where nothing encrypts them: whoever reads one can use it.
            Without it, a channel without ``credentials`` refuses them, unless all its endpoints are
            inproc, or ipc below a folder that only this user can enter.
        :param now: the time in seconds since 1970; another one is for tests.
        :raises ValueError: for a wrong value, or TypeError for a value of a wrong type.
        """
        _check.function("get_token", get_token, ())
        _check.number("renew_before", renew_before)
        _check.number("timeout", timeout, above=True)
        _check.boolean("insecure", insecure)
        _check.function("now", now, (), awaited=False)
        self.insecure = insecure
        self._get_token = get_token
        self._renew_before = renew_before
        self._timeout = timeout
        self._now = now
        self._token = ""
        # When it expires, and when a new one is to be asked for.
        self._expires = self._renew_at = math.inf
        # The call of get_token that is going on, and who waits for it.
        self._getting: Deferred[str] | None = None
        self._waiting: list[Deferred[str]] = []
        # What it has failed with, how often in a row, and until when it is not called again.
        self._error: RpcError | None = None
        self._failures = 0
        self._not_before = -math.inf
        # When a server's refusal has last led to a new token.
        self._rejected = -math.inf

    def __repr__(self) -> str:
        return f"BearerCredentials(insecure={self.insecure})"  # a token is a secret

    def token(self, clock: Clock) -> str | Deferred[str]:
        """The token for a call that is made now; a Deferred of it if there is none.

        :param clock: of the channel.
        """
        now = self._now()
        if self._token and now < self._expires:
            if now >= self._renew_at and clock.seconds() >= self._not_before:
                self._renew(clock)
            return self._token
        self._token = ""
        if self._getting is None and self._error is not None:
            left = self._not_before - clock.seconds()
            if left > 0:
                return fail(self._told(f"; it is asked again in {math.ceil(left)} s"))
        waiter: Deferred[str] = Deferred(self._waits_no_more)
        self._waiting.append(waiter)
        self._renew(clock)
        return waiter

    def rejected(self, token: str, clock: Clock) -> bool:
        """A server has refused a token: whether another attempt makes sense, with a new one."""
        if token != self._token:
            return True  # another call was told before
        now = clock.seconds()
        if now - self._rejected < _REJECTED_PAUSE:
            return False
        self._rejected = now
        self._token = ""
        return True

    def close(self) -> None:
        """Leave nothing in the reactor: cancel what *get_token* has returned, if it has not fired.

        For the end of a program, or of a test, when the channels are closed. May be called again,
        and a call that needs a token later asks for one.
        """
        if self._getting is not None:
            self._getting.cancel()

    def _waits_no_more(self, waiter: Deferred[str]) -> None:
        self._waiting.remove(waiter)
        if not self._waiting and not self._token:
            self.close()  # nobody waits for it

    def _renew(self, clock: Clock) -> None:
        if self._getting is not None:
            return
        self._getting = getting = _called(self._get_token)
        getting.addTimeout(self._timeout, cast("Any", clock))  # an IReactorTime, by another name
        getting.addCallback(self._got)
        getting.addErrback(self._failed, clock)

    # Any: what a user's function returned.
    def _got(self, given: Any) -> None:
        token, expires = _checked(given)
        now = self._now()
        if expires <= now:
            raise _NoToken(f"but one that expired {now - expires:.0f} s ago")
        self._token, self._expires = token, expires
        self._renew_at = expires - min(self._renew_before, (expires - now) / _PART)
        self._getting = self._error = None
        self._failures = 0
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(token)

    def _failed(self, failure: Failure, clock: Clock) -> None:
        self._getting = None
        self._error = self._error_of(failure)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        self._not_before = clock.seconds() + pause
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(self._told(""))

    def _error_of(self, failure: Failure) -> RpcError:
        error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        if isinstance(error, RpcError):
            return error
        if isinstance(error, DeferredTimeoutError):
            return Unavailable(f"no token could be got: get_token took over {self._timeout:g} s")
        if isinstance(error, _NoToken):
            return Unavailable(f"no token could be got: get_token gave none, {error}")
        return Unavailable(f"no token could be got: get_token raised {text_of(error)}")

    def _told(self, more: str) -> RpcError:
        """The error for one call; each has its own."""
        error = self._error
        assert error is not None, "it has failed"
        return RpcError(
            error.code,
            f"{error.message} (the call was not sent{more})",
            details=error.details,
            metadata=error.metadata,
        )


class _NoToken(ValueError):
    """What *get_token* gave is no token; the message does not show it."""


def _called(get_token: GetToken) -> Deferred[Any]:
    """Call a user's function; raises nothing."""
    try:
        given: Any = get_token()
    except BaseException:  # noqa: BLE001 - whatever it raises, calls are told
        return fail(Failure())  # type: ignore[no-untyped-call]  # Twisted's
    if isinstance(given, Coroutine):
        return Deferred.fromCoroutine(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a user's
    if isinstance(given, Deferred):
        # One of ours: who fires theirs later, or waits for it, has nothing to do with ours.
        ours: Deferred[Any] = Deferred(lambda _: given.cancel())  # pyright: ignore[reportUnknownMemberType]  # a user's
        given.addCallbacks(ours.callback, ours.errback)  # pyright: ignore[reportUnknownMemberType]  # a user's
        return ours
    return succeed(given)


def _checked(given: object) -> tuple[str, float]:
    """A token, and when it expires: infinite if that is not known.

    :raises _NoToken: if it is none.
    """
    token, expires = given, None
    if isinstance(given, tuple):
        pair = cast("tuple[object, ...]", given)
        if len(pair) != 2:
            raise _NoToken("but a tuple that is no AccessToken")
        token, expires = pair
    if not isinstance(token, str):
        raise _NoToken(f"but {_check.kind(token)}, where a str or an AccessToken is due")
    if not _TOKEN.fullmatch(token):
        raise _NoToken("but a str that is empty, or has characters that no token has")
    if expires is None:
        return token, expiry_of(token)
    if isinstance(expires, bool) or not isinstance(expires, int | float) or expires != expires:
        raise _NoToken("but one whose expires_at is no number of seconds since 1970, nor None")
    return token, float(expires)
