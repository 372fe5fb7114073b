"""Public keys that an identity provider publishes, fetched without blocking anything."""

from __future__ import annotations

import json
import math
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from txzmq import _check
from txzmq._escape import escaped, text_of
from txzmq._reactor import Clock, monotonic
from txzmq.rpc._tokens.keys import PUBLIC, Found, Key, key_of_jwk
from txzmq.rpc.errors import Unavailable

__all__ = ["HttpAgent", "JwksKeys"]

_log = Logger()

#: The type of key (RFC 7518, section 6.1) for the beginning of an algorithm's name.
_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
#: Keys that a JWKS may have, and bytes.
_KEYS: Final = 100
_SIZE: Final = 256 * 1024
_NOT_IN_TIME: Final = "it did not answer in time"
#: Characters of an error that the log shows of a fetch.
_SHOWN: Final = 200


class HttpAgent(Protocol):
    """What fetches: ``twisted.web.client.Agent``, or another ``IAgent``."""

    # Any: Twisted's types are zope's interfaces.
    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None, /
    ) -> Deferred[Any]:
        """Make a request; the Deferred fires with an ``IResponse``."""
        ...


class JwksKeys:
    """The public keys of an identity provider, fetched from where it publishes them (a JWKS).

    They are fetched when the first token comes, again when they are *refresh* seconds old and a
    token comes, and when one names a key that is not known: so a provider can change its keys.
    Calls wait for keys that are not there yet, all for one fetch; there is one in *pause* seconds
    at most. While fetching fails, the keys that are there hold for *max_age* seconds; calls that
    need others fail with UNAVAILABLE. Nothing is blocked meanwhile.
    """

    def __init__(
        self,
        url: str,
        reactor: Any,
        *,
        agent: HttpAgent | None = None,
        refresh: float = 300.0,
        pause: float = 10.0,
        max_age: float = 86_400.0,
        timeout: float = 5.0,
        insecure: bool = False,
    ) -> None:
        """
        :param url: such as ``https://login.example.org/.well-known/jwks.json``. Redirections are
            not followed.
        :param reactor: Twisted's reactor, such as ``factory.reactor``. (Any: its types are zope's.)
        :param agent: makes the requests, with certificates or a proxy of your own for instance;
            None for an ``Agent`` that trusts the system's certificate authorities.
        :param refresh: seconds after which keys are fetched again.
        :param pause: seconds that pass between two fetches at least.
        :param max_age: seconds for which keys are used while no newer ones can be fetched.
        :param timeout: seconds that a fetch may take.
        :param insecure: allow ``http:`` also to other machines. Whoever can change what is fetched
            can sign tokens.
        :raises ValueError: for a URL that is not of https, unless it is of this machine or
            *insecure*; or for another value that is not allowed.
        :raises TypeError: for a value of a wrong type.
        """
        _check.boolean("insecure", insecure)
        self._url, self._shown = _checked_url(url, insecure=insecure)
        for name, number in (("refresh", refresh), ("pause", pause)):
            _check.number(name, number)
        for name, number in (("max_age", max_age), ("timeout", timeout)):
            _check.number(name, number, above=True)
        if not hasattr(reactor, "callLater"):
            raise _check.wrong_type("reactor", reactor, "Twisted's reactor")
        if agent is None:
            agent = Agent(reactor, connectTimeout=timeout)  # type: ignore[no-untyped-call]  # Twisted's
        elif not callable(getattr(agent, "request", None)):
            raise _check.wrong_type("agent", agent, "a twisted.web.client.Agent, or None")
        self._agent: Any = agent
        self._clock: Clock = monotonic(reactor)
        self._refresh = refresh
        self._pause = pause
        self._max_age = max_age
        self._timeout = timeout
        # What was fetched, and when; and the keys that were made of it, when they were wanted.
        self._jwks: list[dict[str, Any]] = []
        self._fetched_at = -math.inf
        self._keys: dict[tuple[str | None, str], tuple[dict[str, Any], Key]] = {}
        self._attempted_at = -math.inf
        # Whether the last fetch has failed.
        self._fails = False
        self._fetching: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    def __repr__(self) -> str:
        return f"JwksKeys({self._shown!r})"

    def fetch(self) -> Deferred[None]:
        """Fetch the keys now, or wait for the fetch that is going on.

        Before the server listens for instance, so that a wrong URL is noticed at once.

        :return: fires when the keys are there; fails with :class:`~txzmq.rpc.Unavailable` if they
            cannot be fetched.
        """
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        self._start()
        return waiter

    def close(self) -> None:
        """Leave nothing in the reactor: end a fetch that is going on; may be called again."""
        if self._fetching is not None:
            self._fetching.cancel()

    def find(self, kid: str | None, algorithm: str) -> Found:
        """The key with an id; a Deferred of it if it has to be fetched first.

        :raises Unavailable: if that key is not there, the last fetch has failed, and it is too
            early for another one.
        """
        now = self._clock.seconds()
        age = now - self._fetched_at
        may_fetch = self._fetching is None and now - self._attempted_at >= self._pause
        if age < self._max_age:
            if age >= self._refresh and may_fetch:
                self._start()
            key = self._look_up(kid, algorithm)
            if key is not None:
                return key
        if self._fetching is not None or may_fetch:
            return self.fetch().addCallback(lambda _: self._look_up(kid, algorithm))
        if self._fails or age >= self._max_age:
            raise self._unavailable()  # it may be a new key, or somebody has made it up
        return None

    def _look_up(self, kid: str | None, algorithm: str) -> Key | None:
        made = self._keys.get((kid, algorithm))
        if made is not None:
            return made[1]
        jwk = _only(self._jwks, kid, algorithm)
        key = None if jwk is None else key_of_jwk(jwk, algorithm)
        if jwk is not None and key is not None:
            self._keys[kid, algorithm] = jwk, key
        return key

    # -- fetching ----------------------------------------------------------------------------

    def _start(self) -> None:
        if self._fetching is not None:
            return
        self._attempted_at = self._clock.seconds()
        try:
            fetching: Deferred[Any] = self._agent.request(
                b"GET", self._url, Headers({b"Accept": [b"application/json"]})
            )
        except BaseException:  # noqa: BLE001 - whatever an agent of the user's raises
            self._failed(Failure())  # type: ignore[no-untyped-call]  # Twisted's
            return
        self._fetching = fetching
        fetching.addCallback(_body_of)
        fetching.addTimeout(self._timeout, cast("Any", self._clock))
        fetching.addCallback(self._fetched)
        fetching.addErrback(self._failed)

    def _fetched(self, body: bytes) -> None:
        jwks = _parsed(body)
        # A key that is as it was stays the same one: tokens that it has verified stay verified.
        kept = {name: made for name, made in self._keys.items() if _only(jwks, *name) == made[0]}
        self._jwks, self._keys = jwks, kept
        self._fetching = None
        self._fails = False
        self._fetched_at = self._clock.seconds()
        if not any(_fits(jwk, None, algorithm) for jwk in jwks for algorithm in PUBLIC):
            _log.warn("there is no key at {url} that could verify a token", url=self._shown)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def _failed(self, failure: Failure) -> None:
        self._fetching = None
        self._fails = True
        age = self._clock.seconds() - self._fetched_at
        _log.warn(
            "cannot fetch the keys of tokens from {url}: {error}; {what}",
            url=self._shown,
            error=_shown(failure),
            what="the old ones are used" if age < self._max_age else "calls with tokens fail",
        )
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(self._unavailable())

    def _unavailable(self) -> Unavailable:
        # Without the reason: strangers get it, too.
        return Unavailable(
            "the server cannot fetch the keys that verify tokens; the call was not executed"
        )


class _Refused(Exception):
    """What was fetched is no set of keys."""


def _checked_url(url: object, *, insecure: bool) -> tuple[bytes, str]:
    """A URL as it is asked for, and as the log shows it: a query may be secret.

    :raises ValueError: if it is none, or not secure.
    """
    if not isinstance(url, str):
        raise _check.wrong_type("url", url, "a str")
    try:
        parts = urlsplit(url)
        asked, host, _ = url.encode("ascii"), parts.hostname, parts.port
    except ValueError:
        raise ValueError("url must be a URL of https in ASCII") from None
    if parts.scheme not in ("https", "http") or not host or not url.isprintable() or " " in url:
        raise ValueError("url must be a URL of https, such as https://login.example.org/keys")
    if parts.username is not None:
        raise ValueError("url must have no user in it; pass an agent= that sends what is secret")
    if parts.scheme == "http" and not insecure and not _is_here(host):
        raise ValueError(
            "url must be of https: whoever can change keys on their way can sign tokens. "
            "insecure=True allows it all the same"
        )
    return asked.partition(b"#")[0], f"{parts.scheme}://{parts.netloc}{parts.path}"


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    return host in ("localhost", "::1") or (
        host.startswith("127.") and host.replace(".", "").isdigit()
    )


# Any: an IResponse.
def _body_of(response: Any) -> Deferred[bytes]:
    """The body of a response, if it is a good one.

    :raises _Refused: if it is not.
    """
    body = _Body()
    if response.code != 200:
        body.refuse(f"it answered {response.code}, not 200")
    response.deliverBody(body)
    return body.deferred


#: As Twisted's own protocols have it.
_DONE: Final = Failure(ResponseDone())  # type: ignore[no-untyped-call]  # Twisted's


class _Body(TwistedProtocol):
    """Reads a body, and ends the connection when it has too many bytes."""

    def __init__(self) -> None:
        self.deferred: Deferred[bytes] = Deferred(self._cancelled)
        self._data = bytearray()
        self._refusal = ""

    def refuse(self, reason: str) -> None:
        """Read no more."""
        self._refusal = reason
        self._abort()

    def connectionMade(self) -> None:
        if self._refusal:
            self._abort()

    def dataReceived(self, data: bytes) -> None:
        if self._refusal:
            return
        self._data += data
        if len(self._data) > _SIZE:
            self.refuse(f"it answered with more than {_SIZE} bytes")

    def connectionLost(self, reason: Failure = _DONE) -> None:
        deferred = self.deferred
        if deferred.called:
            return  # nobody waits any more
        if self._refusal:
            deferred.errback(_Refused(self._refusal))
        elif isinstance(_value(reason), ResponseDone | PotentialDataLoss):
            deferred.callback(bytes(self._data))
        else:
            deferred.errback(reason)

    def _cancelled(self, _: object) -> None:
        self.refuse(self._refusal or _NOT_IN_TIME)

    def _abort(self) -> None:
        abort = getattr(cast("object", self.transport), "abortConnection", None)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        if abort is not None:
            abort()


def _parsed(body: bytes) -> list[dict[str, Any]]:
    """The keys of a JWKS.

    :raises _Refused: if it is none.
    """
    try:
        jwks: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused("it answered with what is no JSON") from None
    keys: Any = jwks.get("keys") if isinstance(jwks, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # of JSON
    if not isinstance(keys, list):
        raise _Refused("it answered with what is no JWKS")
    found = [cast("dict[str, Any]", key) for key in cast("list[object]", keys) if _is_dict(key)]
    if len(found) > _KEYS:
        raise _Refused(f"it answered with more than {_KEYS} keys")
    return found


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _only(jwks: list[dict[str, Any]], kid: str | None, algorithm: str) -> dict[str, Any] | None:
    """The one key of a JWKS for a token; None if there is none, or more than one."""
    fitting = [jwk for jwk in jwks if _fits(jwk, kid, algorithm)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(jwk: dict[str, Any], kid: str | None, algorithm: str) -> bool:
    """Whether a key of a JWKS may be the one for a token."""
    operations = jwk.get("key_ops")
    return (
        (kid is None or jwk.get("kid") == kid)
        and jwk.get("kty") == _KEY_TYPES[algorithm[:2]]
        and jwk.get("alg") in (None, algorithm)
        and jwk.get("use") in (None, "sig")
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
    )


def _shown(failure: Failure) -> str:
    """Why a fetch has failed, for the log."""
    error = _value(failure)
    if isinstance(error, _Refused):
        return str(error)
    reasons: Any = getattr(error, "reasons", None)  # of Twisted's ResponseFailed
    if reasons:
        error = _value(reasons[0])
    if isinstance(error, DeferredTimeoutError | CancelledError):
        return _NOT_IN_TIME
    return escaped(text_of(error)[:_SHOWN])


def _value(failure: Failure) -> BaseException:
    return cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
