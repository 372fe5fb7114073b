"""Finds the protos to generate, and knows each by protoc's name and by the user's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from txzmq_codegen.layout import EXTERNAL, WELL_KNOWN, is_below
from txzmq_codegen.problems import Position, Problem, Problems, UsageError
from txzmq_codegen.trust import all_imports, faults_of_identifiers, faults_of_names, no_path
from txzmq_codegen.walk import Walk

__all__ = ["Sources", "find", "own_include", "read_descriptors"]


class Sources(NamedTuple):
    """What to compile."""

    #: Where each proto to generate lies, as the user would write it, by protoc's name; sorted.
    files: Mapping[str, Path]
    #: The folders in which protoc looks for imports, in order.
    path: tuple[Path, ...]
    #: The folders, in protoc's names, that the user named: the run covers nothing else. The empty
    #: name stands for all folders.
    scope: tuple[str, ...]
    #: Descriptor sets that hold the protos, instead of files.
    sets: tuple[Path, ...] = ()
    #: What is to be said of them, though they can be compiled.
    warnings: tuple[Problem, ...] = ()

    def locate(self, proto: str) -> str:
        """Where *proto* lies, as the user would write it; protoc's name if that is not known."""
        if proto in self.files and not self.sets:
            return str(self.files[proto])
        for folder in self.path:
            if (folder / proto).is_file():
                return str(folder / proto)
        return proto

    def includes(self, proto: str) -> bool:
        """Whether *proto* is in one of the folders in which imports are looked for."""
        return any((folder / proto).is_file() for folder in self.path)

    def place(self, problem: Problem) -> Problem:
        """The same problem, with the user's name for the file."""
        file = self.locate(problem.position.file)
        return problem._replace(position=problem.position._replace(file=file))


def own_include() -> Path:
    """The folder that holds our own protos, for ``import "txzmq/rpc/v1/options.proto"``."""
    here = Path(__file__).parent
    installed = here / "include"
    return installed if installed.is_dir() else here.parents[1] / "protos"


def find(wanted: Sequence[Path], include: Sequence[Path]) -> Sources:
    """All protos that *wanted* names: files, and folders with everything below them.

    Instead of protos it may name descriptor sets, which hold all that they import.

    A path that lies in a folder of *include*, or in another wanted folder, has its name from
    there; any other folder is a root, and so is the folder of any other file.

    :raises UsageError: if something does not exist, or there is no proto at all.
    :raises Problems: if two files have one name, or one file has two, or some cannot be read.
    """
    _check(wanted, include)
    sets = tuple(path for path in wanted if path.is_file() and path.suffix != ".proto")
    if sets:
        return _from_sets(sets, wanted)
    files: dict[str, Path] = {}
    roots: list[Path] = []
    scope: list[str] = []
    walk = Walk()
    problems = walk.problems
    external = False
    for path in wanted:
        root = _root(path, include, wanted)
        if root not in roots:
            roots.append(root)
        prefix = _inside(path, root)
        scope.append(prefix if path.is_dir() else prefix.rpartition("/")[0])
        for file in walk.protos(path):
            name = prefix if file == path else f"{prefix}/{file.relative_to(path).as_posix()}"
            name = name.removeprefix("/")
            if is_below(name, EXTERNAL) and not _asked_for(prefix):
                external = True
                continue
            if not name.isprintable():
                problems.append(_unprintable(file))
            problems.extend(_of_protobuf(file))
            known = files.setdefault(name, file)
            if known is not file and not known.samefile(file):
                problems.append(_same_name(file, known, name))
    problems.extend(_two_names(files))
    if any(problem.severity == "error" for problem in problems):
        raise Problems(problems)
    if not files:
        raise _nothing(wanted, external=external)
    path_of_imports = _unique([*roots, *include, own_include()])
    scopes = tuple(dict.fromkeys(scope))
    return Sources(
        dict(sorted(files.items())), path_of_imports, scopes, warnings=tuple(walk.problems)
    )


def _nothing(wanted: Sequence[Path], *, external: bool) -> UsageError:
    """The error that nothing is left to generate; *external* files do not count."""
    where = ", ".join(map(str, wanted))
    if not external:
        return UsageError(f"no .proto files in {where}")
    return UsageError(
        f"all protos in {where} come with installed packages, and are not generated along",
        "generated code imports google.protobuf and txzmq.rpc.v1 from where they are installed",
    )


def _from_sets(sets: tuple[Path, ...], wanted: Sequence[Path]) -> Sources:
    """All files of descriptor *sets*, but for those that come with an installed package."""
    if len(sets) != len(wanted):
        raise UsageError("protos are either files or in descriptor sets, not both in one run")
    where: dict[str, Path] = {}
    importers: dict[str, str] = {}
    problems: list[Problem] = []
    for path in sets:
        descriptors = read_descriptors(path)
        twice = Counter(proto.name for proto in descriptors.file)
        problems.extend(
            Problem(Position(str(path)), f"{count} files in this set are called {name}", _NO_PATH)
            for name, count in twice.items()
            if count > 1
        )
        for proto in descriptors.file:
            where[proto.name] = path
            if not proto.name.endswith(".proto"):
                what = f"{no_path(proto.name)}: it does not end in .proto"
                problems.append(Problem(Position(str(path)), what, _NO_PATH))
            for imported in all_imports(proto):
                importers.setdefault(imported, proto.name)
    problems.extend(
        Problem(
            Position(str(where[importer])),
            f"{importer} in this set imports {imported}, which is in no set",
            "write the set with all imports: protoc --include_imports, buf build, or "
            "python -m txzmq.codegen --descriptor-set",
        )
        for imported, importer in importers.items()
        if imported not in where and not is_below(imported, ("google/protobuf",))
    )
    if problems:
        raise Problems(problems)
    files = {name: path for name, path in where.items() if not is_below(name, EXTERNAL)}
    if not files:
        raise _nothing(sets, external=True)
    return Sources(dict(sorted(files.items())), (), ("",), sets)


def read_descriptors(path: Path) -> FileDescriptorSet:
    """The FileDescriptorSet in a file.

    :raises UsageError: if the file holds anything else.
    :raises Problems: if a name in it is no path of a proto, or no identifier: such names become
        arguments of the compiler.
    """
    try:
        descriptors = FileDescriptorSet.FromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
        descriptors = FileDescriptorSet()
    if not any(proto.name for proto in descriptors.file):
        raise UsageError(
            f"{path} holds neither protos nor a FileDescriptorSet",
            "protos end in .proto; protoc -o and --descriptor-set write descriptor sets",
        )
    problems = [
        Problem(Position(str(path)), it, _NO_PATH) for it in faults_of_names(descriptors.file)
    ]
    problems += [
        Problem(Position(str(path)), f"{it}, in {proto.name}", _NO_IDENTIFIER)
        for proto in descriptors.file
        for it in faults_of_identifiers(proto)
    ]
    if problems:
        raise Problems(problems)
    return descriptors


_NO_IDENTIFIER: Final = "protoc makes no such set; do not trust this one"
_NO_PATH: Final = (
    "a set holds each file once, under the name by which it is imported, such as "
    "acme/v1/orders.proto; trust no other set"
)


def _check(wanted: Sequence[Path], include: Sequence[Path]) -> None:
    for path in (*wanted, *include):
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    for path in include:
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder", "-I takes the folder that imports start in")


def _root(path: Path, include: Sequence[Path], wanted: Sequence[Path]) -> Path:
    """The folder that the names of the protos in *path* start from."""
    here = path.resolve()
    for folder in (*include, *(other for other in wanted if other.is_dir())):
        if folder.resolve() in (here, *here.parents):
            return folder
    return path.parent


def _inside(path: Path, root: Path) -> str:
    """The name of *path* below *root*, with slashes; empty for the root itself."""
    name = path.resolve().relative_to(root.resolve()).as_posix()
    return "" if name == "." else name


def _asked_for(prefix: str) -> bool:
    """Whether the user named, on purpose, a folder that is otherwise left out."""
    return any(f"{prefix}/".startswith(f"{folder}/") for folder in EXTERNAL)


def _unprintable(file: Path) -> Problem:
    shown = str(file).encode("unicode_escape").decode()
    what = "there are unprintable characters in the name of this file"
    return Problem(Position(shown, 1, 1), what, "rename it")


_PACKAGE: Final = re.compile(r"^\s*package\s+(google\.protobuf(?:\.compiler)?)\s*;", re.MULTILINE)


def _of_protobuf(file: Path) -> Iterator[Problem]:
    """The problem that *file* is a part of protobuf, under whatever name it is found."""
    if not any(file.stem in names for names in WELL_KNOWN.values()):
        return
    match = _PACKAGE.search(file.read_text("utf-8", "replace"))
    if match is not None and file.stem in WELL_KNOWN[match[1]]:
        what = f"this file is a part of protobuf, whose module is {match[1]}.{file.stem}_pb2"
        advice = "leave it out: protos may import it, and generated code uses that module"
        yield Problem(Position(str(file), 1, 1), what, advice)


def _two_names(files: Mapping[str, Path]) -> list[Problem]:
    """The problems of files that are found under two names, through links."""
    problems: list[Problem] = []
    known: dict[tuple[int, int], str] = {}
    for name, file in files.items():
        status = file.stat()
        first = known.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            what = f"this is the same file as {files[first]}: its names would be defined twice"
            advice = "remove one of them, or name only one of the folders they are in"
            problems.append(Problem(Position(str(file), 1, 1), what, advice))
    return problems


def _same_name(file: Path, known: Path, name: str) -> Problem:
    return Problem(
        Position(str(file), 1, 1),
        f"{file} and {known} are both imported as {name}",
        "rename one of them, or generate them into different folders",
    )


def _unique(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple({folder.resolve(): folder for folder in reversed(list(folders))}.values())[::-1]
