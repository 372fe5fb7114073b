"""What the tool that breaks the library makes of a piece of source, and of tests."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("coverage", reason="the tool needs it, and not every environment has it")

from tools.mutants import JUDGED, MODULES, ROOT, LineCoverage, Tally, area_of, gone, in_child
from tools.mutations import VERDICTS, Place, functions_of, mutations, put_into, read_judged


def changed(source: str) -> list[str]:
    """The source with each of its changes."""
    return [each.apply(source.encode()).decode() for each in mutations(source.encode())]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["(a <= b)"]),
        ("a >= b", ["(a > b)"]),
        ("a is not b", ["(a is b)"]),
        ("a in b", ["(a not in b)"]),
        ("a and b", ["(a or b)"]),
        ("a or b or c", ["(a and b and c)"]),
        ("def f(): return False", ["def f(): return True"]),
        ("not a", ["(a)"]),
        ("a - b", ["(a + b)"]),
        ("-a * b", []),
        ("a[7]", ["a[(6)]", "a[(8)]"]),
        ("True", []),
        ("f(a)", ["pass"]),
        ("del a", ["pass"]),
        ("a = b", ["pass"]),
        ("a: int = b", []),
        ("'a docstring'", []),
        ("f'{a + b}'", []),
        ("'ä', a + b", ["'ä', (a - b)"]),
    ],
)
def test_a_source_gets_each_small_change(source: str, expected: list[str]) -> None:
    assert changed(source) == expected


def test_a_return_gives_nothing_and_a_change_keeps_to_its_place() -> None:
    source = "def f(a: int) -> bool:\n    return (\n        a\n        == g)\n\n\nx: int\n"
    assert changed(source) == [
        "def f(a: int) -> bool:\n    return None\n\n\nx: int\n",
        "def f(a: int) -> bool:\n    return (\n        (a != g))\n\n\nx: int\n",
    ]
    first, second = mutations(source.encode())
    assert (first.line, first.statement, second.line, second.statement) == (2, 2, 3, 2)


def test_a_place_is_the_same_when_lines_come_before_it() -> None:
    source = b"class A:\n def f(self):\n  if (\n    a\n    and b):\n   g()\n"
    places = [each.at("x.py") for each in mutations(source)]
    assert places == [
        Place("x.py", "A.f", "a", "a and b -> (a or b)"),
        Place("x.py", "A.f", "g()", "g() -> pass"),
    ]
    assert [each.at("x.py") for each in mutations(b"import b\n\n" + source)] == places


@pytest.mark.parametrize("module", MODULES)
def test_each_change_of_the_library_can_be_parsed(module: str) -> None:
    path = max((ROOT / module).glob("*.py"), key=lambda path: path.stat().st_size)
    source = path.read_bytes()
    found = mutations(source)
    assert found
    for mutation in found[::10]:  # a change of one kind is like another
        assert mutation.apply(source) != source
        ast.parse(mutation.apply(source))


def test_what_was_judged_has_a_verdict_and_a_reason() -> None:
    judged = read_judged(JUDGED)
    for place, (verdict, reason) in judged.items():
        assert verdict in VERDICTS, place
        assert len(reason) > 10, place
    assert gone(dict.fromkeys([Place("x.py", "f", "g()", "g() -> pass")])) != []


def test_the_tests_of_a_line_are_those_of_its_statement_too_quick_ones_first() -> None:
    tests = LineCoverage({"a": 0.3, "b": 0.1}, {"x.py": {3: ["a", "too slow", ""], 4: ["b"]}})
    call, number = mutations(b"\n\nx(\n1)")[::2]
    assert (call.line, call.statement, number.line, number.statement) == (3, 3, 4, 3)
    assert tests.of("x.py", call) == ["a"]
    assert tests.of("x.py", number) == ["b", "a"]
    assert tests.of("x.py", call._replace(line=5, statement=5)) == []
    assert tests.of("y.py", call) == []


def test_one_test_of_each_function_comes_before_their_other_parameters() -> None:
    seconds = {"f[1]": 0.3, "f[2]": 0.1, "g": 0.4, "h[a]": 0.2, "h[b[]]": 0.2}
    tests = LineCoverage(seconds, {"x.py": {1: list(seconds)}})
    asked = tests.of("x.py", mutations(b"f()")[0])
    assert asked == ["f[2]", "h[a]", "g", "h[b[]]", "f[1]"]
    assert tests.first(asked, 0.75) == ["f[2]", "h[a]", "g"]
    assert tests.first(asked, 0) == []


def test_the_share_is_of_what_users_may_feel() -> None:
    tally = Tally()
    for fate in ["killed", "timeout", "killed", "survived", "equivalent", "performance"]:
        tally.add("txzmq/rpc/_wire/client.py", fate)
    assert tally.share() == tally.share("wire") == 75
    assert tally.share("streams") == 100
    assert area_of("txzmq/rpc/_server/response_stream.py") == "streams"
    assert area_of("txzmq/rpc/_wire/streams.py") == "wire"


MODULE = """
class Base:
    def f(self):
        return 1

class A(Base):
    @property
    def p(self):
        return 1 + 2
    @p.setter
    def p(self, value):
        self.value = 3 + value
    def f(self):
        def inner():
            return 4 + (
                5)
        self.g()
        return inner() + super().f()
    def g(self):
        def use():
            return kept
        kept = 1
        yield use()

later = [
    lambda: 6 + 7,
    lambda: 8 + 9,
]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "changed_by_a_test.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("changed_by_a_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def change(module: Any, change: str) -> None:
    path = Path(module.__file__)
    (mutation,) = (m for m in mutations(path.read_bytes()) if m.at("").change == change)
    put_into(functions_of(path.parent), path, mutation)


def test_a_change_is_in_what_refers_to_the_function_already(module: Any) -> None:
    a, prop, f, last = module.A(), module.A.p, module.A().f, module.later[1]
    change(module, "1 + 2 -> (1 - 2)")
    assert a.p == prop.fget(a) == -1
    change(module, "3 + value -> (3 - value)")
    a.p = 1
    assert a.value == 2
    change(module, "8 + 9 -> (8 - 9)")
    assert last() == -1
    assert module.later[0]() == 13
    change(module, "4 + ( 5) -> (4 - 5)")  # which has one line less
    assert f() == 0
    assert module.later[0]() == 13


def test_what_is_left_out_leaves_names_as_they_were(module: Any) -> None:
    change(module, "return inner() + super().f() -> return None")  # which uses a cell of the class
    assert module.A().f() is None
    change(module, "kept = 1 -> pass")  # which another function uses
    with pytest.raises(NameError, match="kept"):
        next(module.A().g())


def test_nothing_of_a_child_is_left(tmp_path: Path) -> None:
    def run() -> int:
        child = subprocess.Popen(["sleep", "600"])
        print(child.pid)
        return 7

    assert in_child(run, tmp_path / "output") == 7
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        left = os.pidfd_open(int((tmp_path / "output").read_text()))
        assert select.select([left], [], [], 60)[0] == [left]
        os.close(left)


def test_a_child_that_fails_says_why_and_one_that_hangs_is_ended(tmp_path: Path) -> None:
    def fail() -> int:
        raise ZeroDivisionError

    def hang() -> int:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while True:
            pass

    assert in_child(fail, tmp_path / "output") == 70
    assert "ZeroDivisionError" in (tmp_path / "output").read_text()
    assert in_child(hang, tmp_path / "output") == -signal.SIGALRM


def test_a_small_module_is_broken(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.mutants", "txzmq/rpc/_wire/batches.py"]
    command += ["--tests", "tests/wire/test_batch_limits.py", "--count", "5", "--verbose"]
    command += ["--kept", str(tmp_path), "--at-least", "100.1"]
    program = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = program.stdout
    assert program.returncode == 1, said + program.stderr
    killed = re.findall(r"batches.py:\d+: .*: killed tests/wire/test_batch_limits", said)
    lived = re.findall(r"^txzmq/rpc/_wire/batches.py:\d+ in ", said, re.MULTILINE)
    assert killed
    assert len(killed) + len(lived) == 5
    assert f"\nall      {len(killed):4} of    5 died" in said
