"""Many clients at once, and gateways that are started anew under them."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.calls import Call, Protocol
from tests.foreign.cases import large
from tests.foreign.clients import CLIENTS
from tests.foreign.conftest import gateways
from tests.foreign.served import Served, Targets
from tests.programs import Program, running, started
from txzmq.rpc import Code

#: Calls of each client at one time: by HTTP/1.1, each would need a connection of its own.
LOADS: list[tuple[str, Protocol, int]] = [
    ("grpc-js", "grpc", 100),
    ("grpc-go", "grpc", 100),
    ("connect-node", "connect", 1),
    ("connect-node", "grpc-web", 1),
]


@contextmanager
def loading(client: str, protocol: Protocol, targets: Targets, **load: Any) -> Generator[Program]:
    """A process of many clients; ``programs/lines.mjs`` says what *load* has."""
    found = CLIENTS[client]
    if found.missing:
        pytest.skip(found.missing)
    assert found.load is not None
    call = Call(method="UnaryCall", requests=(large(100, 100),))
    asked: dict[str, Any] = {**call.asked(), "metadata": (), **load}
    with started(*found.load(targets.of(protocol), protocol), stdin=True) as program:
        program.say(json.dumps(asked))
        yield program


def told(program: Program) -> dict[str, Any]:
    """What came of a load."""
    answer: dict[str, Any] = json.loads(program.expect(r"\{.*\}")[0])
    return answer


@pytest.mark.parametrize(("client", "protocol", "at_once"), LOADS)
def test_ten_thousand_calls_of_a_hundred_clients(
    served: Served, client: str, protocol: Protocol, at_once: int
) -> None:
    load = {"clients": 100, "each": 100, "atOnce": at_once}
    with loading(client, protocol, served.gateways, **load) as program:
        assert told(program)["codes"] == {"0": 10_000}


#: What a call may end with whose gateway goes away.
_LOST = {str(int(code)) for code in (Code.OK, Code.UNAVAILABLE, Code.CANCELLED)}
#: As Node says that, where connect-node takes it for ABORTED or INTERNAL: in HTTP/1.1 a client may
#: send a request just when the gateway ends the connection.
_CUT = re.compile("ECONNRESET|EPIPE|socket hang up")


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize(("client", "protocol", "at_once"), LOADS)
def test_gateways_that_are_started_anew(
    tmp_path: Path, client: str, protocol: Protocol, at_once: int, how: str
) -> None:
    """Each call ends, with a code that says what was lost, and clients go on by themselves."""
    with running("-m", "tests.foreign.server", f"ipc://{tmp_path}/server") as server:
        served = Served(server)
        with gateways(served.address, "http://localhost") as (first, targets):
            load = {"clients": 10, "each": 0, "atOnce": min(at_once, 10)}
            with loading(client, protocol, targets, **load) as program:
                program.expect(r'\{"first": ?true\}')
                if how == "stop":
                    assert first.terminate() == 0
                else:
                    first.kill()
                with gateways(served.address, "http://localhost", targets):
                    program.expect(r'\{"again": ?true\}')
                    program.say("stop")
                    answer = told(program)
    others = set(answer["codes"]) - _LOST
    assert all(_CUT.search(answer["messages"][code]) for code in others), answer
