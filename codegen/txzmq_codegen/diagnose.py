"""Finds every error of all files, although protoc stops at the first bad one.

protoc reports the errors of one file, and of all that it imports, and stops. So this module has it
compile one file that imports all the others. It stops within a file, too: where the syntax is wrong
it looks for no import. This module does that itself.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from txzmq_codegen.problems import Position, Problem, Severity

__all__ = ["Tools", "all_problems", "imports_of", "parsed"]

_COMPLAINT: Final = re.compile(
    r"(?P<file>.+?\.proto)(?::(?P<line>\d+):(?P<column>\d+))?: (?P<warning>warning: )?(?P<what>.+)"
)
#: What abseil and the plugins' machinery log: nothing about the user's files.
_NOISE: Final = re.compile(r"WARNING: All log messages before absl|[IWEF]\d{4} \d\d:|[IWEF]0000 ")
#: What it logs of descriptor sets, naming no file.
_OF_SETS: Final = re.compile(r"E\S+ .*descriptor_database\.cc:\d+\] (?P<what>.+)")
#: Comments and strings, which may look like imports, and imports.
_TOKEN: Final = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|\Z)|\bimport\s+(?:public\s+|weak\s+|option\s+)?["']([^"'\n]+)["']"""
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
_SETS_HELP: Final = "the descriptor sets are wrong, or define something twice; make them anew"
_OTHER_HELP: Final = "the language is described at https://protobuf.dev/reference/protobuf/"


def imports_of(text: str) -> frozenset[str]:
    """The files that a proto imports, whether or not the rest of it is correct."""
    return frozenset(_unescaped(match[1]) for match in _TOKEN.finditer(text) if match[1])


def _unescaped(name: str) -> str:
    """The name that stands between quotes in a proto as *name*; wrong escapes stay as they are."""
    return _text(_ESCAPE.sub(_byte, name.encode()))


#: In strings of protos: a byte, a character, or one of a few by a letter.
_ESCAPE: Final = re.compile(
    rb"""\\(?:[xX]([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5})|([abfnrtv\\'"?]))"""
)
_LETTERS: Final = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))


def _byte(escape: re.Match[bytes]) -> bytes:
    character = escape[3] or escape[4]
    if character:
        return chr(min(int(character, 16), sys.maxunicode)).encode("utf-8", "replace")
    if escape[5]:
        return bytes([_LETTERS[escape[5][0]]])
    return bytes([int(escape[1], 16) if escape[1] else int(escape[2], 8) & 0xFF])


def parsed(lines: Iterable[str]) -> list[Problem]:
    """Protoc's messages as problems, its log noise dropped."""
    problems: list[Problem] = []
    for line in lines:
        match = _COMPLAINT.fullmatch(line)
        if match is not None:
            position = Position(match["file"], int(match["line"] or 0), int(match["column"] or 0))
            severity: Severity = "warning" if match["warning"] else "error"
            problems.append(Problem(position, match["what"], _help(match["what"]), severity))
        elif logged := _OF_SETS.match(line):
            problems.append(Problem(Position("protoc"), logged["what"], _SETS_HELP))
        elif line.strip() and not _NOISE.match(line):
            problems.append(Problem(Position("protoc"), line.strip()))
    return problems


def _help(what: str) -> str:
    return next((advice for pattern, advice in _HELP if pattern.search(what)), _OTHER_HELP)


class Tools(NamedTuple):
    """What is needed of the compiler and of the files, by protoc's names."""

    #: Compile some files as far as they go, through one that imports them all: protoc reads all
    #: imports of a file, but of the files that it is given none after the first bad one. Returns
    #: the lines that it prints.
    compile_imported: Callable[[Sequence[str]], Sequence[str]]
    #: Compile some files; returns the lines that are printed.
    compile_only: Callable[[Sequence[str]], Sequence[str]]
    #: The bytes of a file; none if it cannot be read.
    read: Callable[[str], bytes]
    #: Whether there is a file to import.
    exists: Callable[[str], bool]


def all_problems(protos: Sequence[str], tools: Tools) -> tuple[list[Problem], list[str]]:
    """Every problem of *protos*, once, in the order of the files; and the files that are fine."""
    found = parsed(tools.compile_imported(protos))
    bad = {problem.position.file for problem in found if problem.severity == "error"}
    for proto in sorted(bad):
        found.extend(_missing_imports(proto, tools))
    rest = [proto for proto in protos if proto not in bad]
    imports = {proto: imports_of(_text(tools.read(proto))) for proto in rest}
    # What protoc says after it has read all files: of editions, and warnings.
    while rest:
        problems = parsed(tools.compile_only(rest))
        found.extend(problems)
        bad = {problem.position.file for problem in problems if problem.severity == "error"}
        bad = _with_importers(bad, imports)
        if not bad.intersection(rest):
            rest = [] if bad else rest  # something is wrong with all of them
            break
        rest = [proto for proto in rest if proto not in bad]
    causes = _causes(dict.fromkeys(found))
    return sorted(_editions_as_one(_files_as_one(causes, tools.read))), rest


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _missing_imports(proto: str, tools: Tools) -> Iterator[Problem]:
    """The imports of *proto* that are nowhere; protoc reads none after an error in the syntax."""
    text = _text(tools.read(proto))
    for match in _TOKEN.finditer(text):
        name = _unescaped(match[1] or "")
        if name and "\0" not in name and not tools.exists(name):
            before = text[: match.start()].split("\n")
            column = len(before[-1].expandtabs(8).encode()) + 1
            what = f'Import "{name}" was not found or had errors.'
            yield Problem(Position(proto, len(before), column), what, _help(what))


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
    # Of these, a file that imports it tells, too, with a line.
    not_found = {
        it.position.file
        for it in problems
        if "File not found" in it.message
        and any(f'Import "{it.position.file}" was not found' in each.message for each in problems)
    }
    broken = {
        it.position.file
        for it in problems
        if any(f'Import "{file}" was not found or had errors' in it.message for file in with_errors)
    }
    causes: list[Problem] = []
    for it in problems:
        if it.position.file in not_found:
            continue
        blamed = re.match(r'Import "(.+)" was not found', it.message)
        if blamed is not None and blamed[1] in with_errors - not_found:
            continue
        is_import = blamed is not None
        if not is_import and it.position.file in broken and _CONSEQUENCE.search(it.message):
            continue
        causes.append(it)
    return causes


#: What protoc says of bytes that are no text.
_NO_TEXT: Final = re.compile(r"Invalid control characters|Interpreting non ascii codepoint")


def _files_as_one(problems: Sequence[Problem], read: Callable[[str], bytes]) -> Iterator[Problem]:
    """*problems*, with one in place of all those of a file that is no text."""
    suspects = {it.position.file for it in problems if _NO_TEXT.match(it.message)}
    instead = {file: problem for file in suspects if (problem := _no_text(file, read(file)))}
    yield from (it for it in problems if it.position.file not in instead)
    yield from instead.values()


def _no_text(file: str, data: bytes) -> Problem | None:
    """What is wrong with a file that is no text; None if it is one."""
    encoding = _encoding(data)
    if encoding:
        what = f"this file is {encoding}, and protos are UTF-8"
        advice = f"convert it: iconv -f {encoding} -t UTF-8"
        return Problem(Position(file, 1, 1), what, advice)
    strange = list(islice(re.finditer(rb"[\x00-\x08\x0e-\x1f]", data), _MOST_STRANGE + 1))
    if not strange or (len(strange) <= _MOST_STRANGE and b"\0" not in data and _is_utf_8(data)):
        return None
    before = data[: strange[0].start()].split(b"\n")
    place = Position(file, len(before), len(before[-1]) + 1)
    what = f"this file is no text: it has a byte 0x{strange[0][0].hex()}"
    return Problem(place, what, "protos are UTF-8 text; is it the right file?")


#: A text may have so many control characters by mistake, and protoc tells of each.
_MOST_STRANGE: Final = 3


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _encoding(data: bytes) -> str:
    """The encoding of a text in wide characters; empty if it is not one."""
    for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        if data.startswith(mark):
            return "UTF-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    start = data[:200]
    for first, name in ((0, "UTF-16BE"), (1, "UTF-16LE")):
        high, low = start[first::2], start[1 - first :: 2]
        if len(start) > 8 and not high.strip(b"\0") and low.isascii() and b"\0" not in low:
            return name
    return ""


_EDITION: Final = re.compile(
    r"Edition (\S+) is later than the maximum supported edition (\S+)"
    r"|is a file using edition (\S+), which is later than the protoc maximum supported edition "
    r"(\S+)\."
    r'|Unknown edition "(.*)"\.'
)
#: So many other files are named.
_NAMED: Final = 3


def _editions_as_one(problems: Iterable[Problem]) -> Iterator[Problem]:
    """*problems*, with one for all files of an edition that the compiler does not know."""
    files: dict[str, list[Problem]] = {}
    for it in problems:
        match = _EDITION.fullmatch(it.message)
        if match is None:
            yield it
            continue
        edition, newest = match[1] or match[3] or match[5], match[2] or match[4]
        than = f", whose newest is {newest}" if newest else ""
        what = f"edition {edition} is unknown to the installed compiler{than}"
        files.setdefault(what, []).append(it)
    for what, found in files.items():
        first, *others = sorted(found)
        place = first.position if first.position.line else first.position._replace(line=1, column=1)
        if others:
            names = ", ".join(it.position.file for it in others[:_NAMED])
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            have = "other file has" if len(others) == 1 else "other files have"
            what += f"; {len(others)} {have} it: {names}{more}"
        yield Problem(place, what, "upgrade grpcio-tools, or write an edition that it knows")
