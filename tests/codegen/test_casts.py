"""mypy-protobuf's own options work, and nothing else passes for them; how options are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    FieldOptions,
    FileDescriptorProto,
    MethodDescriptorProto,
)
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from tests.codegen.support import HERE, generate, tree
from txzmq_codegen.casts import cast_problems
from txzmq_codegen.options import STREAM_FIELD, stream_options
from txzmq_codegen.wire import Malformed, delimited, fields, selected

GENUINE = (HERE / "errors/cast_not_type/protos/mypy_protobuf/extensions.proto").read_text("utf-8")
EXTENSIONS = "mypy_protobuf/extensions.proto"
USER = """syntax = "proto3";
import "mypy_protobuf/extensions.proto";
message Q {
  string name = 1 [(mypy_protobuf.options).casttype = "acme/names.Name", deprecated = true];
  map<string, int32> ends = 2 [
    (mypy_protobuf.options) = { keytype: "acme/names.Name" valuetype: "acme/names.End" }
  ];
  repeated string old = 3 [(mypy_protobuf.casttype) = "acme/names.Old"];
}
"""


def stub(folder: Path, extensions: str, user: str = USER) -> str:
    ran = generate({EXTENSIONS: extensions, "x.proto": user}, folder)
    assert ran.status == 0, ran.err
    return tree(folder / "generated")["x_pb2.pyi"]


def test_its_own_options_give_fields_their_types(tmp_path: Path) -> None:
    text = stub(tmp_path, GENUINE)
    assert "\nfrom acme import names as _names\n" in text
    assert "def name(self) -> _names.Name: ..." in text
    assert "_containers.ScalarMap[_names.Name, _names.End]" in text
    assert "def old(self) -> _names.Old: ..." in text
    assert "\n    @_deprecated(" in text


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("FieldOptions options = 1154;", "repeated FieldOptions options = 1154;"),
        ("package mypy_protobuf;", "package mypy_protobuf.other;"),
        ("string keytype = 1152", "bytes keytype = 1152"),
        ("string valuetype = 3;", "repeated string valuetype = 3;"),
        ("string valuetype = 3;", "string valuetype = 3; string more = 4;"),
        ("string keytype = 1152", "string key = 1152"),
        ("message FieldOptions", "message Other {} message FieldOptions"),
    ],
)
def test_a_file_of_that_name_by_others_is_not_believed(
    tmp_path: Path, what: str, instead: str
) -> None:
    assert what in GENUINE
    package = "mypy_protobuf.other" if "other" in instead else "mypy_protobuf"
    user = f"""syntax = "proto3";
import "mypy_protobuf/extensions.proto";
message Q {{
  string name = 1 [({package}.casttype) = "acme/names.Name"];
}}
"""
    text = stub(tmp_path, GENUINE.replace(what, instead), user)
    assert "acme" not in text
    assert "name: _builtins.str" in text


def test_options_of_others_stay_in_messages_and_out_of_stubs(golden: Path) -> None:
    case = tree(golden / "golden/options_like_casts")
    assert "os.system" in case["options_like_casts_pb2.py"]
    assert "import os" not in case["options_like_casts_pb2.pyi"]
    assert "name: _builtins.str" in case["options_like_casts_pb2.pyi"]


#: The number and the bytes of a field of any type.
_FIELDS = st.tuples(
    st.integers(1, (1 << 29) - 1).filter(lambda number: not 19000 <= number < 20000),
    st.one_of(
        st.integers(0, (1 << 63) - 1).map(lambda value: (0, _varint(value))),
        st.binary(min_size=8, max_size=8).map(lambda data: (1, data)),
        st.binary(max_size=200).map(lambda data: (2, _varint(len(data)) + data)),
        st.integers(0, 99).map(lambda value: (3, b"\x0b\x08" + _varint(value) + b"\x0c")),
        st.binary(min_size=4, max_size=4).map(lambda data: (5, data)),
    ),
)


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def _encoded(number: int, wire: int, data: bytes) -> bytes:
    end = _varint(number << 3 | 4) if wire == 3 else b""
    return _varint(number << 3 | wire) + data + end


@given(st.lists(_FIELDS, max_size=20), st.sets(st.integers(0, 19)))
def test_fields_are_told_apart_and_selected_as_they_are(
    given_fields: list[tuple[int, tuple[int, bytes]]], indexes: set[int]
) -> None:
    parts = [_encoded(number, *value) for number, value in given_fields]
    data = b"".join(parts)
    assert selected(data, lambda _: True) == data
    wanted = {given_fields[index][0] for index in indexes if index < len(given_fields)}
    chosen = [
        part for part, (number, _) in zip(parts, given_fields, strict=True) if number in wanted
    ]
    assert selected(data, wanted.__contains__) == b"".join(chosen)
    told = [number for number, (wire, _) in given_fields if wire in (0, 2)]
    assert [number for number, _ in fields(data)] == told


@given(st.integers(1, (1 << 29) - 1), st.binary(max_size=300))
def test_what_is_encoded_is_read_back(number: int, data: bytes) -> None:
    assert list(fields(delimited(number, data))) == [(number, data)]


@given(st.binary(max_size=40))
def test_what_is_malformed_is_no_message_to_protobuf_either(data: bytes) -> None:
    try:
        selected(data, bool)
    except Malformed:
        with pytest.raises(DecodeError):
            Empty.FromString(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # less than its length
        b"\x08",  # no value
        b"\x08\x80",  # a value without its end
        b"\x08" + b"\x80" * 10 + b"\x01",  # one that is too long
        b"\x0d\0\0\0",  # less than four bytes
        b"\x09\0\0\0\0",  # less than eight
        b"\x0b\x08\x01",  # a group without its end
        b"\x0c",  # the end of no group
        b"\x0f\x01",  # types that there are not
        b"\x0eab",
    ],
)
def test_what_is_no_message_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        selected(data, bool)


@pytest.mark.parametrize("value", [b"ab.C", b"\x0a\x7fa.B", b"\xff"])
def test_options_that_are_no_message_are_told(value: bytes) -> None:
    """As text, the first one names a type."""
    file = FileDescriptorProto(name="x.proto")
    field = file.message_type.add(name="M").field.add(name="f")
    field.options.MergeFromString(delimited(1154, value))
    (problem,) = cast_problems(file)
    assert problem.message == "(mypy_protobuf.options) of f has bytes that are no message"


def test_the_numbers_of_protobufs_own_options_are_below_those_of_extensions() -> None:
    assert max(field.number for field in FieldOptions.DESCRIPTOR.fields) < 1000


@pytest.mark.parametrize("value", [b"\x08", b"\x0a\x7fa", b"\xff"])
def test_our_own_option_that_is_no_message_is_told(value: bytes) -> None:
    method = MethodDescriptorProto(name="Watch", server_streaming=True)
    method.options.MergeFromString(delimited(STREAM_FIELD, value))
    stream, complaint = stream_options(method)
    assert stream is None
    assert complaint is not None
    assert complaint[0] == "(txzmq.rpc.v1.stream) on rpc Watch has bytes that are no message"
