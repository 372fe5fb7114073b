"""Imports point one way: the plan of the house, held by reading every import statement.

``docs/inside.md`` draws the plan. What counts is each ``import`` wherever it stands, those for type
checkers included. A module reaches what it imports, and all that is reached by that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds
from tests.support import WITHOUT_EXTRA

# -- the plan ---------------------------------------------------------------------------------

#: Modules that users type words of, and nothing of an engine.
WORDS = {
    f"txzmq.rpc.{name}"
    for name in (
        "_json_values _raw_message access_log authentication authorization balancing client "
        "context errors interceptors limits liveness metadata method metrics outlier_detection raw "
        "records resolvers service_config socket_options status streams watching"
    ).split()
}
#: Modules of the socket layer that know no ZeroMQ.
GROUND = {
    "txzmq._asyncio_loop",
    "txzmq._check",
    "txzmq._escape",
    "txzmq._guard",
    "txzmq._identity",
    "txzmq._ids",
    "txzmq._jwt",
    "txzmq._lazy_exports",
    "txzmq._next_turn",
    "txzmq._ordered_set",
    "txzmq._rate_limit",
    "txzmq._reactor",
    "txzmq._send_result",
    "txzmq._task_deferred",
    "txzmq._task_wait",
    "txzmq._tasks",
    "txzmq._timer",
}
#: Modules of txzmq.testing that stand on channels and servers.
KIT = {f"txzmq.testing.{name}" for name in ("_given_back", "_serving", "pytest", "trial")}


def room_of(module: str) -> str:
    """In which room of the house a module stands."""
    if module in GROUND:
        return "ground"
    if module.startswith("txzmq.rpc._services") and not module.endswith("_txzmq"):
        return "_services"
    if module.endswith("_txzmq"):
        return "generated"
    if module in WORDS or module.startswith("txzmq.rpc.v1"):
        return "words"
    if module.startswith("txzmq_codegen"):
        return "generator"
    if module in KIT:
        return "test kit"
    if module == "txzmq.testing":
        return "testing names"
    if module.startswith("txzmq.testing."):
        return "testing"
    if module == "txzmq.__main__" or f"{module}.".startswith("txzmq._cli."):
        return "cli"
    if f"{module}.".startswith("txzmq._serve."):
        return "serve"
    if module.startswith("txzmq.rpc."):
        return module.split(".")[2]
    return {"txzmq.rpc": "names", "txzmq.codegen": "codegen"}.get(module, "sockets")


#: What each room imports besides itself; nothing reaches a room but by these.
PLAN: dict[str, set[str]] = {
    "ground": set(),
    "sockets": {"ground"},
    "words": {"ground"},
    "_wire": {"ground", "words"},
    "_core": {"ground", "words"},
    "_net": {"ground", "sockets", "words", "_core"},
    "_client": {"ground", "words", "_wire", "_core", "_services"},
    "_server": {"ground", "words", "_wire", "_core"},
    "channel": {"ground", "sockets", "words", "_core", "_net", "_client"},
    "server": {"ground", "sockets", "words", "_core", "_net", "_server"},
    # The other network for the client's engine, with an extra of its own.
    "_grpc": {"ground", "words", "_wire", "_core", "_client", "_gateway"},
    "grpc": {"ground", "sockets", "words", "_core", "_net", "_client", "_grpc"},
    # The other way round: clients of gRPC's in front of a channel.
    "grpc_gateway": {
        *("ground", "sockets", "words", "_core", "_net", "_grpc", "_gateway"),
        *("method_sources", "health"),
    },
    # And clients of Connect's and gRPC-Web's.
    "_http": {"ground", "words", "_core", "_gateway", "_any_types", "method_sources"},
    "http_gateway": {
        *("ground", "sockets", "words", "_core", "_net", "_http", "_gateway", "method_sources")
    },
    # What gateways have in common; and what services read of it.
    "_gateway": {"ground", "words"},
    "forwarded": {"ground", "words", "_gateway"},
    # What a thread does that waits.
    "_threads": {"ground", "words"},
    "blocking": {"ground", "sockets", "words", "_threads"},
    "threads": {"ground", "sockets", "words", "blocking", "channel"},
    # Programs of asyncio's.
    "aio": {"ground"},
    "application": {"ground", "sockets", "words", "_core", "_net", "channel", "server"},
    "_tokens": {"ground", "words"},
    "tokens": {"ground", "words", "_tokens"},
    "validation": {"ground", "words", "_core"},
    "health": {"ground", "words", "_core", "_services", "generated"},
    "reflection": {"ground", "words", "_core", "_services", "generated"},
    # Pages for whoever scrapes.
    "_exposition": set(),
    "prometheus": {"ground", "words", "_exposition"},
    # What no generated code knows, by its descriptors.
    "_descriptors": {"ground", "words", "reflection"},
    "_any_types": {"_descriptors"},
    # Which methods there are, and what passes them on.
    "method_sources": {"ground", "words", "_descriptors", "health", "reflection"},
    "relay": {"ground", "words", "health", "method_sources"},
    # ZeroMQ's plain proxy, for servers that connect.
    "proxy": {"ground", "sockets", "words", "_net"},
    # OpenTelemetry's names.
    "_semconv": {"words"},
    "otel": {"ground", "words", "_semconv"},
    "admin": {"ground", "words", "_core", "generated"},
    "transport": {"ground", "_core", "_net"},
    "testing": {"ground", "words", "_core"},
    # What opens channels and servers for tests.
    "test kit": {"ground", "sockets", "words", "channel", "server", "testing"},
    "testing names": {"ground", "testing", "test kit"},
    "names": {"ground", "words", "_net", "channel", "server", "blocking"},
    # The messages of the standard services, in a pool of their own.
    "_services": set(),
    "generated": {"words", "names", "testing names", "_services"},
    # The command line, with an extra of its own.
    "cli": {
        *("ground", "sockets", "words", "transport", "channel", "admin", "health", "reflection"),
        *(
            "_descriptors",
            "_any_types",
            "method_sources",
            "relay",
            "proxy",
            "server",
            "prometheus",
            "names",
        ),
        *("serve", "codegen", "generator", "grpc_gateway", "http_gateway", "_gateway"),
    },
    # Processes that serve, and the one that supervises them.
    "serve": {
        *("ground", "sockets", "words", "_core", "_net", "server", "application"),
        *("admin", "health", "reflection", "prometheus", "_exposition"),
    },
    "codegen": {"generator"},
    "generator": set(),
}
#: Single modules that need one of another room, which must know no socket.
BESIDES = {
    ("txzmq.rpc.resolvers", "txzmq.rpc._net.dns"),
    ("txzmq.rpc.resolvers", "txzmq.rpc._net.targets"),
    ("txzmq.rpc.resolvers", "txzmq.rpc._net.addresses"),
    ("txzmq.rpc.resolvers", "txzmq.rpc._net.endpoints"),
    ("txzmq.rpc._client.subscriber", "txzmq.rpc._net.addresses"),
    ("txzmq.testing._network", "txzmq.rpc._net.addresses"),
}
#: What a room may not import from elsewhere, directly or by what it imports.
NEVER = {
    "ground": {"zmq", "google"},
    "words": {"zmq"},
    "_wire": {"zmq", "twisted", "time", "socket"},  # sans-IO, and without a clock
    "_core": {"zmq"},
    "_client": {"zmq"},
    "_server": {"zmq"},
    "_grpc": {"zmq"},
    "_http": {"grpc"},
    "_gateway": {"zmq", "grpc"},
    "forwarded": {"zmq", "grpc"},
    "testing": {"zmq"},
    "_tokens": {"zmq"},
    "tokens": {"zmq"},
    "validation": {"zmq"},
    "prometheus": {"zmq"},
    "otel": {"zmq"},
    "codegen": {"zmq", "twisted", "google"},
    "generator": {"zmq", "twisted", "txzmq"},
    "_services": {"zmq", "twisted", "grpc"},
}
#: Who imports zmq itself.
USES_ZMQ = {"sockets"}

# -- what there is ----------------------------------------------------------------------------


def sources() -> dict[str, Path]:
    """Every module of the runtime and the generator, by its dotted name."""
    return {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
        for base, package in ((ROOT, "txzmq"), (ROOT / "codegen", "txzmq_codegen"))
        for path in sorted((base / package).rglob("*.py"))
    }


SOURCES = sources()
WRITTEN_BY_HAND = [module for module in SOURCES if not module.endswith(("_pb2", "_txzmq"))]


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module imports; of ``from a import b``, ``a.b`` where that is a module."""
    return frozenset(_imports(module, SOURCES[module].read_bytes()))


def _imports(module: str, source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module
            if node.level:
                assert module.endswith("_txzmq"), f"{module} has a relative import"
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *filter(None, [node.module])])
            assert base is not None, f"{module} has an import that this test cannot read"
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in SOURCES else base


def ours(modules: Iterable[str]) -> set[str]:
    return {module for module in modules if module in SOURCES}


@cache
def reached(module: str) -> frozenset[str]:
    """All that a module imports, and what those import, of the house and of libraries."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(waiting.pop()):
            if name not in found:
                found.add(name)
                if name in SOURCES:
                    waiting.append(name)
    return frozenset(found)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that can reach each other."""
    groups: list[list[str]] = []
    for node in graph:
        there = _reachable(graph, node)
        group = sorted({other for other in there if node in _reachable(graph, other)})
        if group and group not in groups:
            groups.append(group)
    return groups


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for node in graph.get(waiting.pop(), ()):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


# -- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", WRITTEN_BY_HAND)
def test_a_module_imports_from_its_room_and_those_it_stands_on(module: str) -> None:
    room = room_of(module)
    wrong = [
        name
        for name in ours(imports(module))
        if room_of(name) not in {room, *PLAN[room]} and (module, name) not in BESIDES
    ]
    assert wrong == []


@pytest.mark.parametrize("module", WRITTEN_BY_HAND)
def test_a_module_reaches_nothing_that_its_room_must_not_know(module: str) -> None:
    never = NEVER.get(room_of(module), set())
    if room_of(module) == "codegen":
        names: Iterable[str] = imports(module)  # the generator may use what it likes
    else:
        names = reached(module)
    assert sorted(name for name in names if name.partition(".")[0] in never) == []


@pytest.mark.parametrize("module", WRITTEN_BY_HAND)
def test_only_sockets_import_zmq(module: str) -> None:
    if room_of(module) not in USES_ZMQ:
        assert not {name for name in imports(module) if name.partition(".")[0] == "zmq"}


def test_no_module_is_part_of_a_circle() -> None:
    assert circles({module: ours(imports(module)) for module in SOURCES}) == []


def test_no_room_is_part_of_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module in SOURCES:
        rooms = {room_of(name) for name in ours(imports(module)) if (module, name) not in BESIDES}
        graph.setdefault(room_of(module), set()).update(rooms - {room_of(module)})
    assert circles(graph) == []


def test_the_plan_has_no_circle_and_no_room_too_many() -> None:
    assert circles({room: set(below) for room, below in PLAN.items()}) == []
    assert {room_of(module) for module in SOURCES} == set(PLAN)
    assert ours(pair[1] for pair in BESIDES) == {pair[1] for pair in BESIDES}
    for importer, imported in BESIDES:
        assert imported in imports(importer), f"{importer} does not import {imported} any more"


@pytest.mark.parametrize(
    "module", sorted(WORDS - {"txzmq.rpc.status"} | {"txzmq.testing", "txzmq.rpc.transport"})
)
def test_a_word_loads_no_socket_and_no_engine(module: str) -> None:
    """In an interpreter of its own, in which zmq cannot be imported."""
    engines = ["txzmq.rpc._client", "txzmq.rpc._server", "txzmq.connection"]
    program = f"""
import sys
sys.modules["zmq"] = None
import {module}
print([name for name in {engines!r} if name in sys.modules])
"""
    assert succeeds(["-c", program]) == "[]"


# Apart: what they import is an extra.
@pytest.mark.parametrize(
    ("module", "rooms"),
    [
        ("txzmq.rpc.status", {"ground", "words", "names"}),
        ("txzmq.rpc.tokens", {"ground", "words", "names", "_tokens"}),
        ("txzmq.rpc.validation", {"ground", "words", "names", "_core"}),
        ("txzmq.rpc.prometheus", {"ground", "words", "names", "_exposition"}),
        ("txzmq.rpc.otel", {"ground", "words", "names", "_semconv"}),
    ],
)
def test_a_module_with_an_extra_needs_that_and_no_more(module: str, rooms: set[str]) -> None:
    assert {room_of(name) for name in ours(reached(module))} <= rooms


def test_importing_installs_no_reactor() -> None:
    # Importing twisted.internet.reactor installs one, and takes the choice from the application.
    modules = [
        module
        for module in WRITTEN_BY_HAND
        if room_of(module) not in ("codegen", "generator") and module not in WITHOUT_EXTRA
    ]
    program = f"import sys, {', '.join(modules)}; print('twisted.internet.reactor' in sys.modules)"
    assert succeeds(["-c", program]) == "False"


# -- the rules see what they forbid -----------------------------------------------------------


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]
    assert circles({"a": {"a"}}) == [["a"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_found_wherever_they_stand() -> None:
    source = b"""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from txzmq.rpc.channel import Channel
def f():
    import zmq.error
"""
    assert set(_imports("x", source)) == {"typing", "txzmq.rpc.channel", "zmq.error"}


def test_rooms_are_found() -> None:
    assert room_of("txzmq.rpc.errors") == "words"
    assert room_of("txzmq.rpc._wire.headers") == "_wire"
    assert room_of("txzmq.rpc.v1.control_pb2") == "words"
    assert room_of("txzmq.rpc.v1.control_txzmq") == "generated"
    assert room_of("txzmq.connection") == "sockets"
    assert room_of("txzmq.rpc") == "names"
    assert room_of("txzmq._reactor") == "ground"
    assert "txzmq.rpc.errors" in reached("txzmq.rpc.channel")
    assert "zmq" in reached("txzmq.rpc.channel")
