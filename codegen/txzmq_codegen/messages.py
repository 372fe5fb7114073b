"""Moves the modules that protoc and mypy-protobuf write into a package of ours.

They import each other by absolute names that protoc derives from the paths of the protos. This
module replaces those by the imports of the layout, computed from the descriptors. A text of another
shape than expected is an error, because a module that is changed in part only fails much later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from txzmq_codegen.layout import Layout, import_statement, is_importable, joined, protoc_module
from txzmq_codegen.model import Module
from txzmq_codegen.names import KEYWORDS
from txzmq_codegen.problems import Position, Problem
from txzmq_codegen.render import MARKER, NO_TOOLS, source_line
from txzmq_codegen.text import escaped, literal

__all__ = ["UnexpectedText", "for_stubs", "moved_messages", "moved_stub", "unnameable"]

#: Where protoc's import section begins and ends.
_IMPORTS_BEGIN: Final = "_sym_db = _symbol_database.Default()\n"
_IMPORTS_END: Final = "\nDESCRIPTOR = "
#: Before the place where protoc's module says its own name.
_BUILD: Final = "_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "

# Switches off what strict pyright says of modules that other tools write. protoc's use a private
# name of the runtime, import for effect, and use names that older stubs of the runtime leave
# untyped; mypy-protobuf's override methods of Message with narrower ones, and name aliases with
# underscores.
_PYRIGHT_MESSAGES: Final = (
    "# pyright: reportPrivateUsage=false, reportUnusedImport=false, "
    "reportConstantRedefinition=false, reportUnknownVariableType=false, "
    "reportUnknownMemberType=false, reportUnknownArgumentType=false"
)
_PYRIGHT_STUBS: Final = (
    "# pyright: reportIncompatibleVariableOverride=false, reportPrivateUsage=false, "
    "reportDeprecated=false"
)


class UnexpectedText(Exception):
    """A tool's output does not have the shape that this generator knows: a bug in the generator."""


def moved_messages(text: str, proto: FileDescriptorProto, layout: Layout) -> str:
    """The ``_pb2.py`` that protoc wrote of *proto*, in its place in the layout and picklable."""
    head, begin, rest = text.partition(_IMPORTS_BEGIN)
    _, end, body = rest.partition(_IMPORTS_END)
    body, build, tail = body.partition(f"{_BUILD}'{protoc_module(proto.name)}'")
    first_line, newline, head = head.partition("\n")
    if not (begin and end and build and newline):
        raise UnexpectedText(f"protoc's module of {proto.name} has an unknown shape")
    imports = "\n".join(_message_imports(proto, layout))
    marked = "\n".join((first_line, MARKER, *NO_TOOLS, _PYRIGHT_MESSAGES))
    # protoc puts the name between quotes, whatever is in it.
    head = head.replace(f"    '{proto.name}'\n", f"    {proto.name!r}\n")
    return f"{marked}\n{head}{begin}\n\n{imports}\n{end}{body}{_BUILD}__name__{tail}"


def _message_imports(proto: FileDescriptorProto, layout: Layout) -> Iterator[str]:
    here = layout.module(proto.name)
    for dependency in proto.dependency:
        module = layout.module(dependency)
        base = layout.base(module, here)
        yield import_statement(base, module.parts[-1], _protoc_alias(dependency, module))
    for index in proto.public_dependency:
        module = layout.module(proto.dependency[index])
        base = layout.base(module, here)
        yield f"from {joined(base, module.parts[-1])} import *"


def _protoc_alias(proto: str, module: Module) -> str:
    """The name that protoc gives to an imported module, where it can be one; others rely on it.

    Empty if no name can be made of the file's (:func:`unnameable` reports that).
    """
    for name in (protoc_module(proto), ".".join(module.parts)):
        alias = name.replace("_", "__").replace(".", "_dot_")
        if alias.isidentifier():
            return alias
    return ""


def unnameable(proto: FileDescriptorProto, layout: Layout) -> Iterator[Problem]:
    """The imports of *proto* that its modules could not make, because of how the files are called.

    Those are of files that are not generated along, and so keep the names that protoc gives them.
    """
    places = {tuple(it.path): it.span for it in proto.source_code_info.location}
    for index, dependency in enumerate(proto.dependency):
        module = layout.module(dependency)
        public = index in proto.public_dependency
        if _protoc_alias(dependency, module) and (not public or is_importable(module.parts)):
            continue
        span = places.get((FileDescriptorProto.DEPENDENCY_FIELD_NUMBER, index), ())
        yield Problem(
            Position.at(proto.name, span),
            f"the module {'.'.join(module.parts)} of the imported {dependency} cannot be imported",
            "generate that file too, or rename it or its folders",
        )


def for_stubs(files: Sequence[FileDescriptorProto], layout: Layout) -> list[FileDescriptorProto]:
    """*files*, renamed so that mypy-protobuf finds the names of our modules.

    It derives modules from the names of files as protoc does, and folders may have names that
    Python cannot import.
    """
    renamed = {file.name: _name_for_stubs(file.name, layout) for file in files}
    if all(old == new for old, new in renamed.items()):
        return list(files)
    return [_renamed(file, renamed) for file in files]


def _name_for_stubs(proto: str, layout: Layout) -> str:
    parts = layout.module(proto).parts
    if ".".join(parts) == protoc_module(proto):
        return proto
    return "/".join(parts).removesuffix("_pb2") + ".proto"


def _renamed(file: FileDescriptorProto, names: Mapping[str, str]) -> FileDescriptorProto:
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    copy.name = names[file.name]
    copy.dependency[:] = [names[name] for name in file.dependency]
    return copy


def moved_stub(
    text: str, proto: FileDescriptorProto, layout: Layout, visible: Iterable[str]
) -> str:
    """The ``_pb2.pyi`` that mypy-protobuf wrote of *proto*, in its place in the layout.

    :param visible: the protos that this one imports, directly or through public imports.
    """
    shape = _STUB.match(text)
    if shape is None:
        raise UnexpectedText(f"mypy-protobuf's stub of {proto.name} has an unknown shape")
    docstring, imports, body = shape.groups()
    here = layout.module(proto.name)
    imported = {".".join(it.parts): it for it in map(layout.module, visible)}
    lines = [_moved_import(line, imported, here, layout) for line in imports.split("\n")]
    marks = [MARKER, *NO_TOOLS, _PYRIGHT_STUBS]
    codes: list[str] = []
    if " deprecated as " in imports:
        codes.append("deprecated")
        body = _REASON.sub(_quoted, body)
    if _EXTENSION in body:
        body = _UNNAMEABLE.sub(r"\1_r_\2", body)
    if _has_shadows(body):
        marks.append(_PYRIGHT_SHADOWS)
        codes.extend(("assignment", "no-redef", "override"))
    if codes:
        marks.append(f'# mypy: disable-error-code="{", ".join(codes)}"')
    if any(message.name == "sys" for message in proto.message_type):
        lines = list(_without_guards(lines))
    return "\n".join((*marks, source_line(proto.name), escaped(docstring), *lines)) + escaped(body)


#: Docstring, imports, and the rest. The docstring is the file's comment, which may look like
#: anything but its own end.
_STUB: Final = re.compile(r'("""[^"]*(?:"(?!"")[^"]*)*""")\n(.*?)(\nDESCRIPTOR: .*)', re.DOTALL)
#: Why something is deprecated: a comment, put between quotes as it is.
_REASON: Final = re.compile(r'(?<=deprecated\()"""(.*)"""(?=\)$)', re.MULTILINE)


_EXTENSION: Final = ": _extension_dict._ExtensionFieldDescriptor["
#: An extension whose name is a keyword; mypy-protobuf renames only such messages.
_UNNAMEABLE: Final = re.compile(
    rf"^( *)((?:{'|'.join(sorted(KEYWORDS))}){re.escape(_EXTENSION)})", re.MULTILINE
)


def _quoted(reason: re.Match[str]) -> str:
    return literal(reason[1].replace("\\n", "\n"))


def _has_shadows(stub: str) -> bool:
    """Whether a message has a field with the name of a method of every message.

    It hides the method at run time, too.
    """
    before_suffixes = stub.split("_FIELD_NUMBER:")
    return any(text[text.rfind(" ") + 1 :] in _METHODS for text in before_suffixes)


#: In capitals, as in the names of the constants that hold the fields' numbers.
_METHODS: Final = frozenset(
    "BYTESIZE CLEAR CLEAREXTENSION CLEARFIELD COPYFROM DESCRIPTOR DISCARDUNKNOWNFIELDS EXTENSIONS "
    "FINDINITIALIZATIONERRORS FROMSTRING HASEXTENSION HASFIELD ISINITIALIZED LISTFIELDS MERGEFROM "
    "MERGEFROMSTRING PARSEFROMSTRING SERIALIZEPARTIALTOSTRING SERIALIZETOSTRING SETINPARENT "
    "UNKNOWNFIELDS WHICHONEOF".split()
)
_PYRIGHT_SHADOWS: Final = (
    "# pyright: reportRedeclaration=false, reportIncompatibleMethodOverride=false"
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


def _moved_import(line: str, imported: Mapping[str, Module], here: Module, layout: Layout) -> str:
    match = _IMPORT.fullmatch(line) if "import " in line else None
    if match is None:
        return line
    package, name, alias = match.groups()
    module = imported.get(f"{package}.{name}" if package else name)
    if module is not None:
        return import_statement(layout.base(module, here), module.parts[-1], alias)
    module = imported.get(package)
    if module is not None:  # a message that a public import brings in
        base = layout.base(module, here)
        if name in KEYWORDS:
            name = alias = f"_r_{name}"
        return f"from {joined(base, module.parts[-1])} import {name} as {alias}"
    if name.endswith("_pb2"):
        raise UnexpectedText(f"mypy-protobuf's stub of {here.proto} has an unknown line: {line}")
    return line
