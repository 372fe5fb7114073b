"""Moves the stubs that mypy-protobuf writes into a package of ours.

They import each other as protoc's modules do, see :mod:`txzmq_codegen.messages`. What the names of
messages would break is mended before, see :mod:`txzmq_codegen.stub_input`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
)

from txzmq_codegen.layout import Layout, import_statement, is_importable, joined
from txzmq_codegen.messages import UnexpectedText
from txzmq_codegen.model import Module
from txzmq_codegen.names import KEYWORDS
from txzmq_codegen.render import MARKER, NO_TOOLS, source_line
from txzmq_codegen.stub_input import LEFT_OUT_VALUES, METHODS, plain, restored
from txzmq_codegen.text import escaped, literal

__all__ = ["moved_stub"]

# Switches off what strict pyright says of modules that other tools write. mypy-protobuf's override
# methods of Message with narrower ones, and name aliases with underscores.
_PYRIGHT_STUBS: Final = (
    "# pyright: reportIncompatibleVariableOverride=false, reportPrivateUsage=false, "
    "reportDeprecated=false"
)


def moved_stub(
    text: str, proto: FileDescriptorProto, layout: Layout, files: Mapping[str, FileDescriptorProto]
) -> str:
    """The ``_pb2.pyi`` that mypy-protobuf wrote of *proto*, in its place in the layout.

    :param files: the files of this run, and all that they import, by their names.
    """
    shape = _STUB.match(text)
    if shape is None:
        raise UnexpectedText(f"mypy-protobuf's stub of {proto.name} has an unknown shape")
    docstring, imports, body = shape.groups()
    names = _exports(proto, files)
    lines = list(_moved_imports(imports.split("\n"), proto, layout, files, names))
    marks = [MARKER, *NO_TOOLS, _PYRIGHT_STUBS]
    codes: list[str] = []
    if " deprecated as " in imports:
        codes.append("deprecated")
        body = _REASON.sub(_quoted, body)
    if _EXTENSION in body:
        body = _UNNAMEABLE.sub(r"\1_r_\2", body)
    if any(map(_has_shadows, proto.message_type)) or _MRO in body:
        marks.append(_PYRIGHT_SHADOWS)
        codes.extend(("assignment", "no-redef", "override"))
    if codes:
        marks.append(f'# mypy: disable-error-code="{", ".join(codes)}"')
    if "sys" in names:
        lines = list(_without_guards(lines))
    head = "\n".join((*marks, source_line(proto.name), escaped(docstring), *lines))
    return restored(head + escaped(body))


#: Docstring, imports, and the rest. The docstring is the file's comment, which may look like
#: anything but its own end.
_STUB: Final = re.compile(r'("""[^"]*(?:"(?!"")[^"]*)*""")\n(.*?)(\nDESCRIPTOR: .*)', re.DOTALL)
#: Why something is deprecated: a comment, put between quotes as it is.
_REASON: Final = re.compile(r'(?<=deprecated\()"""(.*)"""(?=\)$)', re.MULTILINE)


#: A value of an enum that hides what every class has; the helper of an enum is one.
_MRO: Final = "\n    mro: "

_EXTENSION: Final = ": _extension_dict._ExtensionFieldDescriptor["
#: An extension whose name is a keyword; mypy-protobuf renames only such messages.
_UNNAMEABLE: Final = re.compile(
    rf"^( *)((?:{'|'.join(sorted(KEYWORDS))}){re.escape(_EXTENSION)})", re.MULTILINE
)


def _quoted(reason: re.Match[str]) -> str:
    return literal(reason[1].replace("\\n", "\n"))


def _has_shadows(message: DescriptorProto) -> bool:
    """Whether something in a message has the name of a method of every message.

    It hides the method at run time, too.
    """
    names = [field.name for field in (*message.field, *message.extension)]
    names += [nested.name for nested in message.nested_type]
    names += [name for enum in message.enum_type for name in _names_of(enum)]
    return not METHODS.isdisjoint(names) or any(map(_has_shadows, message.nested_type))


def _names_of(enum: EnumDescriptorProto) -> Iterator[str]:
    yield enum.name
    yield from (value.name for value in enum.value)


_PYRIGHT_SHADOWS: Final = (
    "# pyright: reportRedeclaration=false, reportIncompatibleMethodOverride=false, "
    "reportFunctionMemberAccess=false"
)


def _without_guards(lines: Iterable[str]) -> Iterator[str]:
    """Import from typing_extensions without a look at ``sys``, which is a message here."""
    for line in lines:
        if line.startswith("    from typing_extensions import "):
            yield line.strip()
        elif not re.match(r"import sys$|if sys\.|else:|    from ", line):
            yield line


#: ``from a.b import c_pb2 as _c_pb2``, ``import c_pb2 as _c_pb2``, ``from a.c_pb2 import N as N``.
_IMPORT: Final = re.compile(r"(?:from (\S+) )?import (\S+) as (\S+)")


def _moved_imports(
    lines: Iterable[str],
    proto: FileDescriptorProto,
    layout: Layout,
    files: Mapping[str, FileDescriptorProto],
    exports: Mapping[str, str],
) -> Iterator[str]:
    here = layout.module(proto.name)
    imported = {".".join(it.parts): it for it in map(layout.module, _visible(proto, files))}
    # What public imports bring in, mypy-protobuf knows of direct ones only, and takes names twice.
    again = [line for line in lines if not _brings_in(line, imported)]
    first = next((number for number, line in enumerate(again) if "import " in line), 0)
    yield from again[:first]
    yield from _reexports(exports, here, layout)
    for line in again[first:]:
        yield _moved_import(line, imported, here, layout)


def _brings_in(line: str, imported: Mapping[str, Module]) -> bool:
    match = _IMPORT.fullmatch(line) if "import " in line else None
    return match is not None and match[1] in imported


def _moved_import(line: str, imported: Mapping[str, Module], here: Module, layout: Layout) -> str:
    match = _IMPORT.fullmatch(line) if "import " in line else None
    if match is None:
        return line
    package, name, alias = match.groups()
    module = imported.get(f"{package}.{name}" if package else name)
    if module is not None:
        return import_statement(layout.base(module, here), module.parts[-1], alias)
    if name.endswith("_pb2"):
        raise UnexpectedText(f"mypy-protobuf's stub of {here.proto} has an unknown line: {line}")
    return line


def _visible(proto: FileDescriptorProto, files: Mapping[str, FileDescriptorProto]) -> Iterator[str]:
    """The files that *proto* may refer to: its imports, and their public imports."""
    seen: set[str] = set()
    todo = list(proto.dependency)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            yield name
            todo.extend(files[name].dependency[index] for index in files[name].public_dependency)


def _exports(
    proto: FileDescriptorProto, files: Mapping[str, FileDescriptorProto]
) -> dict[str, str]:
    """The names in the module of *proto*, and the file that each is from.

    As ``import *`` has it: what comes later wins, and names with underscores in front stay.
    """
    names: dict[str, str] = {}
    for index in proto.public_dependency:
        others = _exports(files[proto.dependency[index]], files)
        names.update({name: file for name, file in others.items() if not name.startswith("_")})
    names.update(dict.fromkeys(_own_names(proto), proto.name))
    return names


def _own_names(proto: FileDescriptorProto) -> Iterator[str]:
    """The names of a module as its stub has them."""
    for extension in proto.extension:
        yield f"{extension.name.upper()}_FIELD_NUMBER"
    names = [message.name for message in proto.message_type]
    names += [enum.name for enum in proto.enum_type]
    names += [extension.name for extension in proto.extension]
    yield from (f"_r_{name}" if name in KEYWORDS else name for name in names)
    for enum in proto.enum_type:
        yield from (value.name for value in enum.value if value.name not in LEFT_OUT_VALUES)


def _reexports(exports: Mapping[str, str], here: Module, layout: Layout) -> Iterator[str]:
    for name, file in sorted(exports.items()):
        module = layout.module(file)
        if module != here and is_importable(module.parts):
            base = joined(layout.base(module, here), module.parts[-1])
            yield f"from {base} import {plain(name)} as {plain(name)}"
