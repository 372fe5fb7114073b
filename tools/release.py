"""Make a release, for a person to push: ``make release``; ``make release-check`` tries it.

The version is that of ``txzmq/__init__.py``, and the changelog has a section of it. What is made
lies in ``dist/``: the sdist, the wheel, and a list of all packages that the extra ``all`` brings
(an SBOM, in CycloneDX's JSON). The tag is made last. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from datetime import date
from pathlib import Path

from packaging.version import InvalidVersion, Version

from tools.changelog import ChangelogError, Section, sections
from tools.wheel_test import ROOT, build, environment, run

__all__ = ["NotReady", "main", "section_of", "version_of"]


class NotReady(Exception):
    """No release can be made of what is there; the message says what to do."""


def version_of(module: str) -> Version:
    """The version that a module's source states.

    :raises NotReady: if there is none, or no valid one, or it is written in another way than pip
        would write it.
    """
    found = re.search(r'^__version__ = "(.*)"$', module, re.MULTILINE)
    if found is None:
        raise NotReady("txzmq/__init__.py has no line __version__ = ...")
    try:
        version = Version(found[1])
    except InvalidVersion:
        raise NotReady(f"txzmq/__init__.py: {found[1]!r} is no version") from None
    if str(version) != found[1]:
        raise NotReady(f"txzmq/__init__.py: write {str(version)!r}, not {found[1]!r}")
    return version


def section_of(changelog: str, version: Version, today: date) -> Section:
    """What the changelog says of a release.

    A version under development has what is not released yet.

    :raises NotReady: if it says nothing, or something that cannot be.
    """
    try:
        found = {section.version: section for section in sections(changelog)}
    except ChangelogError as error:
        raise NotReady(f"CHANGELOG.md: {error}") from None
    name = "Unreleased" if version.is_devrelease else str(version)
    section = found.get(name)
    if section is None:
        raise NotReady(
            f"CHANGELOG.md has no section of {name}: put '## [{name}] - {today}' below the heading "
            "[Unreleased]"
        )
    if not section.text:
        raise NotReady(f"CHANGELOG.md: the section of {name} is empty")
    unreleased = found.get("Unreleased")
    if section.day is not None:
        if section.day > today:
            raise NotReady(f"CHANGELOG.md: {section.day} is still to come")
        if unreleased is not None and unreleased.text:
            raise NotReady(
                f"CHANGELOG.md: what is below [Unreleased] belongs into the section of {name}"
            )
    return section


def main(arguments: list[str] | None = None) -> None:
    """Check all that can be checked, make the files, and the tag.

    :raises SystemExit: with a sentence, if a release cannot be made.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dry-run", action="store_true", help="make no tag, and throw away what was made"
    )
    dry_run: bool = parser.parse_args(arguments).dry_run
    try:
        version = version_of((ROOT / "txzmq/__init__.py").read_text("utf-8"))
        changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
        section = section_of(changelog, version, date.today())
        if dry_run:
            with tempfile.TemporaryDirectory(prefix="txzmq-release-") as folder:
                _make(version, Path(folder, "dist"))
            print(f"txzmq {version} could be released but for its tag")
            return
        tag = _check_tree(version)
        _make(version, ROOT / "dist")
    except NotReady as error:
        sys.exit(f"release: {error}")
    said = f"txzmq {version}\n\n{section.text}"
    # As it is: lines with Markdown's headings are no comments.
    run("git", "tag", "--annotate", "--cleanup=verbatim", "--message", said, tag, cwd=ROOT)
    print(f"txzmq {version} is made, and tagged as {tag}. To publish it:\n")
    print(f"    git push origin {tag}\n    twine upload dist/txzmq-{version}*.whl dist/*.tar.gz\n")
    print("The list of packages, dist/*.cdx.json, belongs to the release where the tag is shown.")


def _check_tree(version: Version) -> str:
    """The name of the tag, if it may be made here.

    :raises NotReady: if it may not.
    """
    if version.is_devrelease:
        raise NotReady(
            f"{version} is a version under development: set __version__ in txzmq/__init__.py"
        )
    if changed := run("git", "status", "--porcelain", cwd=ROOT):
        raise NotReady(f"commit what is changed, or take it away:\n{changed}")
    tag = f"v{version}"
    if run("git", "tag", "--list", tag, cwd=ROOT):
        raise NotReady(f"there is a tag {tag} already: a released version never changes")
    return tag


def _make(version: Version, dist: Path) -> None:
    """Make the sdist, the wheel and the list of packages, in an empty folder.

    :raises NotReady: if something else lies there, or they are not as they must be.
    """
    if dist.exists() and any(dist.iterdir()):
        raise NotReady(f"empty {dist.name}/ first, which holds what was made before")
    # Whoever builds the same commit gets the same bytes.
    committed = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    os.environ["SOURCE_DATE_EPOCH"] = committed
    wheel = build(dist)
    (sdist,) = dist.glob("*.tar.gz")
    for made in (wheel, sdist):
        if f"txzmq-{version}" not in made.name:
            raise NotReady(f"{made.name} was made, which is not of {version}")
    print("== what PyPI would say")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    print("== the list of all packages that it brings")
    with tempfile.TemporaryDirectory(prefix="txzmq-all-") as folder:
        python = environment(Path(folder), f"{wheel}[all]")
        run(python, "-m", "pip", "check")
        # They make the environment, and are not what it is for.
        run(python, "-m", "pip", "uninstall", "--yes", "setuptools", "pip")
        listed = dist / f"txzmq-{version}.cdx.json"
        run(
            *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
            *("--pyproject", ROOT / "pyproject.toml", "--mc-type", "library"),
            *("--output-file", listed, python),
        )
    packages = {part["name"].lower() for part in json.loads(listed.read_text())["components"]}
    missing = {"twisted", "pyzmq", "protobuf", "grpcio", "click"} - packages
    if missing:
        raise NotReady(f"{listed.name} lacks {', '.join(sorted(missing))}")
    print(f"{len(packages)} packages are listed in {listed.name}")


if __name__ == "__main__":
    main()
