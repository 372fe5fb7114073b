"""Runs the compiler and the stub writer, each as a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from txzmq_codegen.batches import batches, have_conflicts
from txzmq_codegen.diagnose import Tools, all_problems, parsed
from txzmq_codegen.layout import protoc_module
from txzmq_codegen.problems import Problem, Problems, UsageError
from txzmq_codegen.source_info import pack
from txzmq_codegen.sources import Sources

__all__ = [
    "CompileErrors",
    "Compiled",
    "ToolFailed",
    "compile_protos",
]

_TOOLS: Final = ("grpc_tools", "mypy_protobuf")


class ToolFailed(Exception):
    """A tool failed on input that it should accept: not the user's fault."""


class CompileErrors(Problems):
    """protoc's complaints.

    :ivar fine: the protos that it does not complain of.
    """

    def __init__(self, problems: Iterable[Problem], fine: Sequence[str]) -> None:
        super().__init__(problems)
        self.fine = fine


class Compiled(NamedTuple):
    """What protoc made of the protos."""

    #: The files and all that they import, with comments and options.
    descriptors: FileDescriptorSet
    #: The text of each ``_pb2.py``, by the proto's name; empty if only descriptors were asked for.
    messages: Mapping[str, str]
    warnings: Sequence[Problem]


def _check_tools() -> None:
    missing = [name for name in _TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the generator needs {' and '.join(missing)}", "pip install 'txzmq[codegen]'"
        )


def compile_protos(sources: Sources, *, messages: bool = True) -> Compiled:
    """Compile the protos.

    :param messages: whether to make the ``_pb2.py`` modules, too.
    :raises CompileErrors: with every error of every file.
    :raises UsageError: if the compiler is not installed.
    """
    _check_tools()
    with tempfile.TemporaryDirectory(prefix="txzmq-codegen-") as folder:
        protoc = _Protoc(sources, Path(folder))
        return protoc.compile(messages=messages)


class _Protoc:
    """Runs of the compiler on one set of sources.

    It runs in a folder of its own, where links lead to the sources: so its arguments consist of our
    names, and no folder's name can be taken for anything else (a colon parts two folders, an equals
    sign renames one, a line break ends the argument).
    """

    def __init__(self, sources: Sources, folder: Path) -> None:
        self._sources = sources
        self._folder = folder
        overlay = () if sources.sets else _overlay(sources, folder / "overlay")
        self._path = tuple(self._links(".path", (*overlay, *sources.path)))
        self._sets = tuple(self._links(".set", sources.sets))

    def _links(self, prefix: str, targets: Iterable[Path]) -> Iterator[str]:
        for number, target in enumerate(targets):
            (self._folder / f"{prefix}{number}").symlink_to(target.resolve())
            yield f"{prefix}{number}"

    def compile(self, *, messages: bool) -> Compiled:
        """Compile in batches: protoc takes forty times the memory of the files that it is given.

        What only a run on all files can notice, it is asked for in one.
        """
        protos = tuple(self._sources.files)
        parts = [protos]
        if not self._sources.sets:
            sizes = {proto: path.stat().st_size for proto, path in self._sources.files.items()}
            parts = list(map(tuple, batches(sizes, _BATCH)))
        compiled = self._compile(parts, messages=messages)
        if compiled is not None and len(parts) > 1 and have_conflicts(compiled.descriptors.file):
            compiled = self._compile([protos], messages=messages)
        if compiled is None:
            problems, fine = self._problems(protos)
            raise CompileErrors(map(self._sources.place, problems), fine)
        return compiled

    def _compile(self, parts: Sequence[Sequence[str]], *, messages: bool) -> Compiled | None:
        """Compile one part after the other; None if protoc complains."""
        descriptors = FileDescriptorSet()
        known: set[str] = set()
        texts: dict[str, str] = {}
        warnings: list[Problem] = []
        for part in parts:
            status, lines = self._run(
                f"--descriptor_set_out={_DESCRIPTORS}",
                "--include_imports",
                "--include_source_info",
                "--retain_options",
                *([f"--python_out={_MODULES}"] if messages else []),
                *self._inputs(part),
            )
            if status:
                return None
            written = (self._folder / _DESCRIPTORS).read_bytes()
            for file in FileDescriptorSet.FromString(written).file:
                if file.name not in known:
                    known.add(file.name)
                    pack(file)
                    # A copy, which does not keep the others of its set in memory.
                    descriptors.file.append(file)
            texts.update(_modules(self._folder / _MODULES, part) if messages else {})
            # In a set the options are no longer text, so that protoc takes the imports which only
            # they need for unused.
            said = [] if self._sources.sets else parsed(lines)
            warnings += [self._sources.place(it) for it in said if it.severity == "warning"]
        return Compiled(descriptors, texts, warnings)

    def _problems(self, protos: Sequence[str]) -> tuple[list[Problem], list[str]]:
        def compile_only(some: Sequence[str]) -> Sequence[str]:
            status, lines = self._run(f"--descriptor_set_out={os.devnull}", *self._inputs(some))
            return lines if status else [line for line in lines if ": warning: " in line]

        def compile_imported(some: Sequence[str]) -> Sequence[str]:
            (self._folder / _ALL_FOLDER).mkdir(exist_ok=True)
            imports = (f'import "{_in_proto(proto)}";\n' for proto in some)
            text = f'syntax = "proto3";\n{"".join(imports)}'
            (self._folder / _ALL_FOLDER / _ALL).write_text(text, "utf-8")
            path = f"--proto_path={_ALL_FOLDER}"
            output = f"--descriptor_set_out={os.devnull}"
            _, lines = self._run(path, output, f"{_ALL_FOLDER}/{_ALL}")
            return [line for line in lines if not line.startswith(f"{_ALL_FOLDER}/")]

        def read(proto: str) -> bytes:
            file = Path(self._sources.locate(proto))
            return file.read_bytes() if file.is_file() and not self._sources.sets else b""

        def exists(proto: str) -> bool:
            folders = (*(self._folder / folder for folder in self._path), _well_known())
            return any((folder / proto).is_file() for folder in folders)

        tools = Tools(compile_imported, compile_only, read, exists)
        problems, fine = all_problems(protos, tools)
        if not any(it.severity == "error" for it in problems):
            raise ToolFailed("protoc failed without naming a file")
        return problems, fine

    def _inputs(self, protos: Iterable[str]) -> Iterator[str]:
        """The arguments for *protos*: their paths, which never look like options.

        Those in sets have no paths, and none of their names looks so (:mod:`txzmq_codegen.trust`).
        """
        for proto in protos:
            paths = (f"{folder}/{proto}" for folder in self._path)
            yield next((it for it in paths if (self._folder / it).is_file()), proto)

    def _run(self, *arguments: str) -> tuple[int, list[str]]:
        """The exit status, and the lines that were printed."""
        file = self._folder / "arguments"
        # One argument a line, spaces and all, and no limit on their number. The -m form adds the
        # well-known protos to the path.
        inputs = [f"--proto_path={folder}" for folder in self._path]
        if self._sets:
            inputs.append(f"--descriptor_set_in={os.pathsep.join(self._sets)}")
        file.write_text("\n".join((*inputs, *arguments)), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"@{file.name}"],
            cwd=self._folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        return done.returncode, [self._without_folder(line) for line in lines]

    def _without_folder(self, line: str) -> str:
        """*line* with the name that the user knows, where protoc prints our link to a file."""
        for folder in self._path:
            if line.startswith(f"{folder}/"):
                return line[len(folder) + 1 :]
        for link, path in zip(self._sets, self._sources.sets, strict=True):
            if line == f"{link}: Unable to parse.":
                return f"protoc cannot read the options in {path}"
        return line


#: The bytes of the files of a batch.
_BATCH: Final = 4 << 20
#: One file, however many modules there are.
_MODULES: Final = "modules.zip"
_DESCRIPTORS: Final = "descriptors"


#: The file that imports all others, to find all errors.
_ALL: Final = "txzmq_codegen_all.proto"
_ALL_FOLDER: Final = ".all"


def _in_proto(name: str) -> str:
    """*name* as it stands between quotes in a proto."""
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _well_known() -> Path:
    """The folder of the well-known protos, which grpc_tools adds to the path itself."""
    spec = importlib.util.find_spec("grpc_tools")
    assert spec is not None  # the tools have been looked for
    assert spec.origin is not None
    return Path(spec.origin).parent / "_proto"


def _environment() -> dict[str, str]:
    """This process's environment, for a process in another folder."""
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    return environment


def _modules(archive: Path, protos: Sequence[str]) -> dict[str, str]:
    """The modules in an archive that protoc wrote, by their protos."""
    with zipfile.ZipFile(archive, metadata_encoding="utf-8") as modules:
        names = {proto: f"{protoc_module(proto).replace('.', '/')}.py" for proto in protos}
        return {proto: modules.read(name).decode("utf-8") for proto, name in names.items()}


def _overlay(sources: Sources, folder: Path) -> tuple[Path, ...]:
    """A folder with copies in UTF-8 of the protos that are not, if there are any.

    protoc takes any bytes in comments, and other tools then fail on them.
    """
    for proto, file in sources.files.items():
        data = file.read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            copy = folder / proto
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(data.decode("latin-1"), "utf-8", newline="")
    return (folder,) if folder.is_dir() else ()
