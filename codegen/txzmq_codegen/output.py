"""The output folder: compares it with the wanted texts, and writes the difference.

Only files that carry the generator's mark are ever changed or deleted, no link is followed, and all
files are written, or none.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from txzmq_codegen.layout import Layout
from txzmq_codegen.names import module_part
from txzmq_codegen.obstacles import Obstacles, in_the_way, is_plain_file
from txzmq_codegen.problems import Problem, Problems
from txzmq_codegen.render import MARKER

__all__ = ["Changes", "changes", "diff", "package_files", "write", "write_file"]

_SUFFIXES: Final = {"_pb2.py": "_pb2", "_pb2.pyi": "_pb2", "_txzmq.py": "_txzmq"}
_INIT: Final = "__init__.py"
_TYPED: Final = "py.typed"
#: Where in a file the mark and the name of the proto are: its first bytes.
_HEAD: Final = 1000
#: Packages that several distributions share: the output must not hide the others.
_NAMESPACES: Final = frozenset({"google"})


class Changes(NamedTuple):
    """The difference between the output folder and what should be in it, as relative names."""

    missing: tuple[str, ...]
    changed: tuple[str, ...]
    #: Generated earlier, from protos that do not exist any more.
    stale: tuple[str, ...]
    unchanged: int

    @property
    def any(self) -> bool:
        """Whether there is a difference at all."""
        return bool(self.missing or self.changed or self.stale)


def package_files(modules: Iterable[str], layout: Layout) -> dict[str, str]:
    """The ``__init__.py`` and ``py.typed`` files that make *modules* importable and typed."""
    folders = set(_folders(modules))
    files = {f"{folder}/{_INIT}": f"{MARKER}\n" for folder in folders if folder not in _NAMESPACES}
    if layout.imports == "relative":
        return {_INIT: f"{MARKER}\n", _TYPED: "", **files}
    tops = sorted({folder.split("/")[0] for folder in folders} - _NAMESPACES)
    return {**{f"{top}/{_TYPED}": "" for top in tops}, **files}


def _folders(names: Iterable[str]) -> Iterator[str]:
    """The folders that the files are in, and those around them, without the output folder."""
    todo = {name.rpartition("/")[0] for name in names}
    while todo := todo - {""}:
        yield from todo
        todo = {folder.rpartition("/")[0] for folder in todo}


def changes(out: Path, wanted: Mapping[str, str], scope: Sequence[str]) -> Changes:
    """Compare folder *out*, which need not exist, with the *wanted* texts.

    A hand-made ``__init__.py`` stays, and so does whatever stands beside it.

    :param scope: the folders (in protoc's names) whose generated files this run covers.
    :raises Problems: if a file of a wanted name was not generated, is a link, or would lie behind
        one.
    """
    missing: list[str] = []
    changed: list[str] = []
    obstacles = Obstacles(out)
    in_our_way: list[Problem | None] = [obstacles.root()]
    unchanged = 0
    for name, text in sorted(wanted.items()):
        folder = obstacles.folder(name.rpartition("/")[0])
        if folder is None and _is_package_file(name) and _left_alone(out, name):
            continue
        obstacle = folder or obstacles.file(name)
        if obstacle is not None:
            in_our_way.append(obstacle)
            continue
        there = _read(out / name)
        if there is not None and MARKER not in there[:_HEAD] and not _is_package_file(name):
            what = "this file was not generated, and is not overwritten"
            in_our_way.append(in_the_way(out / name, what))
        if there is None:
            missing.append(name)
        elif there != text:
            changed.append(name)
        else:
            unchanged += 1
    problems = [problem for problem in dict.fromkeys(in_our_way) if problem is not None]
    if problems:
        raise Problems(problems)
    stale = sorted(_stale(out, wanted, scope))
    return Changes(tuple(missing), tuple(changed), tuple(stale), unchanged)


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_package_file(name: str) -> bool:
    return name.rpartition("/")[2] in (_INIT, _TYPED)


def _left_alone(out: Path, name: str) -> bool:
    """Whether the user made this package file, or the package that it would stand in."""
    if name.endswith(_TYPED) and os.path.lexists(out / name):
        return True
    init = (out / name).parent / _INIT
    if not is_plain_file(init):
        return os.path.lexists(init)  # a link was made by hand, wherever it leads
    return not (_read(init) or "").startswith(MARKER)


def _stale(out: Path, wanted: Mapping[str, str], scope: Sequence[str]) -> Iterator[str]:
    """Files that were generated into this folder and are no longer wanted.

    A generated file names its proto, and that says where it belongs: files of another output
    folder that happens to lie in this one are left alone.
    """
    stale: set[str] = set()
    inits: list[str] = []
    for name in _generated_names(out, scope):
        text = (out / name).read_bytes()[:_HEAD].decode("utf-8", "replace")
        if name in wanted or MARKER not in text:
            continue
        if name.endswith(_INIT):
            inits.append(name)
        elif _belongs(name, text):
            stale.add(name)
    yield from stale
    # When the last module of a package is stale, its __init__.py is too.
    emptied = {str(parent) for name in stale for parent in Path(name).parents}
    for name in inits:
        folder = Path(name).parent
        if str(folder) in emptied and not _has_others(out, folder, stale | set(inits)):
            yield name


def _has_others(out: Path, folder: Path, leaving: Collection[str]) -> bool:
    modules = (*(out / folder).rglob("*.py"), *(out / folder).rglob("*.pyi"))
    return any(path.relative_to(out).as_posix() not in leaving for path in modules)


def _belongs(name: str, text: str) -> bool:
    source = next(
        (line[len("# source: ") :] for line in text.split("\n") if line.startswith("# source: ")),
        None,
    )
    suffix = next(value for key, value in _SUFFIXES.items() if name.endswith(key))
    if source is None:
        return False
    parts = Layout({source}).module(source, suffix).parts
    return name.rpartition(".")[0] == "/".join(parts)


def _generated_names(out: Path, scope: Sequence[str]) -> Iterator[str]:
    obstacles = Obstacles(out)
    for folder in scope:
        name = "/".join(module_part(part) for part in folder.split("/") if part)
        if obstacles.folder(name) is not None:
            continue
        below = out / name
        for path, folders, files in os.walk(below):
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and not Path(path, name, "pyvenv.cfg").exists()
            )
            for file in sorted(files):
                ours = file == _INIT or file.endswith(tuple(_SUFFIXES))
                if ours and is_plain_file(Path(path, file)):
                    yield Path(path, file).relative_to(out).as_posix()


def diff(out: Path, wanted: Mapping[str, str], found: Changes) -> Iterator[str]:
    """The changes as lines of a unified diff."""
    for name in sorted((*found.missing, *found.changed, *found.stale)):
        before, after = _read(out / name) or "", wanted.get(name, "")
        shown = (out / name).as_posix()
        yield from difflib.unified_diff(
            before.splitlines(),
            after.splitlines(),
            shown if name not in found.missing else os.devnull,
            shown if name not in found.stale else os.devnull,
            lineterm="",
        )


def write(out: Path, wanted: Mapping[str, str], found: Changes, *, prune: bool) -> None:
    """Make the changes: all of them, or none if anything fails on the way.

    :param prune: whether to delete the stale files.
    :raises OSError: if a file cannot be written; the folder is then as it was.
    """
    with contextlib.ExitStack() as undo:
        _make_folder(out, undo)
        # All in one folder first: what can go wrong (a full disk) goes wrong here, and file
        # systems are several times quicker than with as many files in as many new folders.
        with tempfile.TemporaryDirectory(prefix=".txzmq-codegen-", dir=out) as staging:
            staged = _staged(Path(staging), wanted, (*found.missing, *found.changed))
            for folder in sorted({name.rpartition("/")[0] for _, name in staged}):
                _make_folder(out / folder, undo)
            changed = frozenset(found.changed)
            for temporary, name in staged:
                target = f"{out}/{name}"
                if name in changed:
                    _remember(out / name, undo)
                else:
                    undo.callback(_quietly, partial(os.unlink, target))
                os.replace(temporary, target)
        if prune:
            for name in found.stale:
                _remember(out / name, undo)
                (out / name).unlink()
        undo.pop_all()
    if prune:
        _remove_empty(out, found.stale)


def write_file(path: Path, data: bytes) -> None:
    """Write *data* to *path*, unless it is there already; a link at *path* is replaced.

    :raises OSError: if it cannot be written; the file is then as it was.
    """
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # fails where anything stands, a link too
            file.write(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _staged(folder: Path, wanted: Mapping[str, str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Write the files under numbers; returns where each is."""
    staged = [(f"{folder}/{number}", name) for number, name in enumerate(names)]
    for temporary, name in staged:
        with open(temporary, "wb") as file:
            file.write(wanted[name].encode())
    return staged


def _make_folder(folder: Path, undo: contextlib.ExitStack) -> None:
    """Make *folder*, and those around it; *undo* removes the new ones."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, undo)
    folder.mkdir()
    undo.callback(_quietly, folder.rmdir)


def _remember(target: Path, undo: contextlib.ExitStack) -> None:
    """Let *undo* put *target* back as it is now."""
    undo.callback(_quietly, partial(target.write_bytes, target.read_bytes()))


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        action()


def _remove_empty(out: Path, gone: Sequence[str]) -> None:
    """Remove the folders that pruning has emptied."""
    folders = {parent for name in gone for parent in Path(name).parents} - {Path()}
    for folder in sorted(folders, key=lambda it: -len(it.parts)):
        shutil.rmtree(out / folder / "__pycache__", ignore_errors=True)
        _quietly((out / folder).rmdir)
