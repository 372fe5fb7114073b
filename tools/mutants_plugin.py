"""What tools/mutants.py asks of pytest: which tests come by a line, and some tests in an order."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

#: The file into which the seconds of each test go, by node id, and the tests that did not pass.
TIMES = "TXZMQ_MUTANTS_TIMES"
#: The file of the node ids that are run, in this order.
TESTS = "TXZMQ_MUTANTS_TESTS"

_seconds: dict[str, float] = {}
_not_passed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have coverage note lines for this test, setting up and tearing down included.

    Its own ``dynamic_context`` knows functions of tests, and neither parameters nor fixtures.
    """
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(item.nodeid)
    result = yield
    if measured is not None:
        measured.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how long it took."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if not report.passed:
        _not_passed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write it down."""
    if TIMES in os.environ:
        written = json.dumps({"seconds": _seconds, "not passed": sorted(_not_passed)})
        Path(os.environ[TIMES]).write_text(written, encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what is asked for."""
    if TESTS in os.environ:
        by_id = {item.nodeid: item for item in items}
        wanted = json.loads(Path(os.environ[TESTS]).read_text(encoding="utf-8"))
        items[:] = [by_id[test] for test in wanted if test in by_id]
