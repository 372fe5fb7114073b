"""Keys that verify tokens, each for one algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, cast

import jwt
from jwt import algorithms as jwt_algorithms
from twisted.internet.defer import Deferred

from txzmq import _check

__all__ = ["PUBLIC", "SECRET", "Found", "GivenKeys", "Key", "KeySource", "key_of_jwk"]

#: Algorithms by which a public key verifies, and those by a secret that both sides have.
PUBLIC: Final = frozenset(
    {
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        *("ES256", "ES384", "ES512", "ES256K", "EdDSA"),
    }
)
SECRET: Final = frozenset({"HS256", "HS384", "HS512"})


class Key(NamedTuple):
    """A key, and the one algorithm that it is for. (Any: PyJWT's or cryptography's.)"""

    value: Any
    algorithm: str


#: A key; None for one that is not known; a Deferred where it has to be fetched.
Found: TypeAlias = Key | Deferred[Key | None] | None


class KeySource(Protocol):
    """Where keys are looked up."""

    def find(self, kid: str | None, algorithm: str) -> Found:
        """The key with an id, for an algorithm; of a token that names none the only one."""
        ...


class GivenKeys:
    """Keys that do not change (a KeySource)."""

    def __init__(self, keys: object, algorithms: frozenset[str]) -> None:
        """
        :raises ValueError: if a key fits none of the algorithms, or is too short.
        :raises TypeError: if one is no key at all.
        """
        if isinstance(keys, str | bytes):
            given: Mapping[object, object] = {None: keys}
        elif isinstance(keys, Mapping):
            given = cast("Mapping[object, object]", keys)
        else:
            what = "a key, a mapping of kid to keys, or a JwksKeys"
            raise TypeError(f"keys must be {what}, not {_check.kind(keys)}")
        if not given:
            raise ValueError("keys must have one key or more")
        self._keys: dict[tuple[str | None, str], Key] = {}
        for kid, key in given.items():
            if isinstance(keys, Mapping):
                _check.text("keys", kid)
            if not isinstance(key, str | bytes):
                raise TypeError(f"a key of keys must be str or bytes, not {_check.kind(key)}")
            for algorithm, prepared in _prepared(key, algorithms).items():
                self._keys[cast("str | None", kid), algorithm] = prepared

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key with an id; the only one for an algorithm, where a token or a key has no id."""
        found = self._keys.get((kid, algorithm)) or self._keys.get((None, algorithm))
        if found is None and kid is None:
            fitting = [key for (_, name), key in self._keys.items() if name == algorithm]
            found = fitting[0] if len(fitting) == 1 else None
        return found


def _prepared(key: str | bytes, algorithms: frozenset[str]) -> dict[str, Key]:
    """A key for each of the algorithms that it fits.

    :raises ValueError: if it fits none.
    """
    known = jwt_algorithms.get_default_algorithms()
    found: dict[str, Key] = {}
    too_short = False
    for name in algorithms:
        algorithm = known[name]
        try:
            value: Any = algorithm.prepare_key(key)
        except (jwt.PyJWTError, ValueError, TypeError):  # of another type
            continue
        if algorithm.check_key_length(value):
            too_short = True
        else:
            found[name] = Key(value, name)
    if found:
        return found
    names = ", ".join(sorted(algorithms))
    if too_short:
        raise ValueError(f"keys: a key is too short for {names} (RFC 7518, NIST SP 800-131A)")
    raise ValueError(f"keys: a key is none for {names}: public keys are in PEM")


def key_of_jwk(jwk: dict[str, Any], algorithm: str) -> Key | None:
    """The key that a JWKS describes; None if it is broken, or too short."""
    try:
        key = jwt.PyJWK(jwk, algorithm)
        value: Any = key.Algorithm.prepare_key(key.key)
        if key.Algorithm.check_key_length(value):
            return None
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, AttributeError, LookupError):
        return None
    return Key(value, algorithm)
