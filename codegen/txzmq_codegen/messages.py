"""Moves the modules that protoc writes into a package of ours.

They import each other by absolute names that protoc derives from the paths of the protos. This
module replaces those by the imports of the layout, computed from the descriptors. A text of another
shape than expected is an error, because a module that is changed in part only fails much later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from txzmq_codegen.layout import Layout, import_statement, is_importable, joined, protoc_module
from txzmq_codegen.model import Module
from txzmq_codegen.problems import Problem
from txzmq_codegen.render import MARKER, NO_TOOLS
from txzmq_codegen.source_info import position

__all__ = ["UnexpectedText", "moved_messages", "strangers", "unnameable"]

#: Where protoc's import section begins and ends.
_IMPORTS_BEGIN: Final = "_sym_db = _symbol_database.Default()\n"
_IMPORTS_END: Final = "\nDESCRIPTOR = "
#: Before the place where protoc's module says its own name.
_BUILD: Final = "_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "

#: The pool that protoc's modules are in, and the database of the classes in it.
_DEFAULT_POOL: Final = "_descriptor_pool.Default()."
_SYMBOLS: Final = "from google.protobuf import symbol_database as _symbol_database\n"
#: The same, of generic services.
_SERVICES: Final = "_builder.BuildServices(DESCRIPTOR, "
#: What it is given has the type that the function needs, and its stub says another.
_TAKES_MODULES: Final = "# pyright: ignore[reportArgumentType]"
#: Something called ``globals`` may have come with a public import.
_GLOBALS: Final = '__import__("builtins").globals()'

# Switches off what strict pyright says of protoc's modules. They use a private name of the runtime,
# import for effect, and use names that older stubs of the runtime leave untyped.
_PYRIGHT_MESSAGES: Final = (
    "# pyright: reportPrivateUsage=false, reportUnusedImport=false, "
    "reportConstantRedefinition=false, reportUnknownVariableType=false, "
    "reportUnknownMemberType=false, reportUnknownArgumentType=false"
)


class UnexpectedText(Exception):
    """A tool's output does not have the shape that this generator knows: a bug in the generator."""


def moved_messages(
    text: str, proto: FileDescriptorProto, layout: Layout, pool: str | None = None
) -> str:
    """The ``_pb2.py`` that protoc wrote of *proto*, in its place in the layout and picklable.

    :param pool: the module that has the messages' descriptor pool, ``POOL``, and ``build_messages``
        to make their classes; None for protobuf's default pool.
    """
    head, begin, rest = text.partition(_IMPORTS_BEGIN)
    _, end, body = rest.partition(_IMPORTS_END)
    body, build, tail = body.partition(f"{_BUILD}'{protoc_module(proto.name)}'")
    first_line, newline, head = head.partition("\n")
    if not (begin and end and build and newline):
        raise UnexpectedText(f"protoc's module of {proto.name} has an unknown shape")
    if proto.public_dependency:
        body = body.replace("\n_globals = globals()\n", f"\n_globals = {_GLOBALS}\n")
    name = f"{_SERVICES}'{protoc_module(proto.name)}', _globals)\n"
    tail = tail.replace(f"\n{name}", f"\n{_SERVICES}__name__, _globals)  {_TAKES_MODULES}\n")
    imports = "\n".join(_message_imports(proto, layout))
    marked = "\n".join((first_line, MARKER, *NO_TOOLS, _PYRIGHT_MESSAGES))
    # protoc puts the name between quotes, whatever is in it.
    head = head.replace(f"    '{proto.name}'\n", f"    {proto.name!r}\n")
    if pool is None:
        return f"{marked}\n{head}{begin}\n\n{imports}\n{end}{body}{_BUILD}__name__{tail}"
    before, default, body = body.partition(_DEFAULT_POOL)
    if before or not default:
        raise UnexpectedText(f"protoc's module of {proto.name} has an unknown shape")
    base, _, name = pool.rpartition(".")
    imports = "\n".join(filter(None, (import_statement(base, name, "_pool"), imports)))
    # Without the symbol database, which is one of messages in the default pool.
    head, begin = head.replace(_SYMBOLS, ""), ""
    body = f"_pool.POOL.{body}_pool.build_messages(DESCRIPTOR, "
    return f"{marked}\n{head}{begin}{imports}\n{end}{body}__name__{tail}"


def strangers(proto: FileDescriptorProto, layout: Layout) -> Iterator[Problem]:
    """The imports of *proto* that are not in a pool of ours: of files not generated along."""
    for index, dependency in enumerate(proto.dependency):
        if dependency not in layout.ours:
            yield Problem(
                position(proto, (FileDescriptorProto.DEPENDENCY_FIELD_NUMBER, index)),
                f"{dependency} is in protobuf's default pool, and this file is to be in another",
                "generate that file along, or leave out --pool",
            )


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
    for index, dependency in enumerate(proto.dependency):
        module = layout.module(dependency)
        public = index in proto.public_dependency
        if _protoc_alias(dependency, module) and (not public or is_importable(module.parts)):
            continue
        yield Problem(
            position(proto, (FileDescriptorProto.DEPENDENCY_FIELD_NUMBER, index)),
            f"the module {'.'.join(module.parts)} of the imported {dependency} cannot be imported",
            "generate that file too, or rename it or its folders",
        )
