"""Who decides whether a client may connect: the handler of ZAP requests, alone."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zmq.utils import z85

from tests.auth.asking import Asking, key
from tests.auth.support import ALICE, BOB, STRANGER, serving
from tests.sockets.support import bind, fresh_turns
from tests.support import Logged, examples
from txzmq import ZmqFactory, ZmqPullConnection, _zap
from txzmq.auth import CurveServerCredentials, Identity


def codes(asking: Asking) -> list[bytes]:
    return [code for _, code, *_ in asking.answers()]


def test_who_has_a_key_that_is_known_is_let_in(asking: Asking) -> None:
    domain = asking.domain()
    assert asking.decide(domain, key(ALICE)) == [b"200", b"OK", ALICE.public_key.encode()]


def test_who_has_another_key_is_not(asking: Asking, logged: Logged) -> None:
    domain = asking.domain()
    assert asking.decide(domain, key(STRANGER)) == [b"400", b"unknown key", b""]
    (warning,) = logged.warnings()
    assert warning["public_key"] == STRANGER.public_key
    assert warning["address"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("mechanism", "credentials"),
    [(b"NULL", ()), (b"PLAIN", (b"alice", b"s3cret")), (b"GSSAPI", ())],
)
def test_other_mechanisms_are_refused_and_passwords_are_not_logged(
    asking: Asking, logged: Logged, mechanism: bytes, credentials: tuple[bytes, ...]
) -> None:
    domain = asking.domain()
    code, text, user = asking.decide(domain, *credentials, mechanism=mechanism)
    assert (code, text, user) == (b"400", b"only CURVE is allowed here", b"")
    assert "s3cret" not in repr(list(logged))


@pytest.mark.parametrize("domain", [b"", b"global", b"txzmq.0", b"txzmq.1\0"])
def test_a_domain_that_nobody_has_is_refused(asking: Asking, domain: bytes) -> None:
    asking.domain()
    assert asking.decide(domain, key(ALICE))[:2] == [b"400", b"no such domain"]


def test_each_domain_has_its_own_clients(asking: Asking, logged: Logged) -> None:
    one, other = asking.domain(), asking.domain({STRANGER.public_key: "new"})
    assert one != other
    assert asking.decide(one, key(STRANGER))[0] == b"400"
    assert asking.decide(other, key(STRANGER))[0] == b"200"
    assert asking.decide(other, key(ALICE))[0] == b"400"
    assert asking.turns.factory.domainOf(asking.credentials) == other


@pytest.mark.parametrize("credentials", [(), (b"",), (b"x" * 31,), (b"x" * 33,)])
def test_a_key_of_another_length_is_refused(asking: Asking, credentials: tuple[bytes, ...]) -> None:
    domain = asking.domain()
    assert asking.decide(domain, *credentials)[:2] == [b"400", b"malformed credentials"]


PARTS = st.lists(
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b"", b"1.0", b"CURVE", b"NULL", key(STRANGER)])
    ),
    max_size=12,
)


@given(PARTS, st.booleans())
@settings(max_examples=examples(100))
def test_no_request_of_any_form_lets_a_stranger_in(parts: list[bytes], is_near: bool) -> None:
    with fresh_turns() as turns:
        asking = Asking(turns)
        domain = asking.domain()
        if is_near:
            parts = [b"", b"1.0", b"1", domain, *parts]
        asking.send(*parts or [b""])
        assert b"200" not in codes(asking)
        assert asking.decide(domain, key(ALICE))[0] == b"200"  # and it goes on


# -- a function that does not do as it should ------------------------------------------------


def raises(key: str, address: str) -> Identity:
    raise ZeroDivisionError("user")


def fails(key: str, address: str) -> Deferred[Identity | None]:
    deferred: Deferred[Identity | None] = Deferred()
    deferred.errback(ZeroDivisionError("user"))
    return deferred


async def raises_later(key: str, address: str) -> Identity:
    raise ZeroDivisionError("user")


def answering(answer: Any) -> Callable[[str, str], Any]:
    def rule(key: str, address: str) -> Any:
        return answer

    return rule


@pytest.mark.parametrize(
    "rule", [raises, fails, raises_later, answering(True), answering("alice"), answering([])]
)
def test_what_goes_wrong_denies(
    asking: Asking, logged: Logged, rule: Callable[[str, str], Any]
) -> None:
    domain = asking.domain(rule)
    assert asking.decide(domain, key(ALICE)) == [b"500", b"the server cannot decide", b""]
    assert len(logged.failures()) == 1
    assert len(asking.credentials.clients) == 0


def hanging(key: str, address: str) -> Deferred[Identity | None]:
    return Deferred()


def hanging_behind_another(key: str, address: str) -> Deferred[Identity | None]:
    """It has fired, and goes on with a Deferred that has not."""
    deferred: Deferred[Any] = Deferred()
    deferred.callback(None)
    return deferred.addCallback(lambda _: Deferred())


def not_to_be_cancelled(key: str, address: str) -> Deferred[Identity | None]:
    """Whoever cancels it is let wait on."""
    deferred: Deferred[Any] = Deferred()
    return deferred.addErrback(lambda _: Deferred())


def raising_when_cancelled(key: str, address: str) -> Deferred[Identity | None]:
    def canceller(deferred: Deferred[Identity | None]) -> None:
        raise ZeroDivisionError("canceller")

    return Deferred(canceller)


async def hanging_coroutine(key: str, address: str) -> Identity | None:
    return await Deferred[Identity | None]()


@pytest.mark.parametrize(
    "rule",
    [
        hanging,
        hanging_behind_another,
        not_to_be_cancelled,
        raising_when_cancelled,
        hanging_coroutine,
    ],
)
def test_a_function_that_hangs_denies_when_its_time_is_over(
    asking: Asking, logged: Logged, rule: Callable[[str, str], Any]
) -> None:
    domain = asking.domain(rule, policy_timeout=1.5)
    assert asking.decide(domain, key(ALICE)) == []
    asking.turns.reactor.advance(1.4)
    assert asking.answers() == []
    asking.turns.reactor.advance(0.2)
    assert asking.answers() == [(b"1", b"500", b"the server cannot decide", b"")]
    assert logged.failures()
    asking.turns.reactor.advance(10)
    assert asking.answers() == []


def test_an_answer_that_comes_too_late_changes_nothing(asking: Asking, logged: Logged) -> None:
    later: Deferred[Identity | None] = Deferred(lambda _: later.callback(Identity("alice")))
    domain = asking.domain(answering(later), policy_timeout=1)
    assert asking.decide(domain, key(ALICE)) == []
    asking.turns.reactor.advance(1.1)
    assert codes(asking) == [b"500"]


def test_one_that_hangs_delays_nobody_else(asking: Asking, logged: Logged) -> None:
    waiting: dict[str, Deferred[Identity | None]] = {}

    def rule(public_key: str, address: str) -> Any:
        if public_key == ALICE.public_key:
            return Identity("alice")
        waiting[public_key] = Deferred()
        return waiting[public_key]

    slow, quick = asking.domain(rule), asking.domain()
    for number in range(20):
        asking.ask(slow, bytes([number]) * 32, number=b"slow %d" % number)
    asking.ask(slow, key(ALICE), number=b"quick")
    asking.ask(quick, key(ALICE), number=b"other")
    assert [(number, code) for number, code, *_ in asking.answers()] == [
        (b"quick", b"200"),
        (b"other", b"200"),
    ]
    waiting[z85.encode(bytes([7]) * 32).decode()].callback(Identity("seven"))
    assert [number for number, *_ in asking.answers()] == [b"slow 7"]
    asking.turns.reactor.advance(3)
    assert set(codes(asking)) == {b"500"}


@pytest.mark.parametrize("rule", [hanging, hanging_behind_another])
def test_so_many_wait_at_most(
    asking: Asking,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
    rule: Callable[[str, str], Any],
) -> None:
    monkeypatch.setattr(_zap, "_MOST_WAITING", 3)
    domain = asking.domain(rule)
    for number in range(5):
        asking.ask(domain, bytes([number]) * 32, number=b"%d" % number)
    refused = (b"300", b"too many clients wait for a decision", b"")
    assert asking.answers() == [(b"0", *refused), (b"1", *refused)]  # who has waited longest
    asking.turns.reactor.advance(3)
    assert codes(asking) == [b"500"] * 3
    assert asking.decide(domain, key(ALICE)) == []  # there is room again


def test_a_flood_of_strangers_keeps_nobody_out_who_is_decided_about(
    asking: Asking, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_zap, "_MOST_WAITING", 20)
    later: Deferred[Identity | None] = Deferred()

    def rule(public_key: str, address: str) -> Any:
        if public_key == ALICE.public_key:
            return Identity("alice")
        return later if public_key == BOB.public_key else hanging(public_key, address)

    domain = asking.domain(rule)
    asking.ask(domain, key(BOB), number=b"bob", place=b"10.0.0.2")
    for number in range(100):
        asking.ask(domain, number.to_bytes(32, "big"), place=b"10.0.0.%d" % (3 + number % 2))
    asking.ask(domain, key(ALICE), number=b"alice")
    later.callback(Identity("bob"))
    answers = asking.answers()
    assert [answer[:2] for answer in answers if answer[1] != b"300"] == [
        (b"alice", b"200"),
        (b"bob", b"200"),  # where the fewest wait from one place, they wait on
    ]
    assert len(answers) == 2 + 81
    asking.turns.reactor.advance(3)
    assert codes(asking) == [b"500"] * 19
    authenticator: Any = asking.turns.factory
    assert not authenticator._authenticator._waiting
    assert not authenticator._authenticator._places


def test_who_waits_when_the_factory_is_shut_down_is_refused(logged: Logged) -> None:
    cancelled: list[object] = []
    with fresh_turns() as turns:
        asking = Asking(turns)
        waiting: Deferred[Identity | None] = Deferred(cancelled.append)
        domain = asking.domain(answering(waiting))
        asking.ask(domain, key(ALICE))
    assert len(cancelled) == 1


# -- one handler for each context ------------------------------------------------------------


def test_two_factories_have_a_handler_each() -> None:
    with fresh_turns() as one, fresh_turns() as other:
        credentials = serving()
        for turns in (one, other):
            asking = Asking(turns)
            domain = turns.factory.domainOf(credentials)
            assert asking.decide(domain, key(ALICE))[0] == b"200"


def test_credentials_that_nobody_has_any_more_are_forgotten(asking: Asking) -> None:
    names = {asking.domain() for _ in range(20)}
    assert len(names) == 20
    del asking.kept[:-1]
    gc.collect()  # on PyPy
    authenticator: Any = asking.turns.factory
    assert len(authenticator._authenticator._domains) == 1
    assert len(authenticator._authenticator._names) == 1
    old = min(names, key=lambda name: int(name.partition(b".")[2]))
    assert asking.decide(old, key(ALICE)) == [b"400", b"no such domain", b""]


def test_where_somebody_else_decides_there_is_an_error() -> None:
    with fresh_turns() as turns:
        somebody = turns.raw(zmq.REP)
        somebody.bind(_zap.ADDRESS)
        for _ in range(2):  # nothing is left behind by the first
            with pytest.raises(RuntimeError, match=re.escape("inproc://zeromq.zap.01")):
                turns.factory.domainOf(serving())
        somebody.unbind(_zap.ADDRESS)  # at once; to close it, libzmq's own thread has to come by
        somebody.close()
        assert turns.factory.domainOf(serving())


def test_a_socket_is_not_made_where_somebody_else_decides(factory: ZmqFactory) -> None:
    somebody = factory.context.socket(zmq.REP)
    somebody.bind(_zap.ADDRESS)
    with pytest.raises(RuntimeError, match="there can be one only"):
        ZmqPullConnection(factory, bind("tcp://127.0.0.1:*"), credentials=serving())
    assert not factory.connections
    somebody.close()


def test_no_two_credentials_get_one_domain(asking: Asking) -> None:
    """Also where nobody keeps them, and the next are at the same place in memory."""
    names = {asking.domain() for _ in range(20)}
    assert len(names) == 20


def test_without_the_option_that_keeps_strangers_out_no_socket_is_made(
    factory: ZmqFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where libzmq does not know it, it lets everybody in while nobody decides."""

    class Old:
        """A socket of a libzmq without draft options."""

        def set(self, option: int, value: object) -> None:
            if option == zmq.ZAP_ENFORCE_DOMAIN:
                raise zmq.ZMQError(zmq.EINVAL)

        def get(self, option: int) -> int:
            raise AssertionError("not known")

    class Forgetful(Old):
        """One that takes the option, and does not keep it."""

        def set(self, option: int, value: object) -> None: ...

        def get(self, option: int) -> int:
            return 0

    credentials: CurveServerCredentials = serving()
    for socket in (Old(), Forgetful()):
        anything: Any = socket
        with pytest.raises(RuntimeError, match="has no ZMQ_ZAP_ENFORCE_DOMAIN"):
            credentials.secure(anything, factory)
