"""Breaks the library in small ways, one at a time, and tells which of them no test notices.

By a seed it takes some places in the given modules: a comparison, ``and`` or ``or``, ``not``, a sum
or a difference, a number, what is returned, a statement. For each it runs the tests that come by
that line, until one fails. Which tests do is found by one run of all of them, with coverage. Slow
tests are left out.

What lives was judged, or has to be: ``mutants_judged.toml`` says of what nobody would feel why not.

Everything is imported and collected once. A change is made in a forked child, by giving functions
that there are another code: no file is changed, and a change costs no more than its tests.

Cosmic Ray and mutmut are the well-kept tools of the kind. Cosmic Ray starts one command for every
change, which takes minutes each here. mutmut knows the tests of a function, not of a line, and
wraps each function of the library in one of its own, which tests of signatures and slots notice.
Neither takes a sample by a seed, nor keeps what was judged of a place when lines move.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import hashlib
import json
import math
import os
import resource
import signal
import sys
import tempfile
import traceback
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import coverage
import pytest

from tools.mutations import (
    VERDICTS,
    Functions,
    Mutation,
    Place,
    functions_of,
    mutations,
    put_into,
    read_judged,
)

ROOT = Path(__file__).resolve().parent.parent
JUDGED = ROOT / "tools/mutants_judged.toml"
MODULES = ("txzmq/rpc/_wire", "txzmq/rpc/_client", "txzmq/rpc/_server", "txzmq/rpc/_core")
FOLDERS = ("tests/rpc", "tests/wire", "tests/networks")
#: Each of them takes minutes, or starts processes, in which nothing would be changed.
LEFT_OUT = ("test_stateful*.py", "test_restarts.py", "test_processes.py", "test_many_channels.py")
_GENERATED = ("_pb2.py", "_txzmq.py")
#: Which part of the library a module belongs to, by what its path has in it; the first that fits.
AREAS = {
    "_wire/": "wire",
    "stream": "streams",
    "_server/shared": "streams",
    "_server/bundle": "streams",
    "_server/publisher": "streams",
    "_client/subscriber": "streams",
    "_client/": "client",
    "_server/": "server",
    "_core/": "core",
    "": "the rest",
}
#: Bytes that a child may ask for, and seconds of a test beside ten times what it took before.
_MEMORY: Final = 8 * 1024**3
_PATIENCE: Final = 20.0


def area_of(path: str) -> str:
    """The part of the library that a module belongs to."""
    return next(area for part, area in AREAS.items() if part in path)


class LineCoverage(NamedTuple):
    """Which tests come by which lines.

    :ivar seconds: how long each test takes, of those that may be run.
    :ivar by_line: the tests of each line of each module.
    """

    seconds: Mapping[str, float]
    by_line: Mapping[str, Mapping[int, Sequence[str]]]

    def of(self, path: str, mutation: Mutation) -> list[str]:
        """The tests that come by a mutation.

        First one of each function, quick ones before slow ones; then the second of its parameters.
        """
        lines = self.by_line.get(path, {})
        near = {*lines.get(mutation.line, ()), *lines.get(mutation.statement, ())}
        ranks: Counter[str] = Counter()
        ranked: list[tuple[int, float, str]] = []
        for test in sorted(near & self.seconds.keys(), key=lambda test: (self.seconds[test], test)):
            function = test.partition("[")[0]
            ranked.append((ranks[function], self.seconds[test], test))
            ranks[function] += 1
        return [test for _, _, test in sorted(ranked)]

    def first(self, tests: Sequence[str], most: float) -> list[str]:
        """The first of some tests, as many as take no longer than *most* seconds."""
        taken = list(accumulate(self.seconds[test] for test in tests))
        return list(tests[: bisect_right(taken, most)])


def in_child(run: Callable[[], int], output: Path) -> int:
    """Fork a child that runs a function, and leave nothing of it.

    :param output: where what it prints goes.
    :return: its status, or the number of the signal that ended it, below 0.
    """
    child = os.fork()
    if not child:
        _be_child(run, output)
    try:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # it, and what it has started


def _be_child(run: Callable[[], int], output: Path) -> None:
    status = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        status = run()
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


class Killing(NamedTuple):
    """What became of a mutation.

    :ivar fate: killed, timeout or survived.
    :ivar test: the test that noticed it.
    """

    fate: str
    test: str = ""


class Tally:
    """What became of all, by area."""

    def __init__(self) -> None:
        self._fates: Counter[tuple[str, str]] = Counter()

    def add(self, path: str, fate: str) -> None:
        """Count one."""
        self._fates[area_of(path), fate] += 1
        self._fates["all", fate] += 1

    def _died(self, area: str) -> int:
        return self._fates[area, "killed"] + self._fates[area, "timeout"]

    def share(self, area: str = "all") -> float:
        """Per cent that died, of what users may feel."""
        died, lived = self._died(area), self._fates[area, "survived"]
        return 100 * died / (died + lived) if died + lived else 100.0

    def lines(self) -> Iterator[str]:
        """Say it."""
        for area in [*dict.fromkeys(AREAS.values()), "all"]:
            died = self._died(area)
            judged = [f"{self._fates[area, verdict]} {verdict}" for verdict in VERDICTS]
            yield (
                f"{area:8} {died:4} of {died + self._fates[area, 'survived']:4} died"
                f" ({self.share(area):5.1f} %), {self._fates[area, 'timeout']} by hanging;"
                f" besides {', '.join(judged)}"
            )


class Mutants:
    """A plugin of pytest, which runs the tests that it has collected in its own way."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._output, self._note = folder / "output", folder / "note"
        self._covered, self._times = options.kept / "coverage", options.kept / "times.json"
        self._items: dict[str, pytest.Item] = {}
        self._functions: Functions = {}
        self._killers: Counter[str] = Counter()
        # Of one run of tests, in a child.
        self._seconds: dict[str, float] = {}
        self._not_passed: set[str] = set()
        self.tally = Tally()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a part of a test went."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self._not_passed.add(report.nodeid)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try the mutations that the options say."""
        if session.testsfailed:
            raise session.Failed("some tests cannot be collected")
        self._items = {item.nodeid: item for item in session.items}
        self._functions = functions_of(ROOT / "txzmq")
        gc.collect()
        gc.freeze()  # or each child would copy all that it only looks at
        tests = self._find_tests()
        found, uncovered = places(self._options.modules, tests)
        print(f"{len(found)} places; no test comes by {uncovered} more\n", flush=True)
        found.sort(key=partial(_chance, self._options.seed))
        judged = read_judged(JUDGED)
        for path, mutation in found[: self._options.count]:
            verdict = judged.get(mutation.at(path))
            if verdict is not None:
                self.tally.add(path, verdict.verdict)
            else:
                self._tell(path, mutation, self._break(path, mutation, tests))
        return True

    def _break(self, path: str, mutation: Mutation, tests: LineCoverage) -> Killing:
        """Try one; what noticed others is tried first."""
        asked = sorted(tests.of(path, mutation), key=lambda test: -self._killers[test])
        change = partial(put_into, self._functions, ROOT / path, mutation)
        killing = self.kill(change, tests.first(asked, self._options.most), tests.seconds)
        self._killers[killing.test] += 1
        return killing

    def _tell(self, path: str, mutation: Mutation, killing: Killing) -> None:
        self.tally.add(path, killing.fate)
        if killing.fate == "survived":
            show(path, mutation)
        elif self._options.verbose:
            change = mutation.at(path).change
            print(f"{path}:{mutation.line}: {change}: {killing.fate} {killing.test}", flush=True)

    def kill(
        self,
        change: Callable[[], None],
        tests: Sequence[str],
        seconds: Mapping[str, float],
        patience: float = _PATIENCE,
    ) -> Killing:
        """Run tests after a change, until one fails; and fails once more, alone."""
        left = list(tests)
        while True:
            killing = self._try(change, left, seconds, patience)
            if killing.fate != "killed" or killing.test not in left:
                return killing
            if self._try(change, [killing.test], seconds, patience).fate != "survived":
                return killing
            print(f"failed for another reason, and left out: {killing.test}", flush=True)
            left.remove(killing.test)

    def _try(
        self,
        change: Callable[[], None],
        tests: Sequence[str],
        seconds: Mapping[str, float],
        patience: float,
    ) -> Killing:
        self._note.unlink(missing_ok=True)

        def watch(test: str) -> None:
            signal.setitimer(signal.ITIMER_REAL, patience + 10 * seconds[test])

        def run() -> int:
            change()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the child
            failed = self._run(tests, until_one_fails=True, before=watch)
            self._note.write_text("".join(failed), encoding="utf-8")
            return bool(failed)

        status = in_child(run, self._output)
        if status == -signal.SIGALRM:
            return Killing("timeout")
        if status == 0:
            return Killing("survived")
        noted = f"status {status}"  # the change broke what runs the tests
        if self._note.exists():
            noted = self._note.read_text(encoding="utf-8")
        return Killing("killed", noted)

    def _run(
        self,
        tests: Sequence[str],
        *,
        until_one_fails: bool,
        before: Callable[[str], object] | None = None,
    ) -> set[str]:
        """Run tests in this order; those that failed."""
        items = [self._items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            if before is not None:
                before(item.nodeid)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._not_passed and until_one_fails:
                break
        return self._not_passed

    def _find_tests(self) -> LineCoverage:
        """Which tests come by which lines; from the last time, if nothing has changed since."""
        noted = self._noted()
        if noted is None:
            if in_child(self._measure, self._output):
                raise pytest.exit.Exception(self._output.read_text(encoding="utf-8")[-4_000:], 2)
            noted = json.loads(self._times.read_text(encoding="utf-8"))
        usable = {
            test: took
            for test, took in noted["seconds"].items()
            if took <= self._options.slow and test not in noted["not passed"]
        }
        print(f"{len(usable)} tests of {len(self._items)}: {sum(usable.values()):.0f} s")
        if noted["not passed"]:
            print("failed or skipped, and left out:", *noted["not passed"], sep="\n  ")
        covered = coverage.CoverageData(str(self._covered))
        covered.read()
        by_line = {
            Path(path).relative_to(ROOT).as_posix(): covered.contexts_by_lineno(path)
            for path in covered.measured_files()
        }
        return LineCoverage(usable, by_line)

    def _measure(self) -> int:
        """Run all tests."""
        paths = [ROOT / module for module in self._options.modules]
        include = [str(path / "*" if path.is_dir() else path) for path in paths]
        self._covered.parent.mkdir(parents=True, exist_ok=True)
        self._covered.unlink(missing_ok=True)
        measured = coverage.Coverage(str(self._covered), config_file=False, include=include)
        measured.set_option("run:core", "ctrace")  # the only one that knows contexts
        measured.set_option("run:disable_warnings", ["module-not-measured"])
        measured.start()
        self._run(list(self._items), until_one_fails=False, before=measured.switch_context)
        measured.stop()
        measured.save()
        noted = {
            "digest": self._digest(),
            "seconds": self._seconds,
            "not passed": sorted(self._not_passed),
        }
        self._times.write_text(json.dumps(noted), encoding="utf-8")
        return 0

    def _digest(self) -> str:
        """Of all that says which tests come by which lines."""
        digest = hashlib.sha256(repr((*self._options.modules, *sorted(self._items))).encode())
        for path in sorted([*(ROOT / "txzmq").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _noted(self) -> dict[str, Any] | None:  # Any: it is JSON
        try:
            noted: dict[str, Any] = json.loads(self._times.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return noted if noted["digest"] == self._digest() else None


def places(modules: Sequence[str], tests: LineCoverage) -> tuple[list[tuple[str, Mutation]], int]:
    """All mutations of lines that tests come by, and how many there are besides."""
    files: set[Path] = set()
    for module in modules:
        path = ROOT / module
        files.update(path.rglob("*.py") if path.is_dir() else [path])
    found = [
        (file.relative_to(ROOT).as_posix(), mutation)
        for file in sorted(files)
        if not file.name.endswith(_GENERATED)
        for mutation in mutations(file.read_bytes())
    ]
    covered = [(path, mutation) for path, mutation in found if tests.of(path, mutation)]
    return covered, len(found) - len(covered)


def _chance(seed: int, place: tuple[str, Mutation]) -> bytes:
    """A place's part in the lot: the same whatever there is besides it."""
    path, mutation = place
    return hashlib.sha256(f"{seed} {mutation.at(path)}".encode()).digest()


def show(path: str, mutation: Mutation) -> None:
    """Print a mutation that lives."""
    source = (ROOT / path).read_bytes()
    before, after = (each.decode().splitlines() for each in (source, mutation.apply(source)))
    print(f"\n{path}:{mutation.line} in {mutation.function or 'the module'}")
    for line in list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:]:
        print(f"  {line}")
    print(f"  {mutation.at(path).change}\n", flush=True)


def gone(judged: Mapping[Place, object]) -> list[Place]:
    """What was judged, and is no longer there."""
    there = {
        mutation.at(module)
        for module in {place.module for place in judged}
        if (ROOT / module).is_file()
        for mutation in mutations((ROOT / module).read_bytes())
    }
    return [place for place in judged if place not in there]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", default=MODULES, help="files or folders")
    parser.add_argument("--count", type=int, default=100, help="how many places to break")
    parser.add_argument("--seed", type=int, default=1, help="chooses them")
    parser.add_argument("--at-least", type=float, default=0, help="per cent that have to die")
    parser.add_argument("--slow", type=float, default=4, help="seconds of a test that is left out")
    parser.add_argument("--most", type=float, default=math.inf, help="seconds of tests for a place")
    parser.add_argument("--tests", action="append", help="a file or folder; may be repeated")
    kept = ROOT / "build/mutants"
    parser.add_argument("--kept", type=Path, default=kept, help="what a run of all tests has shown")
    parser.add_argument("--verbose", action="store_true", help="tell by what test each died")
    return parser.parse_args()


def main() -> int:
    """Print the mutations that live, and how many died."""
    options = _options()
    print(f"seed {options.seed}", flush=True)
    for place in gone(read_judged(JUDGED)):
        print(f"judged, and no longer there: {place}")
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name).resolve()
        # What children make stays out of the tree.
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
        arguments = ["-qq", "-s", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        arguments += [f"--basetemp={folder / 'pytest'}", f"--rootdir={ROOT}"]
        arguments += [f"--ignore-glob=*/{name}" for name in LEFT_OUT]
        plugin = Mutants(options, folder)
        status = pytest.main([*arguments, *(options.tests or FOLDERS)], plugins=[plugin])
    if status:
        return 2
    print(*plugin.tally.lines(), sep="\n")
    return 0 if plugin.tally.share() >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
