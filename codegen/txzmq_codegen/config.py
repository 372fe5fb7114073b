"""The command line, and ``[tool.txzmq.codegen]`` of the nearest pyproject.toml, as options."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from txzmq_codegen.layout import Imports, is_importable
from txzmq_codegen.problems import UsageError
from txzmq_codegen.report import ErrorFormat
from txzmq_codegen.starter import DEFAULT_SERVICE, check_service

__all__ = ["Config", "configure"]

Category = Literal["FILE", "WIRE"]


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
    #: The module whose descriptor pool the messages are in; None for protobuf's default pool.
    pool: str | None
    #: Where to write a first proto, with a server, a client and a test; None to generate.
    init: Path | None
    #: The name of that proto's service.
    service: str


_DESCRIPTION: Final = """\
Generate typed clients and servers, with the messages they use, from .proto files. Every option
may also stand in [tool.txzmq.codegen] of the nearest pyproject.toml, under the same name.
"""
_EPILOG: Final = """\
exit status: 0 fine; 1 errors in the protos, or breaking changes; 2 wrong usage or configuration;
3 the output is not up to date (--check); 70 a bug in the generator
"""
#: Options that say what to do, as opposed to how; only the command line may have them.
_COMMANDS: Final = frozenset({"check", "diff", "watch", "print-include", "init", "service", "help"})
#: What ``--init`` goes with.
_WITH_INIT: Final = frozenset({"init", "service", "error_format"})


def _given_path(value: str) -> Path:
    """A path of the command line; Path itself takes an empty one for the current folder."""
    if not value:
        raise argparse.ArgumentTypeError("a path must not be empty")
    return Path(value)


def _module(value: str) -> str:
    if not is_importable(tuple(value.split("."))):
        raise argparse.ArgumentTypeError(f"{value!r} is no name of a module")
    return value


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
        type=_given_path,
        metavar="PROTOS",
        help="folders with protos, at any depth; or files",
    )
    add(
        "-I",
        "--include",
        action="append",
        type=_given_path,
        metavar="FOLDER",
        help="where imports are looked for, too; these protos are not generated",
    )
    add(
        "--include-imports",
        action="store_true",
        help="generate imported protos along, wherever they are found; but not those whose modules "
        "come with protobuf or with txzmq",
    )
    add("-o", "--output", type=_given_path, metavar="FOLDER", help="default: generated")
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
        type=_given_path,
        metavar="FILE",
        help="also write the protos, with all that they import, as a FileDescriptorSet",
    )
    add("--error-format", choices=("text", "json"), help="json: one object a line")
    add(
        "--print-include",
        action="store_true",
        help="print the folder that holds txzmq/rpc/v1/options.proto",
    )
    add(
        "--init",
        nargs="?",
        type=_given_path,
        const=Path(),
        metavar="FOLDER",
        help="write a first proto into a folder (default: the current one), with a server, a "
        "client and a test of it; overwrites nothing",
    )
    add(
        "--service",
        metavar="NAME",
        help=f"with --init: the name of the proto's service (default: {DEFAULT_SERVICE})",
    )
    # For txzmq's own code; docs/decisions/0009-standard-services.md says why.
    add("--pool", type=_module, help=argparse.SUPPRESS)
    return parser


def configure(arguments: Sequence[str], folder: Path) -> Config:
    """The options of a run in *folder*, to which paths are relative.

    :raises UsageError: if the configuration is wrong.
    :raises SystemExit: with status 2, if the command line is wrong; with 0 after ``--help``.
    """
    given = vars(_parser().parse_args(arguments))
    if not given.get("protos"):
        given.pop("protos", None)  # argparse gives an empty list
    if "init" in given or "service" in given:
        _check_init(given)
        return _config(given)  # what other projects around it configure is not for this one
    values = {**_from_pyproject(folder), **given}
    if not values.get("protos") and "print_include" not in given:
        raise UsageError(
            "no protos given",
            "name their folder: python -m txzmq.codegen protos/",
        )
    return _config(values)


def _check_init(given: Mapping[str, Any]) -> None:
    if "init" not in given:
        raise UsageError("--service goes with --init", "an existing proto names its own services")
    others = sorted(given.keys() - _WITH_INIT)
    if "protos" in others:
        what = f"--init writes protos, and takes none: {' '.join(map(str, given['protos']))}"
        raise UsageError(what, "name the folder behind it: --init FOLDER")
    if others:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise UsageError(f"--init does not go with {options}")
    check_service(given.get("service", DEFAULT_SERVICE))


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
        pool=values.get("pool"),
        init=values.get("init"),
        service=values.get("service", DEFAULT_SERVICE),
    )
    if config.against == "":
        raise UsageError("--against must not be empty", "name a commit, or a descriptor set")
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
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for key, value in _table(file, shown, complaints).items():
        convert = _KEYS.get(key)
        if convert is None:
            complaints.append(_unknown(key))
            continue
        try:
            values[key.replace("-", "_")] = convert(value, file.parent, folder)
        except TypeError as error:
            complaints.append(f"{key} must be {error}, not {value!r}")
    if complaints:
        first, *others = (UsageError(f"{shown}: {complaint}") for complaint in complaints)
        raise UsageError(str(first), others=others)
    return values


def _table(file: Path, shown: str, complaints: list[str]) -> Mapping[str, object]:
    """The table [tool.txzmq.codegen]; adds to *complaints* which other tables look meant for it."""
    try:
        document: object = tomllib.loads(file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise UsageError(f"{shown}: it is not UTF-8", "TOML is UTF-8; save it as that") from None
    except RecursionError:
        raise UsageError(f"{shown}: its values are nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{shown}: {error}") from error
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}") from error
    tools = _inner(document, "tool", shown)
    complaints.extend(
        f"unknown table [{name}]; did you mean [tool.txzmq.codegen]?"
        for name in (*cast("Mapping[str, object]", document), *(f"tool.{it}" for it in tools))
        if name != "tool.txzmq"
        and re.sub(r"^tool\.|[-_.\s]", "", name.lower()) in ("txzmq", "txzmqcodegen")
    )
    tables = _inner(tools, "txzmq", shown)
    complaints.extend(
        f"unknown {'table' if isinstance(value, dict) else 'key'} {name!r} in [tool.txzmq]; "
        "there is [tool.txzmq.codegen] only"
        for name, value in tables.items()
        if name != "codegen"
    )
    return _inner(tables, "codegen", shown)


def _inner(table: object, key: str, shown: str) -> Mapping[str, object]:
    """Table *key* of *table*, empty if it is not there."""
    inner = cast("Mapping[str, object]", table).get(key, {})
    if not isinstance(inner, dict):
        path = {"tool": "tool", "txzmq": "tool.txzmq", "codegen": "tool.txzmq.codegen"}[key]
        raise UsageError(f"{shown}: [{path}] must be a table, not {inner!r}")
    return cast("Mapping[str, object]", inner)


def _unknown(key: str) -> str:
    if key in _COMMANDS:
        return f"{key} belongs on the command line, not in [tool.txzmq.codegen]"
    near = difflib.get_close_matches(key.lower().replace("_", "-"), _KEYS, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_KEYS)}"
    return f"unknown key {key!r} in [tool.txzmq.codegen]{hint}"


# Each converter takes a value, the folder of the file, and the folder of the run; it raises
# TypeError with what the value must be.
_Convert = Callable[[object, Path, Path], object]


def _path(value: object, there: Path, here: Path) -> Path:
    # The operating system takes no null character, and says so by a ValueError.
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError("a path")
    # Shown to the user as seen from where the command runs.
    return Path(os.path.relpath(there / value, here))


def _paths(value: object, there: Path, here: Path) -> list[Path]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise TypeError("a list of paths")
    try:
        return [_path(item, there, here) for item in cast("list[object]", values)]
    except TypeError:
        raise TypeError("a list of paths") from None


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


def _state(value: object, there: Path, here: Path) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError("a commit, or the path of a descriptor set")
    return str(_path(value, there, here)) if (there / value).is_file() else value


_KEYS: Final[dict[str, _Convert]] = {
    "protos": _paths,
    "include": _paths,
    "include-imports": _flag,
    "output": _path,
    "imports": _choice("relative", "absolute"),
    "prune": _flag,
    "against": _state,
    "breaking": _choice("FILE", "WIRE"),
    "descriptor-set": _path,
    "error-format": _choice("text", "json"),
}
