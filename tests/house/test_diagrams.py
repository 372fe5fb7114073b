"""The diagrams of the documentation are what their text draws, and pages show each."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.programs import ROOT
from tools.diagrams import FOLDER, DiagramError, draw, drawings

HEAD = "title: T\ndescription: D\n"


def test_each_is_what_its_text_draws() -> None:
    drawn = dict(drawings())
    assert set(drawn) == set(FOLDER.glob("*.svg"))
    old = [path.name for path, svg in drawn.items() if path.read_text("utf-8") != svg]
    assert old == [], "draw them anew: make diagrams"


def test_each_is_on_a_page_with_words_in_its_place() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md"))
    shown = re.findall(r"!\[[^\]]{20,}\]\((?:\.\./)?diagrams/([\w-]+\.svg)\)", pages)
    assert sorted(shown) == sorted(path.name for path in FOLDER.glob("*.svg"))


def test_who_cannot_see_it_is_told_what_it_shows() -> None:
    svg = draw("title: A & B\ndescription: One <calls> the other\nkind: layers\nlayer a | b: c\n")
    title, description = list(ElementTree.fromstring(svg))[:2]
    assert (title.text, description.text) == ("A & B", "One <calls> the other")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("title: T\nkind: layers\n", "there is no line 'description'"),
        (HEAD + "kind: pie\n", "the kind is one of sequence, states, layers, not pie"),
        (HEAD + "kind: sequence\nactors: a | b\na -> c: x\n", "names c, and there are a, b"),
        (HEAD + "kind: sequence\nactors: a | b\na => b: x\n", "a sequence has no line 'a => b: x'"),
        (HEAD + "kind: sequence\na -> b: x\n", "a sequence needs a line 'actors'"),
        (HEAD + "kind: states\na -> b: x\n", "names a, and there are none"),
        (HEAD + "kind: states\na\n", "states have no line 'a'"),
        (HEAD + "kind: layers\na\n", "layers have no line 'a'"),
        (
            HEAD + f"kind: layers\nlayer a: {'x' * 99}\n",
            "99 characters long, and there is room for",
        ),
    ],
)
def test_a_text_that_is_wrong_is_told(text: str, wrong: str) -> None:
    with pytest.raises(DiagramError, match=re.escape(wrong)):
        draw(text)
