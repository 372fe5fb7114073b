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

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from txzmq_codegen.batches import batches, have_conflicts
from txzmq_codegen.diagnose import all_problems, parsed
from txzmq_codegen.layout import protoc_module
from txzmq_codegen.problems import Problem, Problems, UsageError
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
    """Runs of the compiler on one set of sources."""

    def __init__(self, sources: Sources, folder: Path) -> None:
        self._sources = sources
        self._folder = folder
        overlay = () if sources.sets else _overlay(sources, folder / "overlay")
        path = (*overlay, *sources.path)
        self._path = tuple(str(folder.resolve()) for folder in path)

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
        files: dict[str, FileDescriptorProto] = {}
        texts: dict[str, str] = {}
        warnings: list[Problem] = []
        descriptors = self._folder / "descriptors"
        # One file, however many modules there are.
        out = self._folder / "out.zip"
        for part in parts:
            status, lines = self._run(
                f"--descriptor_set_out={descriptors}",
                "--include_imports",
                "--include_source_info",
                "--retain_options",
                *([f"--python_out={out}"] if messages else []),
                *self._inputs(part),
            )
            if status:
                return None
            for file in FileDescriptorSet.FromString(descriptors.read_bytes()).file:
                if file.name not in files:
                    # A copy, which does not keep the others of its set in memory.
                    files[file.name] = FileDescriptorProto()
                    files[file.name].CopyFrom(file)
            texts.update(_modules(out, part) if messages else {})
            # In a set the options are no longer text, so that protoc takes the imports which only
            # they need for unused.
            said = [] if self._sources.sets else parsed(lines)
            warnings += [self._sources.place(it) for it in said if it.severity == "warning"]
        return Compiled(FileDescriptorSet(file=files.values()), texts, warnings)

    def _problems(self, protos: Sequence[str]) -> tuple[list[Problem], list[str]]:
        def compile_only(some: Sequence[str]) -> Sequence[str]:
            status, lines = self._run(f"--descriptor_set_out={os.devnull}", *self._inputs(some))
            return lines if status else [line for line in lines if ": warning: " in line]

        def read(proto: str) -> str:
            return self._sources.files[proto].read_text("utf-8", errors="replace")

        problems, fine = all_problems(protos, compile_only, read)
        if not any(it.severity == "error" for it in problems):
            raise ToolFailed("protoc failed without naming a file")
        return problems, fine

    def _inputs(self, protos: Iterable[str]) -> Iterator[str]:
        """The arguments for *protos*: their paths, where their names look like options."""
        for proto in protos:
            folders = self._path if proto.startswith(("-", "@")) else ()
            paths = (f"{folder}/{proto}" for folder in folders)
            yield next(filter(os.path.isfile, paths), proto)

    def _run(self, *arguments: str) -> tuple[int, list[str]]:
        """The exit status, and the lines that were printed."""
        file = self._folder / "arguments"
        # One argument a line, spaces and all, and no limit on their number. The -m form adds the
        # well-known protos to the path.
        inputs = [f"--proto_path={folder}" for folder in self._path]
        if self._sources.sets:
            inputs.append(f"--descriptor_set_in={os.pathsep.join(map(str, self._sources.sets))}")
        file.write_text("\n".join((*inputs, *arguments)), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"@{file}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        return done.returncode, [self._without_folder(line) for line in lines]

    def _without_folder(self, line: str) -> str:
        """*line* with the name under which a file is imported, where protoc prints its path."""
        for folder in self._path:
            if line.startswith(f"{folder}{os.sep}"):
                return line[len(folder) + 1 :]
        return line


#: The bytes of the files of a batch.
_BATCH: Final = 4 << 20


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
