"""A page of the tutorial shows all that its step changes: who copies what it shows has the step."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

from tests.programs import ROOT

TUTORIAL = ROOT / "examples" / "tutorial"
PAGES = sorted((ROOT / "docs" / "tutorial").glob("[1-9]-*.md"))

BLOCKING = {
    "blocking_channel(endpoint)": "blocking_channel(lambda factory: connect(factory, endpoint))"
}
#: What a page tells in words, or shows of one place for several: what becomes what in a file.
TOLD: dict[str, dict[str, str]] = {
    "step6/script.py": BLOCKING,
    "step6/pay.py": BLOCKING,
    "step6/import_stock.py": BLOCKING,
    "step6/watch.py": {"Channel(factory, endpoint)": "connect(factory, endpoint)"},
    "step8/test_orders.py": {
        "orders.stock": "stock(orders)",
        "network.result(watcher) ==": "network.result(watcher, within=LOOK_EVERY) ==",
    },
}


def parts(source: str) -> dict[str, str]:
    """The definitions and imported names of a module, each with its code; methods one by one."""
    found: dict[str, str] = {}

    def add(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{owner}{node.name}.")
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    found[f"import {alias.name}"] = alias.name
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign):
                name = node.targets[0] if isinstance(node, ast.Assign) else node.name
                key = name if isinstance(name, str) else ast.unparse(name)
                found[owner + key] = ast.unparse(node)

    add(ast.parse(source).body, "")
    return found


def shown_code(page: str) -> str:
    """All Python that the page shows, as ast.unparse writes it, without indentation."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return "\n".join(bare(unparsed(textwrap.dedent(block))) for block in blocks)


def unparsed(block: str) -> str:
    try:
        return ast.unparse(ast.parse(block))
    except SyntaxError:  # a line of a statement
        return block


def bare(code: str) -> str:
    return "\n".join(line.strip() for line in code.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_all_that_its_step_changes(page: Path) -> None:
    text = page.read_text("utf-8")
    code = shown_code(text)
    number = int(page.name[0])
    missing: list[str] = []
    for file in sorted((TUTORIAL / f"step{number}").glob("*.py")):
        before = TUTORIAL / f"step{number - 1}" / file.name
        old = before.read_text("utf-8") if before.exists() else ""
        for this, that in TOLD.get(f"step{number}/{file.name}", {}).items():
            assert this in old, "what is told is of use"
            old = old.replace(this, that)
        known = parts(old)
        if file.name not in text and parts(file.read_text("utf-8")) != known:
            missing.append(file.name)
        for name, source in parts(file.read_text("utf-8")).items():
            if known.get(name) == source:
                continue
            is_import = name.startswith("import ")
            there = re.search(rf"\b{source}\b", text) if is_import else bare(source) in code
            if not there:
                missing.append(f"{file.name}: {name}")
    assert not missing
