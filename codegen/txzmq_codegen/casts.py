"""mypy-protobuf's own options of fields, by which a user gives a field a type of theirs.

Any extension of ``FieldOptions`` may have their numbers, and mypy-protobuf would take it for its
own. The text of the options becomes code in the stub. So they count only if the protos declare them
as mypy-protobuf does, and their text must be the name of a type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from txzmq_codegen.names import KEYWORDS
from txzmq_codegen.problems import Problem
from txzmq_codegen.source_info import position
from txzmq_codegen.text import literal
from txzmq_codegen.wire import Malformed, fields

__all__ = ["CASTS", "cast_problems", "is_genuine"]

_STRING: Final = FieldDescriptorProto.TYPE_STRING
_MESSAGE: Final = FieldDescriptorProto.TYPE_MESSAGE
_OPTIONS: Final = 1154
#: The numbers of the extensions: name, type, and the name of the type.
CASTS: Final = {
    1151: ("casttype", _STRING, ""),
    1152: ("keytype", _STRING, ""),
    1153: ("valuetype", _STRING, ""),
    _OPTIONS: ("options", _MESSAGE, ".mypy_protobuf.FieldOptions"),
}
_NAMES: Final = {1: "options.casttype", 2: "options.keytype", 3: "options.valuetype"}
#: ``path/to/module.Type``.
_TYPE: Final = re.compile(rb"([A-Za-z_]\w*(?:/[A-Za-z_]\w*)*)\.([A-Za-z_]\w*)", re.ASCII)

_Path = tuple[int, ...]


def is_genuine(file: FileDescriptorProto) -> bool:
    """Whether *file* declares mypy-protobuf's options, and in mypy-protobuf's way."""
    if file.name != "mypy_protobuf/extensions.proto" or file.package != "mypy_protobuf":
        return False
    return (
        bool(file.extension)
        and all(map(_is_known, file.extension))
        and [message.name for message in file.message_type] in ([], ["FieldOptions"])
        and all(_is_of_options(field) for message in file.message_type for field in message.field)
    )


def _is_known(extension: FieldDescriptorProto) -> bool:
    return (
        extension.extendee == ".google.protobuf.FieldOptions"
        and extension.label != FieldDescriptorProto.LABEL_REPEATED
        and CASTS.get(extension.number) == (extension.name, extension.type, extension.type_name)
    )


def _is_of_options(field: FieldDescriptorProto) -> bool:
    return (
        field.type == _STRING
        and field.label != FieldDescriptorProto.LABEL_REPEATED
        and _NAMES.get(field.number) == f"options.{field.name}"
    )


def cast_problems(file: FileDescriptorProto) -> Iterator[Problem]:
    """What is wrong with mypy-protobuf's options in *file*, where they are genuine."""
    yield from _in_fields(file, file.extension, (FileDescriptorProto.EXTENSION_FIELD_NUMBER,))
    for index, message in enumerate(file.message_type):
        path = (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, index)
        yield from _in_message(file, message, path)


def _in_message(
    file: FileDescriptorProto, message: DescriptorProto, path: _Path
) -> Iterator[Problem]:
    yield from _in_fields(file, message.field, (*path, DescriptorProto.FIELD_FIELD_NUMBER))
    yield from _in_fields(file, message.extension, (*path, DescriptorProto.EXTENSION_FIELD_NUMBER))
    for index, nested in enumerate(message.nested_type):
        here = (*path, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, index)
        yield from _in_message(file, nested, here)


def _in_fields(
    file: FileDescriptorProto, elements: Iterable[FieldDescriptorProto], path: _Path
) -> Iterator[Problem]:
    for index, field in enumerate(elements):
        if field.HasField("options"):
            for what in _faults(field):
                yield Problem(
                    position(file, (*path, index)),
                    what,
                    "write path/to/module.Type; it becomes an import in the stub",
                )


def _faults(field: FieldDescriptorProto) -> Iterator[str]:
    try:
        for name, value in _casts(field):
            if not _names_a_type(value):
                shown = literal(value.decode("utf-8", "replace"))
                yield f"(mypy_protobuf.{name}) of {field.name} is {shown}, which names no type"
    except Malformed:  # by another program than protoc
        yield f"(mypy_protobuf.options) of {field.name} has bytes that are no message"


def _casts(field: FieldDescriptorProto) -> Iterator[tuple[str, bytes]]:
    """The casts of a field, with the names of their options.

    :raises Malformed: if a message of them is none.
    """
    for number, value in fields(field.options.SerializeToString()):
        if isinstance(value, bytes):
            if number == _OPTIONS:
                for inner, text in fields(value):
                    if isinstance(text, bytes) and inner in _NAMES:
                        yield _NAMES[inner], text
            elif number in CASTS:
                yield CASTS[number][0], value


def _names_a_type(value: bytes) -> bool:
    if not value:
        return True  # as if it were not there
    match = _TYPE.fullmatch(value)
    if match is None:
        return False
    module = match[1].decode().split("/")
    # Messages of other protos cannot stand for a field, and their modules move.
    return KEYWORDS.isdisjoint((*module, match[2].decode())) and not module[-1].endswith("_pb2")
