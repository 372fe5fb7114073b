"""Finds out who calls by JSON Web Tokens; needs the extra ``txzmq[jwt]``.

Each call carries ``authorization: Bearer TOKEN`` in its metadata, which an identity provider has
signed. The server verifies it, and ``context.identity`` is whom it names::

    keys = JwksKeys("https://login.example.org/keys", factory.reactor)
    tokens = BearerTokens(keys, audience="orders", issuer="https://login.example.org")
    server = Server(factory, [Orders()], credentials=credentials, authenticate=tokens)

A client brings tokens along by :class:`txzmq.rpc.authentication.BearerCredentials`, which needs no
extra.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

from twisted.internet.defer import Deferred

from txzmq import _check
from txzmq._identity import Identity
from txzmq.rpc.errors import Unauthenticated
from txzmq.rpc.metadata import Metadata

try:
    import jwt
    from OpenSSL import SSL as _SSL  # which Twisted asks for when it fetches keys by https

    from txzmq.rpc._tokens.jwks import JwksKeys
    from txzmq.rpc._tokens.keys import PUBLIC, SECRET, GivenKeys, Key, KeySource
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.tokens needs PyJWT with cryptography, and Twisted's TLS: "
        "pip install 'txzmq[jwt]'"
    ) from error

__all__ = ["BearerTokens", "JwksKeys", "TokenKeys"]

del _SSL  # it is there

#: Characters of a user's or a group's name.
_NAME: Final = 1_024
#: Groups that a token may name.
_GROUPS: Final = 1_000
#: Tokens of which is remembered that they are good.
_REMEMBERED: Final = 4_096
#: What PyJWT raises for what is no token: RecursionError before its version 2.15, SystemError where
#: PyPy fails to format what is wrong with its JSON.
_MALFORMED: Final = (jwt.PyJWTError, RecursionError, SystemError)

#: What verifies tokens: a public key in PEM, or for HS256 and its like a secret; or several, by the
#: ``kid`` that tokens name; or a :class:`JwksKeys`.
TokenKeys: TypeAlias = "str | bytes | Mapping[str, str | bytes] | JwksKeys"


class BearerTokens:
    """Verifies the token of each call (an :data:`~txzmq.rpc.authentication.Authenticate`).

    ``context.identity`` then has the token's ``sub`` as its name, its groups, and all its claims;
    ``context.peer_identity`` stays whose the connection is. A call without a token, with several,
    or with one that is not good is refused with UNAUTHENTICATED, and the message says what is
    wrong, without the token. Tokens without ``exp`` are not good.

    A token that was good once is not verified again until it expires, or its key is taken back.
    A stream goes on after the token of its call has expired.
    """

    def __init__(
        self,
        keys: TokenKeys,
        *,
        audience: str | Iterable[str] | None,
        issuer: str | Iterable[str] | None,
        algorithms: Iterable[str] = ("RS256", "ES256"),
        leeway: float = 30.0,
        name: str = "sub",
        groups: str | Callable[[Mapping[str, Any]], Iterable[str]] = "groups",
        required: bool = True,
        max_size: int = 8_192,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        :param keys: a public key in PEM or a secret; a mapping of ``kid`` to such; or a
            :class:`JwksKeys`, which fetches them.
        :param audience: who the token must be for, ``aud``: one of these. None takes tokens that
            are for anybody, such as for another service of the same issuer.
        :param issuer: who must have issued it, ``iss``: one of these. None takes any.
        :param algorithms: those that a token may be signed by: of public keys, or of secrets
            (HS256, HS384, HS512), but not of both.
        :param leeway: seconds by which clocks may differ.
        :param name: the claim that is the name of the identity.
        :param groups: the claim that has the groups: a list, or a str with spaces between them, as
            ``scope`` is. A token without it has no groups. Or a function of the claims, for those
            that are nested.
        :param required: refuse calls without a token. Otherwise they have the identity of their
            connection, and ``authorize`` decides about them.
        :param max_size: characters that a token may have.
        :param now: the time in seconds since 1970; another one is for tests.
        :raises ValueError: for a value that is not allowed, or a key that fits none of the
            algorithms, or is too short for it; the message does not show the key.
        :raises TypeError: for a value of a wrong type.
        """
        self._audience = _words("audience", audience)
        self._issuer = _words("issuer", issuer)
        self._algorithms = _checked_algorithms(algorithms)
        _check.number("leeway", leeway)
        _check.text("name", name)
        if not isinstance(groups, str):
            _check.function("groups", groups, ("claims",), awaited=False)
        else:
            _check.text("groups", groups)
        _check.boolean("required", required)
        _check.integer("max_size", max_size, 1)
        _check.function("now", now, (), awaited=False)
        self._keys: KeySource
        if isinstance(keys, JwksKeys):
            self._keys = keys
            if not self._algorithms <= PUBLIC:
                raise ValueError("algorithms of a JWKS must be those of public keys: it is public")
        else:
            self._keys = GivenKeys(keys, self._algorithms)
        self._leeway = leeway
        self._name = name
        self._groups = groups
        self._required = required
        self._max_size = max_size
        self._now = now
        # Of tokens that were good, by their digest: the oldest first.
        self._good: OrderedDict[bytes, _Good] = OrderedDict()
        self._options: dict[str, Any] = {
            "require": ["exp"],
            # By the clock that was given: remembered tokens need it, too.
            **dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat"), False),
            "verify_aud": self._audience is not None,
            "enforce_minimum_key_length": True,
        }

    def __call__(
        self, identity: Identity | None, method: str, metadata: Metadata
    ) -> Identity | Deferred[Identity] | None:
        """Who calls; see :data:`~txzmq.rpc.authentication.Authenticate`.

        :raises Unauthenticated: if the token is not good, or there is none.
        :raises Unavailable: if the keys that verify it cannot be fetched.
        """
        token = self._token(metadata)
        if token is None:
            if self._required:
                raise _refusal("the call carries no token, such as authorization: Bearer ...")
            return identity
        digest = hashlib.sha256(token.encode()).digest()
        good = self._good.get(digest)
        kid, algorithm = self._header(token) if good is None else good.key_name
        found = self._keys.find(kid, algorithm)
        if good is not None:
            if found is good.key and good.until > self._now():
                return good.identity
            del self._good[digest]
        if isinstance(found, Deferred):
            return found.addCallback(partial(self._verified, token, digest, kid))
        return self._verified(token, digest, kid, found)

    def _token(self, metadata: Metadata) -> str | None:
        """The token that came along; None if there is none."""
        values = [value for key, value in metadata if key == "authorization"]
        if not values:
            return None
        if len(values) > 1:
            raise _refusal("the call carries authorization more than once")
        scheme, _, token = str(values[0]).partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not token or " " in token:
            raise _refusal("the authorization of the call is not of the form: Bearer TOKEN")
        if len(token) > self._max_size:
            raise _refusal(
                f"the token has {len(token)} characters, over the server's limit of "
                f"{self._max_size}"
            )
        return token

    def _header(self, token: str) -> tuple[str | None, str]:
        """Which key, and which algorithm, a token names."""
        try:
            header: dict[str, Any] = jwt.get_unverified_header(token)
        except _MALFORMED:
            raise _refusal("the token is malformed: it is no JSON Web Token") from None
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            accepted = ", ".join(sorted(self._algorithms))
            raise _refusal(
                f"the token is signed by an algorithm that is not accepted here, but {accepted}"
            )
        kid: str | None = header.get("kid")  # a str, as PyJWT sees to
        return kid, algorithm

    def _verified(self, token: str, digest: bytes, kid: str | None, key: Key | None) -> Identity:
        """Whom a token names, if it is good."""
        if key is None:
            raise _refusal("the token is signed by a key that the server does not know")
        claims = self._claims(token, key)
        now = self._now()
        expires = _seconds(claims, "exp")
        for claim in ("nbf", "iat"):
            if claim in claims and _seconds(claims, claim) > now + self._leeway:
                raise _refusal(f"the token is not valid yet ({claim})")
        if expires + self._leeway <= now:
            raise _refusal("the token has expired")
        identity = self._identity(claims)
        if len(self._good) >= _REMEMBERED:
            self._good.popitem(last=False)
        good = _Good(identity, expires + self._leeway, (kid, key.algorithm), key)
        self._good[digest] = good
        return identity

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.value,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options=cast("Any", self._options),  # a TypedDict, made in pieces
            )
        except jwt.InvalidSignatureError:
            reason = "the token's signature is wrong"
        except jwt.InvalidAudienceError:
            reason = "the token is for another audience"
        except jwt.InvalidIssuerError:
            reason = "the token is by another issuer"
        except jwt.MissingRequiredClaimError as error:
            reason = f"the token has no {error.claim}"  # a claim that is asked for here
        except _MALFORMED:
            reason = "the token is malformed"
        raise _refusal(reason)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        name = _word(self._name, claims.get(self._name))
        groups: object
        if isinstance(self._groups, str):
            where = self._groups
            groups = claims.get(where) or ()
            if isinstance(groups, str):
                groups = groups.split()
        else:
            where = "groups"
            groups = self._groups(claims)
        if isinstance(groups, str | Mapping) or not isinstance(groups, Iterable):
            raise _refusal(f"the token is malformed: {where} is no list")
        words = [_word(where, word) for word in cast("Iterable[object]", groups)]
        if len(words) > _GROUPS:
            raise _refusal(f"the token is malformed: {where} has more than {_GROUPS} entries")
        return Identity(name, groups=frozenset(words), claims=claims)


class _Good(NamedTuple):
    """What is remembered of a token that was good.

    :ivar until: seconds since 1970.
    :ivar key_name: by what its key is looked up: if another one is found, it is not good any more.
    """

    identity: Identity
    until: float
    key_name: tuple[str | None, str]
    key: Key


def _refusal(reason: str) -> Unauthenticated:
    return Unauthenticated(f"{reason}; the call was not executed")


def _seconds(claims: dict[str, Any], claim: str) -> float:
    """A time that a token has, in seconds since 1970."""
    value = claims[claim]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    raise _refusal(f"the token is malformed: {claim} is no time")


def _word(claim: str, value: object) -> str:
    """A name that a token has."""
    if value is None:
        raise _refusal(f"the token has no {claim}")
    # Text with half a character can neither be sent nor written.
    if isinstance(value, str) and 0 < len(value) <= _NAME and not _is_broken(value):
        return value
    raise _refusal(f"the token is malformed: {claim} holds what is no name")


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _words(name: str, value: object) -> list[str] | None:
    """What a user gives as one str or several."""
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray):
        raise _check.wrong_type(name, value, "a str, several, or None")
    words = list(cast("Iterable[object]", value))
    for word in words:
        _check.text(name, word)
    if not words:
        raise ValueError(f"{name} must be a str, several, or None for any, and is empty")
    return cast("list[str]", words)


def _checked_algorithms(given: object) -> frozenset[str]:
    words = _words("algorithms", given)
    if words is None:
        raise _check.wrong_type("algorithms", given, "names of algorithms")
    for word in words:
        _check.choice("algorithms", word, sorted(PUBLIC | SECRET))
    found = frozenset(words)
    if found & PUBLIC and found & SECRET:
        raise ValueError(
            "algorithms must be of public keys or of secrets, not of both: whoever knows a public "
            "key could take it for a secret, and sign with it"
        )
    return found
