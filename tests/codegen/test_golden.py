"""Each folder in ``golden`` is a nasty case: a proto, and beside it what it must become.

``python -m tests.codegen.update`` writes the output anew; read the difference before it goes in.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.codegen.support import (
    EDITION_2024,
    GOLDEN,
    cases,
    knows_edition_2024,
    python,
    same_tools,
    tree,
)

#: The files that protoc and mypy-protobuf write change with their versions.
_OF_TOOLS = ("_pb2.py", "_pb2.pyi")


def test_there_are_many_cases() -> None:
    assert len(cases()) >= 60


@pytest.mark.parametrize("case", cases())
def test_output_is_byte_for_byte_what_is_checked_in(case: str, golden: Path) -> None:
    if case == EDITION_2024 and not knows_edition_2024():
        pytest.skip("the installed protoc does not know edition 2024")
    expected = tree(GOLDEN / case)
    made = tree(golden / "golden" / case)
    assert sorted(made) == sorted(name for name in expected if not name.endswith(".proto"))
    for name, text in made.items():
        if same_tools() or not name.endswith(_OF_TOOLS):
            assert text == expected[name], name


def test_every_module_is_imported_and_every_message_pickled(golden: Path) -> None:
    modules = [name for name in tree(golden / "golden") if name.endswith(".py")]
    imported = python(_IMPORT_AND_PICKLE, golden, *modules)
    assert imported.splitlines() == modules


# A process of its own: descriptors of one name can be registered once in a process.
_IMPORT_AND_PICKLE = """
import importlib, pickle, sys
from google.protobuf.message import Message

def messages(namespace):
    for value in list(vars(namespace).values()):
        if isinstance(value, type) and issubclass(value, Message) and value is not Message:
            if not value.DESCRIPTOR.file.name.startswith("google/"):
                yield value
                yield from messages(value)

for name in sys.argv[1:]:
    module = importlib.import_module("golden." + name[:-3].replace("/", "."))
    if name.endswith("_pb2.py"):
        for message in messages(module):
            again = pickle.loads(pickle.dumps(message()))
            assert type(again) is message, message
    print(name)
"""


def test_generating_again_changes_nothing(golden: Path) -> None:
    from tests.codegen.support import run

    before = {path: path.stat().st_mtime_ns for path in (golden / "golden").rglob("*.py")}
    assert run("protos", "-o", "golden", "--check", folder=golden).status == 0
    assert run("protos", "-o", "golden", folder=golden).status == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
