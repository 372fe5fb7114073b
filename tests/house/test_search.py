"""The search of the site finds pages by words that newcomers type: each begins with its own."""

from __future__ import annotations

import re

import pytest

from tests.programs import ROOT

PAGES = {
    "backpressure": "streams",
    "broker": "proxies",
    "curl": "gateway-http",
    "heartbeats": "failures",
    "keepalive": "failures",
    "load balancing": "balancing",
    "mock": "testing",
    "proxy": "proxies",
    "timeout": "deadlines",
    "TLS": "security",
}


@pytest.mark.parametrize(("word", "page"), PAGES.items())
def test_a_page_begins_with_the_words_that_find_it(word: str, page: str) -> None:
    text = (ROOT / f"docs/guide/{page}.md").read_text(encoding="utf-8")
    beginning = " ".join(text.partition("\n## ")[0].split())
    assert re.search(rf"\b{word}\b", beginning, re.IGNORECASE)
