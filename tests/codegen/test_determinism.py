"""The same protos give the same bytes: whatever the hash seed, the Python, the order of files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.codegen.support import ROOT, run
from txzmq_codegen.plugin import plugin


@pytest.fixture(scope="module")
def wanted(golden: Path) -> Path:
    """A request for all golden cases, as protoc would send it."""
    set_file = golden / "set.binpb"
    assert run("protos", "-o", "golden", "--descriptor-set", set_file, folder=golden).status == 0
    files = FileDescriptorSet.FromString(set_file.read_bytes()).file
    mine = [it.name for it in files if it.package.startswith("golden.") and "lambda" not in it.name]
    names = [name for name in mine if not name.startswith(("folder_names", "file_names"))]
    path = golden / "request.binpb"
    request = CodeGeneratorRequest(file_to_generate=names, proto_file=files)
    path.write_bytes(request.SerializeToString())
    return path


def test_the_hash_seed_changes_nothing(wanted: Path) -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-m", "txzmq_codegen.plugin"],
            input=wanted.read_bytes(),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "codegen")},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(answers) == 1


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_python_changes_nothing(wanted: Path, version: str) -> None:
    """An interpreter reads protobuf's pure Python from the environment of this one."""
    python = _find(version)
    if python is None:
        pytest.skip(f"no Python {version} found")
    import google.protobuf

    site = Path(google.protobuf.__file__).parents[2]
    done = subprocess.run(
        [python, "-m", "txzmq_codegen.plugin"],
        input=wanted.read_bytes(),
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'codegen'}{os.pathsep}{site}",
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
        },
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    request = CodeGeneratorRequest.FromString(wanted.read_bytes())
    answer = type(plugin(request)).FromString(done.stdout)
    expected = {file.name: file.content for file in plugin(request).file}
    assert {file.name: file.content for file in answer.file} == expected
    assert len(expected) > 50


def _find(version: str) -> str | None:
    tool = ROOT / "tools" / "find-python"
    if tool.exists():
        done = subprocess.run([tool, version], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return shutil.which(f"python{version}")


def test_the_order_of_the_protos_changes_nothing(golden: Path, tmp_path: Path) -> None:
    folders = sorted(str(path) for path in (golden / "protos").iterdir())
    options = ("-I", str(golden / "protos"))
    assert run(*folders[::-1], *options, "-o", tmp_path / "out").status == 0
    for path in (tmp_path / "out").rglob("*_txzmq.py"):
        name = path.relative_to(tmp_path / "out")
        assert path.read_bytes() == (golden / "golden" / name).read_bytes()
