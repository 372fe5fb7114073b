"""An object changes its own state only: held by reading every assignment.

A module may set attributes of the classes that it defines, most of them through ``self``. Those of
another module's objects it changes by calling their methods.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.house.test_imports import SOURCES, WRITTEN_BY_HAND

#: What is set on objects that are nobody's of ours, and why.
ALLOWED = {
    ("txzmq._backend", "frame.more"): "pyzmq's cffi backend leaves it out",
    ("txzmq._backend", "libzmq.zmq_msg_get.argtypes"): "how ctypes is told of a C function",
    ("txzmq._backend", "libzmq.zmq_msg_gets.argtypes"): "as above",
    ("txzmq._backend", "libzmq.zmq_socket_monitor.argtypes"): "as above",
    ("txzmq._backend", "libzmq.zmq_msg_gets.restype"): "as above",
    ("txzmq._serve.services", "base.startRunning"): "or a module that runs it would never end",
    ("txzmq.rpc._http.server", "self.cycle.disconnected"): "or uvicorn would answer twice",
    ("txzmq.rpc._gateway.tls", "context.verify_mode"): "how ssl is told to ask clients",
    ("txzmq._reactor", "reactor._registerAsIOThread"): "how Twisted keeps its thread's place",
    ("txzmq._task_deferred", "wait.has_gone_on"): "the coroutine says to what it has yielded",
    ("txzmq._task_deferred", "info.failResult"): "how Twisted is kept from logging an error",
    ("txzmq._tasks", "awaited._asyncio_future_blocking"): "how a Task is told to wait for a Future",
    ("txzmq.rpc.errors", "error.args"): "an exception that is made without its constructor",
    ("txzmq_codegen.generate", "response.error"): "a protobuf message that is being made",
    ("txzmq_codegen.stub_input", "copy.leading_comments"): "as above",
    ("txzmq_codegen.stub_input", "copy.trailing_comments"): "as above",
    ("txzmq_codegen.stub_input", "field.extendee"): "as above",
    ("txzmq_codegen.stub_input", "field.type_name"): "as above",
}


def owned(tree: ast.Module) -> set[str]:
    """The names of the attributes that the classes of a module define."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names |= {name for item in ast.walk(node) for name in _defined(item)}
    return names


def _defined(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
            yield name
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=elements)):
            yield from (e.value for e in elements if isinstance(e, ast.Constant))  # type: ignore[misc]  # slots are text
        case ast.Assign(targets=[ast.Name(id=name)]):
            yield name
        case _:
            pass


def foreign_assignments(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and target of what is set or deleted of an object that is not of the module."""
    own = owned(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, (ast.Store, ast.Del))
            and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            and node.attr not in own
        ):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("module", WRITTEN_BY_HAND)
def test_a_module_changes_no_object_of_another(module: str) -> None:
    tree = ast.parse(SOURCES[module].read_bytes())
    found = [
        f"{SOURCES[module].name}:{line} {target}"
        for line, target in foreign_assignments(tree)
        if (module, target) not in ALLOWED
    ]
    assert found == []


def test_what_is_allowed_is_there() -> None:
    for module, target in ALLOWED:
        tree = ast.parse(SOURCES[module].read_bytes())
        assert target in [found for _, found in foreign_assignments(tree)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("stream.ended = True", ["stream.ended"]),
        ("self.stream.ended = True", ["self.stream.ended"]),
        ("stream.count += 1", ["stream.count"]),
        ("del stream.count", ["stream.count"]),
        ("a, stream.count = 1, 2", ["stream.count"]),
        ("for stream.count in (): pass", ["stream.count"]),
        ("stream.finish()", []),
        ("class S:\n    def f(self):\n        self.x = 1\nstream.x = 1", []),
        ("class S:\n    __slots__ = ('x',)\nstream.x = 1", []),
        ("class S:\n    x: int\nstream.x = 1", []),
    ],
)
def test_the_rule_sees_what_it_forbids(source: str, found: list[str]) -> None:
    assert [target for _, target in foreign_assignments(ast.parse(source))] == found
