"""What tests of authentication share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from txzmq.auth import (
    CurveClientCredentials,
    CurveKeyPair,
    CurveServerCredentials,
    Identity,
)

#: Key pairs are made once: it takes a while.
SERVER = CurveKeyPair.generate()
ALICE = CurveKeyPair.generate()
BOB = CurveKeyPair.generate()
STRANGER = CurveKeyPair.generate()

#: Whom servers let in, unless a test says otherwise.
CLIENTS: Mapping[str, Identity | str] = {
    ALICE.public_key: Identity("alice", groups=frozenset({"staff"})),
    BOB.public_key: "bob",
}


def serving(clients: Any = CLIENTS, **options: Any) -> CurveServerCredentials:
    """A server's credentials; Any: whatever a test tries."""
    return CurveServerCredentials(SERVER, clients, **options)


def knowing(keys: CurveKeyPair = ALICE, *servers: CurveKeyPair) -> CurveClientCredentials:
    """A client's credentials."""
    return CurveClientCredentials(
        keys, server_keys=[server.public_key for server in servers or (SERVER,)]
    )


class Ends(list[object]):
    """How a Deferred has ended, if it has."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        super().__init__()
        deferred.addBoth(self.append)
