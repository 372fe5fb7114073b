"""What CHANGELOG.md says of a release: its section, under ``## [2.0.0] - 2027-01-31``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

__all__ = ["ChangelogError", "Section", "sections"]

_HEADING = re.compile(r"## \[(?P<version>[^\]]*)\](?: - (?P<day>\S+))?")


class ChangelogError(Exception):
    """The changelog is not as it must be; the message says where."""


@dataclass(frozen=True)
class Section:
    """What changed in one release, or since the last one.

    :ivar version: ``Unreleased`` for what changed since.
    :ivar day: when it was released; None for what changed since.
    :ivar text: below the heading, in Markdown.
    """

    version: str
    day: date | None
    text: str


def sections(changelog: str) -> list[Section]:
    """All sections of a changelog, as they stand there: the newest first.

    :raises ChangelogError: for a heading of the second level that is none of a release.
    """
    found: list[Section] = []
    version, day, lines = "", None, list[str]()

    def end() -> None:
        if version:
            found.append(Section(version, day, "\n".join(lines).strip()))

    for number, line in enumerate(changelog.splitlines(), 1):
        if not line.startswith("## "):
            lines.append(line)
            continue
        end()
        heading = _HEADING.fullmatch(line.rstrip())
        if heading is None:
            raise ChangelogError(f"line {number} is no heading of a release: {line!r}")
        version, lines = heading["version"], []
        if version in [section.version for section in found]:
            raise ChangelogError(f"line {number} has a second section of {version}")
        day = _day(heading["day"], version, number)
    end()
    return found


def _day(text: str | None, version: str, number: int) -> date | None:
    if version == "Unreleased":
        if text is not None:
            raise ChangelogError(f"line {number} has a day for what is not released")
        return None
    try:
        # In basic format, as 20270131, a date would be taken, too.
        if text is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise ChangelogError(
            f"line {number} has no day of release: write '## [{version}] - 2027-01-31'"
        ) from None
