"""The older version, which ``tools/baseline.py`` builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.baseline import NoHistoryError, baseline_commit, unpacked


@pytest.fixture(scope="session")
def baseline() -> Path:
    """The folder in which it is unpacked; where it cannot be built, the test is skipped."""
    try:
        return unpacked(baseline_commit())
    except NoHistoryError as error:
        pytest.skip(str(error))
