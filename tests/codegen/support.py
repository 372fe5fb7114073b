"""What several tests of the generator use."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from txzmq_codegen.cli import main

CPP_FEATURES = "google/protobuf/cpp_features.proto"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOLDEN = HERE / "golden"
#: The end of a golden file's name: type checkers read every .py, and would miss its neighbours.
TEXT = ".txt"
#: The versions of the tools that wrote the checked-in messages, stubs and errors.
TOOLS = HERE / "golden-tools.json"
_TOOLS = importlib.util.find_spec("grpc_tools")
#: For what needs a protoc that brings options of features for C++.
knows_cpp_features = pytest.mark.skipif(
    _TOOLS is None
    or not any(
        Path(folder, "_proto", CPP_FEATURES).exists()
        for folder in _TOOLS.submodule_search_locations or ()
    ),
    reason=f"this protoc brings no {CPP_FEATURES}",
)
#: Needs a protoc that knows it.
EDITION_2024 = "edition_2024"
#: The cases whose messages and stubs are checked in, too: those that concern our rewriting of
#: imports. Those of other cases say nothing of us, and change with each version of the tools.
REWRITTEN = {
    "comment_like_stubs",  # comments that look like imports, and like their end
    "file_names_imported",  # modules called otherwise than protoc calls them
    "folder_names_imported",  # the same of packages
    "import_public",  # the names of another module, some of them keywords
    "import_public_same",  # names that several modules have
    "message_like_stub_names",  # our stand-ins for names that mypy-protobuf has
    "import_up_and_down",  # relative imports from packages above, below and beside
    "message_like_aliases",  # a message called sys, which the stub's imports look at
    "options_stream",  # an absolute import of the runtime's package
    "well_known_types",  # imports of google.protobuf, which stay as they are
}
#: The ends of the names of what protoc and mypy-protobuf write.
OF_TOOLS = ("_pb2.py", "_pb2.pyi")


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def run(*arguments: str | Path, folder: Path | None = None) -> Ran:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = main(list(map(str, arguments)))
    return Ran(status, out.getvalue(), err.getvalue())


def generate(files: Mapping[str, str], folder: Path, *options: str | Path) -> Ran:
    """Write *files* below ``folder/protos`` and generate ``folder/generated`` from them."""
    write_protos(files, folder / "protos")
    return run("protos", *options, folder=folder)


def write_protos(files: Mapping[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def tree(folder: Path) -> dict[str, str]:
    """Every file below *folder*, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode("utf-8", "surrogateescape")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def tool_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("grpcio-tools", "mypy-protobuf")}


def same_tools() -> bool:
    """Whether the installed tools are those that the checked-in output comes from."""
    return bool(json.loads(TOOLS.read_text("utf-8")) == tool_versions())


@cache
def knows_edition_2024() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.proto").write_text('edition = "2024";\n', "utf-8")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-o{os.devnull}"]
        return subprocess.run([*command, "x.proto"], capture_output=True).returncode == 0


def cases() -> list[str]:
    """The names of the golden cases."""
    return sorted(
        path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name != "__pycache__"
    )


def kept(generated: Iterable[str]) -> list[str]:
    """Which of these files, by their names below ``golden``, are checked in."""
    return [
        name
        for name in generated
        if name.endswith("_txzmq.py")
        or (name.endswith(OF_TOOLS) and name.partition("/")[0] in REWRITTEN)
    ]


def generate_goldens(folder: Path) -> None:
    """Generate ``folder/golden`` from copies of the golden protos, in one run."""
    for proto in GOLDEN.rglob("*.proto"):
        name = proto.relative_to(GOLDEN)
        if name.parts[0] != EDITION_2024 or knows_edition_2024():
            target = folder / "protos" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(proto, target)
    ran = run("protos", "-o", "golden", folder=folder)
    if ran.status:
        raise AssertionError(ran.err)


def python(
    script: str, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> str:
    """Run a script that may import from *folder*, with warnings as errors; returns its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def importable(folder: Path) -> Generator[None]:
    """Let this process import from *folder*."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def without(names: Iterable[str], prefix: str) -> list[str]:
    return [name for name in names if not name.startswith(prefix)]
