"""What is public is so by decision: each public module says it in ``__all__``."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import txzmq
import txzmq.rpc
import txzmq.testing
from tests.support import WITHOUT_EXTRA

ROOT = Path(__file__).parents[2]
FACADES = [txzmq, txzmq.rpc, txzmq.testing]

# What txZMQ's documentation names, and where old applications import it from.
OLD_NAMES = {
    "txzmq.connection": ["ZmqConnection", "ZmqEndpoint", "ZmqEndpointType"],
    "txzmq.factory": ["ZmqFactory"],
    "txzmq.pubsub": ["ZmqPubConnection", "ZmqSubConnection"],
    "txzmq.pushpull": ["ZmqPullConnection", "ZmqPushConnection"],
    "txzmq.req_rep": ["ZmqREPConnection", "ZmqREQConnection", "ZmqRequestTimeoutError"],
    "txzmq.router_dealer": ["ZmqBase", "ZmqDealerConnection", "ZmqRouterConnection"],
}


def public_modules() -> list[str]:
    """All but the door to the generator, a program, what is generated, and what lacks its extra."""
    modules = (
        path.relative_to(ROOT).with_suffix("").parts
        for path in sorted((ROOT / "txzmq").rglob("*.py"))
        if not path.stem.endswith(("_pb2", "_txzmq"))
    )
    names = [".".join(parts) for parts in modules if not any(p.startswith("_") for p in parts)]
    return [name for name in names if name != "txzmq.codegen" and name not in WITHOUT_EXTRA]


def defined_names(path: Path) -> Iterator[str]:
    """The names that a module defines itself, other than type variables."""
    for node in ast.parse(path.read_bytes()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if not (
                    isinstance(value, ast.Call)
                    and isinstance(value.func, ast.Name)
                    and value.func.id in ("ParamSpec", "TypeVar")
                ):
                    yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                pass


def exported(module: ModuleType) -> list[str]:
    assert hasattr(module, "__all__"), f"{module.__name__} has no __all__"
    names: list[str] = module.__all__
    return names


@pytest.mark.parametrize("name", public_modules())
def test_all_is_complete(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    defined = {name for name in defined_names(Path(module.__file__)) if not name.startswith("_")}
    assert defined <= set(exported(module))


@pytest.mark.parametrize("name", [*(facade.__name__ for facade in FACADES), *public_modules()])
def test_all_names_what_there_is(name: str) -> None:
    module = importlib.import_module(name)
    missing = [name for name in exported(module) if not hasattr(module, name)]
    assert missing == []
    assert len(set(exported(module))) == len(exported(module))


def for_type_checkers(tree: ast.Module) -> set[str]:
    """The names that a module imports for type checkers alone; at run time it lacks them."""
    return {
        alias.asname or alias.name
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_no_module_exports_what_only_type_checkers_have() -> None:
    """They would believe it, and who imports it would fail; a facade looks names up itself."""
    exporting: dict[str, set[str]] = {}
    for path in sorted((ROOT / "txzmq").rglob("*.py")):
        source = path.read_text("utf-8")
        if "__getattr__, __dir__ = lazy_exports(" in source:
            continue
        tree = ast.parse(source)
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                exported = set(ast.literal_eval(node.value))
                if wrong := exported & for_type_checkers(tree):
                    exporting[str(path.relative_to(ROOT))] = wrong
    assert exporting == {}


@pytest.mark.parametrize("facade", FACADES, ids=lambda facade: facade.__name__)
def test_a_facade_exports_what_it_imports_and_nothing_else(facade: ModuleType) -> None:
    assert facade.__file__ is not None
    (lazily,) = [
        node
        for node in ast.parse(Path(facade.__file__).read_bytes()).body
        if isinstance(node, ast.If)
    ]
    assert ast.unparse(lazily.test) == "TYPE_CHECKING"
    imported = {
        alias.name: node.module
        for node in lazily.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is None  # "as": Twisted's, by which the annotations of generated code go
    }
    assert set(imported) == set(exported(facade))
    for name, module in imported.items():
        assert module is not None
        assert getattr(facade, name) is getattr(importlib.import_module(module), name)
    assert set(exported(facade)) <= set(dir(facade))
    with pytest.raises(AttributeError, match="has no attribute 'Misspelt'"):
        _ = facade.Misspelt


def test_the_version_is_known_without_the_distribution() -> None:
    """Of which it also is the version: pyproject.toml takes it from there."""
    assert re.fullmatch(r"\d+\.\d+\.\d+([.]dev\d+|(a|b|rc)\d+)?", txzmq.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["hatch"]["version"]["path"] == "txzmq/__init__.py"


def test_who_imports_a_generated_client_does_not_wait_for_sockets() -> None:
    """Nor for Twisted: a program may look at its arguments first."""
    program = """
import sys
import txzmq, txzmq.rpc, txzmq.rpc.v1.control_txzmq, txzmq.rpc.v1.streams_txzmq
print(*sorted({"twisted", "zmq", "asyncio"} & set(sys.modules)))
from txzmq.rpc import *
from txzmq import *
print(Channel.__name__, ZmqFactory.__name__, txzmq.rpc.errors.__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["", "Channel ZmqFactory txzmq.rpc.errors"]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in OLD_NAMES.items() for name in names]
)
def test_txzmqs_names_are_where_they_were(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    assert getattr(txzmq, name) is thing
    assert name in exported(txzmq)


def test_the_rpc_layers_names() -> None:
    names = {"Channel", "Server", "Context", "RpcError", "Code"}
    assert names <= set(exported(txzmq.rpc))
