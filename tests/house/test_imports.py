"""Imports point one way: the house's plan, held by reading every import statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds

# What a part of the house may not import; the parts are matched by the longest prefix.
FORBIDDEN = {
    "txzmq": ["txzmq.rpc", "txzmq.codegen", "txzmq_codegen"],
    "txzmq.testing": ["zmq", "txzmq_codegen"],
    "txzmq._testing_fakes": ["zmq", "txzmq_codegen"],
    "txzmq._testing_network": ["zmq", "txzmq_codegen"],
    "txzmq.codegen": ["txzmq.", "zmq", "twisted"],  # the door: to the generator, and nowhere else
    "txzmq.rpc": ["zmq", "txzmq.codegen", "txzmq_codegen"],
    "txzmq.rpc._wire": ["zmq", "twisted", "time", "txzmq_codegen"],  # sans-IO, and without a clock
    "txzmq_codegen": ["txzmq", "zmq", "twisted"],
}
# The RPC layer's floors: a module imports from its own floor and those below. Modules that are
# not named stand on the floor of client and server.
FLOORS = {
    "txzmq.rpc.errors": 0,
    "txzmq.rpc.method": 0,
    "txzmq.rpc.v1": 0,
    "txzmq.rpc.v1.control_txzmq": 2,
    "txzmq.rpc._wire": 1,
    "txzmq.rpc.": 2,
    "txzmq.rpc": 3,  # the door, its __init__
}


def sources() -> dict[str, Path]:
    """Every module of the runtime and the generator, by its dotted name."""
    return {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
        for base, package in ((ROOT, "txzmq"), (ROOT / "codegen", "txzmq_codegen"))
        for path in sorted((base / package).rglob("*.py"))
    }


SOURCES = sources()


def is_generated(module: str) -> bool:
    return module.endswith(("_pb2", "_txzmq"))


def imports(module: str) -> Iterator[str]:
    """The modules that a module imports; of ``from a import b``, ``a.b`` where that is a module."""
    for node in ast.walk(ast.parse(SOURCES[module].read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module} has a relative import"
            assert not node.level, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in SOURCES else node.module for name in names)


def longest_prefix(module: str, table: dict[str, list[str]] | dict[str, int]) -> str:
    return max((key for key in table if within(module, key)), key=len)


def within(module: str, package: str) -> bool:
    """Whether a module is the package or in it; ``x.`` means in it only."""
    return f"{module}.".startswith(package if package.endswith(".") else f"{package}.") and (
        f"{module}." != package
    )


WRITTEN_BY_HAND = [module for module in SOURCES if not is_generated(module)]


@pytest.mark.parametrize("module", WRITTEN_BY_HAND)
def test_no_part_imports_what_it_must_not_know(module: str) -> None:
    forbidden = FORBIDDEN[longest_prefix(module, FORBIDDEN)]
    wrong = [name for name in imports(module) if any(within(name, part) for part in forbidden)]
    assert wrong == []


@pytest.mark.parametrize("module", [m for m in WRITTEN_BY_HAND if within(m, "txzmq.rpc")])
def test_the_rpc_layer_imports_downwards(module: str) -> None:
    floor = FLOORS[longest_prefix(module, FLOORS)]
    wrong = [
        name
        for name in imports(module)
        if within(name, "txzmq.rpc") and FLOORS[longest_prefix(name, FLOORS)] > floor
    ]
    assert wrong == []


def test_importing_installs_no_reactor() -> None:
    # Importing twisted.internet.reactor installs one, and takes the choice from the application.
    modules = [m for m in WRITTEN_BY_HAND if within(m, "txzmq") and m != "txzmq.codegen"]
    program = f"import sys, {', '.join(modules)}; print('twisted.internet.reactor' in sys.modules)"
    assert succeeds(["-c", program]) == "False"


def test_the_rules_see_what_they_forbid() -> None:
    assert within("zmq.error", "zmq")
    assert not within("zmqx", "zmq")
    assert within("txzmq.rpc.client", "txzmq.rpc.")
    assert not within("txzmq.rpc", "txzmq.rpc.")
    assert longest_prefix("txzmq.rpc._wire.frames", FORBIDDEN) == "txzmq.rpc._wire"
    assert FLOORS[longest_prefix("txzmq.rpc.channel", FLOORS)] == 2
    assert "txzmq.rpc.errors" in imports("txzmq.rpc")
