"""Names that no module of messages can have, because it would fail when it is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from txzmq_codegen.problems import Problem
from txzmq_codegen.source_info import position

__all__ = ["PYTHONS", "forbidden_names"]

#: What modules, classes and messages have from Python, or what Python looks for in them. Spelt out,
#: because the output must not depend on the Python that runs the generator.
PYTHONS: Final = frozenset(
    "__abstractmethods__ __all__ __annotations__ __annotate__ __base__ __bases__ __basicsize__ "
    "__builtins__ __cached__ __call__ __class__ __debug__ __deepcopy__ __del__ __delattr__ "
    "__dict__ __dictoffset__ __dir__ __doc__ __eq__ __file__ __firstlineno__ __flags__ __format__ "
    "__ge__ __getattr__ __getattribute__ __getstate__ __gt__ __hash__ __import__ __init__ "
    "__init_subclass__ __instancecheck__ __itemsize__ __le__ __loader__ __lt__ __module__ __mro__ "
    "__ne__ __name__ __new__ __or__ __package__ __path__ __prepare__ __qualname__ __reduce__ "
    "__reduce_ex__ __repr__ __ror__ __setattr__ __setstate__ __sizeof__ __slots__ __spec__ "
    "__static_attributes__ __str__ __subclasscheck__ __subclasses__ __subclasshook__ "
    "__text_signature__ __type_params__ __weakref__ __weakrefoffset__".split()
)
#: What protoc's modules use after they have set the names of messages.
_MODULES: Final = frozenset({"_descriptor", "_globals"})
#: The methods of messages whose arguments the stubs have types of.
_METHODS: Final = frozenset({"ClearField", "HasField", "WhichOneof"})
_DESCRIPTOR: Final = "DESCRIPTOR"

_Path = tuple[int, ...]
#: An element that becomes a name, its kind, and where it is.
_Named = tuple[str, str, _Path]


def forbidden_names(file: FileDescriptorProto) -> Iterator[Problem]:
    """A problem for each name in *file* that its module cannot have."""
    if not _MAY_HAVE.search(file.SerializeToString()):
        return  # many times quicker, and so are nearly all files
    for name, kind, path in _top(file):
        why = _MODULE_NEEDS if name in _MODULES else _owner(name)
        if why:
            yield _problem(file, name, kind, path, why)
    for index, message in enumerate(file.message_type):
        here = (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, index)
        for name, kind, path in _members(message, here):
            hides = name in _METHODS and kind in ("enum", "message")
            why = _HIDES if hides else _owner(name)
            if why:
                yield _problem(file, name, kind, path, why)


#: What is in the descriptor of a file that may have such names.
_MAY_HAVE: Final = re.compile(rb"__|_descriptor|_globals|DESCRIPTOR|ClearField|HasField|WhichOneof")
_MODULE_NEEDS: Final = "protoc's modules need that name"
_HIDES: Final = "it would hide the method of its message"


def _owner(name: str) -> str:
    if name == _DESCRIPTOR:
        return "each message and module has that name"
    return "Python itself has that name" if name in PYTHONS else ""


def _top(file: FileDescriptorProto) -> Iterator[_Named]:
    """What becomes a name of the module."""
    number = FileDescriptorProto
    yield from _enums(file.enum_type, (number.ENUM_TYPE_FIELD_NUMBER,))
    yield from _fields(file.extension, (number.EXTENSION_FIELD_NUMBER,), "extension")
    for index, message in enumerate(file.message_type):
        yield message.name, "message", (number.MESSAGE_TYPE_FIELD_NUMBER, index)


def _problem(file: FileDescriptorProto, name: str, kind: str, path: _Path, why: str) -> Problem:
    return Problem(
        position(file, path),
        f"{kind} {name} cannot be generated: {why}",
        "rename it",
    )


def _members(message: DescriptorProto, path: _Path) -> Iterator[_Named]:
    """What becomes an attribute of the class of *message*, or of one in it."""
    number = DescriptorProto
    yield from _fields(message.field, (*path, number.FIELD_FIELD_NUMBER), "field")
    yield from _fields(message.extension, (*path, number.EXTENSION_FIELD_NUMBER), "extension")
    yield from _enums(message.enum_type, (*path, number.ENUM_TYPE_FIELD_NUMBER))
    for index, nested in enumerate(message.nested_type):
        here = (*path, number.NESTED_TYPE_FIELD_NUMBER, index)
        yield nested.name, "message", here
        yield from _members(nested, here)


def _enums(enums: Iterable[EnumDescriptorProto], path: _Path) -> Iterator[_Named]:
    for index, enum in enumerate(enums):
        yield enum.name, "enum", (*path, index)
        for number, value in enumerate(enum.value):
            value_path = (*path, index, EnumDescriptorProto.VALUE_FIELD_NUMBER, number)
            yield value.name, "enum value", value_path


def _fields(elements: Iterable[FieldDescriptorProto], path: _Path, kind: str) -> Iterator[_Named]:
    for index, field in enumerate(elements):
        yield field.name, kind, (*path, index)
