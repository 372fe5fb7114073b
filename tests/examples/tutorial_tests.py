"""Run the tests of several projects: python -m tests.examples.tutorial_tests FOLDER...

Their modules have the same names, so each project has a process of its own. It is forked from one
that has imported what all need, which takes longer than the tests do.
"""

from __future__ import annotations

import os
import sys

import pytest


def main(folders: list[str]) -> int:
    """Run the tests in each folder; how many folders have a test that failed."""
    failed = 0
    for folder in folders:
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            os.chdir(folder)
            status = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", "."])
            sys.stdout.flush()
            os._exit(status)
        _, ended = os.waitpid(child, 0)
        failed += os.waitstatus_to_exitcode(ended) != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
