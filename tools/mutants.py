"""Breaks the library in small ways, one at a time, and tells which of them no test notices.

By a seed it takes some places in the given modules: a comparison, ``and`` or ``or``, ``not``, a sum
or a difference, a number, what is returned, a statement. For each it runs the tests that come by
that line, quick ones first, on a copy of the tree. Which tests do is found by one run of all of
them, with coverage. Slow tests are left out: for a mutant that lives, all tests of its line run.

What lives was judged, or has to be: ``mutants_judged.toml`` says of what nobody would feel why not.

Cosmic Ray and mutmut are the well-kept tools of the kind. Cosmic Ray runs one command for every
mutant: 2 to 5 minutes each here. mutmut forks a process that has imported everything, and a fork
may not use what this library has made; it knows the tests of a function, not of a line.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from coverage import CoverageData

from tools.mutants_plugin import TESTS, TIMES
from tools.mutations import VERDICTS, Mutation, Place, mutations, read_judged

ROOT = Path(__file__).resolve().parent.parent
JUDGED = ROOT / "tools/mutants_judged.toml"
MODULES = ("txzmq/rpc/_wire", "txzmq/rpc/_client", "txzmq/rpc/_server", "txzmq/rpc/_core")
FOLDERS = ("tests/rpc", "tests/wire", "tests/networks")
#: Each of them takes minutes, or starts processes.
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
#: How many tests are run at first, and then.
_ROUNDS = (25, 250)
_MEMORY = 8 * 1024**3


def area_of(path: str) -> str:
    """The part of the library that a module belongs to."""
    return next(area for part, area in AREAS.items() if part in path)


class LineCoverage(NamedTuple):
    """Which tests there are.

    :ivar seconds: how long each takes, those only that may be run.
    :ivar by_line: the tests of each line of each module.
    """

    seconds: Mapping[str, float]
    by_line: Mapping[str, Mapping[int, Sequence[str]]]

    def of(self, path: str, mutation: Mutation) -> list[str]:
        """The tests that come by a mutation, quick ones first."""
        lines = self.by_line.get(path, {})
        near = {*lines.get(mutation.line, ()), *lines.get(mutation.statement, ())}
        return sorted(near & self.seconds.keys(), key=lambda test: (self.seconds[test], test))


class Tree:
    """A folder in which programs of Python are run, and sources changed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def copy(self) -> None:
        """Make it a copy of what git knows."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.path / name)
        # By their sources' hashes: a mutant may be as long and as old as what it replaces.
        self.run("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "txzmq")

    def run(
        self,
        *command: str,
        timeout: float | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> int | None:
        """Run a program; its exit status, None if it took too long. Nothing of it is left."""
        paths = [str(self.path), str(self.path / "codegen"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with (self.path / "mutants.output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.path,
                env={**environment, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_limit_memory,
            )
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def said(self) -> str:
        """What the last program said."""
        return (self.path / "mutants.output").read_text(encoding="utf-8", errors="replace")

    @contextlib.contextmanager
    def changed(self, path: str, mutation: Mutation) -> Generator[None]:
        """The tree with a mutation."""
        source = (self.path / path).read_bytes()
        (self.path / path).write_bytes(mutation.apply(source))
        try:
            yield
        finally:
            (self.path / path).write_bytes(source)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tools.mutants_plugin")
_SEEDED = ("--hypothesis-seed=0",)


def find_tests(
    tree: Tree, modules: Sequence[str], folders: Sequence[str], slow: float
) -> LineCoverage:
    """Run all tests, and see which come by which lines."""
    config, data, times = (tree.path / f"mutants.{name}" for name in ("rc", "coverage", "times"))
    paths = [tree.path / module for module in modules]
    include = ",".join(str(path / "*" if path.is_dir() else path) for path in paths)
    config.write_text(f"[run]\ncore = ctrace\ndata_file = {data}\ninclude = {include}\n")
    ignored = [f"--ignore-glob=*/{name}" for name in LEFT_OUT]
    command = ["-m", "coverage", "run", f"--rcfile={config}", *_PYTEST, *_SEEDED, *ignored]
    status = tree.run(*command, *folders, variables={TIMES: str(times)})
    if status not in (0, 1):
        print(tree.said[-4_000:], file=sys.stderr)
        raise SystemExit(2)
    noted = json.loads(times.read_text(encoding="utf-8"))
    seconds: dict[str, float] = noted["seconds"]
    usable = {
        test: took
        for test, took in seconds.items()
        if took <= slow and test not in noted["not passed"]
    }
    if status:
        print("some fail, and are left out:", tree.said[-1_000:], sep="\n")
    print(f"{len(usable)} tests of {len(seconds)}: {sum(usable.values()):.0f} s", flush=True)
    covered = CoverageData(str(data))
    covered.read()
    by_line = {
        Path(path).relative_to(tree.path).as_posix(): covered.contexts_by_lineno(path)
        for path in covered.measured_files()
    }
    return LineCoverage(usable, by_line)


class Killing(NamedTuple):
    """What became of a mutation.

    :ivar fate: killed, timeout or survived.
    :ivar test: the test that noticed it.
    """

    fate: str
    test: str = ""


def kill(
    tree: Tree, tests: Sequence[str], seconds: Mapping[str, float], patience: float = 60
) -> Killing:
    """Run tests on a changed tree until one fails.

    :param patience: seconds that a run of tests may take, beside five times what they took before.
    """
    asked = tree.path / "mutants.tests"
    first = 0
    for number in (*_ROUNDS, len(tests)):
        now, first = tests[first : first + number], first + number
        if not now:
            break
        asked.write_text(json.dumps(now), encoding="utf-8")
        files = sorted({test.partition("::")[0] for test in now})
        timeout = patience + 5 * sum(seconds[test] for test in now)
        variables = {TESTS: str(asked), "PYTHONDONTWRITEBYTECODE": "1"}
        status = tree.run(*_PYTEST, *_SEEDED, "-x", *files, timeout=timeout, variables=variables)
        if status is None:
            return Killing("timeout")
        if status == 5:
            raise SystemExit("pytest found none of the tests")
        if status:
            return Killing("killed", _failed(tree.said))
    return Killing("survived")


def _failed(said: str) -> str:
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" ")[1] if failed else ""


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


def show(path: str, mutation: Mutation) -> None:
    """Print a mutation that lives."""
    source = (ROOT / path).read_bytes()
    before, after = (each.decode().splitlines() for each in (source, mutation.apply(source)))
    print(f"\n{path}:{mutation.line} in {mutation.function or 'the module'}")
    for line in list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:]:
        print(f"  {line}")
    print(f"  {mutation.at(path).change}", flush=True)


class Tally:
    """What became of all, by area."""

    def __init__(self) -> None:
        self._fates: Counter[tuple[str, str]] = Counter()

    def add(self, path: str, fate: str) -> None:
        """Count one."""
        self._fates[area_of(path), fate] += 1
        self._fates["all", fate] += 1

    def share(self, area: str = "all") -> float:
        """Per cent that died, of what users may feel."""
        died, lived = self._died(area), self._fates[area, "survived"]
        return 100 * died / (died + lived) if died + lived else 100.0

    def _died(self, area: str) -> int:
        return self._fates[area, "killed"] + self._fates[area, "timeout"]

    def print(self) -> None:
        """Say it."""
        for area in [*dict.fromkeys(AREAS.values()), "all"]:
            died, lived = self._died(area), self._fates[area, "survived"]
            judged = ", ".join(f"{self._fates[area, verdict]} {verdict}" for verdict in VERDICTS)
            late = self._fates[area, "timeout"]
            print(
                f"{area:10} {died:4} of {died + lived:4} died ({self.share(area):5.1f} %),"
                f" {late} of them by hanging; besides {judged}"
            )


def try_all(
    tree: Tree, tests: LineCoverage, chosen: Sequence[tuple[str, Mutation]], told: bool
) -> Tally:
    """Try mutations, and print those that live."""
    judged, tally = read_judged(JUDGED), Tally()
    killers: Counter[str] = Counter()
    for path, mutation in chosen:
        verdict = judged.get(mutation.at(path))
        if verdict is not None:
            tally.add(path, verdict.verdict)
            continue
        asked = sorted(tests.of(path, mutation), key=lambda test: -killers[test])
        with tree.changed(path, mutation):
            killing = kill(tree, asked, tests.seconds)
        killers[killing.test] += 1
        tally.add(path, killing.fate)
        if killing.fate == "survived":
            show(path, mutation)
        elif told:
            print(f"{path}:{mutation.line}: {killing.fate} {killing.test}", flush=True)
    return tally


def gone(judged: Mapping[Place, object]) -> list[Place]:
    """What was judged, and is no longer there."""
    there = {
        mutation.at(module)
        for module in {place.module for place in judged}
        if (ROOT / module).is_file()
        for mutation in mutations((ROOT / module).read_bytes())
    }
    return [place for place in judged if place not in there]


def main() -> int:
    """Print the mutations that live, and how many died."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", default=MODULES, help="files or folders")
    parser.add_argument("--count", type=int, default=100, help="how many places to break")
    parser.add_argument("--seed", type=int, default=1, help="chooses them")
    parser.add_argument("--at-least", type=float, default=0, help="per cent that have to die")
    parser.add_argument("--slow", type=float, default=1, help="seconds of a test that is left out")
    parser.add_argument(
        "--tests", action="append", help="a file or folder of tests, more than once"
    )
    parser.add_argument("--verbose", action="store_true", help="tell by what test each died")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for place in gone(read_judged(JUDGED)):
        print(f"judged, and no longer there: {place}")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Tree(Path(folder).resolve())
        tree.copy()
        tests = find_tests(tree, options.modules, options.tests or FOLDERS, options.slow)
        found, uncovered = places(options.modules, tests)
        print(f"{len(found)} places; no test comes by {uncovered} more", flush=True)
        random.Random(options.seed).shuffle(found)
        tally = try_all(tree, tests, found[: options.count], options.verbose)
    print()
    tally.print()
    return 0 if tally.share() >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
