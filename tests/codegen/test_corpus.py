"""Protos of others: whole public APIs at once, from descriptors and from their own files."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.codegen.corpus import generate_corpus, installed
from tests.codegen.support import python, run, tree

_IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def modules(folder: Path, package: str) -> list[str]:
    names = [name for name in tree(folder / package) if name.endswith(".py")]
    return [f"{package}.{name[:-3].replace('/', '.')}" for name in names]


class Protos(NamedTuple):
    folder: Path
    files: list[Path]


def googleapis() -> Protos:
    """The .proto files of googleapis-common-protos, and the folder that their names start from."""
    try:
        files = importlib.metadata.files("googleapis-common-protos") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("googleapis-common-protos is not installed (group protos-corpus)")
    protos = [Path(str(file.locate())) for file in files if file.name.endswith(".proto")]
    (folder,) = {path.parents[path.parts[::-1].index("google")] for path in protos}
    return Protos(folder, protos)


def test_packages_of_others_are_generated_and_imported(tmp_path: Path) -> None:
    if not installed():
        pytest.skip("no package with protos of others is installed (group protos-corpus)")
    for package in generate_corpus(tmp_path / "corpus"):
        # A process for each: they share files, which can be registered once in a process.
        python(_IMPORT, tmp_path / "corpus", *modules(tmp_path / "corpus", package))


def test_google_apis_are_generated_from_their_files(tmp_path: Path) -> None:
    site, protos = googleapis()
    ran = run(*protos, "-I", site, folder=tmp_path)
    assert ran.status == 0
    names = tree(tmp_path / "generated")
    assert len([name for name in names if name.endswith("_pb2.py")]) == len(protos) > 50
    assert [name for name in names if name.endswith("_txzmq.py")]
    python(_IMPORT, tmp_path, *modules(tmp_path, "generated"))


def test_protos_of_installed_packages_can_be_included(tmp_path: Path) -> None:
    site = googleapis().folder
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos/x.proto").write_text(_ANNOTATED, "utf-8")
    assert run("protos", "-I", site, folder=tmp_path).status == 0
    assert [name for name in tree(tmp_path / "generated") if "google" in name] == []
    python(_IMPORT, tmp_path, "generated.x_txzmq")


_ANNOTATED = """syntax = "proto3";
import "google/api/annotations.proto";
message M {}
service S {
  rpc Do(M) returns (M) {
    option (google.api.http) = { get: "/v1/do" };
  }
}
"""
