"""Who is told of what was decided about clients: those who watch, and the log."""

from __future__ import annotations

import asyncio

import pytest
from twisted.internet.defer import Deferred
from zmq.utils import z85

from tests.auth.asking import Asking, key
from tests.auth.support import ALICE, CLIENTS, STRANGER
from tests.support import Logged
from txzmq import _zap
from txzmq.auth import Identity


def raises(key: str, address: str) -> Identity:
    raise ZeroDivisionError("user")


def hanging(key: str, address: str) -> Deferred[Identity | None]:
    return Deferred()


def watched(asking: Asking) -> list[_zap.Decision]:
    """What those are told who watch the credentials that were made last."""
    told: list[_zap.Decision] = []
    asking.kept.append(asking.turns.factory.watchClients(asking.credentials, told.append))
    return told


def refused(reason: str, key: str = "", mechanism: str = "CURVE") -> _zap.Decision:
    return _zap.Decision(None, key, "10.0.0.1", mechanism, reason)


def test_each_decision_is_told_to_who_watches_its_domain(asking: Asking, logged: Logged) -> None:
    others = asking.domain()
    elsewhere = watched(asking)
    domain = asking.domain()
    told, again = watched(asking), watched(asking)
    stop = asking.kept[-1]
    asking.decide(domain, key(ALICE))
    stop()
    asking.decide(domain, key(STRANGER))
    asking.decide(others, key(ALICE))
    asking.decide(b"nobody's", key(ALICE))
    alice = CLIENTS[ALICE.public_key]
    assert isinstance(alice, Identity)
    let_in = _zap.Decision(
        Identity("alice", ALICE.public_key, alice.groups), ALICE.public_key, "10.0.0.1", "CURVE", ""
    )
    assert told == [let_in, refused("the key is unknown", STRANGER.public_key)]
    assert again == elsewhere == [let_in]


@pytest.mark.parametrize(
    ("mechanism", "credentials", "shown"),
    [
        (b"NULL", (), "NULL"),
        (b"PLAIN", (b"alice", b"s3cret"), "PLAIN"),
        (b"PLAIN", (b"s3cret-s3cret-s3cret-s3cret-s3cr", b""), "PLAIN"),  # as long as a key
        (b"PLAIN", (b"s3cret-s3cret-s3cret-s3cret-s3cr",), "PLAIN"),
        (b"CURVE", (b"s3cret",), "CURVE"),
        (b"\x1b[31m\n\xff" + b"x" * 100, (), "\\x1b[31m\\n\ufffd" + "x" * 13),
    ],
)
def test_what_is_no_key_is_told_without_what_is_in_its_place(
    asking: Asking, logged: Logged, mechanism: bytes, credentials: tuple[bytes, ...], shown: str
) -> None:
    domain = asking.domain()
    told = watched(asking)
    assert asking.decide(domain, *credentials, mechanism=mechanism)[0] == b"400"
    is_curve = mechanism == b"CURVE"
    reason = "malformed credentials" if is_curve else "only CURVE is allowed here"
    assert told == [refused(reason, mechanism=shown)]
    (warning,) = logged.warnings()
    assert (warning["reason"], warning["mechanism"]) == (reason, shown)
    for secret in (b"s3cret", *(it for it in credentials if it)):
        assert secret.decode() not in repr(list(logged)) + repr(told)
        if len(secret) == 32:
            assert z85.encode(secret).decode() not in repr(list(logged)) + repr(told)


def test_what_goes_wrong_is_told(
    asking: Asking, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_zap, "_MOST_WAITING", 1)
    domain = asking.domain(raises)
    raised = watched(asking)
    asking.decide(domain, key(ALICE))
    domain = asking.domain(hanging)
    hung = watched(asking)
    asking.ask(domain, key(ALICE))
    asking.ask(domain, key(STRANGER))
    asking.turns.reactor.advance(3)
    assert raised == [refused("that could not be decided", ALICE.public_key)]
    assert hung == [
        refused("too many clients wait for a decision", ALICE.public_key),  # the one before
        refused("that could not be decided", STRANGER.public_key),
    ]


@pytest.mark.parametrize(
    "kind", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit]
)
def test_what_is_no_exception_is_a_decision_too(
    asking: Asking, logged: Logged, kind: type[BaseException]
) -> None:
    def ends(key: str, address: str) -> Identity:
        raise kind

    told_of = asking.domain(ends)
    decisions = watched(asking)
    asking.decide(told_of, key(ALICE))
    assert decisions == [refused("that could not be decided", ALICE.public_key)]


def test_who_raises_keeps_nobody_from_being_told(asking: Asking, logged: Logged) -> None:
    domain = asking.domain()

    def broken(decision: _zap.Decision) -> None:
        raise ZeroDivisionError("user")

    asking.turns.factory.watchClients(asking.credentials, broken)
    told = watched(asking)
    assert asking.decide(domain, key(ALICE))[0] == b"200"
    assert len(told) == 1
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError]


def test_who_comes_again_and_again_fills_no_log(asking: Asking, logged: Logged) -> None:
    domain = asking.domain()
    told = watched(asking)
    for _ in range(50):
        asking.ask(domain, key(ALICE))
        asking.ask(domain, key(STRANGER))
    for number in range(1_000):
        asking.ask(domain, number.to_bytes(32, "big"))
    assert len(told) == 1_100
    assert len(logged) < 150
    asking.turns.reactor.advance(61)
    asking.ask(domain, key(STRANGER))
    asking.ask(domain, key(ALICE))
    lines = [event["more"] for event in list(logged)[-2:]]
    assert lines == [
        "; 49 more were refused since the last line",
        "; 49 more times since the last line",
    ]
