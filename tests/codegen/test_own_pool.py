"""``--pool``: messages outside protobuf's default pool, as those of the standard services are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.codegen.support import ROOT, python, run, write_protos

PROTO = """syntax = "proto2";
package acme;
enum Colour {{ RED = 0; BLUE = 1; }}
message Order {{
  enum State {{ OPEN = 0; CLOSED = 1; }}
  message Line {{ optional int32 number = 1; }}
  repeated Line lines = 1;
  map<string, Line> by_name = 2;
  optional State state = 3;
  optional Colour colour = 4;
  {more}
  extensions 100 to 199;
}}
extend Order {{ optional string note = 100; }}
service Orders {{ rpc Place(Order) returns (Order); }}
"""
#: What a module with a pool has, and what the runtime's own has.
POOL = """from google.protobuf.descriptor_pool import DescriptorPool
from txzmq.rpc._services.pool import build_messages
POOL = DescriptorPool()
"""

IMPLEMENTATIONS = [
    pytest.param(
        "upb",
        marks=pytest.mark.skipif(
            sys.implementation.name == "pypy", reason="protobuf has no upb for PyPy"
        ),
    ),
    "python",
]


def package(folder: Path, name: str, *, pool: bool = True, more: str = "") -> None:
    """A package whose protos define the same names as those of other packages, in another file."""
    write_protos({f"{name}/orders.proto": PROTO.format(more=more)}, folder / f"protos_{name}")
    (folder / f"{name}_pool.py").write_text(POOL)
    options = ("--pool", f"{name}_pool") if pool else ()
    ran = run(f"protos_{name}", "-o", f"made_{name}", *options, folder=folder)
    assert ran.status == 0, ran.err


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_packages_of_different_protos_meet_in_one_process(
    tmp_path: Path, implementation: str
) -> None:
    package(tmp_path, "one")
    package(tmp_path, "two", more="optional int32 more = 5;")
    package(tmp_path, "three", pool=False, more="optional bool more = 5;")
    for order in (("one", "two", "three"), ("three", "two", "one")):
        script = f"""
import importlib, pickle
from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation
assert api_implementation.Type() == {implementation!r}
modules = {{}}
for name in {order!r}:
    importlib.import_module(f"made_{{name}}.{{name}}.orders_txzmq")
    modules[name] = importlib.import_module(f"made_{{name}}.{{name}}.orders_pb2")
for name, module in modules.items():
    order = module.Order(lines=[module.Order.Line(number=7)], state=module.Order.CLOSED)
    order.by_name["a"].number = 8
    order.colour = module.BLUE
    order.Extensions[module.note] = "n"
    again = pickle.loads(pickle.dumps(order))
    assert again == order and type(again) is module.Order, name
    assert module.Colour.Name(1) == "BLUE" and module.Order.State.Value("CLOSED") == 1
    assert module.NOTE_FIELD_NUMBER == 100
    assert module.Order.FromString(order.SerializeToString()) == order
    assert type(order.lines[0]) is module.Order.Line
    assert module.Order.Line.__qualname__ == "Order.Line"
    assert module.DESCRIPTOR.services_by_name["Orders"] is module._ORDERS
assert not hasattr(modules["one"].Order(), "more")
assert modules["two"].Order(more=5).more == 5
default = descriptor_pool.Default()
assert default.FindFileContainingSymbol("acme.Order").name == "three/orders.proto"
assert modules["one"].DESCRIPTOR.pool is not default
"""
        python(
            script,
            tmp_path,
            environment={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
        )


def test_an_import_from_the_default_pool_is_refused(tmp_path: Path) -> None:
    text = 'syntax = "proto3";\nimport "google/protobuf/any.proto";\n'
    write_protos({"a.proto": f"{text}message M {{ google.protobuf.Any a = 1; }}"}, tmp_path / "p")
    ran = run("p", "--pool", "mine", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith(
        "p/a.proto:2:1: error: google/protobuf/any.proto is in protobuf's default pool, and this "
        "file is to be in another"
    )
    assert not (tmp_path / "generated").exists()


def test_imports_among_what_is_generated_stay(tmp_path: Path) -> None:
    one = 'syntax = "proto3";\nimport "b.proto";\nmessage A { B b = 1; }'
    two = 'syntax = "proto3";\nmessage B { int32 number = 1; }'
    write_protos({"a.proto": one, "b.proto": two}, tmp_path / "p")
    (tmp_path / "mine.py").write_text(POOL)
    ran = run("p", "--pool", "mine", folder=tmp_path)
    assert ran.status == 0, ran.err
    python(
        "from generated.a_pb2 import A; from generated.b_pb2 import B; import mine\n"
        "assert A(b=B(number=1)).b.number == 1\n"
        "assert A.DESCRIPTOR.file.pool is mine.POOL is B.DESCRIPTOR.file.pool\n",
        tmp_path,
    )


def test_a_name_that_is_no_module_is_refused(tmp_path: Path) -> None:
    ran = run("p", "--pool", "a b", folder=tmp_path)
    assert ran.status == 2
    assert ran.err.endswith("argument --pool: 'a b' is no name of a module\n")


def test_the_checked_in_modules_have_it() -> None:
    for module in (ROOT / "txzmq" / "rpc" / "_services").rglob("*_pb2.py"):
        text = module.read_text()
        assert "_descriptor_pool.Default()" not in text
        assert "_symbol_database" not in text
        assert "_pool.POOL.AddSerializedFile(" in text
