"""The imports of the benchmarks have no circle, those for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house.test_imports import circles
from tests.programs import ROOT

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
}


def imports(module: str) -> Iterator[str]:
    """The modules of the benchmarks that *module* imports."""
    for node in ast.walk(ast.parse(SOURCES[module].read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in SOURCES)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                for name in (f"{node.module}.{alias.name}", str(node.module)):
                    if name in SOURCES:
                        yield name
                        break


def test_no_benchmark_is_part_of_a_circle() -> None:
    graph = {module: set(imports(module)) for module in SOURCES}
    assert "benchmarks.figures" in graph["benchmarks.workload"]
    assert circles(graph) == []
