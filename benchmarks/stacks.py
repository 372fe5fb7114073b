"""The stacks that are compared, and what each must be able to do.

A stack is named here and imported only in its own processes, so that one that is not installed or
does not work says so without hindering the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Protocol

from benchmarks import generate
from benchmarks.workload import Load, Messages, Orders

__all__ = ["BASELINE", "STACKS", "Peer", "Stack"]

#: Makes the message modules of all stacks.
_PROTOC: Final = "grpcio-tools"


class Peer(Protocol):
    """What a module in :mod:`benchmarks.peers` has to offer, as ``PEER``.

    Each method has a process to itself, and that process's main thread.
    """

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        """Answer calls with ``messages.answer`` until the process is ended.

        :param announce: to be called once, when the server listens on a port of 127.0.0.1 that
            the kernel chose, with what a client needs to connect.
        """
        ...

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        """Connect to *address* and follow *orders* until there are no more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One of those compared."""

    #: As in the table.
    name: str
    #: The module of its :class:`Peer`.
    module: str
    #: What has to be installed, and is worth knowing the version of.
    distributions: tuple[str, ...]
    #: Makes the module that *messages* names, below the folder it is given.
    generate: Callable[[Path], None] = generate.with_protoc
    #: The module of the message classes.
    messages: str = "bench_pb2"
    #: Bytes that a message may have; None for whatever the loads have.
    max_bytes: int | None = None
    #: Whether it is measured under small messages in flight only, beside the baseline.
    variant: bool = False

    def bears(self, load: Load) -> bool:
        """Whether it can be measured under a load."""
        if self.variant and (load.at_once or load.message_bytes > 1_000):
            return False
        return self.max_bytes is None or load.message_bytes <= self.max_bytes

    def missing(self) -> list[str]:
        """Which distributions are not installed, of its own and of the generator's."""
        return [name for name in (*self.distributions, _PROTOC) if _version(name) is None]

    def versions(self) -> dict[str, str]:
        """The version of each distribution that is installed."""
        found = {name: _version(name) for name in self.distributions}
        return {name: number for name, number in found.items() if number is not None}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


#: The name of the stack that the others are compared with.
BASELINE: Final = "txzmq"

#: All stacks by their names, in the table's order.
STACKS: Final[dict[str, Stack]] = {
    stack.name: stack
    for stack in (
        Stack(
            name=BASELINE,
            module="benchmarks.peers.txzmq_",
            distributions=("txzmq", "twisted", "pyzmq", "protobuf"),
            generate=generate.with_txzmq,
            messages="generated.bench_pb2",
        ),
        Stack(
            name="txzmq, dressed",
            module="benchmarks.peers.txzmq_dressed",
            distributions=("txzmq", "twisted", "pyzmq", "protobuf"),
            generate=generate.with_txzmq,
            messages="generated.bench_pb2",
            variant=True,
        ),
        # What Tasks are compared with: the same program in Twisted's coroutines; and, on their
        # reactor, the callbacks of the baseline.
        Stack(
            name="txzmq, coroutines",
            module="benchmarks.peers.txzmq_coroutines",
            distributions=("txzmq", "twisted", "pyzmq", "protobuf"),
            generate=generate.with_txzmq,
            messages="generated.bench_pb2",
            variant=True,
        ),
        Stack(
            name="txzmq, asyncio reactor",
            module="benchmarks.peers.txzmq_asyncio_reactor",
            distributions=("txzmq", "twisted", "pyzmq", "protobuf"),
            generate=generate.with_txzmq,
            messages="generated.bench_pb2",
            variant=True,
        ),
        Stack(
            name="txzmq, asyncio",
            module="benchmarks.peers.txzmq_asyncio",
            distributions=("txzmq", "twisted", "pyzmq", "protobuf"),
            generate=generate.with_txzmq,
            messages="generated.bench_pb2",
            variant=True,
        ),
        Stack(
            name="grpc.aio",
            module="benchmarks.peers.grpc_aio",
            distributions=("grpcio", "protobuf"),
        ),
        Stack(
            name="grpclib",
            module="benchmarks.peers.grpclib_",
            distributions=("grpclib", "protobuf"),
        ),
        Stack(
            name="AMP",
            module="benchmarks.peers.amp",
            distributions=("twisted", "protobuf"),
            max_bytes=60_000,  # a value of AMP's has 65,535 at most
        ),
        Stack(
            name="bare pyzmq",
            module="benchmarks.peers.bare_pyzmq",
            distributions=("pyzmq", "protobuf"),
        ),
    )
}
