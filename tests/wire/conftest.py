"""A server process, and clients of it that are not txzmq's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from tests.programs import Program, running
from tests.wire.bare import PATIENCE, BareClient


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The server process; it must live to the end, and log no traceback but a handler's own."""
    with running("-m", "tests.wire.bare_server", "tcp://127.0.0.1:*") as program:
        yield program
        assert program.process.poll() is None, program
    errors = [line for line in program.output if line.startswith(("builtins.", "zmq."))]
    assert set(errors) <= {"builtins.RuntimeError: secret"}


@pytest.fixture(scope="module")
def endpoint(program: Program) -> str:
    """Where the server process listens."""
    return program.expect("listening at (.*)")[1]


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    """A ZeroMQ context of the test's own."""
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def new_client(context: zmq.Context[Any], endpoint: str) -> Iterator[Callable[..., BareClient]]:
    """Makes clients of the server process, which has forgotten those of earlier tests."""
    clients = [BareClient(context, endpoint)]
    give_up = time.monotonic() + PATIENCE
    while clients[0].told("let go")["running"]:
        assert time.monotonic() < give_up
    clients[0].told("anew")

    def new_client(routing_id: bytes = b"") -> BareClient:
        clients.append(BareClient(context, endpoint, routing_id))
        return clients[-1]

    yield new_client
    for client in clients:
        client.close()


@pytest.fixture
def client(new_client: Callable[[], BareClient]) -> BareClient:
    """A client of the server process."""
    return new_client()
