"""Fixtures for tests of authentication."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.auth.asking import Asking
from tests.sockets.support import fresh_turns
from tests.support import Loop
from txzmq import ZmqFactory


@pytest.fixture
def factory(one_loop: Loop) -> Iterator[ZmqFactory]:
    """A factory on a loop of the test's own."""
    factory = ZmqFactory(one_loop.reactor)
    yield factory
    factory.shutdown()


@pytest.fixture
def asking() -> Iterator[Asking]:
    with fresh_turns() as turns:
        yield Asking(turns)
