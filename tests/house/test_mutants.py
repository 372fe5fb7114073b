"""What the tool that breaks the library makes of a piece of source, and of tests."""

from __future__ import annotations

import ast
import contextlib
import os
import select
from pathlib import Path

import pytest

pytest.importorskip("coverage", reason="the tool needs it, and not every environment has it")

from tools.mutants import JUDGED, MODULES, ROOT, LineCoverage, Tally, Tree, area_of, gone, kill
from tools.mutations import VERDICTS, Place, mutations, read_judged


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


def test_the_share_is_of_what_users_may_feel() -> None:
    tally = Tally()
    for fate in ["killed", "timeout", "killed", "survived", "equivalent", "performance"]:
        tally.add("txzmq/rpc/_wire/client.py", fate)
    assert tally.share() == tally.share("wire") == 75
    assert tally.share("streams") == 100
    assert area_of("txzmq/rpc/_server/response_stream.py") == "streams"
    assert area_of("txzmq/rpc/_wire/streams.py") == "wire"


TESTS = """
import time

import pytest

def test_good():
    pass

@pytest.mark.parametrize("what", ["[::]", ""])
def test_bad(what):
    assert what

def test_endless():
    time.sleep(600)
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree of one file of tests, and the tool's plugin."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "test_x.py").write_text(TESTS)
    return Tree(tmp_path)


GOOD, FINE, BAD, ENDLESS = (
    f"test_x.py::test_{name}" for name in ("good", "bad[[::]]", "bad[]", "endless")
)


def test_tests_are_run_until_one_fails(tree: Tree) -> None:
    seconds = dict.fromkeys([GOOD, FINE, BAD], 0.1)
    assert kill(tree, [GOOD, FINE], seconds) == ("survived", "")
    assert kill(tree, [GOOD, FINE, BAD], seconds) == ("killed", BAD)
    assert kill(tree, [GOOD] * 30 + [FINE, BAD], seconds) == ("killed", BAD)


def test_tests_that_hang_are_ended(tree: Tree) -> None:
    assert kill(tree, [ENDLESS], {ENDLESS: 0}, patience=0.1) == ("timeout", "")


PARENT = """
import subprocess
child = subprocess.Popen(["sleep", "600"])
print(child.pid)
"""


def test_what_tests_have_started_is_ended_too(tree: Tree) -> None:
    tree.run("-c", PARENT)
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        child = os.pidfd_open(int(tree.said))
        assert select.select([child], [], [], 60)[0] == [child]
        os.close(child)
