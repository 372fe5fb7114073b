"""Keys that are fetched: when, how often, what calls wait for, and what is no set of keys."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("jwt", reason="PyJWT and cryptography, the extra jwt, are not installed here")

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from tests.rpc.identified import Identified
from tests.rpc.issuer import AUDIENCE, EPOCH, ISSUER, carrying, jwk, jwks, key, signed
from tests.rpc.service import ECHO
from tests.support import Logged, examples
from txzmq.auth import Identity
from txzmq.rpc import RpcError, Unauthenticated, Unavailable
from txzmq.rpc.tokens import BearerTokens, JwksKeys

URL = "https://login.example.org/keys"


def failure(error: BaseException) -> Failure:
    return Failure(error)  # type: ignore[no-untyped-call]  # Twisted's


def broken(*reasons: Failure) -> Exception:
    return ResponseFailed(list(reasons))  # type: ignore[no-untyped-call]  # Twisted's


def refused(why: str) -> Exception:
    return ConnectionRefusedError(why)


class Answer:
    """A response (an ``IResponse``), of which the body comes at once or not at all."""

    def __init__(self, body: bytes | None, code: int = 200, end: Exception | None = None) -> None:
        self.body = body
        self.code = code
        self.end = end or ResponseDone()
        self.aborted = False
        self._protocol: Any = None

    def deliverBody(self, protocol: Any) -> None:
        self._protocol = protocol
        protocol.makeConnection(self)
        for start in range(0, len(self.body or b""), 50_000):
            protocol.dataReceived((self.body or b"")[start : start + 50_000])
        if self.body is not None and not self.aborted:
            protocol.connectionLost(failure(self.end))

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self._protocol.connectionLost(failure(broken()))


class Provider:
    """What identity providers answer, in virtual time (an ``IAgent``)."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.body = jwks(jwk(key("P-256"), "one"))
        #: What it answers in place of that: responses, errors and Deferreds.
        self.answers: list[Any] = []
        self.asked: list[tuple[bytes, bytes]] = []

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        self.asked.append((method, uri))
        answer = self.answers.pop(0) if self.answers else Answer(self.body)
        if isinstance(answer, Deferred):
            return answer  # pyright: ignore[reportUnknownVariableType]  # a test's
        if isinstance(answer, Exception):
            return fail(answer)
        deferred: Deferred[Any] = Deferred()
        self.clock.callLater(0.1, deferred.callback, answer)
        return deferred

    def keys(self, **options: Any) -> JwksKeys:
        return JwksKeys(URL, self.clock, agent=self, **options)

    def down(self) -> None:
        """It answers nothing any more."""
        self.answers = [refused("no")] * 1_000

    def up(self) -> None:
        self.answers.clear()


class Seen:
    """What has become of tokens."""

    def __init__(self, provider: Provider, keys: JwksKeys) -> None:
        self.provider = provider
        self.verifier = BearerTokens(
            keys, audience=AUDIENCE, issuer=ISSUER, now=lambda: EPOCH, algorithms=["ES256", "RS256"]
        )

    def ask(self, token: str) -> list[Any]:
        """Present a token; what it came to is put into the list, when that is known."""
        outcome: list[Any] = []
        try:
            found = self.verifier(None, ECHO.path, carrying(token))
        except RpcError as error:
            return [type(error)]
        if isinstance(found, Deferred):
            deferred: Deferred[Any] = found  # pyright: ignore[reportUnknownVariableType]  # of an Identity
            deferred.addCallbacks(str, _type_of).addCallback(outcome.append)
        else:
            assert isinstance(found, Identity)
            outcome.append(found.name)
        return outcome

    def now(self, token: str) -> Any:
        """The same, when a fetch may have ended."""
        outcome = self.ask(token)
        self.provider.clock.advance(0.1)
        (found,) = outcome
        return found


# Any: a Failure, which pyright knows in parts only.
def _type_of(failed: Any) -> Any:
    error: Any = failed.value
    return error.__class__


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    assert not made.clock.getDelayedCalls()


def token_of(number: int = 0, kid: str | None = "one", **changes: Any) -> str:
    return signed(key("P-256", number), kid=kid, **changes)


# -- when it fetches ----------------------------------------------------------------------------


def test_nothing_is_fetched_before_it_is_needed_and_once_for_all(provider: Provider) -> None:
    seen = Seen(provider, provider.keys())
    assert not provider.asked
    outcomes = [seen.ask(token_of()), seen.ask(token_of(sub="bob")), seen.ask("x.y.z")]
    assert outcomes == [[], [], [Unauthenticated]]
    provider.clock.advance(0.1)
    assert outcomes[:2] == [["alice"], ["bob"]]
    assert seen.ask(token_of()) == ["alice"]  # at once
    assert provider.asked == [(b"GET", URL.encode())]


def test_keys_are_fetched_again_while_the_old_ones_are_used(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(refresh=300.0))
    token = token_of()
    seen.now(token)
    provider.clock.advance(299)
    assert seen.ask(token) == ["alice"]
    assert len(provider.asked) == 1
    provider.clock.advance(2)
    assert seen.ask(token) == ["alice"]  # and does not wait
    assert len(provider.asked) == 2
    provider.clock.advance(0.1)


def test_a_key_that_is_not_known_is_fetched(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(pause=10.0))
    assert seen.now(token_of()) == "alice"
    provider.body = jwks(jwk(key("P-256"), "one"), jwk(key("P-256", 1), "two"))
    provider.clock.advance(10)
    assert seen.now(token_of(1, "two")) == "alice"
    assert len(provider.asked) == 2


def test_strangers_cannot_have_it_fetch_all_the_time(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(pause=10.0))
    seen.now(token_of())
    for number in range(100):
        assert seen.ask(token_of(1, f"made up {number}")) == [Unauthenticated]
    assert len(provider.asked) == 1
    provider.clock.advance(10)
    outcomes = [seen.ask(token_of(1, f"made up {number}")) for number in range(100)]
    provider.clock.advance(0.1)
    assert outcomes == [[Unauthenticated]] * 100
    assert len(provider.asked) == 2


def test_a_key_that_is_taken_back_verifies_nothing_more(provider: Provider) -> None:
    """Also not what it has verified before."""
    seen = Seen(provider, provider.keys(refresh=300.0))
    token = token_of()
    assert seen.now(token) == "alice"
    provider.body = jwks(jwk(key("P-256", 1), "two"))
    provider.clock.advance(300)
    assert seen.ask(token) == ["alice"]  # while it is fetched
    provider.clock.advance(0.1)
    assert seen.ask(token) == [Unauthenticated]


def test_a_key_whose_id_is_given_to_another_is_another_one(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(refresh=300.0))
    token = token_of()
    assert seen.now(token) == "alice"
    provider.body = jwks(jwk(key("P-256", 1), "one"))
    provider.clock.advance(300)
    seen.ask(token)
    provider.clock.advance(0.1)
    assert seen.ask(token) == [Unauthenticated]
    assert seen.ask(token_of(1)) == ["alice"]


def test_what_was_verified_stays_so_while_its_key_is_there(
    provider: Provider, monkeypatch: Any
) -> None:
    import jwt

    seen = Seen(provider, provider.keys(refresh=300.0))
    token = token_of()
    assert seen.now(token) == "alice"
    provider.body = jwks(jwk(key("P-256", 1), "two"), jwk(key("P-256"), "one"))
    provider.clock.advance(300)
    seen.ask(token)
    provider.clock.advance(0.1)
    monkeypatch.setattr(jwt, "decode", None)
    assert seen.ask(token) == ["alice"]


# -- when it cannot -----------------------------------------------------------------------------


def test_calls_fail_while_there_are_no_keys_and_it_is_not_hammered(
    provider: Provider, logged: Logged
) -> None:
    provider.down()
    seen = Seen(provider, provider.keys(pause=10.0))
    for _ in range(50):
        assert seen.ask(token_of()) == [Unavailable]
    assert len(provider.asked) == 1
    (line,) = [event for event in logged if "cannot fetch" in event["log_format"]]
    assert "ConnectionRefusedError" in line["error"]
    provider.up()
    provider.clock.advance(10)
    assert seen.now(token_of()) == "alice"


def test_old_keys_hold_for_a_while_when_no_new_ones_come(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(refresh=300.0, pause=10.0, max_age=3_600.0))
    seen.now(token_of())
    provider.down()
    for _ in range(35):
        provider.clock.advance(100)
        assert seen.ask(token_of()) == ["alice"]
        assert seen.ask(token_of(1, "unknown")) == [Unavailable]  # who knows?
    provider.clock.advance(101)
    assert seen.ask(token_of()) == [Unavailable]
    provider.up()
    provider.clock.advance(10)
    assert seen.now(token_of()) == "alice"


def test_no_failure_to_fetch_is_left_unhandled(provider: Provider, logged: Logged) -> None:
    """Where tokens that were good meet keys that are too old."""
    seen = Seen(provider, provider.keys(pause=10.0, max_age=3_600.0))
    token = token_of()
    assert seen.now(token) == "alice"
    provider.clock.advance(3_601)
    waiting: Deferred[Any] = Deferred()
    provider.answers = [waiting]
    outcome = seen.ask(token)
    waiting.errback(failure(refused("no")))
    assert outcome == [Unavailable]
    del outcome
    gc.collect()
    assert not [event for event in logged if event["log_level"] is LogLevel.critical]


def test_an_unknown_key_cannot_be_judged_when_fetching_fails(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(pause=10.0))
    seen.now(token_of())
    provider.clock.advance(10)
    provider.answers = [Answer(b"", 503)]
    assert seen.now(token_of(1, "unknown")) is Unavailable


BAD: list[tuple[Any, str]] = [
    (Answer(b"gone", 404), "it answered 404, not 200"),
    (Answer(b"", 302), "it answered 302, not 200"),
    (Answer(b"{", 200), "no JSON"),
    (Answer(b"\xff\xfe\xfa"), "no JSON"),
    (Answer(b"[" * 100_000), "no JSON"),
    (Answer(b"[]"), "no JWKS"),
    (Answer(b"{}"), "no JWKS"),
    (Answer(b'{"keys": {}}'), "no JWKS"),
    (Answer(json.dumps({"keys": [{}] * 101}).encode()), "more than 100 keys"),
    (Answer(b" " * 300_000), "more than 262144 bytes"),
    (Answer(jwks(), end=broken()), "ResponseFailed"),
    (broken(failure(refused("why"))), "ConnectionRefusedError"),
    (ValueError("line\nbreak"), r"ValueError: line\\nbreak"),
]


@pytest.mark.parametrize(("answer", "said"), BAD, ids=[said for _, said in BAD])
def test_what_is_no_set_of_keys_is_told_in_the_log(
    provider: Provider, logged: Logged, answer: Any, said: str
) -> None:
    provider.answers = [answer]
    keys = provider.keys()
    outcome: list[Any] = []
    keys.fetch().addErrback(_message_of).addCallback(outcome.append)
    provider.clock.advance(0.1)
    assert outcome == [
        "the server cannot fetch the keys that verify tokens; the call was not executed"
    ]
    (line,) = [event for event in logged if "cannot fetch" in event["log_format"]]
    assert said.replace("\\\\", "\\") in line["error"]
    if isinstance(answer, Answer) and answer.code != 200:
        assert answer.aborted


def _message_of(failed: Any) -> Any:
    return failed.value.message


def test_old_keys_are_not_lost_to_what_is_no_set_of_keys(provider: Provider) -> None:
    seen = Seen(provider, provider.keys(refresh=300.0))
    seen.now(token_of())
    for answer in (Answer(b"{}"), Answer(b"<html>"), Answer(b"", 500)):
        provider.answers = [answer]
        provider.clock.advance(300)
        seen.ask(token_of())
        provider.clock.advance(0.1)
        assert seen.ask(token_of()) == ["alice"]


def test_a_body_without_a_length_is_taken(provider: Provider) -> None:
    provider.answers = [Answer(provider.body, end=PotentialDataLoss())]
    assert Seen(provider, provider.keys()).now(token_of()) == "alice"


def test_an_agent_that_raises_is_one_that_fails(provider: Provider, logged: Logged) -> None:
    def request(*_: Any) -> Any:
        raise ZeroDivisionError

    setattr(provider, "request", request)
    assert Seen(provider, provider.keys()).ask(token_of()) == [Unavailable]
    assert [event for event in logged if "ZeroDivisionError" in str(event.get("error"))]


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_fetch_may_take_so_long(provider: Provider, logged: Logged, has_begun: bool) -> None:
    endless = Answer(None)
    cancelled: list[Any] = []
    provider.answers = [endless if has_begun else Deferred(cancelled.append)]
    outcome = Seen(provider, provider.keys(timeout=5.0)).ask(token_of())
    provider.clock.advance(0.1)
    assert outcome == []
    provider.clock.advance(5)
    assert outcome == [Unavailable]
    assert endless.aborted if has_begun else cancelled
    (line,) = [event for event in logged if "cannot fetch" in event["log_format"]]
    assert line["error"] == "it did not answer in time"


def test_closing_ends_a_fetch(provider: Provider) -> None:
    provider.answers = [Deferred()]
    keys = provider.keys()
    outcome = Seen(provider, keys).ask(token_of())
    keys.close()
    keys.close()
    assert outcome == [Unavailable]


def test_who_waits_no_more_does_not_keep_others_from_it(provider: Provider) -> None:
    keys = provider.keys()
    first, second = keys.fetch(), keys.fetch()
    ended: list[Any] = []
    first.addBoth(ended.append)
    second.addBoth(ended.append)
    first.cancel()
    provider.clock.advance(0.1)
    assert ended[0].check(CancelledError)
    assert ended[1] is None
    assert len(provider.asked) == 1


# -- which key it is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_good"),
    [
        ({}, True),
        ({"use": None}, True),
        ({"alg": "ES256"}, True),
        ({"key_ops": ["verify"]}, True),
        ({"use": "enc"}, False),
        ({"alg": "ES384"}, False),
        ({"alg": "RS256"}, False),
        ({"key_ops": ["sign"]}, False),
        ({"key_ops": 5}, False),
        ({"kty": "RSA"}, False),
        ({"kty": "oct", "k": "c2VjcmV0"}, False),
        ({"crv": "P-384"}, False),
        ({"x": "!"}, False),
        ({"x": None}, False),
        ({"x": 5}, False),
        ({"kid": "other"}, False),
        ({"kid": None}, False),
    ],
    ids=str,
)
def test_a_key_says_what_it_is_for(
    provider: Provider, changes: dict[str, Any], is_good: bool
) -> None:
    provider.body = jwks({"kty": "oct"}, jwk(key("P-256"), **{"kid": "one", **changes}))
    found = Seen(provider, provider.keys()).now(token_of())
    assert found == ("alice" if is_good else Unauthenticated)


def test_a_token_without_an_id_is_the_only_keys(provider: Provider) -> None:
    provider.body = jwks(jwk(key("RSA"), "rsa"), jwk(key("P-256"), "one"))
    seen = Seen(provider, provider.keys())
    assert seen.now(token_of(kid=None)) == "alice"
    provider.body = jwks(jwk(key("P-256", 1), "two"), jwk(key("P-256"), "one"))
    other = Seen(provider, provider.keys())
    assert other.now(token_of(kid=None)) is Unauthenticated


def test_one_id_may_be_that_of_keys_of_several_types(provider: Provider) -> None:
    provider.body = jwks(jwk(key("RSA"), "one"), jwk(key("P-256"), "one"))
    seen = Seen(provider, provider.keys())
    assert seen.now(token_of()) == "alice"
    assert seen.now(signed(key("RSA"), algorithm="RS256", kid="one")) == "alice"


def test_a_short_key_is_none(provider: Provider) -> None:
    provider.body = jwks(jwk(key("RSA-1024"), "one"))
    seen = Seen(provider, provider.keys())
    short = key("RSA-1024")
    with pytest.warns(UserWarning, match="below"):
        token = signed(short, algorithm="RS256", kid="one")
    assert seen.now(token) is Unauthenticated


def test_a_set_without_a_key_of_use_is_told(provider: Provider, logged: Logged) -> None:
    provider.body = jwks()
    assert Seen(provider, provider.keys()).now(token_of()) is Unauthenticated
    assert [event for event in logged if "no key" in event["log_format"]]


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
MEMBERS = st.sampled_from(["kid", "kty", "alg", "use", "key_ops", "crv", "x", "y", "n", "e", "k"])
VALUES = PLAIN | st.lists(PLAIN, max_size=2) | st.sampled_from(["RSA", "EC", "OKP", "P-256", "one"])


@given(st.lists(st.dictionaries(MEMBERS, VALUES) | PLAIN, max_size=5), st.binary(max_size=20))
@settings(max_examples=examples(200))
def test_no_set_of_keys_breaks_the_verifier(keys: list[Any], noise: bytes) -> None:
    for body in (json.dumps({"keys": keys}).encode(), noise):
        provider = Provider()
        provider.body = body
        seen = Seen(provider, provider.keys())
        for token in (token_of(), token_of(kid=None), rsa_token()):
            outcome = seen.ask(token)
            provider.clock.advance(0.1)
            assert outcome in ([Unauthenticated], [Unavailable])


def rsa_token() -> str:
    return signed(key("RSA"), algorithm="RS256", kid="one")


# -- where from ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.org/keys",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.example.org/keys",
        "http://localhost.example.org/keys",
        "ftp://login.example.org/keys",
        "file:///etc/keys",
        "login.example.org/keys",
        "https://",
        "https:///keys",
        "https://user:s3cr3t@login.example.org/keys",
        "https://login.example.org:port/keys",
        "https://login.example.org/ä",
        "https://login.example.org/a b",
        "https://login.example.org/a\nb",
        "",
    ],
)
def test_keys_come_by_https_only(url: str) -> None:
    with pytest.raises(ValueError, match="url must") as raised:
        JwksKeys(url, Clock())
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/keys", "http://localhost/keys", "http://[::1]:80/keys", URL]
)
def test_keys_of_this_machine_may_come_by_http(url: str) -> None:
    JwksKeys(url, Clock())


def test_who_says_so_gets_them_by_http(provider: Provider) -> None:
    keys = JwksKeys(
        "http://10.0.0.1/keys?a=s3cr3t#b", provider.clock, agent=provider, insecure=True
    )
    keys.fetch()
    provider.clock.advance(0.1)
    assert provider.asked == [(b"GET", b"http://10.0.0.1/keys?a=s3cr3t")]
    assert repr(keys) == "JwksKeys('http://10.0.0.1/keys')"


#: Any: whatever somebody may try.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": 5}, "url"),
    ({"url": b"https://a/b"}, "url"),
    ({"reactor": 5}, "reactor"),
    ({"agent": 5}, "agent"),
    ({"refresh": "x"}, "refresh"),
    ({"pause": -1}, "pause"),
    ({"max_age": 0}, "max_age"),
    ({"timeout": 0}, "timeout"),
    ({"insecure": 1}, "insecure"),
]


@pytest.mark.parametrize(("options", "name"), WRONG, ids=str)
def test_a_wrong_value_is_told(options: dict[str, Any], name: str) -> None:
    arguments: dict[str, Any] = {"url": URL, "reactor": Clock(), **options}
    with pytest.raises((TypeError, ValueError), match=name):
        JwksKeys(**arguments)


# -- a server with them -------------------------------------------------------------------------


def test_a_call_waits_on_the_server_for_the_keys() -> None:
    provider = Provider()
    verifier = BearerTokens(provider.keys(), audience=AUDIENCE, issuer=ISSUER, now=lambda: EPOCH)
    world = Identified(verifier)
    call = world.call(token_of())
    world.network.advance(0.5)
    assert (world.server.queued, world.names) == (1, [])
    provider.clock.advance(0.1)
    assert world.network.result(call).value == "x"
    assert (world.server.queued, world.names) == (0, ["alice"])
    provider.down()
    provider.clock.advance(10)
    with pytest.raises(Unavailable, match="cannot fetch the keys"):
        world.result(token_of(1, "unknown"))
    world.close()
