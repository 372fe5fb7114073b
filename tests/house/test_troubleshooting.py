"""The guide's page on troubles: who searches it for the words of a message finds them there."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.message import EncodeError

from tests.house.messages import Text, texts
from tests.programs import ROOT
from txzmq.rpc import Channel, ServerLimits

PAGE = ROOT / "docs/guide/troubleshooting.md"

#: Texts that no message has, by what they are.
NO_MESSAGES = {
    "Callable[[type[Request], tuple[CallKey, RequestHead, bytes]], Request]": "a type",
    "Coroutine[Any, Any, object]": "a type",
    "has no attribute": "Python's own words for a misspelt import",
    "#   ****  Generated on": "the beginning of a file of keys",
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


class Unfinished(ABC):
    @abstractmethod
    def handler(self) -> None: ...


# Any: mistakes that type checkers would see.
MISTAKES: dict[str, Callable[[], Any]] = {
    "Can't instantiate abstract class": cast("Any", Unfinished),
    "got an unexpected keyword argument": lambda: cast("Any", ServerLimits)(runing=1),
    "missing 1 required positional argument": lambda: cast("Any", Channel)(None),
    "is missing required fields": UninterpretedOption.NamePart().SerializeToString,
}


@pytest.mark.parametrize("words", MISTAKES)
def test_what_python_and_protobuf_say_is_found(words: str) -> None:
    with pytest.raises((TypeError, EncodeError), match=re.escape(words)):
        MISTAKES[words]()
    assert words in searchable(PAGE.read_text("utf-8"))


# -- and nothing is there that no code says -----------------------------------------------------

#: What strips pieces of messages of their punctuation, as tests.house.messages does.
_MARKS = " :;,.()'\"[]"


def quoted(page: str) -> list[str]:
    """The pieces between what differs, of all that stands in backticks where messages stand.

    That is the first column of tables, and the list at the end, which is no table.
    """
    _, _, listed = page.partition("\n## The other side breaks the protocol\n")
    places = [row[0] for row in rows(page)] + [listed]
    return [
        piece.strip(_MARKS)
        for place in places
        for message in re.findall(r"`([^`]*)`", place)
        for piece in searchable(message).split("…")
    ]


def bare(text: str) -> str:
    """The words of a text without punctuation, with a space around them to be found as a whole."""
    return f" {' '.join(word.strip(_MARKS) for word in text.split())} "


class Made:
    """What messages can be put together from."""

    def __init__(self, made: Iterable[str]) -> None:
        known = [bare(searchable(text)) for text in made]
        self._whole = set(known)
        self._joined = "\n".join(known)

    def makes(self, piece: str) -> bool:
        """Whether a piece consists of texts: of whole ones, or of three words in a row.

        Such as "the handler was cancelled" and "; the server logged it as". A text of a single word
        counts at the ends only, where names of parameters are.
        """
        words = bare(piece).split()
        reached = {0}  # so many words can be made
        for start in range(len(words)):
            if start not in reached:
                continue
            for end in range(start + 1, len(words) + 1):
                run, length = f" {' '.join(words[start:end])} ", end - start
                inside = start > 0 and end < len(words)
                if (length >= 3 and run in self._joined) or (
                    run in self._whole and not (length == 1 and inside)
                ):
                    reached.add(end)
        return len(words) in reached


def test_every_message_on_the_page_is_made_somewhere() -> None:
    """What is listed here is said by no code any more: correct the row, or remove it."""
    made = Made(text.words for text in texts(1))
    pieces = [piece for piece in quoted(PAGE.read_text("utf-8")) if len(piece.split()) >= 3]
    gone = [piece for piece in pieces if not made.makes(piece)]
    assert not gone, "no code says:\n" + "\n".join(gone)


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("the moon is full", True),
        ("moon is full", True),
        ("the moon is full; look at it", True),
        ("the moon is new", False),
        ("moon is full of cheese", False),
        ("the moon is full look", False),
        ("the moon is fuller", False),
        ("the moon is full but", True),
        ("the moon is full but look at it", False),
    ],
)
def test_a_message_may_be_put_together(piece: str, expected: bool) -> None:
    made = Made(["the moon is full", "look at it", "but"])
    assert made.makes(piece) is expected


# -- the rows -----------------------------------------------------------------------------------


def rows(page: str) -> list[list[str]]:
    table = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return [row for row in cells if row[0] not in ("message", "symptom")]


@pytest.mark.parametrize("row", rows(PAGE.read_text("utf-8")), ids=lambda row: row[0][:40])
def test_every_row_says_what_it_means_or_what_to_do(row: list[str]) -> None:
    assert len(row) == 3, row
    assert any(row[1:])
