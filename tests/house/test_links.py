"""Every link of the documentation leads somewhere: to a file, and to a heading of it.

Links to other sites are looked at by their form only: no test waits for somebody else's server.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.programs import ROOT

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
BUILT = {path for path in PAGES if "_build" not in path.parts}


def prose(page: Path) -> str:
    """A page without its blocks of code; those in a line stay, since headings have them."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """Where the links and images of a text lead; what stands in code is none."""
    text = re.sub(r"`[^`\n]*`", "", text)
    return [
        *re.findall(r"\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)", text),
        *re.findall(r"<(https?://[^>\s]*)>", text),
    ]


def anchors(text: str) -> set[str]:
    """The names of a page's headings, as GitHub makes them, and Sphinx after it."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def inner_fault(page: Path, link: str) -> str | None:
    """Why a link within the checkout leads nowhere, or None."""
    place, _, anchor = link.partition("#")
    target = (page.parent / place).resolve() if place else page
    if not target.exists():
        return f"there is no {place}"
    if not target.is_relative_to(ROOT):
        return "leads out of the checkout"
    if anchor and target.suffix == ".md" and anchor not in anchors(prose(target)):
        return f"{target.name} has no heading #{anchor}"
    return None


def outer_fault(link: str) -> str | None:
    """What is wrong with the form of a link to another site, or None."""
    parts = urlsplit(link)
    if parts.scheme != "https":
        return "is not https"
    if not re.fullmatch(r"(?:[a-z\d](?:[a-z\d-]*[a-z\d])?\.)+[a-z]{2,}", parts.netloc):
        return f"{parts.netloc!r} is no host's name"
    if re.search(r"[^\w./~%:@!$&'()*+,;=?#-]", link):
        return "has characters that a URL has not"
    return None


def fault(page: Path, link: str) -> str | None:
    return outer_fault(link) if re.match(r"[a-z+]+:", link) else inner_fault(page, link)


@pytest.mark.parametrize("page", sorted(BUILT), ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    faults = {link: fault(page, link) for link in links(prose(page))}
    assert {link: why for link, why in faults.items() if why} == {}


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("nowhere.md", "there is no nowhere.md"),
        ("index.md#nowhere", "index.md has no heading #nowhere"),
        ("../../etc", "there is no ../../etc"),
        ("http://example.org", "is not https"),
        ("https://localhost/", "'localhost' is no host's name"),
        ("https://example.org:x", "'example.org:x' is no host's name"),
        ("https://example.org/<b>", "has characters that a URL has not"),
        ("guide/index.md", None),
        ("https://example.org/a_(b)?c=d#e", None),
        ("guide/serve.md#signals", None),
    ],
)
def test_what_is_wrong_with_a_link_is_told(link: str, why: str | None) -> None:
    assert fault(ROOT / "docs/index.md", link) == why


def test_links_and_headings_are_found() -> None:
    text = "# A `b`: c\n\n# A `b`: c\n\n[a](x.md#y), ![b](z(1).svg), `[c](d)`, <https://e.org>"
    assert links(text) == ["x.md#y", "z(1).svg", "https://e.org"]
    assert anchors(text) == {"a-b-c", "a-b-c-1"}
