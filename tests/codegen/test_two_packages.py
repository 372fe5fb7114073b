"""Two generated packages in one process: of equal protos, and of protos that differ."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codegen.support import ROOT, python, run, write_protos
from txzmq.rpc.method import importing

PROTO = """syntax = "proto3";
package acme;
message Order {{ int32 number = 1; {more} }}
service Orders {{ rpc Place(Order) returns (Order); }}
"""


def package(folder: Path, name: str, file: str = "acme/orders.proto", more: str = "") -> None:
    write_protos({file: PROTO.format(more=more)}, folder / f"protos_{name}")
    ran = run(f"protos_{name}", "-o", name, folder=folder)
    assert ran.status == 0, ran.err


def error_of(script: str, folder: Path, implementation: str) -> str:
    """The last line that a script prints which fails."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_packages_of_equal_protos_share_their_messages(tmp_path: Path) -> None:
    package(tmp_path, "one")
    package(tmp_path, "two")
    script = """
from one.acme.orders_txzmq import OrdersClient
from two.acme.orders_txzmq import OrdersClient as Other
from one.acme.orders_pb2 import Order
import two.acme.orders_pb2
assert Order is two.acme.orders_pb2.Order
"""
    python(script, tmp_path)


# protobuf in Python, as PyPy has it, lets a second version of one file pass.
@pytest.mark.parametrize(
    ("file", "implementation"),
    [
        (file, implementation)
        for file, implementation in itertools.product(
            ("acme/orders.proto", "other/orders.proto"), ("upb", "python")
        )
        if (file, implementation) != ("acme/orders.proto", "python")
    ],
)
def test_both_modules_are_named_where_protos_differ(
    tmp_path: Path, file: str, implementation: str
) -> None:
    if implementation == "upb" and sys.implementation.name == "pypy":
        pytest.skip("protobuf has no upb for PyPy")
    package(tmp_path, "one")
    package(tmp_path, "two", file, "int32 more = 2;")
    module = f"two.{file.removesuffix('.proto').replace('/', '.')}"
    script = f"import one.acme.orders_txzmq, {module}_txzmq"
    said = error_of(script, tmp_path, implementation)
    first = f"one.acme.orders_pb2 ({tmp_path / 'one/acme/orders_pb2.py'})"
    assert said.startswith(
        f"ImportError: {module}_txzmq cannot be imported: {module}_pb2 and {first}, which this "
        "process has imported, were generated from different versions of one proto ("
    )
    assert said.endswith(
        "Generate both from the same protos, and best into one package that both use"
    )


def test_who_has_registered_it_may_be_no_module() -> None:
    said = "Couldn't build proto file into descriptor pool: duplicate file name nowhere.proto"
    with (
        pytest.raises(ImportError, match="its messages and another module, which"),
        importing("hello_txzmq"),
    ):
        raise TypeError(said)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match="another"), importing("hello_txzmq"):
        raise TypeError("another")
