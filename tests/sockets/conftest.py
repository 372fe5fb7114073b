"""Fixtures for the socket layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.sockets.support import Turns, fresh_turns, raw_sockets
from tests.support import Loop
from txzmq import ZmqFactory


@pytest.fixture
def turns() -> Iterator[Turns]:
    """A factory on a reactor without a life of its own; for inproc sockets."""
    with fresh_turns() as turns:
        yield turns


@pytest.fixture
def factory(loop: Loop) -> Iterator[ZmqFactory]:
    """A factory on each reactor."""
    factory = ZmqFactory(loop.reactor)
    yield factory
    factory.shutdown()


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where to bind, once for each transport."""
    return {
        "tcp": "tcp://127.0.0.1:*",
        "ipc": f"ipc://{tmp_path}/socket",
        "inproc": "inproc://socket",
    }[request.param]


@pytest.fixture(params=["tcp", "ipc"])
def remote_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where to bind, once for each transport with connections that can be lost."""
    return {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/socket"}[request.param]


@pytest.fixture
def raw() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Makes plain sockets of a context of their own: ``raw(zmq.DEALER, "tcp://...")``."""
    with raw_sockets() as make:
        yield make
