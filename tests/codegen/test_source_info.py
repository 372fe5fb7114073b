"""Source info that is packed says the same as it did."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, SourceCodeInfo

from tests.codegen.support import write_protos
from txzmq_codegen.protoc import compile_protos
from txzmq_codegen.source_info import locations, pack, position
from txzmq_codegen.sources import find
from txzmq_codegen.wire import delimited


def a_file(places: int) -> FileDescriptorProto:
    file = FileDescriptorProto(name="x.proto")
    for number in range(places):
        location = file.source_code_info.location.add(path=[4, number], span=[number, 2, 9])
        location.leading_comments = f"Comment {number}."
    return file


@pytest.mark.parametrize("places", [0, 1, 300])
def test_packed_places_are_read_back(places: int) -> None:
    file = a_file(places)
    before = list(locations(file))
    assert len(before) == places
    pack(file)
    copy = FileDescriptorProto.FromString(file.SerializeToString())
    assert not copy.source_code_info.location
    assert list(locations(copy)) == before
    if places:
        assert position(copy, (4, places - 1, 2)) == ("x.proto", places, 3)
    pack(copy)  # once more does no harm
    assert position(copy, (4, places)) == ("x.proto", 1, 1)


def test_a_file_without_source_info_has_no_places() -> None:
    assert list(locations(FileDescriptorProto(name="x.proto"))) == []


@pytest.mark.parametrize(
    "data", [b"\x10\x01\x1a\x01a", delimited(51727, b"\xff"), delimited(51727, b"\x0a\x09a")]
)
def test_what_else_is_in_source_info_is_no_place(data: bytes) -> None:
    """Of a newer protobuf, or of a stranger who looks for a way to end the plugin."""
    file = FileDescriptorProto(name="x.proto")
    file.source_code_info.MergeFromString(data)
    assert list(locations(file)) == []
    pack(file)
    assert list(locations(file)) == []


def test_the_number_is_one_that_protobuf_does_not_use() -> None:
    file = a_file(1)
    pack(file)
    numbers = {field.number for field in SourceCodeInfo.DESCRIPTOR.fields}
    assert 51727 not in numbers
    assert not any(
        start <= 51727 < end for start, end in SourceCodeInfo.DESCRIPTOR.extension_ranges
    )


def test_what_is_compiled_is_packed(tmp_path: Path) -> None:
    """Parsed, it took most of the generator's memory."""
    write_protos({"x.proto": 'syntax = "proto3";\n// Comment.\nmessage M {}\n'}, tmp_path / "p")
    (file,) = compile_protos(find([tmp_path / "p"], [])).descriptors.file
    assert not file.source_code_info.location
    (comment,) = [it.leading_comments for it in locations(file) if it.leading_comments]
    assert comment == " Comment.\n"
