"""The modules that generated code imports and that are not generated: are they there?

Nothing is imported to find out, since that would run code of whoever made those packages.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from txzmq_codegen.layout import EXTERNAL, Imports, Layout, is_below
from txzmq_codegen.problems import Problem
from txzmq_codegen.source_info import position
from txzmq_codegen.sources import Sources

__all__ = ["imported", "missing_modules"]


def imported(sources: Sources, files: Sequence[FileDescriptorProto], imports: Imports) -> Sources:
    """What the protos of *sources* import, directly or not, and *sources* does not have.

    Without the files whose modules come with protobuf or with txzmq. protoc brings a few protos
    below ``google/protobuf`` whose modules protobuf does not have: those are taken, but not for
    absolute imports, since a second package of that name would hide protobuf's.

    :param files: the protos of *sources*, and all that they import.
    """
    by_name = {file.name: file for file in files}
    folders = (*sources.path, *_own_include_of_protoc())
    found: dict[str, Path] = {}
    todo = list(sources.files)
    while todo:
        for name in by_name[todo.pop()].dependency:
            if name not in found and name not in sources.files and not _stays_out(name, imports):
                found[name] = _path(name, folders, sources.sets)
                todo.append(name)
    return sources._replace(files=dict(sorted(found.items())))


def _stays_out(proto: str, imports: Imports) -> bool:
    if not is_below(proto, _PROTOBUF):
        return is_below(proto, EXTERNAL)
    return imports == "absolute" or _is_there(Layout(()).module(proto).parts, ())


_PROTOBUF: Final = ("google/protobuf",)


def _own_include_of_protoc() -> Iterator[Path]:
    spec = importlib.util.find_spec("grpc_tools")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder, "_proto")


def _path(proto: str, folders: Iterable[Path], sets: Sequence[Path]) -> Path:
    """The file of *proto*, or the first of the descriptor *sets* that it is in one of."""
    if sets:
        return sets[0]
    return next(path for folder in folders if (path := folder / proto).is_file())


def missing_modules(
    files: Mapping[str, FileDescriptorProto], protos: Iterable[str], layout: Layout, output: Path
) -> list[Problem]:
    """A warning for each module that generated modules import and that cannot be found.

    It names the first import of each. A module can be found where this process looks for modules,
    and in the folder that what is in *output* is imported from.

    :param files: all protos, by their names.
    :param protos: those that are generated.
    """
    importers: dict[str, list[str]] = {}
    for proto in protos:
        for name in files[proto].dependency:
            if name not in layout.ours and not is_below(name, ("txzmq/rpc/v1",)):
                importers.setdefault(name, []).append(proto)
    folders = (_root(output.resolve(), layout.imports),) if importers else ()
    return [
        _missing(name, files[first], len(others), layout)
        for name, (first, *others) in sorted(importers.items())
        if not _is_there(layout.module(name).parts, folders)
    ]


def _root(output: Path, imports: Imports) -> Path:
    """The folder from which what is in *output* is imported."""
    if imports == "absolute":
        return output
    folder = output.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _missing(name: str, file: FileDescriptorProto, others: int, layout: Layout) -> Problem:
    path = (FileDescriptorProto.DEPENDENCY_FIELD_NUMBER, list(file.dependency).index(name))
    hides = layout.imports == "absolute" and is_below(name, _PROTOBUF)
    too = f", and {others} more do" if others else ""
    return Problem(
        position(file, path),
        f"imports {name}{too}; its module {'.'.join(layout.module(name).parts)} is not generated, "
        "and not installed here",
        _NO_SECOND_PROTOBUF if hides else _INCLUDE,
        "warning",
    )


_INCLUDE: Final = (
    "generate it along with --include-imports, or install the package that brings it wherever the "
    "code runs"
)
_NO_SECOND_PROTOBUF: Final = (
    "remove the import, or generate with --imports relative and --include-imports: with absolute "
    "imports a google/protobuf of your own would hide that of protobuf"
)


def _is_there(parts: Sequence[str], folders: Collection[Path]) -> bool:
    """Whether a module of these parts is in *folders*, or where Python looks for modules."""
    *packages, name = parts
    roots = [*folders, *map(Path, sys.path)]
    if any(root.joinpath(*packages, f"{name}.py").is_file() for root in roots):
        return True
    # What is installed as editable is found by hooks. To ask for a top name imports nothing.
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return False
    if spec is None or not packages:
        return spec is not None
    places = spec.submodule_search_locations or ()
    return any(Path(place, *packages[1:], f"{name}.py").is_file() for place in places)
