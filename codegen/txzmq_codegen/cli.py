"""``python -m txzmq.codegen``: the command, its reports and its exit status."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from txzmq_codegen.config import Config, configure
from txzmq_codegen.obstacles import Obstacles
from txzmq_codegen.output import Changes, changes, diff, write, write_file
from txzmq_codegen.problems import Problem, Problems, UsageError, as_json, as_text
from txzmq_codegen.progress import Bar, files
from txzmq_codegen.protoc import ToolFailed
from txzmq_codegen.run import Plan, plan, without_comments
from txzmq_codegen.sources import own_include
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
    try:
        config = configure(sys.argv[1:] if arguments is None else arguments, Path.cwd())
        if config.print_include:
            print(own_include())
            return FINE
        if config.watch:
            watch(
                (*config.protos, *config.include),
                lambda: _run(config),
                lambda: time.sleep(_WATCH_INTERVAL),
            )
        return _run(config)
    except UsageError as error:
        return _usage(error)
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # argparse has printed what is wrong
        return error.code if isinstance(error.code, int) else USAGE


#: Seconds between two checks of the protos for changes.
_WATCH_INTERVAL: Final = 0.3


def _usage(error: UsageError) -> int:
    print(f"error: {error}", file=sys.stderr)
    if error.help:
        print(f"  help: {error.help}", file=sys.stderr)
    return USAGE


def _run(config: Config) -> int:
    """Do one run, and print what is wrong."""
    try:
        with Bar(sys.stderr) as bar:
            planned = plan(config, bar.show)
            bar.show("comparing", 0.9)
            found = changes(config.output, planned.texts, planned.sources.scope)
            breaks = _breaks(config, planned)
        _print_problems((*planned.warnings, *breaks), config)
        if breaks:
            return ERRORS
        return _finish(config, planned, found)
    except Problems as problems:
        _print_problems(problems.problems, config)
        return ERRORS
    except UsageError as error:
        return _usage(error)
    except ToolFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return BUG
    except BrokenPipeError:
        # The program that reads our output, such as head, has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERRORS
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return ERRORS
    except Exception as error:  # noqa: BLE001 - a bug in the generator is reported here
        sys.excepthook(type(error), error, error.__traceback__)
        print("error: this is a bug in txzmq.codegen; please report it", file=sys.stderr)
        return BUG


def _breaks(config: Config, planned: Plan) -> Sequence[Problem]:
    if config.against is None:
        return ()
    # Imported here, because most runs need neither, and imports take time.
    from txzmq_codegen.baseline import baseline
    from txzmq_codegen.breaking import breaking_changes

    before = baseline(config.against, config.protos, config.include)
    problems = breaking_changes(
        before, planned.descriptors, list(planned.sources.files), config.breaking
    )
    return [planned.sources.place(problem) for problem in problems]


def _finish(config: Config, planned: Plan, found: Changes) -> int:
    if config.diff:
        for line in diff(config.output, planned.texts, found):
            print(line)
    if config.check:
        return _check(config, found)
    if config.descriptor_set is not None:
        Obstacles(config.output).check(config.descriptor_set)
    write(config.output, planned.texts, found, prune=config.prune)
    if config.descriptor_set is not None:
        write_file(config.descriptor_set, without_comments(planned.descriptors))
    _print_summary(config, found)
    return FINE


def _check(config: Config, found: Changes) -> int:
    for what, names in zip(("missing", "changed", "stale"), found, strict=False):
        for name in names if isinstance(names, tuple) else ():
            print(f"{(config.output / name).as_posix()}: {what}")
    if not found.any:
        return FINE
    count = len(found.missing) + len(found.changed) + len(found.stale)
    are = "is" if count == 1 else "are"
    print(f"error: {files(count)} {are} not up to date", file=sys.stderr)
    print("  help: run the same command without --check", file=sys.stderr)
    return DRIFT


def _print_summary(config: Config, found: Changes) -> None:
    """Print what was done, if a person reads it in a terminal."""
    if not sys.stderr.isatty():
        return
    written = len(found.missing) + len(found.changed)
    stale = ""
    if found.stale:
        count = len(found.stale)
        stale = f", {count} deleted" if config.prune else f", {count} stale (--prune deletes them)"
    print(
        f"{config.output}: {files(written)} written, {found.unchanged} unchanged{stale}",
        file=sys.stderr,
    )


def _print_problems(problems: Iterable[Problem], config: Config) -> None:
    show = as_json if config.error_format == "json" else as_text
    for problem in problems:
        print(show(problem), file=sys.stderr)
