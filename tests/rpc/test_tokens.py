"""What makes a token good, and what is said of one that is not."""

from __future__ import annotations

import hashlib
import hmac
import string
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

pytest.importorskip("jwt", reason="PyJWT and cryptography, the extra jwt, are not installed here")

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from tests.programs import succeeds
from tests.rpc.identified import Identified
from tests.rpc.issuer import AUDIENCE, EPOCH, ISSUER, carrying, claims, key, pem, raw, signed
from tests.rpc.service import ECHO
from tests.support import Logged, examples
from txzmq.auth import Identity
from txzmq.rpc import Count, PermissionDenied, Unauthenticated
from txzmq.rpc.authorization import permissions
from txzmq.rpc.tokens import BearerTokens, JwksKeys

SECRET = "a secret of more than sixty-four characters, as HS512 wants it to be, at least"


class Now:
    """A clock on the wall."""

    def __init__(self) -> None:
        self.time = EPOCH

    def __call__(self) -> float:
        return self.time


def tokens(keys: Any = None, **options: Any) -> BearerTokens:
    options = {"audience": AUDIENCE, "issuer": ISSUER, "now": Now(), **options}
    return BearerTokens(pem(key("P-256")) if keys is None else keys, **options)


def who(verifier: BearerTokens, token: str) -> Identity:
    found = verifier(None, ECHO.path, carrying(token))
    assert isinstance(found, Identity)
    return found


def refusal(verifier: BearerTokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        verifier(None, ECHO.path, carrying(token))
    message = raised.value.message
    assert message.endswith("; the call was not executed")
    assert len(token) < 20 or token not in message
    return message


# -- good ones ----------------------------------------------------------------------------------


def test_a_token_names_who_calls() -> None:
    identity = who(tokens(), signed(tenant="a"))
    assert (identity.name, identity.public_key) == ("alice", "")
    assert identity.groups == {"staff"}
    assert dict(identity.claims) == claims(tenant="a")


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        *((name, "RSA") for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("ES256", "P-256"),
        ("ES384", "P-384"),
        ("EdDSA", "Ed25519"),
    ],
)
def test_it_may_be_signed_by_each_algorithm(algorithm: str, kind: str) -> None:
    verifier = tokens(pem(key(kind)), algorithms=[algorithm])
    assert who(verifier, signed(key(kind), algorithm=algorithm)).name == "alice"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_it_may_be_signed_by_a_secret(algorithm: str) -> None:
    verifier = tokens(SECRET, algorithms=[algorithm])
    assert who(verifier, signed(SECRET, algorithm=algorithm)).name == "alice"


def test_several_keys_are_told_apart_by_their_ids() -> None:
    keys = {name: pem(key("P-256", number)) for number, name in enumerate(["old", "new"])}
    verifier = tokens(keys)
    for number, name in enumerate(keys):
        assert who(verifier, signed(key("P-256", number), kid=name)).name == "alice"
    assert "signature is wrong" in refusal(verifier, signed(key("P-256", 1), kid="old"))
    assert "a key that the server does not know" in refusal(verifier, signed(kid="other"))
    # Without an id, nobody knows which one it is.
    assert "a key that the server does not know" in refusal(verifier, signed())


def test_one_key_needs_no_id() -> None:
    assert who(tokens({"only": pem(key("P-256"))}), signed()).name == "alice"
    assert who(tokens(), signed(kid="whatever")).name == "alice"


def test_the_word_bearer_is_written_as_one_likes() -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        found = tokens()(None, ECHO.path, (("authorization", f"{scheme} {signed()}"),))
        assert isinstance(found, Identity)


GROUPS: list[tuple[str, Any, set[str]]] = [
    ("groups", ["a", "b"], {"a", "b"}),
    ("groups", [], set()),
    ("groups", None, set()),
    ("scope", "orders.read orders.write", {"orders.read", "orders.write"}),
    ("scope", "", set()),
]


@pytest.mark.parametrize(("option", "value", "groups"), GROUPS)
def test_groups_are_a_list_or_words(option: str, value: Any, groups: set[str]) -> None:
    changes: dict[str, Any] = {"groups": None} | {option: value}
    assert who(tokens(groups=option), signed(**changes)).groups == groups


def test_groups_may_be_anywhere() -> None:
    def roles(claims: Any) -> Any:
        return claims["realm_access"]["roles"]

    verifier = tokens(groups=roles)
    assert who(verifier, signed(realm_access={"roles": ["admin"]})).groups == {"admin"}


def test_another_claim_may_be_the_name() -> None:
    assert who(tokens(name="email"), signed(email="a@example.org")).name == "a@example.org"
    assert "no email" in refusal(tokens(name="email"), signed())


# -- what is wrong with others ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exp": EPOCH - 31}, "has expired"),
        ({"exp": None}, "has no exp"),
        ({"exp": "soon"}, "malformed: exp is no time"),
        ({"exp": True}, "malformed: exp is no time"),
        ({"exp": [1]}, "malformed: exp is no time"),
        ({"exp": 10**30}, "malformed: exp is no time"),
        ({"exp": float("inf")}, "malformed: exp is no time"),
        ({"exp": float("nan")}, "malformed: exp is no time"),
        ({"nbf": EPOCH + 31}, r"not valid yet \(nbf\)"),
        ({"nbf": "x"}, "malformed: nbf is no time"),
        ({"iat": EPOCH + 31}, r"not valid yet \(iat\)"),
        ({"iat": {}}, "malformed: iat is no time"),
        ({"aud": "billing"}, "for another audience"),
        ({"aud": ["billing", "mail"]}, "for another audience"),
        ({"aud": {"orders": 1}}, "for another audience"),
        ({"aud": None}, "has no aud"),
        ({"iss": "https://evil.example.org"}, "by another issuer"),
        ({"iss": None}, "has no iss"),
        ({"iss": [ISSUER]}, "malformed|by another issuer"),
        ({"sub": None}, "has no sub"),
        ({"sub": ""}, "malformed: sub"),
        ({"sub": 5}, "malformed"),
        ({"sub": "x" * 1_025}, "malformed: sub"),
        ({"sub": "half \ud800"}, "malformed: sub"),
        ({"groups": 5}, "malformed: groups is no list"),
        ({"groups": {"a": 1}}, "malformed: groups is no list"),
        ({"groups": [5]}, "malformed: groups"),
        ({"groups": [""]}, "malformed: groups"),
        ({"groups": ["\udfff"]}, "malformed: groups"),
        ({"groups": ["g"] * 1_001}, "more than 1000"),
    ],
    ids=str,
)
def test_a_claim_that_is_not_right_is_told(changes: Any, said: str) -> None:
    token = signed(**changes)
    with pytest.raises(Unauthenticated, match=said):
        tokens()(None, ECHO.path, carrying(token))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": EPOCH - 29},
        {"nbf": EPOCH + 29},
        {"iat": EPOCH + 29},
        {"nbf": EPOCH - 5, "iat": EPOCH - 5},
        {"aud": ["billing", "orders"]},
        {"exp": EPOCH + 0.5},
        {"sub": "x" * 1_024},
    ],
    ids=str,
)
def test_clocks_may_differ_and_claims_have_several_forms(changes: Any) -> None:
    assert who(tokens(), signed(**changes)).name == claims(**changes)["sub"]


def test_one_of_several_audiences_and_issuers_is_enough() -> None:
    verifier = tokens(audience=["billing", AUDIENCE], issuer=["https://a", ISSUER])
    assert who(verifier, signed()).name == "alice"
    assert "audience" in refusal(verifier, signed(aud="mail"))
    assert "issuer" in refusal(verifier, signed(iss="https://b"))


def test_who_asks_for_none_takes_any() -> None:
    verifier = tokens(audience=None, issuer=None)
    tried: list[dict[str, Any]] = [{"aud": "mail"}, {"aud": None}, {"iss": None}, {"iss": "x"}]
    for changes in tried:
        assert who(verifier, signed(**changes)).name == "alice"


def test_no_algorithm_is_none() -> None:
    for algorithm in ("none", "None", "NONE", "nOnE", "", None, 5, ["ES256"], "HS256", "RS384"):
        forged = raw({"alg": algorithm, "typ": "JWT"}, claims(), b"")
        assert "an algorithm that is not accepted here" in refusal(tokens(), forged)
    assert "an algorithm that is not accepted" in refusal(tokens(), raw({"typ": "JWT"}, claims()))


def test_a_public_key_is_no_secret() -> None:
    """HS256 with the text of the public key, which everybody knows."""
    public = pem(key("RSA")).encode()
    signing = raw({"alg": "HS256"}, claims(), b"").removesuffix(".")
    forged = hmac.new(public, signing.encode(), hashlib.sha256).digest()
    token = raw({"alg": "HS256"}, claims(), forged)
    verifier = tokens(pem(key("RSA")), algorithms=["RS256"])
    assert "an algorithm that is not accepted here" in refusal(verifier, token)
    for algorithms in (["RS256", "HS256"], ["HS512", "EdDSA"]):
        with pytest.raises(ValueError, match="of public keys or of secrets, not of both"):
            tokens(pem(key("RSA")), algorithms=algorithms)
    with pytest.raises(ValueError, match="a key is none for HS256"):
        tokens(pem(key("RSA")), algorithms=["HS256"])


def test_a_key_in_the_token_is_not_looked_at() -> None:
    from tests.rpc.issuer import jwk

    mine = key("P-256", 7)
    for header in ({"jwk": jwk(mine)}, {"jku": "https://evil"}, {"x5u": "https://evil"}):
        assert "signature is wrong" in refusal(tokens(), signed(mine, header=header))


def test_what_a_token_calls_critical_and_nobody_knows_refuses_it() -> None:
    token = signed(header={"crit": ["b64", "own"], "own": 1, "b64": True})
    assert "malformed" in refusal(tokens(), token)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b",
        "a.b.c",
        "...",
        "a.b.c.d",
        raw([1], claims()),
        raw(b"\xff", claims()),
        raw({"alg": "ES256", "kid": 5}, claims()),
        raw(b"[" * 3_000, claims()),
        raw({"alg": "ES256", "b64": False, "crit": ["b64"]}, claims()),
    ],
)
def test_what_is_no_token_is_told(token: str) -> None:
    assert "malformed" in refusal(tokens(), token)


@pytest.mark.parametrize("payload", [b"\xff", b"", b"[" * 3_000, [1], "x", b"9" * 5_000])
def test_what_is_signed_and_no_claims_is_told(payload: Any) -> None:
    from jwt import api_jws

    data = payload if isinstance(payload, bytes) else str(payload).encode()
    token = api_jws.encode(data, key("P-256"), "ES256")
    assert "malformed" in refusal(tokens(), token)


def test_a_token_may_have_so_many_characters() -> None:
    token = signed(much="x" * 8_000)
    assert "over the server's limit of 8192" in refusal(tokens(), token)
    assert who(tokens(max_size=20_000), token).name == "alice"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ((), "carries no token"),
        ((("authorization-bin", b"Bearer x"),), "carries no token"),
        ((("authorization", "Basic x"),), "not of the form"),
        ((("authorization", "Bearer"),), "not of the form"),
        ((("authorization", "Bearer "),), "not of the form"),
        ((("authorization", "x"),), "not of the form"),
        ((("authorization", "Bearer a b"),), "not of the form"),
        ((("authorization", ""),), "not of the form"),
        ((("authorization", "Bearer x"), ("authorization", "Bearer x")), "more than once"),
    ],
)
def test_metadata_with_no_token_is_told(metadata: Any, said: str) -> None:
    with pytest.raises(Unauthenticated, match=said):
        tokens()(None, ECHO.path, metadata)


def test_a_token_may_be_left_out_where_that_is_allowed_and_not_be_wrong() -> None:
    verifier = tokens(required=False)
    machine = Identity("machine")
    assert verifier(None, ECHO.path, ()) is None
    assert verifier(machine, ECHO.path, ()) is machine
    for token in ("x", signed(exp=EPOCH - 60), signed(key("P-256", 9))):
        refusal(verifier, token)


# -- what is remembered -------------------------------------------------------------------------


def test_a_token_is_verified_once_and_expires_all_the_same(monkeypatch: Any) -> None:
    now = Now()
    verifier = tokens(now=now)
    token = signed()
    first = who(verifier, token)
    import jwt

    monkeypatch.setattr(jwt, "decode", None)
    assert who(verifier, token) is first
    now.time = EPOCH + 600 + 29
    assert who(verifier, token) is first
    monkeypatch.undo()
    now.time = EPOCH + 600 + 30
    assert "has expired" in refusal(verifier, token)


def test_what_is_remembered_is_bounded(monkeypatch: Any) -> None:
    from txzmq.rpc import tokens as module

    monkeypatch.setattr(module, "_REMEMBERED", 10)
    verifier: Any = tokens(SECRET, algorithms=["HS256"])
    for number in range(50):
        who(verifier, signed(SECRET, algorithm="HS256", sub=f"user{number}"))
        refusal(verifier, signed(SECRET + "x", algorithm="HS256", sub=f"user{number}"))
    assert len(verifier._good) == 10


def test_a_token_that_is_like_a_good_one_is_not() -> None:
    verifier = tokens()
    good = signed()
    who(verifier, good)
    header, payload, signature = good.split(".")
    _, other, _ = signed(sub="bob").split(".")
    assert "signature is wrong" in refusal(verifier, f"{header}.{other}.{signature}")
    assert "signature is wrong" in refusal(verifier, f"{header}.{payload}.{'A' * 86}")


# -- a server with them -------------------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[Identified]:
    table = permissions({ECHO.path: {"staff"}})
    made = Identified(tokens(), authorize=table)
    yield made
    made.close()


def test_a_server_knows_who_calls_by_the_token(world: Identified) -> None:
    world.result(signed())
    (context,) = world.echo.contexts
    assert context.identity is not None
    assert (context.identity.name, context.identity.claims["iss"]) == ("alice", ISSUER)
    assert context.peer_identity is None


def test_a_server_refuses_the_others(world: Identified, logged: Logged) -> None:
    with pytest.raises(PermissionDenied, match="alice may not call"):
        world.result(signed(groups=["guests"]))
    bad = signed(exp=EPOCH - 60)
    for token in (bad, "", "x", signed(key("P-256", 3))):
        with pytest.raises(Unauthenticated):
            world.result(token)
    assert world.names == []
    assert world.server.counters[Count.DENIED] == 1
    assert world.server.counters[Count.UNAUTHENTICATED] == 4
    assert bad not in repr(list(logged))


# -- anything at all ----------------------------------------------------------------------------

SEGMENT = st.text(alphabet=string.ascii_letters + string.digits + "-_", max_size=40)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=5), PLAIN, max_size=2)
HEADERS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("kid", "crit", "b64", "typ", "jwk"), JSON)
) | st.dictionaries(st.text(max_size=5), JSON, max_size=3)


@cache
def verifiers() -> list[BearerTokens]:
    return [tokens(), tokens(required=False, algorithms=["RS256", "ES256", "EdDSA"])]


def lets_nobody_in(metadata: Any) -> None:
    for verifier in verifiers():
        try:
            found = verifier(None, ECHO.path, metadata)
        except Unauthenticated:
            continue
        assert found is None
        assert not [pair for pair in metadata if pair[0] == "authorization"]


@given(st.lists(st.tuples(st.sampled_from(["authorization", "other"]), st.text())))
@settings(max_examples=examples(200))
def test_no_metadata_lets_anybody_in(metadata: list[tuple[str, str]]) -> None:
    lets_nobody_in(tuple(metadata))


@given(st.lists(SEGMENT, max_size=5))
@example(["040", "", ""])  # JSON beyond ASCII, of which PyPy cannot say what is wrong
@settings(max_examples=examples(200))
def test_no_text_is_a_token(segments: list[str]) -> None:
    lets_nobody_in(carrying(".".join(segments)))


@given(HEADERS | JSON, JSON, st.binary(max_size=80))
@settings(max_examples=examples(200))
def test_no_parts_make_a_token(header: Any, payload: Any, signature: bytes) -> None:
    lets_nobody_in(carrying(raw(header, payload, signature)))
    if isinstance(header, dict):
        lets_nobody_in(carrying(raw({**header, "alg": "ES256"}, claims(), signature)))


@given(st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "groups"]), JSON))
@settings(max_examples=examples(200))
def test_no_claims_break_the_verifier(changes: dict[str, Any]) -> None:
    """What an identity provider has signed is one of two: somebody, or refused."""
    try:
        found = verifiers()[0](None, ECHO.path, carrying(signed(**changes)))
    except Unauthenticated:
        return
    assert isinstance(found, Identity)
    assert found.name.encode()


# -- what it is made of -------------------------------------------------------------------------


#: Any: whatever somebody may try.
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"keys": 5}, TypeError, "keys"),
    ({"keys": {}}, ValueError, "keys"),
    ({"keys": {"a": 5}}, TypeError, "keys"),
    ({"keys": {5: "a"}}, TypeError, "keys"),
    ({"keys": "no key"}, ValueError, "keys: a key is none for ES256, RS256: public keys are in"),
    ({"keys": "short", "algorithms": ["HS256"]}, ValueError, "keys: a key is too short"),
    ({"audience": 5}, TypeError, "audience"),
    ({"audience": []}, ValueError, "audience"),
    ({"audience": b"x"}, TypeError, "audience"),
    ({"audience": [5]}, TypeError, "audience"),
    ({"issuer": ""}, ValueError, "issuer"),
    ({"algorithms": None}, TypeError, "algorithms"),
    ({"algorithms": ["none"]}, ValueError, "algorithms"),
    ({"algorithms": ["RS255"]}, ValueError, "did you mean RS256"),
    ({"leeway": -1}, ValueError, "leeway"),
    ({"name": ""}, ValueError, "name"),
    ({"groups": 5}, TypeError, "groups"),
    ({"required": "no"}, TypeError, "required"),
    ({"max_size": 0}, ValueError, "max_size"),
    ({"now": 5}, TypeError, "now"),
]


@pytest.mark.parametrize(("options", "error", "said"), WRONG, ids=str)
def test_a_wrong_value_is_told(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        tokens(**options)
    assert "no key" not in str(raised.value)


def test_a_key_that_is_too_short_is_none() -> None:
    with pytest.raises(ValueError, match="too short for RS256"):
        tokens(pem(key("RSA-1024")), algorithms=["RS256"])


def test_what_is_published_is_no_secret() -> None:
    keys = JwksKeys("https://login.example.org/keys", Clock())
    with pytest.raises(ValueError, match="algorithms of a JWKS must be those of public keys"):
        tokens(keys, algorithms=["HS256"])


def test_who_imports_it_without_the_extra_is_told_what_to_install() -> None:
    program = """
import sys
for missing in ("jwt", "OpenSSL"):
    sys.modules[missing] = None
    try:
        import txzmq.rpc.tokens
    except ImportError as error:
        print(error)
    del sys.modules[missing]
"""
    told = succeeds(["-c", program]).splitlines()
    assert len(told) == 2
    assert all("pip install 'txzmq[jwt]'" in line for line in told)
