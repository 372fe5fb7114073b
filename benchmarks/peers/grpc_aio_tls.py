"""gRPC's asyncio API with mutual TLS."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.grpc_aio import GrpcAio
from benchmarks.stacks import Peer

PEER: Final[Peer] = GrpcAio(secured=True)
