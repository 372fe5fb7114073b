"""What pages take of files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import snippets

SOURCE = '''
import functools

class Outer:
    @functools.cache
    def inner(self) -> int:
        """It is one."""
        return 1

    async def later(self) -> None: ...

def last() -> None:
    pass
'''


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(snippets, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text(SOURCE)
    return tmp_path


def test_definitions_with_their_decorators() -> None:
    assert snippets.definition(SOURCE, "Outer.inner").splitlines() == [
        "@functools.cache",
        "def inner(self) -> int:",
        '    """It is one."""',
        "    return 1",
    ]
    assert snippets.definition(SOURCE, "Outer.later") == "async def later(self) -> None: ..."
    assert snippets.definition(SOURCE, "last") == "def last() -> None:\n    pass"
    for name in ("nothing", "Outer.nothing", "last.inner", "inner"):
        with pytest.raises(LookupError, match=re.escape(repr(name))):
            snippets.definition(SOURCE, name)


def test_code_in_a_fence(capsys: pytest.CaptureFixture[str]) -> None:
    snippets.code("a.py", "last")
    assert capsys.readouterr().out == "```python\ndef last() -> None:\n    pass\n```\n"
    snippets.code("a.py", first="def last", before="    pass")
    assert capsys.readouterr().out == "```python\ndef last() -> None:\n```\n"
    snippets.code("a.py", first="    @functools", before="    async")
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "@functools.cache",
        "def inner(self) -> int:",
    ]
    with pytest.raises(LookupError, match="no line begins with 'def first'"):
        snippets.code("a.py", first="def first")


def test_links_of_a_text_lead_to_where_they_did(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "a.md").write_text(
        "# A\n[x](docs/guide/x.md#y) ![z](z.svg) [web](https://example.com/) [here](#b)\n"
        "## B\n[u](u)"
    )
    snippets.text("a.md", "../..", after="# A", before="## B")
    assert capsys.readouterr().out == (
        "[x](../../docs/guide/x.md#y) ![z](../../z.svg) [web](https://example.com/) [here](#b)\n"
    )
    snippets.text("a.md", "docs/..", after="## B")
    assert capsys.readouterr().out == "[u](u)\n"
    with pytest.raises(LookupError, match="no line begins with '## C'"):
        snippets.text("a.md", before="## C")
