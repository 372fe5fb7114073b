"""The pictures of the command line: each is on its page, is light, and needs no other site."""

from __future__ import annotations

import re

import pytest

from tests.programs import ROOT

pytest.importorskip("rich", reason="the extra cli is not installed")

from tools.screenshots import FOLDER, SHOTS, SHOWN, picture

PAGE = (ROOT / "docs/guide/command-line.md").read_text(encoding="utf-8")


def test_each_is_on_the_page_with_words_in_its_place() -> None:
    shown = re.findall(r"!\[[^\]]{20,}\]\(\.\./screenshots/(\w+)\.svg\)", PAGE)
    assert sorted(shown) == sorted(SHOTS) == sorted(path.stem for path in FOLDER.glob("*"))


@pytest.mark.parametrize("shot", SHOTS)
def test_each_is_light_and_stands_alone(shot: str) -> None:
    svg = (FOLDER / f"{shot}.svg").read_text(encoding="utf-8")
    assert len(svg) < 60_000
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\"')]+", svg) == []
    assert svg.count(SHOWN) >= len(SHOTS[shot])
    assert "Traceback" not in svg


def test_colours_of_a_terminal_are_in_a_picture() -> None:
    svg = picture([("txzmq list", "\x1b[31mgone\x1b[0m <b>")])
    assert "gone" in svg
    assert "&lt;b&gt;" in svg
    assert "\x1b" not in svg
