"""The earlier state that ``--against`` compares with: a descriptor set, or a commit of git."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from txzmq_codegen.problems import UsageError
from txzmq_codegen.protoc import compile_protos
from txzmq_codegen.sources import find, read_descriptors

__all__ = ["baseline"]


def baseline(against: str, protos: Sequence[Path], include: Sequence[Path]) -> FileDescriptorSet:
    """The protos as they were.

    :param against: a file that holds a FileDescriptorSet, or what git takes for a commit.
    :raises UsageError: if *against* is neither.
    :raises Problems: if the protos of that commit do not compile.
    """
    file = Path(against)
    if file.is_file():
        return read_descriptors(file)
    return _from_git(against, protos, include)


def _from_git(commit: str, protos: Sequence[Path], include: Sequence[Path]) -> FileDescriptorSet:
    folder = protos[0] if protos[0].is_dir() else protos[0].parent
    # One line end is git's, others are the folder's.
    top = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").removesuffix(b"\n")))
    known = f"{commit}^{{commit}}"
    found = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", known, what=commit)
    commit = found.decode().strip()  # its hash, which cannot be taken for an option
    with tempfile.TemporaryDirectory(prefix="txzmq-codegen-") as temporary:
        there = Path(temporary)
        earlier = [_extracted(path, top, commit, there) for path in protos]
        includes = [_extracted(path, top, commit, there) for path in include]
        wanted = [path for path in earlier if path.is_file() or any(path.rglob("*.proto"))]
        if not wanted:
            return FileDescriptorSet()
        folders = [path for path in includes if path.is_dir()]
        return compile_protos(find(wanted, folders), messages=False).descriptors


def _extracted(path: Path, top: Path, commit: str, there: Path) -> Path:
    """*path* as of *commit*, in the folder *there*; *path* itself if it is not below *top*."""
    try:
        name = path.resolve().relative_to(top.resolve()).as_posix()
    except ValueError:
        return path
    target = there / name
    listed = _git(top, "ls-tree", "--name-only", commit, "--", *([name] if name != "." else []))
    if listed and not target.exists():
        archive = _git(top, "archive", "--format=tar", commit, "--", name)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(there, filter=_inside)  # noqa: S202 - the filter keeps it inside
    return target


def _inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Leave out links that lead out of *folder*, and what is neither a file nor a folder."""
    try:
        return tarfile.data_filter(member, folder)
    except tarfile.FilterError:
        return None


def _git(folder: Path, *arguments: str, what: str = "") -> bytes:
    # A folder's name may look like a pattern, such as ":(top)".
    command = ["git", "-C", str(folder), "--literal-pathspecs", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("--against a commit needs git, which is not installed") from error
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip() or "no such file or commit"
        raise UsageError(
            f"--against {what}: {reason}" if what else f"git: {reason}",
            "name a descriptor set, or a commit: a branch, a tag, a hash",
        )
    return done.stdout
