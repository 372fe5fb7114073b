"""Where the modules of proto files stand, and how they import each other."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Final, Literal, NamedTuple

from txzmq_codegen.model import Module
from txzmq_codegen.names import KEYWORDS, module_part
from txzmq_codegen.problems import Position, Problem
from txzmq_codegen.text import literal

__all__ = [
    "EXTERNAL",
    "WELL_KNOWN",
    "Imports",
    "Layout",
    "collisions",
    "import_statement",
    "is_below",
    "is_importable",
    "joined",
    "protoc_module",
]

#: How modules of the output import each other. ``relative``: the output folder is a package, which
#: may have any name and stand anywhere. ``absolute``: it is a folder on the import path.
Imports = Literal["relative", "absolute"]

#: Folders whose protos come with an installed package and are never generated along with others.
EXTERNAL: Final = ("google/protobuf", "txzmq/rpc/v1")


#: The protos whose modules are part of protobuf, by the package that they are in.
WELL_KNOWN: Final = {
    "google.protobuf": frozenset(
        "any api descriptor duration empty field_mask source_context struct timestamp type "
        "wrappers".split()
    ),
    "google.protobuf.compiler": frozenset({"plugin"}),
}


def is_below(proto: str, folders: Collection[str]) -> bool:
    """Whether *proto* is in one of *folders* (no trailing slashes)."""
    return any(proto.startswith(f"{folder}/") for folder in folders)


def _stem(proto: str) -> str:
    return proto.removesuffix(".proto").removesuffix(".protodevel")


def protoc_module(proto: str, suffix: str = "_pb2") -> str:
    """The dotted name that protoc (and mypy-protobuf) give to the module of *proto*."""
    return _stem(proto).replace("-", "_").replace("/", ".") + suffix


@cache
def _importable_parts(proto: str, suffix: str) -> tuple[str, ...]:
    *folders, name = _stem(proto).replace(".", "/").split("/")
    return (*map(module_part, folders), module_part(name + suffix))


class Layout(NamedTuple):
    """Knows which files this run writes, and under which names.

    :ivar ours: the protos whose modules are in the output.
    :ivar imports: see :data:`Imports`.
    :ivar keeps_protoc_names: whether the modules are where protoc put them, rather than where
        they can always be imported: ``lambda/1st.proto`` is ``lambda.1st_pb2`` to protoc, and
        ``lambda_.n1st_pb2`` to us.
    """

    ours: Collection[str]
    imports: Imports = "relative"
    keeps_protoc_names: bool = False

    def module(self, proto: str, suffix: str = "_pb2") -> Module:
        """The module of *proto* that ends in *suffix*."""
        ours = proto in self.ours
        if ours and not self.keeps_protoc_names:
            return Module(proto, _importable_parts(proto, suffix), ours)
        return Module(proto, tuple(protoc_module(proto, suffix).split(".")), ours)

    def base(self, module: Module, importer: Module) -> str:
        """The package from which *importer* imports *module*.

        ``..common.v1``, ``.``, or ``acme.common.v1``; empty if it stands on the import path itself.
        """
        package = module.parts[:-1]
        if not module.ours or self.imports == "absolute":
            return ".".join(package)
        here = importer.parts[:-1]
        shared = 0
        for ours, theirs in zip(here, package, strict=False):
            if ours != theirs:
                break
            shared += 1
        return "." * (len(here) - shared + 1) + ".".join(package[shared:])


def joined(base: str, name: str) -> str:
    """The dotted name of module *name* in *base*, which may be empty or end in dots."""
    return f"{base}{name}" if not base or base.endswith(".") else f"{base}.{name}"


@cache
def is_importable(parts: tuple[str, ...]) -> bool:
    """Whether an import statement can name a module of these parts."""
    return all(part.isidentifier() and part not in KEYWORDS for part in parts)


def import_statement(base: str, name: str, alias: str) -> str:
    """The statement that imports module *name* from *base* under *alias*.

    Where the names cannot be written in a statement (a third party's folder ``lambda``), a call
    does it, and the type checkers know nothing of the module.
    """
    if is_importable((*filter(None, base.split(".")), name)):
        return f"from {base} import {name} as {alias}" if base else f"import {name} as {alias}"
    module = literal(joined(base, name))
    return f'{alias} = __import__("importlib").import_module({module}, __package__)'


def collisions(layout: Layout) -> list[Problem]:
    """The problems of protos whose modules would have the same name."""
    problems: list[Problem] = []
    owners: dict[tuple[str, ...], str] = {}
    for proto in sorted(layout.ours):
        parts = layout.module(proto).parts
        owner = owners.setdefault(parts, proto)
        if owner != proto:
            problems.append(_collision(proto, owner, f"become the module {'.'.join(parts)}"))
    folders = {parts[:end]: proto for parts, proto in owners.items() for end in range(len(parts))}
    for parts, proto in owners.items():
        for module in (parts, layout.module(proto, "_txzmq").parts):
            if module in folders:
                what = f"need the name {'.'.join(module)}, one for a module, one for a folder"
                problems.append(_collision(proto, folders[module], what))
    return problems


def _collision(proto: str, other: str, what: str) -> Problem:
    return Problem(
        Position(proto, 1, 1), f"{proto} and {other} would both {what}", "rename one of them"
    )
