"""``python -m txzmq.codegen``: the command, its reports and its exit status."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from txzmq_codegen.config import Config, configure
from txzmq_codegen.obstacles import Obstacles
from txzmq_codegen.output import Changes, changes, diff, write, write_file
from txzmq_codegen.problems import Problem, Problems, UsageError
from txzmq_codegen.progress import Bar, files
from txzmq_codegen.protoc import ToolFailed
from txzmq_codegen.report import Report
from txzmq_codegen.run import Plan, plan, without_comments
from txzmq_codegen.sources import own_include
from txzmq_codegen.starter import commands, write_starter
from txzmq_codegen.text import escaped
from txzmq_codegen.watch import watch

__all__ = ["main"]

FINE: Final = 0
ERRORS: Final = 1
USAGE: Final = 2
DRIFT: Final = 3
BUG: Final = 70


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 fine, 1 errors in the protos or breaking changes, 2 wrong usage or configuration, 3 drift
    found by ``--check``, 70 a bug of the generator.
    """
    # The names of files are of any characters, and the output may be in ASCII.
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # there may be no output at all
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="backslashreplace")
    report = Report("text")
    try:
        config = configure(sys.argv[1:] if arguments is None else arguments, Path.cwd())
        if config.print_include:
            print(own_include())
            return FINE
        report = Report(config.error_format)
        if config.init is not None:
            return _init(config.init, config.service, report)
        if config.watch:
            _watch(config, report)
        return _run(config, report)
    except UsageError as error:
        report.usage(error)
        return USAGE
    except OSError as error:
        report.say(_said(error))
        return USAGE
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # argparse has printed what is wrong
        return error.code if isinstance(error.code, int) else USAGE


def _init(folder: Path, service: str, report: Report) -> int:
    """Write a starter, and print what to do with it."""
    try:
        names = write_starter(folder, service)
    except Problems as problems:
        report.problems(problems.problems)
        return ERRORS
    try:
        print(escaped(f"Wrote {', '.join(names[:-1])} and {names[-1]} to {folder.resolve()}."))
        print("Next, in that folder:\n")
        for command in commands():
            print(f"    {command}")
        print(end="", flush=True)
    except BrokenPipeError:
        _nobody_reads()  # but the files are there
    return FINE


def _nobody_reads() -> None:
    """The program that reads our output, such as head, has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: Seconds between two checks of the protos for changes. To look is the same on every system, and a
#: look at a thousand files takes some milliseconds.
_WATCH_INTERVAL: Final = 0.3


def _watch(config: Config, report: Report) -> None:
    """Run whenever a proto changes; does not return."""
    paths = (*config.protos, *config.include)
    last: int | None = None

    def run() -> None:
        nonlocal last
        status = _run(config, report)
        if status == FINE and last not in (None, FINE):
            report.tell("all is well again")
        if last is None:
            report.tell(f"watching {', '.join(map(str, paths))}; Ctrl-C ends it")
        last = status

    watch(paths, run, lambda: time.sleep(_WATCH_INTERVAL))


def _run(config: Config, report: Report) -> int:
    """Do one run, and print what is wrong."""
    try:
        with Bar(sys.stderr) as bar:
            planned = plan(config, bar.show)
            bar.show("comparing", 0.9)
            found = changes(config.output, planned.texts, planned.sources.scope)
            breaks = _breaks(config, planned)
        report.problems((*planned.warnings, *breaks))
        if breaks:
            return ERRORS
        return _finish(config, planned, found, report)
    except Problems as problems:
        report.problems(problems.problems)
        return ERRORS
    except UsageError as error:
        report.usage(error)
        return USAGE
    except ToolFailed as error:
        report.say(str(error))
        return BUG
    except BrokenPipeError:
        _nobody_reads()
        return ERRORS
    except OSError as error:
        report.say(_said(error))
        return ERRORS
    except Exception as error:  # noqa: BLE001 - a bug in the generator is reported here
        sys.excepthook(type(error), error, error.__traceback__)
        report.say("this is a bug in txzmq.codegen; please report it")
        return BUG


def _said(error: OSError) -> str:
    """What the operating system says, in the form of other errors: ``generated: File exists``."""
    # Of two, the first is a temporary file of ours.
    filename = error.filename2 or error.filename
    if filename is None or error.strerror is None:
        return str(error)
    return f"{os.fsdecode(filename)}: {error.strerror}"


def _breaks(config: Config, planned: Plan) -> Sequence[Problem]:
    if config.against is None:
        return ()
    # Imported here, because most runs need neither, and imports take time.
    from txzmq_codegen.baseline import baseline
    from txzmq_codegen.breaking import breaking_changes

    before = baseline(config.against, config.protos, config.include)
    sources = planned.sources
    # What is imported no more, and still there to be imported, has not been deleted.
    unused = [
        it for it in before.file if it.name not in sources.files and sources.includes(it.name)
    ]
    for file in unused:
        before.file.remove(file)
    problems = breaking_changes(before, planned.descriptors, list(sources.files), config.breaking)
    return [sources.place(problem) for problem in problems]


def _finish(config: Config, planned: Plan, found: Changes, report: Report) -> int:
    if config.diff:
        for line in diff(config.output, planned.texts, found):
            print(line)
    if config.check:
        return _check(config, found, report)
    if config.descriptor_set is not None:
        Obstacles(config.output).check(config.descriptor_set)
    write(config.output, planned.texts, found, prune=config.prune)
    if config.descriptor_set is not None:
        write_file(config.descriptor_set, without_comments(planned.descriptors))
    _summarise(config, found, report)
    return FINE


def _check(config: Config, found: Changes, report: Report) -> int:
    if not found.any:
        return FINE
    if not found.stale or config.prune:
        advice = "run the same command without --check"
    elif found.missing or found.changed:
        advice = "run the same command without --check, and with --prune to delete stale files"
    else:
        advice = "run the same command with --prune in place of --check"
    kinds = {"missing": found.missing, "changed": found.changed, "stale": found.stale}
    report.drift([(what, _paths(config, names)) for what, names in kinds.items()], advice)
    return DRIFT


def _paths(config: Config, names: Sequence[str]) -> list[str]:
    return [(config.output / name).as_posix() for name in names]


def _summarise(config: Config, found: Changes, report: Report) -> None:
    """Print what was done, if a person follows it; warn of stale files in any case."""
    if not config.prune:
        stale = _paths(config, found.stale)
        report.stale(str(config.output), stale, prune="--prune deletes them")
    written = (*found.missing, *found.changed)
    if config.watch:
        for path in _paths(config, written[:_MOST_NAMED]):
            report.tell(f"{path}: written")
    if config.watch or sys.stderr.isatty():
        deleted = f", {len(found.stale)} deleted" if found.stale and config.prune else ""
        report.tell(
            f"{config.output}: {files(len(written))} written, {found.unchanged} unchanged{deleted}"
        )


#: So many of the files that were written are named where a watch goes on.
_MOST_NAMED: Final = 10
