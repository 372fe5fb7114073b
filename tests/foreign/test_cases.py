"""Every client with every case that it is able to: a row of the table is a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Final

import pytest

from tests.foreign.browser import Browser
from tests.foreign.calls import Protocol
from tests.foreign.cases import CASES, Case, World
from tests.foreign.clients import CLIENTS
from tests.foreign.served import Served

#: gRPC has POST alone.
_GRPC: Final = frozenset({"GET"})
#: When a call is cancelled, Node ends its requests, and resets its stream in a later turn of its
#: loop. The gateway waits for that, though not for long: then the handler takes what has come
#: for all.
_NODE: Final = _GRPC | {"cancelling requests"}
#: Of HTTP/1.1, most clients send all requests before they read a response.
_HALF: Final = frozenset({"full duplex"})
#: What is a command does not read slowly, and is killed rather than cancelled.
_COMMAND: Final = _HALF | {"cancelling", "cancelling requests", "slow reading"}
#: It believes the types that reflection tells.
_BY_REFLECTION: Final = frozenset({"other types"})
#: It shows neither how Connect has trailers, nor how gRPC-Web does, and wants HTTP/2 where both
#: ways stream.
_BUF: Final = _COMMAND | {"metadata", "GET", "half duplex"}
#: A page cannot stream requests, all tests share one, and Chromium keeps what it has not read.
_STREAMING: Final = frozenset({"client streaming", "half duplex", "cancelling requests"})
_WEB: Final = _HALF | _STREAMING | {"a process", "slow reading"}


@dataclass(frozen=True)
class Row:
    """A client, what it speaks, and where to.

    :ivar cannot: what it is not able to.
    :ivar nginx: whether it calls through nginx.
    """

    client: str
    protocol: Protocol
    cannot: frozenset[str] = field(default_factory=frozenset[str])
    nginx: bool = False

    def __str__(self) -> str:
        by = "" if self.client.startswith("grpc-") else f"-{self.protocol}"
        return f"{self.client}{by}{'-nginx' if self.nginx else ''}"


ROWS: Final = [
    Row("grpc-js", "grpc", _NODE),
    Row("grpc-js", "grpc", _NODE, nginx=True),
    Row("grpc-go", "grpc", _GRPC),
    Row("grpc-go", "grpc", _GRPC, nginx=True),
    Row("buf", "grpc", _GRPC | _COMMAND | _BY_REFLECTION),
    Row("buf", "connect", _BUF),
    Row("buf", "grpc-web", _BUF),
    Row("connectrpc", "grpc", _GRPC),
    Row("connectrpc", "connect"),
    Row("connectrpc", "connect-json"),
    Row("connectrpc", "grpc-web", _GRPC),
    Row("connect-node", "grpc", _NODE),
    Row("connect-node", "connect", _HALF),
    Row("connect-node", "connect-json", _HALF),
    Row("connect-node", "grpc-web", _GRPC | _HALF),
    Row("connect-node", "connect", _HALF, nginx=True),
    Row("connect-node", "grpc-web", _GRPC | _HALF, nginx=True),
    Row("connect-web", "connect", _WEB),
    Row("connect-web", "connect-json", _WEB),
    Row("connect-web", "grpc-web", _WEB | _GRPC),
    Row("curl", "connect", _COMMAND),
    Row("curl", "connect-json", _COMMAND),
    Row("curl", "connect-json", _COMMAND, nginx=True),
]


@pytest.mark.parametrize(
    ("row", "case"),
    [
        pytest.param(row, case, id=f"{row}-{case.name}")
        for row in ROWS
        for case in CASES
        if not case.needs & row.cannot
    ],
)
def test_case(served: Served, request: pytest.FixtureRequest, row: Row, case: Case) -> None:
    client = CLIENTS[row.client]
    if client.missing:
        pytest.skip(client.missing)
    browser: Browser | None = None if client.start else request.getfixturevalue("browser")
    start = browser.start if browser else client.start
    assert start is not None
    target = served.target(row.protocol, nginx=row.nginx)
    case.run(World(served, partial(start, target, row.protocol)))
