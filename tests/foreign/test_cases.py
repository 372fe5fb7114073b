"""Every client with every case that it is able to: a row of the table is a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Final

import pytest

from tests.foreign.calls import Protocol
from tests.foreign.cases import CASES, Case, World
from tests.foreign.clients import CLIENTS
from tests.foreign.served import Served

#: Of what is a command.
_COMMAND: Final = frozenset({"cancelling", "cancelling requests", "full duplex", "slow reading"})
#: When a call is cancelled, Node ends its requests, and resets its stream in a later turn of its
#: loop. The gateway waits for that, though not for long: then the handler takes what has come
#: for all.
_NODE: Final = frozenset({"cancelling requests"})
#: It believes the types that reflection tells.
_BY_REFLECTION: Final = frozenset({"other types"})


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
        name = (
            self.client
            if self.client.startswith(self.protocol)
            else f"{self.client}-{self.protocol}"
        )
        return f"{name}-nginx" if self.nginx else name


ROWS: Final = [
    Row("grpc-js", "grpc", _NODE),
    Row("grpc-js", "grpc", _NODE, nginx=True),
    Row("grpc-go", "grpc"),
    Row("grpc-go", "grpc", nginx=True),
    Row("connect-node", "grpc", _NODE),
    Row("buf", "grpc", _COMMAND | _BY_REFLECTION),
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
def test_case(served: Served, row: Row, case: Case) -> None:
    client = CLIENTS[row.client]
    if client.missing:
        pytest.skip(client.missing)
    target = served.target(row.protocol, nginx=row.nginx)
    case.run(World(served, partial(client.start, target, row.protocol)))
