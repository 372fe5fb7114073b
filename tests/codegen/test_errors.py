"""Each folder in ``errors`` holds protos that cannot be generated, and what is said about them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.codegen.support import HERE, run, same_tools

EXPECTED = "expected.txt"
CASES = sorted(path for path in (HERE / "errors").iterdir() if path.is_dir())
#: protoc says these things, and each version may say them otherwise.
_SAID_BY_PROTOC = re.compile(r"syntax_errors|import|edition_|enum_not|option_|not_|several")


def report(case: Path, *options: str) -> str:
    ran = run("protos", "-o", "generated", *options, folder=case)
    assert not (case / "generated").exists()
    return f"{ran.out}{ran.err}exit status {ran.status}\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_errors_are_reported_as_expected(case: Path) -> None:
    if _SAID_BY_PROTOC.match(case.name) and not same_tools():
        pytest.skip("another version of protoc says it otherwise")
    assert report(case) == (case / EXPECTED).read_text("utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_error_has_a_place_and_a_line_of_help(case: Path) -> None:
    lines = report(case).splitlines()
    *complaints, status = lines
    assert status == "exit status 1"
    assert len(complaints) % 2 == 0
    for place, advice in zip(complaints[::2], complaints[1::2], strict=True):
        assert re.match(r"protos/\S+\.proto:\d+:\d+: error: .", place)
        assert re.match(r"  help: .", advice)


def test_json_says_the_same() -> None:
    case = HERE / "errors" / "rpc_underscore_clash"
    line, status = report(case, "--error-format", "json").splitlines()
    assert status == "exit status 1"
    assert json.loads(line) == {
        "file": "protos/x.proto",
        "line": 9,
        "column": 3,
        "severity": "error",
        "rule": "",
        "message": "rpc _Foo and rpc Foo (line 8) would both become the Python method Foo",
        "help": "rename one of them",
    }
