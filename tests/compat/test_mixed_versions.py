"""This version and an older one, built from the commit in ``BASELINE``, as client and server.

Each pair of versions is one process of servers and one of clients, which play all cases of
``cases.py``. ``tools/baseline.py`` builds the older version; CONTRIBUTING.md says when the commit
changes.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.codegen.support import EDITION_2024, knows_edition_2024
from tests.programs import ROOT, Program, started
from txzmq.auth import CurveKeyPair

pytest.importorskip("grpc_tools", reason="the extra codegen is not installed")

HERE = ROOT / "tests" / "compat"
PROGRAMS = ["cases", "client", "relay", "server", "words"]
CASES = re.findall(r"^async def case_(\w+)", (HERE / "cases.py").read_text(), re.MULTILINE)

#: Stands for both processes, beside the names of cases.
PROCESSES = "the processes"


class Side(NamedTuple):
    """What one of the two processes runs on: ``old`` or ``new``."""

    runtime: str
    generated: str


class Pair(NamedTuple):
    server: Side
    client: Side


OLD, NEW = Side("old", "old"), Side("new", "new")
PAIRS = {
    "old server": Pair(OLD, NEW),
    "old client": Pair(NEW, OLD),
    # Who upgrades txzmq need not generate anew at once.
    "old generated code": Pair(Side("new", "old"), Side("new", "old")),
}


class Versions:
    """Both versions, and what each has generated; programs that run on them."""

    def __init__(self, old: Path, folder: Path) -> None:
        self.old = old
        self.folder = folder
        self._paths = {"old": [old], "new": [ROOT, ROOT / "codegen"]}
        programs = folder / "programs" / "tests" / "compat"
        programs.mkdir(parents=True)
        for name in PROGRAMS:  # away from the checkout: they must import nothing of it
            shutil.copy(HERE / f"{name}.py", programs)
        protos = folder / "protos"
        shutil.copytree(HERE / "protos" / "compat", protos / "compat")
        for version in ("old", "new"):
            self.run(
                *(Side(version, version), "-m", "txzmq.codegen", protos),
                *("--output", folder / version, "--imports", "absolute"),
            )

    def environment(self, side: Side) -> dict[str, str]:
        paths = [*self._paths[side.runtime], self.folder / side.generated]
        # Twisted keeps a file open as long as a process listens on TCP, and does not close it.
        warnings = "error,ignore:unclosed file:ResourceWarning"
        return {"PYTHONPATH": ":".join(map(str, paths)), "PYTHONWARNINGS": warnings}

    def started(self, side: Side, *arguments: str | Path) -> AbstractContextManager[Program]:
        return started(
            *(sys.executable, "-u", *arguments),
            cwd=self.folder / "programs",
            env=self.environment(side),
        )

    def run(self, side: Side, *arguments: str | Path) -> str:
        """Run a program to its end; what it printed."""
        with self.started(side, *arguments) as program:
            status = program.wait()
            assert status == 0, f"exit status {status}: {program!r}"
            return "\n".join(program.output)

    def check_where(self, side: Side, where: dict[str, str]) -> None:
        """A program runs on what it is meant to run on."""
        assert Path(where["txzmq"]).parents[1] == self._paths[side.runtime][0]
        assert (self.folder / side.generated) in Path(where["generated"]).parents

    def described(self, side: Side, *modules: str) -> str:
        """What the runtime is told of the services in modules of generated code."""
        return self.run(side, "-c", _DESCRIBE, *modules)


# All that a runtime reads of generated code.
_DESCRIBE = """
import dataclasses, importlib, sys

for name in sys.argv[1:]:
    module = importlib.import_module(name)
    services = [
        value.__txzmq_service__
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "__txzmq_service__")
    ]
    print(name, len(services), "bases of services")
    for service in services:
        print(service.name)
        for method in service.methods:
            fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
            for side in ("request_type", "response_type"):
                fields[side] = fields[side].DESCRIPTOR.full_name
            print(fields)
"""


@pytest.fixture(scope="module")
def versions(baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(baseline, tmp_path_factory.mktemp("versions"))


class Play:
    """The processes of a pair of versions, from the start to the end of all cases."""

    def __init__(self, versions: Versions, name: str, stack: ExitStack) -> None:
        self._versions = versions
        self._pair = pair = PAIRS[name]
        folder = versions.folder / name.replace(" ", "-")
        folder.mkdir(mode=0o700)
        keys = {each: CurveKeyPair.generate() for each in ("server", "client")}
        for each, key in keys.items():
            key.save(folder / each)
        of_server = (folder / "server.key_secret", keys["client"].public_key, folder)
        started = versions.started(pair.server, "-m", "tests.compat.server", *of_server)
        self._server = stack.enter_context(started)
        shown = json.loads(self._server.expect(r"\{.*\}")[0])
        versions.check_where(pair.server, shown["where"])
        of_client = (folder / "client.key_secret", keys["server"].public_key)
        endpoints = json.dumps(shown["endpoints"])
        started = versions.started(pair.client, "-m", "tests.compat.client", *of_client, endpoints)
        self._client = stack.enter_context(started)

    def result(self) -> dict[str, str]:
        """Wait for the end; what was wrong with each case, by name."""
        status = self._client.wait()
        assert status == 0, f"exit status {status}: {self._client!r}"
        lines = [json.loads(line) for line in self._client.output if line.startswith("{")]
        self._versions.check_where(self._pair.client, lines[0])
        errors = {line["case"].removeprefix("case_"): line["error"] for line in lines[1:]}
        # Nobody logs here, so what they say besides, such as a warning, is a fault.
        is_well = self._server.process.poll() is None and self._server.terminate() == 0
        said = [
            *self._server.output[1:],
            *(line for line in self._client.output if line[:1] != "{"),
        ]
        errors[PROCESSES] = "" if is_well and not said else f"{self._server!r}\n{self._client!r}"
        return errors


@pytest.fixture(scope="module")
def plays(versions: Versions) -> Iterator[dict[str, Play]]:
    """All pairs at the same time: most of their time they wait."""
    with ExitStack() as stack:
        yield {name: Play(versions, name, stack) for name in PAIRS}


@pytest.fixture(scope="module", params=PAIRS)
def played(request: pytest.FixtureRequest, plays: dict[str, Play]) -> dict[str, str]:
    """The cases that two versions have played, and what was wrong with each."""
    return plays[request.param].result()


@pytest.mark.parametrize("case", [*CASES, PROCESSES])
def test_versions_understand_each_other(case: str, played: dict[str, str]) -> None:
    if error := played[case]:
        pytest.fail(error, pytrace=False)


def test_every_case_was_played(played: dict[str, str]) -> None:
    assert list(played) == [*CASES, PROCESSES]
    assert len(CASES) >= 25


# -- what the older version has generated ----------------------------------------------------------


def test_old_generated_code_tells_the_runtime_the_same(versions: Versions) -> None:
    module = "compat.v1.compat_txzmq"
    old = versions.described(Side("new", "old"), module)
    assert "'path': '/compat.v1.Calls/Ticks'" in old
    assert old == versions.described(NEW, module)


def test_old_goldens_are_imported(versions: Versions) -> None:
    """Every odd proto that the older version's tests have, as it generated it."""
    protos = versions.folder / "goldens"
    shutil.copytree(versions.old / "golden", protos, ignore=shutil.ignore_patterns("*.txt"))
    if not knows_edition_2024():
        shutil.rmtree(protos / EDITION_2024)
    made = versions.folder / "old" / "golden"
    versions.run(OLD, "-m", "txzmq.codegen", protos, "--output", made)
    modules = [
        ".".join(path.relative_to(made.parent).with_suffix("").parts)
        for path in sorted(made.rglob("*_txzmq.py"))
    ]
    assert len(modules) > 30
    described = versions.described(Side("new", "old"), *modules)
    assert described.count("bases of services") == len(modules)
    assert described == versions.described(OLD, *modules)
