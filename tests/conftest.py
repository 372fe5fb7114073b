"""Fixtures for tests of more than one folder."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support import REACTORS, Logged, Loop, captured_log, fresh_loop

# No example is timed: a busy machine, PyPy and the counting of coverage would each fail some.
settings.register_profile("txzmq", deadline=None)
settings.load_profile("txzmq")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test whose name is another one in each process: nobody can run it by its name."""
    unstable = [item.nodeid for item in items if re.search(r" at 0x[0-9a-f]", item.nodeid)]
    if unstable:
        raise pytest.UsageError(f"names with addresses of memory: {unstable}")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> None:
    """Have SIGINT interrupt here and in programs under test, where who started us ignores it.

    A shell does so for what it runs in the background, and children inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=list(REACTORS))
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """A fresh reactor; the test runs on each kind that txzmq supports."""
    with fresh_loop(request.param) as loop:
        yield loop


@pytest.fixture
def one_loop() -> Iterator[Loop]:
    """A fresh reactor of one kind, for tests that do not depend on which."""
    with fresh_loop("epoll") as loop:
        yield loop


@pytest.fixture
def grpc_loop() -> Iterator[Loop]:
    """A fresh reactor on a loop of asyncio's, as grpc.aio needs it."""
    with fresh_loop("asyncio") as loop:
        yield loop


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What Twisted logs during the test; the test must look at failures, or it fails."""
    with captured_log() as logged:
        yield logged


@pytest.fixture(autouse=True)
def no_unexpected_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that makes Twisted log a failure, unless it uses the fixture ``logged``."""
    with captured_log() as seen:
        yield
    if "logged" not in request.fixturenames:
        assert not seen.failures(), seen.failures()
