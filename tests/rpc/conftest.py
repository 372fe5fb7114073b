"""What many tests of the RPC layer use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rpc.ends import KINDS
from tests.support import Loop
from txzmq import ZmqFactory


@pytest.fixture
def factory(one_loop: Loop) -> Iterator[ZmqFactory]:
    """A factory on a loop of the test's own."""
    factory = ZmqFactory(one_loop.reactor)
    yield factory
    factory.shutdown()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[], BaseException]:
    """How a user's code ends, each way once."""
    return KINDS[request.param]
