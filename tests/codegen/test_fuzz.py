"""What fuzzing found, and a part of it each time: ``make fuzz`` does much more."""

from __future__ import annotations

import random

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.fuzz.generator import TARGETS, check_set, check_text
from tests.fuzz.harness import Broken, found, mutants

#: How many inputs of each kind are tried: requests take a thousandth of the time of the others.
EXAMPLES = {"request": 200, "set": 4, "text": 4}


@pytest.mark.parametrize("name", TARGETS)
def test_broken_input_is_answered(name: str) -> None:
    for data in mutants(TARGETS[name], EXAMPLES[name]):
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutants_are_other_inputs(name: str) -> None:
    assert len(set(mutants(TARGETS[name], 50))) > 40
    seeds = {TARGETS[name].seed(number) for number in range(100)}
    assert sum(data in seeds for data in mutants(TARGETS[name], 50)) < 10


@pytest.mark.parametrize("name", TARGETS)
def test_a_mutator_takes_any_bytes(name: str) -> None:
    for data in (b"", b"\xff\xfe", bytes(range(256))):
        assert isinstance(TARGETS[name].mutate(data, random.Random(1)), bytes)
        TARGETS[name].check(data)


def test_what_should_not_be_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("txzmq_codegen.cli.plan", broken)
    with pytest.raises(Broken, match="exit status 70"):
        check_text(b'syntax = "proto3";')


@pytest.mark.parametrize("span", [[], [1], [-1, -1, -1], [3, 2, 1]])
def test_a_place_that_is_none(span: list[int]) -> None:
    file = FileDescriptorProto(name="x.proto")
    file.message_type.add(name="M")
    for name in ("Do", "_Do"):
        service = file.service[0] if file.service else file.service.add(name="S")
        service.method.add(name=name, input_type=".M", output_type=".M")
    file.source_code_info.location.add(path=[6, 0, 2, 1], span=span)
    request = CodeGeneratorRequest(file_to_generate=["x.proto"], proto_file=[file])
    TARGETS["request"].check(request.SerializeToString())


@pytest.mark.parametrize("names", [["google/protobuf/x.proto"], ["x"], ["x.proto", "x.proto"], []])
def test_sets_of_odd_names(names: list[str]) -> None:
    files = [FileDescriptorProto(name=name) for name in names]
    check_set(FileDescriptorSet(file=files).SerializeToString())


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found(name: str) -> None:
    for path in found(name):
        TARGETS[name].check(path.read_bytes())
