"""What mypy and pyright say of generated code, and of right and wrong use of it.

Each checker runs once, over everything: the golden cases, the protos of others that are installed,
and the two files of use.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.codegen import checkers
from tests.codegen.checkers import Complaint
from tests.codegen.corpus import generate_corpus
from tests.codegen.support import HERE


@pytest.fixture(scope="module")
def everything(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked") / "all"
    shutil.copytree(golden / "golden", folder / "golden")
    generate_corpus(folder)
    for name in ("use.py", "misuse.py"):
        shutil.copyfile(HERE / f"{name}.txt", folder / name)
    return folder


_CHECKERS = {"mypy": checkers.mypy, "pyright": checkers.pyright}


@pytest.fixture(scope="module", params=list(_CHECKERS))
def checker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def complaints(checker: str, everything: Path) -> list[Complaint]:
    return _CHECKERS[checker](everything)


def test_generated_code_is_clean(complaints: list[Complaint]) -> None:
    assert [it for it in complaints if it.file not in ("use.py", "misuse.py")] == []


def test_right_use_is_clean(complaints: list[Complaint]) -> None:
    assert [it for it in complaints if it.file == "use.py"] == []


def test_wrong_use_is_flagged_as_expected(checker: str, complaints: list[Complaint]) -> None:
    said = [(it.line, it.what) for it in complaints if it.file == "misuse.py"]
    assert said == expected(checker)


def expected(checker: str) -> list[tuple[int, str]]:
    """The complaints that misuse.py.txt expects, each written above its line."""
    found: list[tuple[int, str]] = []
    waiting: list[str] = []
    for number, line in enumerate((HERE / "misuse.py.txt").read_text("utf-8").splitlines(), 1):
        text = line.strip()
        if text.startswith(f"#  [{checker}] "):
            waiting.append(text.removeprefix(f"#  [{checker}] "))
        elif not text.startswith("#"):
            found.extend((number, what) for what in waiting)
            waiting = []
    return found


def test_both_checkers_flag_each_misuse() -> None:
    lines = [{line for line, _ in expected(checker)} for checker in ("mypy", "pyright")]
    assert lines[0] == lines[1]
    assert len(lines[0]) >= 25
