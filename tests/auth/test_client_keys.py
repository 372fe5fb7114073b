"""Who has which key: a mapping, a folder, or a function; and what becomes of that later."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.auth.support import ALICE, BOB, CLIENTS, STRANGER, Ends
from tests.kubelet import Volume
from tests.support import Logged, error_of
from txzmq import _client_keys
from txzmq.auth import ClientKeys, CurveKeyPair, Identity


def certificate(folder: Path, file: str, keys: CurveKeyPair, **metadata: str) -> Path:
    keys.save(folder / file, metadata=metadata)
    (folder / f"{file}.key_secret").unlink()
    return folder / f"{file}.key"


def name_of(keys: ClientKeys, pair: CurveKeyPair) -> str | None:
    identity = keys.get(pair.public_key)
    return None if identity is None else identity.name


def look_up(keys: ClientKeys, pair: CurveKeyPair = ALICE) -> object:
    """The answer, or the exception; it must be there at once."""
    (end,) = Ends(keys.look_up(pair.public_key, "10.0.0.1"))
    return error_of(end) if isinstance(end, Failure) else end


# -- a mapping -------------------------------------------------------------------------------


def test_a_mapping_says_who_has_a_key() -> None:
    keys = ClientKeys(CLIENTS)
    assert keys.get(ALICE.public_key) == Identity("alice", ALICE.public_key, frozenset({"staff"}))
    assert keys.get(BOB.public_key) == Identity("bob", BOB.public_key)
    assert keys.get(STRANGER.public_key) is None
    assert look_up(keys) == keys.get(ALICE.public_key)
    assert look_up(keys, STRANGER) is None
    assert len(keys) == 2


def test_an_identity_gets_the_key_that_it_is_listed_with() -> None:
    keys = ClientKeys({ALICE.public_key: Identity("alice", BOB.public_key, claims={"a": 1})})
    identity = keys.get(ALICE.public_key)
    assert identity is not None
    assert (identity.public_key, identity.claims) == (ALICE.public_key, {"a": 1})


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"short": "alice"}, ValueError, "a key of clients must be a CURVE key"),
        ({5: "alice"}, TypeError, "a key of clients must be a CURVE key, not int"),
        ({ALICE.public_key: 5}, TypeError, "a value of clients must be an Identity or a name"),
        ({ALICE.public_key: ""}, ValueError, "name"),
        (5, TypeError, "clients must be a mapping, a folder or a function, not 5"),
        (None, TypeError, "clients must be a mapping, a folder or a function"),
        (lambda: None, TypeError, "clients"),
        ("/no/such/folder", NotADirectoryError, "/no/such/folder is no folder"),
    ],
)
def test_what_is_none_of_them_is_told(wrong: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        ClientKeys(wrong)


# -- a folder --------------------------------------------------------------------------------


def test_a_folder_has_certificates(tmp_path: Path) -> None:
    certificate(tmp_path, "alice", ALICE, groups="staff, admin,")
    certificate(tmp_path, "b", BOB, name="bob")
    (tmp_path / "README").write_text("no certificate, and no matter")
    for source in (tmp_path, str(tmp_path)):
        keys = ClientKeys(source)
        alice = Identity("alice", ALICE.public_key, frozenset({"staff", "admin"}))
        assert keys.get(ALICE.public_key) == alice
        assert keys.get(BOB.public_key) == Identity("bob", BOB.public_key)
        assert len(keys) == 2


def test_a_folder_is_read_again(tmp_path: Path) -> None:
    path = certificate(tmp_path, "alice", ALICE)
    keys = ClientKeys(tmp_path)
    certificate(tmp_path, "bob", BOB)
    path.unlink()
    assert name_of(keys, ALICE) == "alice"
    keys.reload()
    assert (name_of(keys, ALICE), name_of(keys, BOB)) == (None, "bob")


@pytest.mark.parametrize("broken", ["empty", "garbage", "a folder", "no folder at all"])
def test_with_a_broken_folder_all_stays_as_it_was(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    alice = certificate(folder, "alice", ALICE)
    keys = ClientKeys(folder)
    told: list[frozenset[str]] = []
    keys.when_revoked(told.append)
    alice.unlink()
    certificate(folder, "bob", BOB)
    wrong = folder / "zoe.key"
    if broken == "empty":
        wrong.touch()
    elif broken == "garbage":
        wrong.write_bytes(b'public-key = "' + bytes(range(256)))
    elif broken == "a folder":
        wrong.mkdir()
    else:
        folder.rename(tmp_path / "elsewhere")
    with pytest.raises((ValueError, OSError)):
        keys.reload()
    assert (name_of(keys, ALICE), name_of(keys, BOB)) == ("alice", None)
    assert not told


def test_a_volume_of_kubernetes_is_read_at_each_step_of_its_update(tmp_path: Path) -> None:
    """Who is in it before and after stays in; who is in neither gets in at no step."""
    alice = certificate(tmp_path, "alice", ALICE).read_text()
    bob = certificate(tmp_path, "bob", BOB).read_text()
    volume = Volume(tmp_path / "clients", {"alice.key": alice, "bob.key": bob})
    keys = ClientKeys(volume.folder)
    assert (name_of(keys, ALICE), name_of(keys, BOB), len(keys)) == ("alice", "bob", 2)
    carol = certificate(tmp_path, "carol", STRANGER).read_text()
    failed: list[str] = []
    for step in volume.steps({"alice.key": alice, "carol.key": carol}):
        try:
            keys.reload()
        except FileNotFoundError:  # a link whose file is gone
            failed.append(step)
        assert name_of(keys, ALICE) == "alice", step
        assert name_of(keys, BOB) == "bob" or step in {"bob.key is gone", "cleaned up"}, step
    assert failed == ["swapped", "carol.key is there"]
    assert (name_of(keys, BOB), name_of(keys, STRANGER), len(keys)) == (None, "carol", 2)


# -- a function ------------------------------------------------------------------------------


class Rule:
    """Answers what the test says."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def __call__(self, key: str, address: str) -> Any:
        self.asked.append((key, address))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_function_is_asked() -> None:
    rule = Rule(Identity("alice"))
    keys = ClientKeys(rule)
    assert (len(keys), name_of(keys, ALICE)) == (0, None)
    assert look_up(keys) == Identity("alice", ALICE.public_key)
    assert rule.asked == [(ALICE.public_key, "10.0.0.1")]
    assert (len(keys), name_of(keys, ALICE)) == (1, "alice")
    rule.answer = None
    assert look_up(keys) is None
    assert (len(keys), name_of(keys, ALICE)) == (0, None)


def test_a_function_may_answer_later() -> None:
    later: Deferred[Identity | None] = Deferred()
    keys = ClientKeys(Rule(later))
    ends = Ends(keys.look_up(ALICE.public_key, ""))
    assert (ends, len(keys)) == ([], 0)
    later.callback(Identity("alice"))
    assert ends == [Identity("alice", ALICE.public_key)]
    assert name_of(keys, ALICE) == "alice"


def test_an_answer_to_an_older_question_lets_nobody_in_who_was_revoked_since() -> None:
    first: Deferred[Identity | None] = Deferred()
    second: Deferred[Identity | None] = Deferred()
    third: Deferred[Identity | None] = Deferred()
    answers = iter([first, second, third])
    keys = ClientKeys(lambda key, address: next(answers))
    got: list[Identity | None] = []
    for _ in range(3):
        keys.look_up(ALICE.public_key, "10.0.0.1").addCallback(got.append)
    second.callback(None)
    first.callback(Identity("alice"))
    assert got == [None, None]
    assert keys.get(ALICE.public_key) is None
    third.callback(Identity("alice"))
    assert str(got[-1]) == str(keys.get(ALICE.public_key)) == "alice"
    assert not keys._asked  # pyright: ignore[reportPrivateUsage]  # what would be kept


def test_a_newer_failure_counts_more_than_an_older_answer() -> None:
    first: Deferred[Identity | None] = Deferred()
    answers: Any = iter([first, ZeroDivisionError()])

    def rule(key: str, address: str) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    keys = ClientKeys(rule)
    got: list[Any] = []
    keys.look_up(ALICE.public_key, "").addBoth(got.append)
    keys.look_up(ALICE.public_key, "").addBoth(got.append)
    first.callback(Identity("alice"))
    assert got[0].check(ZeroDivisionError)
    assert got[1] is None
    assert keys.get(ALICE.public_key) is None
    assert not keys._asked  # pyright: ignore[reportPrivateUsage]  # what would be kept


def test_a_function_may_be_a_coroutine() -> None:
    later: Deferred[str] = Deferred()

    async def rule(key: str, address: str) -> Identity | None:
        return Identity(await later)

    keys = ClientKeys(rule)
    ends = Ends(keys.look_up(ALICE.public_key, ""))
    assert (ends, len(keys)) == ([], 0)
    later.callback("alice")
    assert ends == [Identity("alice", ALICE.public_key)]


def test_who_is_refused_by_another_connection_is_revoked() -> None:
    """The connections that there are must not go on."""
    rule = Rule(Identity("alice"))
    keys = ClientKeys(rule)
    told: list[frozenset[str]] = []
    keys.when_revoked(told.append)
    look_up(keys)
    rule.answer = Identity("eve")
    look_up(keys)
    assert told == [{ALICE.public_key}]
    rule.answer = None
    look_up(keys)
    look_up(keys)
    assert told == [{ALICE.public_key}, {ALICE.public_key}]


@pytest.mark.parametrize("nonsense", ["alice", True, 0, [Identity("alice")], Identity])
def test_nonsense_fails(nonsense: object) -> None:
    keys = ClientKeys(Rule(nonsense))
    error = look_up(keys)
    assert isinstance(error, TypeError)
    assert "what the function of clients returns must be an Identity or None" in str(error)
    assert len(keys) == 0


def test_what_a_function_raises_fails() -> None:
    error = ZeroDivisionError("user")
    keys = ClientKeys(Rule(error))
    assert look_up(keys) is error
    assert len(keys) == 0


def test_so_many_keys_are_kept_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those go that were used longest ago: whoever is connected and calls, stays."""
    monkeypatch.setattr(_client_keys, "_MOST_KEPT", 2)
    keys = ClientKeys(Rule(Identity("somebody")))
    look_up(keys, ALICE)
    look_up(keys, BOB)
    assert name_of(keys, ALICE) == "somebody"  # she calls
    look_up(keys, STRANGER)
    assert len(keys) == 2
    assert (name_of(keys, ALICE), name_of(keys, BOB)) == ("somebody", None)


def test_a_function_is_asked_again_for_those_that_it_has_let_in(logged: Logged) -> None:
    rule = Rule(Identity("somebody"))
    keys = ClientKeys(rule)
    told: list[frozenset[str]] = []
    keys.when_revoked(told.append)
    look_up(keys, ALICE)
    look_up(keys, BOB)
    rule.asked.clear()
    keys.reload()
    assert rule.asked == [(ALICE.public_key, "10.0.0.1"), (BOB.public_key, "10.0.0.1")]
    assert not told
    answers: dict[str, Identity | None] = {
        ALICE.public_key: Identity("alice"),
        BOB.public_key: Identity("bob"),
    }
    keys = ClientKeys(lambda key, address: answers[key])
    keys.when_revoked(told.append)
    look_up(keys, ALICE)
    look_up(keys, BOB)
    answers[ALICE.public_key] = None
    keys.reload()
    assert told == [{ALICE.public_key}]
    assert name_of(keys, BOB) == "bob"
    del answers[BOB.public_key]  # and now it raises
    keys.reload()
    assert told[1:] == [{BOB.public_key}]
    assert len(keys) == 0
    assert [type(error) for error in logged.failures()] == [KeyError]


# -- what is told ----------------------------------------------------------------------------


def test_those_are_told_of_whose_key_is_nobodys_or_anothers() -> None:
    clients: dict[str, Identity | str] = dict(CLIENTS)
    keys = ClientKeys(clients)
    told: list[frozenset[str]] = []
    forget = keys.when_revoked(told.append)
    clients[STRANGER.public_key] = "new"
    clients[ALICE.public_key] = Identity("alice", groups=frozenset({"other"}))
    keys.reload()
    assert not told  # groups are looked at with each call
    assert keys.get(ALICE.public_key) == Identity("alice", ALICE.public_key, frozenset({"other"}))
    del clients[STRANGER.public_key]
    clients[BOB.public_key] = "eve"
    keys.reload()
    assert told == [{STRANGER.public_key, BOB.public_key}]
    forget()
    forget()
    clients.clear()
    keys.reload()
    assert len(told) == 1


def test_one_that_raises_keeps_nobody_else_from_being_told(logged: Logged) -> None:
    clients: dict[str, Identity | str] = dict(CLIENTS)
    keys = ClientKeys(clients)
    told: list[frozenset[str]] = []

    def wrong(revoked: frozenset[str]) -> None:
        raise ZeroDivisionError("user")

    keys.when_revoked(wrong)
    keys.when_revoked(told.append)
    clients.clear()
    keys.reload()
    assert told == [{ALICE.public_key, BOB.public_key}]
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError]


# -- identities ------------------------------------------------------------------------------


def test_an_identity_does_not_change() -> None:
    groups, claims = {"staff"}, {"a": 1}
    identity = Identity("alice", groups=groups, claims=claims)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # any iterable
    groups.add("admin")
    claims["b"] = 2
    assert identity.groups == {"staff"}
    assert identity.claims == {"a": 1}
    with pytest.raises(TypeError):
        identity.claims["c"] = 3  # type: ignore[index]  # pyright: ignore[reportIndexIssue]  # what is tested
    assert hash(identity) == hash(Identity("alice", groups=frozenset({"staff"})))
    assert str(identity) == "alice"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": 5}, TypeError),
        ({"name": "al\ud800ice"}, ValueError),
        ({"public_key": 5}, TypeError),
        ({"groups": "staff"}, TypeError),
        ({"groups": 5}, TypeError),
        ({"groups": [5]}, TypeError),
        ({"claims": 5}, TypeError),
    ],
)
def test_a_wrong_identity_is_told(wrong: dict[str, Any], error: type[Exception]) -> None:
    options: Any = {"name": "alice", **wrong}
    with pytest.raises(error, match=next(iter(wrong))):
        Identity(**options)


def test_groups_may_come_one_by_one() -> None:
    """An iterator can be read once only."""
    each = iter(["staff", "admin"])
    identity = Identity("alice", groups=each)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # any iterable
    assert identity.groups == {"staff", "admin"}
