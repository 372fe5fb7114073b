"""Print the oldest dependencies that pyproject.toml allows, as constraints for pip.

A lower bound that nobody installs is a guess: ``make test-oldest`` runs the tests on these.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def oldest(requirement: str) -> str:
    """``name>=1.2`` as ``name==1.2``.

    :raises ValueError: if the requirement has no lower bound, or more than a lower bound.
    """
    match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement)
    if match is None:
        raise ValueError(f"no plain lower bound: {requirement!r}")
    return f"{match[1]}=={match[2]}"


def main() -> None:
    """Print a constraint for each dependency of the runtime and of its extras."""
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in requirements:
            # What an extra has of others is there already.
            if not requirement.startswith(f"{project['name']}["):
                print(oldest(requirement))


if __name__ == "__main__":
    main()
