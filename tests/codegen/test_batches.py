"""Large runs are compiled in batches: nothing but the memory that it takes may differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import txzmq_codegen.protoc
import txzmq_codegen.stub_writer
from tests.codegen.support import generate, generate_goldens, tree
from txzmq_codegen.batches import batches

HEAD = 'syntax = "proto2";\npackage acme;\n'
BASE = HEAD + "message Base { extensions 100 to 200; }\n"
EXTENDS = 'import "base.proto";\nextend Base { optional int32'
NESTED = "message N { extend Base { optional int32 b = 100; } }"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is a batch of its own."""
    monkeypatch.setattr(txzmq_codegen.protoc, "_BATCH", 1)
    monkeypatch.setattr(txzmq_codegen.stub_writer, "_BATCH", 4000)


def test_the_output_is_the_same(
    tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(txzmq_codegen.protoc, "_BATCH", 3000)
    monkeypatch.setattr(txzmq_codegen.stub_writer, "_BATCH", 50_000)
    generate_goldens(tmp_path)
    assert tree(tmp_path / "golden") == tree(golden / "golden")


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ("message Same {}", "message Same {}", '"acme.Same" is already defined in file'),
        ("enum A { SAME = 0; }", "enum B { SAME = 0; }", '"acme.SAME" is already defined in file'),
        ("service Same {}", "message Same {}", '"acme.Same" is already defined in file'),
        (f"{EXTENDS} a = 100; }}", f"{EXTENDS} b = 100; }}", "Extension number 100 has already"),
        (
            f"{EXTENDS} a = 100; }}",
            f'import "base.proto";\nmessage M {{ {NESTED} }}',
            "Extension number 100 has already",
        ),
    ],
)
def test_files_that_define_one_thing_twice_are_told(
    tmp_path: Path, one: str, two: str, said: str
) -> None:
    ran = generate({"base.proto": BASE, "x.proto": HEAD + one, "y.proto": HEAD + two}, tmp_path)
    assert said in ran.err
    # protoc warns of extensions only.
    assert ran.status == (0 if "Extension" in said else 1)


@pytest.mark.usefixtures("small_batches")
def test_a_name_that_is_also_a_package_is_an_error(tmp_path: Path) -> None:
    other = 'syntax = "proto3";\npackage acme.Base.v1;\nmessage M {}\n'
    ran = generate({"base.proto": BASE, "x.proto": other}, tmp_path)
    assert ran.status == 1
    assert '"acme.Base" is already defined' in ran.err


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.integers(0, 50), max_size=30),
    st.integers(1, 80),
)
def test_each_file_is_in_one_batch_and_none_is_too_large(sizes: dict[str, int], size: int) -> None:
    parts = list(batches(sizes, size))
    assert [name for part in parts for name in part] == list(sizes)
    assert all(parts)
    assert all(len(part) == 1 or sum(sizes[name] for name in part) <= size for part in parts)
