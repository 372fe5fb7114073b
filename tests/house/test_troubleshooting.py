"""The guide's page on troubles: who searches it for the words of a message finds them there."""

from __future__ import annotations

import re

import pytest

from tests.house.messages import Text, texts
from tests.programs import ROOT

PAGE = ROOT / "docs/guide/troubleshooting.md"

#: Texts that no message has, by what they are.
NO_MESSAGES = {
    "Callable[[type[Request], tuple[CallKey, RequestHead, bytes]], Request]": "a type",
    "has no attribute": "Python's own words for a misspelt import",
}


def searchable(text: str) -> str:
    """As a browser's search sees it: without markup, and with single spaces."""
    return re.sub(r"\s+", " ", text.replace("`", "").replace("\\|", "|"))


def missing(found: list[Text], page: str) -> list[str]:
    shown = searchable(page)
    return [
        str(text)
        for text in found
        if text.words not in NO_MESSAGES and searchable(text.words) not in shown
    ]


def test_every_message_is_found_on_the_page_by_its_words() -> None:
    """What is missing is listed here, with its place: add it to a row of the page."""
    not_there = missing(texts(), PAGE.read_text("utf-8"))
    assert not not_there, "not in docs/guide/troubleshooting.md:\n" + "\n".join(not_there)


def test_the_search_would_notice_what_is_not_there() -> None:
    text = Text("somewhere:1", "the moon is full")
    assert missing([text], "… `the moon\nis full`") == []
    assert missing([text], "the moon is new") == ["somewhere:1: the moon is full"]


def test_messages_are_found_wherever_they_are_made() -> None:
    words = {text.words for text in texts()}
    for known in (
        "no server can be reached, the call was not sent",  # an f-string's piece
        "the channel is closed",  # an argument
        "dropped a message",  # a log's format
        'must be a duration such as "1.5s',  # a helper's argument
    ):
        assert known in words


def rows() -> list[list[str]]:
    table = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return [row for row in cells if row[0] not in ("message", "symptom")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_row_says_what_it_means_or_what_to_do(row: list[str]) -> None:
    assert len(row) == 3, row
    assert any(row[1:])
