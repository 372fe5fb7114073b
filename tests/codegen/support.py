"""What several tests of the generator use."""

from __future__ import annotations

import contextlib
import importlib.metadata
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

from txzmq_codegen.cli import main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOLDEN = HERE / "golden"
#: The versions of the tools that wrote the checked-in messages and stubs.
TOOLS = HERE / "golden-tools.json"
#: Needs a protoc that knows it.
EDITION_2024 = "edition_2024"


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
        path.relative_to(folder).as_posix(): path.read_text("utf-8", errors="surrogateescape")
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
