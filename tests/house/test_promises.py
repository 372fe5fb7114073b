"""The page of promises names tests that there are, and all tests of a row of reliability's."""

from __future__ import annotations

import ast
import re

from tests.programs import ROOT

PAGE = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 40
    missing = [f"{path}::{name}" for path, name in NAMED if name not in functions_in(path)]
    assert not missing


def test_each_promise_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if row != "| when | then | tests |"]
    assert len(promises) > 40
    notes = [match[1] for row in promises if (match := re.search(r" \| \[\^([\w-]+)\] \|$", row))]
    assert len(notes) == len(promises)
    tests = r"^\[\^([\w-]+)\]: `tests/[\w/]+\.py::\w+`(?:, `tests/[\w/]+\.py::\w+`)*$"
    assert re.findall(tests, PAGE, re.MULTILINE) == notes


def test_each_field_test_of_peers_and_networks_is_on_the_page() -> None:
    named = {name for _, name in NAMED}
    for path in (ROOT / "tests/field").glob("test_*.py"):
        of_rows = {name for name in functions_in(str(path)) if re.match(r"test_[nlcp]\d", name)}
        assert of_rows - named - UNNAMED == set(), path


#: Of the same promise as others that the page names.
UNNAMED = {"test_n12_a_call_that_is_still_wanted_waits_for_its_server"}
