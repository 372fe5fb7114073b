"""The command line, and ``[tool.txzmq.codegen]`` of the nearest pyproject.toml, as options."""

from __future__ import annotations

import argparse
import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from txzmq_codegen.layout import Imports
from txzmq_codegen.problems import UsageError

__all__ = ["Config", "configure"]

Category = Literal["FILE", "WIRE"]
ErrorFormat = Literal["text", "json"]


class Config(NamedTuple):
    """The options of one run; see the option reference in docs/generator-options.md."""

    protos: tuple[Path, ...]
    include: tuple[Path, ...]
    include_imports: bool
    output: Path
    imports: Imports
    prune: bool
    check: bool
    diff: bool
    watch: bool
    against: str | None
    breaking: Category
    descriptor_set: Path | None
    error_format: ErrorFormat
    print_include: bool


_DESCRIPTION: Final = """\
Generate typed clients and servers, with the messages they use, from .proto files. Every option
may also stand in [tool.txzmq.codegen] of the nearest pyproject.toml, under the same name.
"""
_EPILOG: Final = """\
exit status: 0 fine; 1 errors in the protos, or breaking changes; 2 wrong usage or configuration;
3 the output is not up to date (--check); 70 a bug in the generator
"""
#: Options that say what to do, as opposed to how; only the command line may have them.
_COMMANDS: Final = frozenset({"check", "diff", "watch", "print-include", "help"})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m txzmq.codegen",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        # Options that were not given are absent, so that pyproject.toml can set them.
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add(
        "protos",
        nargs="*",
        type=Path,
        metavar="PROTOS",
        help="folders with protos, at any depth; or files",
    )
    add(
        "-I",
        "--include",
        action="append",
        type=Path,
        metavar="FOLDER",
        help="where imports are looked for, too; these protos are not generated",
    )
    add(
        "--include-imports",
        action="store_true",
        help="generate imported protos along, wherever they are found; but not those whose modules "
        "come with protobuf or with txzmq",
    )
    add("-o", "--output", type=Path, metavar="FOLDER", help="default: generated")
    add(
        "--imports",
        choices=("relative", "absolute"),
        help="relative: the output folder is a package, whatever its name (default); "
        "absolute: it is a folder on the import path",
    )
    add("--prune", action="store_true", help="delete files of protos that are gone")
    add("--check", action="store_true", help="write nothing; exit with 3 if something would change")
    add("--diff", action="store_true", help="show the changes")
    add("--watch", action="store_true", help="generate again whenever a proto changes")
    add(
        "--against",
        metavar="DESCRIPTOR_SET|GIT_REF",
        help="report changes since then that break callers",
    )
    add(
        "--breaking",
        choices=("FILE", "WIRE"),
        help="FILE: what breaks generated code or the wire (default); WIRE: the wire alone",
    )
    add(
        "--descriptor-set",
        type=Path,
        metavar="FILE",
        help="also write the protos, with all that they import, as a FileDescriptorSet",
    )
    add("--error-format", choices=("text", "json"), help="json: one object a line")
    add(
        "--print-include",
        action="store_true",
        help="print the folder that holds txzmq/rpc/v1/options.proto",
    )
    return parser


def configure(arguments: Sequence[str], folder: Path) -> Config:
    """The options of a run in *folder*, to which paths are relative.

    :raises UsageError: if the configuration is wrong.
    :raises SystemExit: with status 2, if the command line is wrong; with 0 after ``--help``.
    """
    given = vars(_parser().parse_args(arguments))
    if not given.get("protos"):
        given.pop("protos", None)  # argparse gives an empty list
    values = {**_from_pyproject(folder), **given}
    if "protos" not in values and "print_include" not in given:
        raise UsageError(
            "no protos given",
            "name their folder: python -m txzmq.codegen protos/",
        )
    return _config(values)


def _config(values: Mapping[str, Any]) -> Config:
    output = values.get("output", Path("generated"))
    config = Config(
        protos=tuple(values.get("protos", ())),
        include=tuple(values.get("include", ())),
        include_imports=values.get("include_imports", False),
        output=output,
        imports=values.get("imports", "relative"),
        prune=values.get("prune", False),
        check=values.get("check", False),
        diff=values.get("diff", False),
        watch=values.get("watch", False),
        against=values.get("against"),
        breaking=values.get("breaking", "FILE"),
        descriptor_set=values.get("descriptor_set"),
        error_format=values.get("error_format", "text"),
        print_include=values.get("print_include", False),
    )
    if config.check and config.watch:
        raise UsageError("--check and --watch exclude each other")
    if config.imports == "relative" and "output" in values and _is_project(output):
        raise UsageError(
            f"{output} is the root of a project, not a package",
            "add --imports absolute to write packages into it, or name another folder with -o",
        )
    return config


def _is_project(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("pyproject.toml", "setup.py", ".git"))


def _from_pyproject(folder: Path) -> dict[str, Any]:
    for parent in (folder, *folder.parents):
        file = parent / "pyproject.toml"
        if file.is_file():
            return _from_file(file, folder)
    return {}


def _from_file(file: Path, folder: Path) -> dict[str, Any]:
    shown = os.path.relpath(file, folder)
    try:
        document: Any = tomllib.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{shown}: {error}") from error
    for key in ("tool", "txzmq", "codegen"):
        if not isinstance(document, dict):
            raise UsageError(f"{shown}: [tool.txzmq.codegen] must be a table")
        document = cast("dict[str, Any]", document).get(key, {})
    table = cast("dict[str, object]", document)
    values: dict[str, Any] = {}
    for key, value in table.items():
        convert = _KEYS.get(key)
        if convert is None:
            raise UsageError(f"{shown}: {_unknown(key)}")
        try:
            values[key.replace("-", "_")] = convert(value, file.parent, folder)
        except TypeError as error:
            raise UsageError(f"{shown}: {key} must be {error}, not {value!r}") from error
    return values


def _unknown(key: str) -> str:
    if key in _COMMANDS:
        return f"{key} belongs on the command line, not in [tool.txzmq.codegen]"
    near = difflib.get_close_matches(key, _KEYS, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_KEYS)}"
    return f"unknown key {key!r} in [tool.txzmq.codegen]{hint}"


# Each converter takes a value, the folder of the file, and the folder of the run; it raises
# TypeError with what the value must be.
_Convert = Callable[[object, Path, Path], object]


def _path(value: object, there: Path, here: Path) -> Path:
    if not isinstance(value, str):
        raise TypeError("a path")
    # Shown to the user as seen from where the command runs.
    return Path(os.path.relpath(there / value, here))


def _paths(value: object, there: Path, here: Path) -> list[Path]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise TypeError("a list of paths")
    return [_path(item, there, here) for item in cast("list[object]", values)]


def _flag(value: object, there: Path, here: Path) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _choice(*choices: str) -> _Convert:
    def convert(value: object, there: Path, here: Path) -> object:
        if value not in choices:
            raise TypeError(" or ".join(map(repr, choices)))
        return value

    return convert


def _text(value: object, there: Path, here: Path) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


_KEYS: Final[dict[str, _Convert]] = {
    "protos": _paths,
    "include": _paths,
    "include-imports": _flag,
    "output": _path,
    "imports": _choice("relative", "absolute"),
    "prune": _flag,
    "against": _text,
    "breaking": _choice("FILE", "WIRE"),
    "descriptor-set": _path,
    "error-format": _choice("text", "json"),
}
