"""What is refused in descriptor sets and in requests of the compiler, which anybody may have made.

protoc makes them from files that it has found and parsed. Other programs may put in any text: in
place of a path what protoc takes for an option, in place of an identifier code in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from txzmq_codegen.problems import Position, Problem
from txzmq_codegen.text import literal

__all__ = [
    "all_imports",
    "fault_of_path",
    "faults_of_identifiers",
    "faults_of_names",
    "faults_of_request",
    "no_path",
]

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Of a type: with all that it is in, or without.
_REFERENCE: Final = re.compile(rf"\.?{_IDENTIFIER.pattern}(?:\.{_IDENTIFIER.pattern})*")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def fault_of_path(name: str | bytes) -> str:
    """Why *name* cannot be the path of a proto; empty if it can."""
    if isinstance(name, bytes):  # protobuf's way to give a string that is not UTF-8
        return "it is not UTF-8"
    if not name:
        return "it is empty"
    if _CONTROL.search(name):
        return "it has a control character"
    if not name.isprintable():
        return "it has an unprintable character"
    if name.startswith(("-", "@")):
        return f"it begins with {name[0]}"
    if name.startswith("/") or _DRIVE.match(name):
        return "it is absolute"
    if "\\" in name:
        return "it has a backslash"
    parts = name.split("/")
    if ".." in parts:
        return "it has a part .."
    if "." in parts or "" in parts:
        return "it has an empty part"
    return ""


def no_path(name: str | bytes) -> str:
    """What is said of a *name* that cannot be the path of a proto, before the reason."""
    return f"{_shown(name)} cannot be the path of a proto"


def _shown(name: str | bytes) -> str:
    """*name* between quotes, its control characters escaped."""
    return literal(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name)


def all_imports(file: FileDescriptorProto) -> Sequence[str]:
    """All that *file* imports, also what it imports for options only."""
    # These are there from protobuf 6.33 on; they are of edition 2024.
    options: Sequence[str] = getattr(file, "option_dependency", ())
    return (*file.dependency, *options)


def faults_of_names(files: Iterable[FileDescriptorProto]) -> Iterator[str]:
    """What is wrong with the names of *files*, and of what they import; each name once."""
    seen: set[str | bytes] = set()
    for file in files:
        for name in (file.name, *all_imports(file)):
            fault = "" if name in seen else fault_of_path(name)
            seen.add(name)
            if fault:
                yield f"{no_path(name)}: {fault}"


def faults_of_request(
    files: Sequence[FileDescriptorProto], to_generate: Iterable[str]
) -> list[Problem]:
    """Everything of a request that protoc would not have sent.

    :param files: the files of the request.
    :param to_generate: the names of those for which modules are asked for.
    """
    problems = [Problem(Position("request"), fault) for fault in faults_of_names(files)]
    if problems:
        return problems
    there = {file.name for file in files}
    wanted = [*to_generate, *(name for file in files for name in file.dependency)]
    problems.extend(
        Problem(Position("request"), f"the file {_shown(name)} is missing")
        for name in dict.fromkeys(wanted)
        if name not in there
    )
    messages = {name for file in files for name in _messages(file)}
    for file in files:
        problems.extend(Problem(Position(file.name), fault) for fault in _faults(file, messages))
    return problems


def _messages(file: FileDescriptorProto) -> Iterator[str]:
    """The full names of the messages of *file*, each with the dot before it."""
    todo = [(f".{file.package}" if file.package else "", it) for it in file.message_type]
    while todo:
        prefix, message = todo.pop()
        name = f"{prefix}.{message.name}"
        yield name
        todo.extend((name, nested) for nested in message.nested_type)


def _faults(file: FileDescriptorProto, messages: set[str]) -> Iterator[str]:
    yield from faults_of_identifiers(file)
    for service in file.service:
        for rpc in service.method:
            for name in (rpc.input_type, rpc.output_type):
                if name not in messages:
                    yield f"rpc {rpc.name} refers to {_shown(name)}, which is no message"


def faults_of_identifiers(file: FileDescriptorProto) -> Iterator[str]:
    """The names in *file*, of its elements and of types, that consist of no identifiers."""
    if file.package:
        yield from _bad_identifiers(file.package.split("."))
    yield from _bad_identifiers(it.name for it in file.extension)
    yield from _bad_identifiers(it.name for it in file.service)
    yield from _bad_references(file.extension)
    for service in file.service:
        yield from _bad_identifiers(rpc.name for rpc in service.method)
        for rpc in service.method:
            yield from _bad_reference(rpc.input_type)
            yield from _bad_reference(rpc.output_type)
    enums = [*file.enum_type]
    todo: list[DescriptorProto] = [*file.message_type]
    while todo:
        message = todo.pop()
        yield from _bad_identifiers([message.name])
        yield from _bad_identifiers(it.name for it in (*message.field, *message.extension))
        yield from _bad_references((*message.field, *message.extension))
        yield from _bad_identifiers(it.name for it in message.oneof_decl)
        todo.extend(message.nested_type)
        enums.extend(message.enum_type)
    for enum in enums:
        yield from _bad_identifiers([enum.name])
        yield from _bad_identifiers(it.name for it in enum.value)


def _bad_identifiers(names: Iterable[str | bytes]) -> Iterator[str]:
    for name in names:
        if isinstance(name, bytes) or not _IDENTIFIER.fullmatch(name):
            yield f"{_shown(name)} is no identifier"


def _bad_references(fields: Iterable[FieldDescriptorProto]) -> Iterator[str]:
    for field in fields:
        yield from _bad_reference(field.type_name)
        yield from _bad_reference(field.extendee)


def _bad_reference(name: str | bytes) -> Iterator[str]:
    if name and (isinstance(name, bytes) or not _REFERENCE.fullmatch(name)):
        yield f"{_shown(name)} is no name of a type"
