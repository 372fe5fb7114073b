"""What a release is made of, before it is made: its version and its section of the changelog."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pytest

pytest.importorskip("packaging.version", reason="the group release is not installed")

from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from tests.programs import ROOT
from tools.changelog import ChangelogError, Section, sections
from tools.release import NotReady, section_of, version_of
from tools.wheel_test import run

TODAY = date(2027, 1, 31)
VERSIONS = st.builds("{}.{}.{}{}".format, *[st.integers(0, 99)] * 3, st.sampled_from(["", "rc1"]))
TEXTS = st.text().map(
    lambda text: "\n".join(line for line in text.splitlines() if not line.startswith("## ")).strip()
)


def test_this_version_and_what_the_changelog_says_of_it() -> None:
    version = version_of((ROOT / "txzmq/__init__.py").read_text("utf-8"))
    section = section_of((ROOT / "CHANGELOG.md").read_text("utf-8"), version, date.today())
    assert section.text.startswith("### ")


@given(st.dictionaries(VERSIONS, st.tuples(st.dates(), TEXTS)), TEXTS)
def test_sections_are_read_as_they_were_written(
    released: dict[str, tuple[date, str]], unreleased: str
) -> None:
    written = [Section("Unreleased", None, unreleased)]
    written += [Section(version, day, text) for version, (day, text) in released.items()]
    headings = [
        f"## [{section.version}]{f' - {section.day}' if section.day else ''}" for section in written
    ]
    changelog = "# Changelog\n\n" + "".join(
        f"{heading}\n\n{section.text}\n\n"
        for heading, section in zip(headings, written, strict=True)
    )
    assert sections(changelog) == written


@given(st.text())
def test_whatever_stands_there_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ChangelogError):
        sections(text)


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("## 2.0.0", "line 2 is no heading of a release: '## 2.0.0'"),
        ("## [2.0.0] 2027-01-31", "line 2 is no heading"),
        ("## [2.0.0]", r"line 2 has no day of release: write '## \[2.0.0\] - 2027-01-31'"),
        ("## [2.0.0] - 2027-02-30", "line 2 has no day"),
        ("## [2.0.0] - 20270131", "line 2 has no day"),
        ("## [2.0.0] - soon", "line 2 has no day"),
        ("## [Unreleased] - 2027-01-31", "line 2 has a day for what is not released"),
        ("## [1.0.0] - 2027-01-31\n## [1.0.0] - 2027-01-31", r"line 3 has a second section of 1"),
    ],
)
def test_headings_that_are_wrong(heading: str, said: str) -> None:
    with pytest.raises(NotReady, match=f"^CHANGELOG.md: {said}"):
        section_of(f"# Changelog\n{heading}\n", Version("2.0.0"), TODAY)


@pytest.mark.parametrize(
    ("changelog", "version", "said"),
    [
        ("", "2.0.0", r"no section of 2.0.0: put '## \[2.0.0\] - 2027-01-31' below"),
        ("## [Unreleased]\n- x", "2.0.0", "no section of 2.0.0"),
        ("", "2.0.0.dev0", "no section of Unreleased"),
        ("## [2.0.0] - 2027-01-31\n\n", "2.0.0", "the section of 2.0.0 is empty"),
        ("## [2.0.0] - 2027-02-01\n- x", "2.0.0", "2027-02-01 is still to come"),
        (
            "## [Unreleased]\n- y\n## [2.0.0] - 2027-01-31\n- x",
            "2.0.0",
            r"what is below \[Unreleased\] belongs into the section of 2.0.0",
        ),
    ],
)
def test_changelogs_of_which_no_release_is_made(changelog: str, version: str, said: str) -> None:
    with pytest.raises(NotReady, match=said):
        section_of(changelog, Version(version), TODAY)


def test_a_changelog_of_which_a_release_is_made() -> None:
    changelog = "## [Unreleased]\n\n## [2.0.0rc1] - 2027-01-30\n- x\n\n## [1.0.0] - 2016-01-01\n- y"
    section = section_of(changelog, Version("2.0.0rc1"), TODAY)
    assert section == Section("2.0.0rc1", TODAY - timedelta(1), "- x")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("", "has no line __version__"),
        ('__version__ = "new"', "'new' is no version"),
        ('__version__ = "2.0.0-rc.1"', "write '2.0.0rc1', not '2.0.0-rc.1'"),
    ],
)
def test_versions_that_are_wrong(module: str, said: str) -> None:
    with pytest.raises(NotReady, match=said):
        version_of(module)


def test_what_lies_in_the_folder_for_temporary_files_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may put a module there, which Python would find before the installed one."""
    (tmp_path / "build.py").write_text("print('a stranger\\'s')", "utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Its module, since the folder build/ here would do for the package.
    pytest.importorskip("build.__main__", reason="the group release is not installed")
    assert run(sys.executable, "-m", "build", "--version").startswith("build ")
