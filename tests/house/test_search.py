"""The search of the site finds pages by words that newcomers type: each begins with its own."""

from __future__ import annotations

import json
import re

import pytest

from tests.programs import ROOT

#: By word, the page of the guide that it finds; `make docs-check` types each into the search.
PAGES: dict[str, str] = json.loads((ROOT / "docs/searches.json").read_text("utf-8"))


@pytest.mark.parametrize(("word", "page"), PAGES.items())
def test_a_page_begins_with_the_words_that_find_it(word: str, page: str) -> None:
    text = (ROOT / f"docs/guide/{page}.md").read_text(encoding="utf-8")
    beginning = " ".join(text.partition("\n## ")[0].split())
    assert re.search(rf"\b{word}\b", beginning, re.IGNORECASE)
