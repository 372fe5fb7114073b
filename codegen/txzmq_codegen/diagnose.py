"""Finds every error of all files, although protoc stops at the first bad one.

protoc reports the errors of one file (and of those that it imports) and stops. So this module takes
out the files that protoc complains of, with everything that imports them, and runs it again on the
rest: one run per bad file, however many good ones there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from txzmq_codegen.problems import Position, Problem, Severity

__all__ = ["all_problems", "imports_of", "parsed"]

_COMPLAINT: Final = re.compile(
    r"(?P<file>.+?\.proto)(?::(?P<line>\d+):(?P<column>\d+))?: (?P<warning>warning: )?(?P<what>.+)"
)
#: What abseil and the plugins' machinery log: nothing about the user's files.
_NOISE: Final = re.compile(r"WARNING: All log messages before absl|[IWEF]\d{4} \d\d:|[IWEF]0000 ")
#: Comments and strings, which may look like imports, and imports.
_TOKEN: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bimport\s+(?:public\s+|weak\s+|option\s+)?["']([^"'\n]+)["']"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)
#: Complaints that follow from an import that failed.
_CONSEQUENCE: Final = re.compile(r"was not found or had errors|is not defined|seems to be defined")

_HELP: Final = (
    (re.compile(r"Import .* not found|File not found"), "give the folder it is in with -I"),
    (re.compile(r"seems to be defined in"), "import that file"),
    (re.compile(r"is not defined"), "define it, or import the file that does"),
    (re.compile(r"already defined|already been used"), "rename or renumber one of them"),
    (re.compile(r"recursively imports itself"), "move what both need into a third file"),
    (re.compile(r"is unused"), "remove the import"),
    (re.compile(r"\(txzmq\..* unknown"), 'add: import "txzmq/rpc/v1/options.proto";'),
    (re.compile(r"Option .* unknown"), "import the file that defines it"),
    (
        re.compile(r"not a message type"),
        "rpcs take messages; write .full.Name if an rpc of that name hides the message",
    ),
    (re.compile(r"Expected \""), "something is missing or misspelt before this place"),
    (re.compile(r"[Ee]dition"), "the newest edition depends on the installed grpcio-tools"),
)
_OTHER_HELP: Final = "the language is described at https://protobuf.dev/reference/protobuf/"


def imports_of(text: str) -> frozenset[str]:
    """The files that a proto imports, whether or not the rest of it is correct."""
    return frozenset(match[1] for match in _TOKEN.finditer(text) if match[1])


def parsed(lines: Iterable[str]) -> list[Problem]:
    """Protoc's messages as problems, its log noise dropped."""
    problems: list[Problem] = []
    for line in lines:
        match = _COMPLAINT.fullmatch(line)
        if match is not None:
            position = Position(match["file"], int(match["line"] or 0), int(match["column"] or 0))
            severity: Severity = "warning" if match["warning"] else "error"
            problems.append(Problem(position, match["what"], _help(match["what"]), severity))
        elif line.strip() and not _NOISE.match(line):
            problems.append(Problem(Position("protoc"), line.strip()))
    return problems


def _help(what: str) -> str:
    return next((advice for pattern, advice in _HELP if pattern.search(what)), _OTHER_HELP)


def all_problems(
    protos: Sequence[str],
    compile_only: Callable[[Sequence[str]], Sequence[str]],
    read: Callable[[str], str],
) -> tuple[list[Problem], list[str]]:
    """Every problem of *protos*, once, in the order of the files; and the files that are fine.

    :param compile_only: runs protoc on some files and returns the lines that it prints.
    :param read: the text of a file; empty if it cannot be read.
    """
    imports = {proto: imports_of(read(proto)) for proto in protos}
    found: list[Problem] = []
    rest = list(protos)
    while rest:
        problems = parsed(compile_only(rest))
        found.extend(problems)
        bad = {problem.position.file for problem in problems if problem.severity == "error"}
        bad = _with_importers(bad, imports)
        if not bad.intersection(rest):
            break
        rest = [proto for proto in rest if proto not in bad]
    return sorted(_causes(dict.fromkeys(found))), rest


def _with_importers(bad: Collection[str], imports: Mapping[str, Collection[str]]) -> set[str]:
    """*bad* and everything that imports any of it, however indirectly."""
    bad = set(bad)
    while True:
        more = {
            proto
            for proto, imported in imports.items()
            if proto not in bad and not bad.isdisjoint(imported)
        }
        if not more:
            return bad
        bad |= more


def _causes(problems: Iterable[Problem]) -> list[Problem]:
    """*problems* without those that only follow from errors in imported files."""
    problems = list(problems)
    with_errors = {it.position.file for it in problems if it.severity == "error"}
    not_found = {it.position.file for it in problems if "File not found" in it.message}
    broken = {
        it.position.file
        for it in problems
        if any(f'Import "{file}" was not found or had errors' in it.message for file in with_errors)
    }
    causes: list[Problem] = []
    for it in problems:
        if it.position.file in not_found:
            continue  # the file that imports it reports this too, with a line
        blamed = re.match(r'Import "(.+)" was not found', it.message)
        if blamed is not None and blamed[1] in with_errors - not_found:
            continue
        is_import = blamed is not None
        if not is_import and it.position.file in broken and _CONSEQUENCE.search(it.message):
            continue
        causes.append(it)
    return causes
