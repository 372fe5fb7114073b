"""The corpus, what fuzzing found, and some mutants: ``make fuzz`` does much more."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.fuzz import seeds
from tests.fuzz.__main__ import main
from tests.fuzz.harness import CORPUS, FOUND, HOMES, Target, found, load, mutants
from tests.fuzz.mutators import mutate_bytes, mutate_fields, read_steps, write_steps
from txzmq.auth import Identity

#: Those of the generator have tests beside it: they need protoc.
NAMES = sorted(name for name, home in HOMES.items() if home != "tests.fuzz.generator")
#: How many mutants are tried; those that make sockets, files or servers take longer.
MUTANTS: dict[str, int] = {
    **dict.fromkeys(("address", "certificate", "client", "server"), 40),
    **dict.fromkeys(("monitor", "sockets", "zap"), 20),
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(name: str) -> Target:
    return load(name)


def test_the_corpus_is_what_is_made_of_the_examples() -> None:
    made = {(target, name): content for target, name, content in seeds.corpus()}
    there = {(path.parent.name, path.name): path.read_bytes() for path in CORPUS.glob("*/*")}
    assert there == made, "python -m tests.fuzz.seeds writes it anew"
    assert {target for target, _ in made} == set(NAMES)


def test_the_corpus_breaks_nothing(name: str, target: Target) -> None:
    for path in sorted((CORPUS / name).iterdir()):
        target.check(path.read_bytes())


def test_mutants_break_nothing(name: str, target: Target) -> None:
    for data in mutants(target, MUTANTS.get(name, 300)):
        target.check(data)


def test_mutants_are_other_inputs(target: Target) -> None:
    made = mutants(target, 50)
    assert len(set(made)) > 30
    known = {target.seed(number) for number in range(target.seeds)}
    assert sum(data in known for data in made) < 15


def test_a_mutator_takes_any_bytes(target: Target) -> None:
    for data in (b"", b"\xff\xfe", bytes(range(256)), b"\n\xff\xff\xff\xff\x0f"):
        for number in range(10):
            assert isinstance(target.mutate(data, random.Random(number)), bytes)
        target.check(data)


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_was_found_is_of_a_target(path: Path) -> None:
    assert path.name.partition("-")[0] in HOMES


def test_what_was_found_breaks_nothing_any_more(name: str, target: Target) -> None:
    for path in found(name):
        target.check(path.read_bytes())


def test_scripts_are_read_as_they_were_written() -> None:
    for path in (*CORPUS.glob("server/*"), *CORPUS.glob("client/*")):
        data = path.read_bytes()
        assert write_steps(read_steps(data)) == data


def test_fields_are_changed_within_messages() -> None:
    data = (CORPUS / "reply_header" / "everything").read_bytes()
    changed = [mutate_fields(data, random.Random(number)) for number in range(300)]
    texts = {text for text in changed if b"no such thing" not in text and b"tenant" in text}
    assert texts, "no field within a field was changed"
    assert len({mutate_bytes(b"x" * 20, random.Random(number)) for number in range(50)}) > 30


def _take_early(receiver: Any, publication: object) -> None:
    receiver._take(publication)


def _let_in(*_: object) -> Deferred[Identity]:
    return succeed(Identity("somebody"))


#: What is broken in the library, and how: each a target, what of it, and by what it is replaced.
FAULTS: list[tuple[str, str, object]] = [
    ("server_wire", "txzmq.rpc._wire.server.ServerWire._is_new", Mock(return_value=True)),
    ("client_wire", "txzmq.rpc._wire.client.ClientWire._counter_of", Mock(return_value=3)),
    ("receiver", "txzmq.rpc._wire.streams.Receiver._keep", _take_early),
    ("reply_header", "tests.fuzz.wire.encode_response", Mock(return_value=b"")),
    ("zap", "txzmq._client_keys.ClientKeys.look_up", _let_in),
    ("server", "txzmq.rpc._server.control.ControlServices._cancel", None),
    ("server", "txzmq.rpc._server.streams.StreamRegistry.cancelled", None),
    ("client", "txzmq.rpc._client.call.Call.finish", Mock()),
]


def _check_seeds(target: Target) -> None:
    for number in range(target.seeds):
        target.check(target.seed(number))


@pytest.mark.parametrize(("broken", "what", "how"), FAULTS)
def test_what_should_not_be_is_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: str, what: str, how: object
) -> None:
    target = load(broken)
    _check_seeds(target)
    monkeypatch.setattr(what, how)
    with pytest.raises((AssertionError, TypeError, AttributeError, KeyError)):
        _check_seeds(target)


def test_the_command_checks_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\xff")
    assert main(["batch", str(file)]) == 0
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == sorted(HOMES)
    with pytest.raises(SystemExit):
        main(["nothing"])
