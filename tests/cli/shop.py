"""A service whose protos only descriptors know, and a command line that calls it in memory."""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.programs import ROOT
from txzmq._cli.program import invoke
from txzmq._cli.types import FileTypes, read_sets, to_method
from txzmq.rpc import Context, NotFound, RequestStream, Server, Service
from txzmq.rpc.reflection import Reflection
from txzmq.testing import Faults, MemoryNetwork

T = TypeVar("T")

ADDRESS = "inproc://shop"
PROTO = ROOT / "tests/cli/shop.proto"
#: What protoc makes of it, with its imports: not everywhere is there a protoc.
PROTOSET = PROTO.with_suffix(".protoset")

POOL = FileTypes(read_sets([str(PROTOSET)])).pool
ORDER: type[Any] = GetMessageClass(POOL.FindMessageTypeByName("acme.shop.v1.Order"))
RECEIPT: type[Any] = GetMessageClass(POOL.FindMessageTypeByName("acme.shop.v1.Receipt"))
METHODS = tuple(
    to_method(method, POOL) for method in POOL.FindServiceByName("acme.shop.v1.Shop").methods
)
#: Methods under the names that a handler's class has.
PLACE, WATCH, UPLOAD, CHAT = METHODS


class Shop:
    """Answers with the item of the order; ``contexts`` are those of the calls."""

    __txzmq_service__: ClassVar[Service] = Service("acme.shop.v1.Shop", METHODS)

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.requests: list[Any] = []
        self.extra: Message | None = None
        self.ended: list[str] = []

    def Place(self, request: Any, context: Context) -> Any:
        self.contexts.append(context)
        self.requests.append(request)
        if request.item == "nothing":
            raise NotFound(
                "no such\x1b[31m item",
                details=[ORDER(item="detail")],
                metadata=[("reason-bin", b"\x00\xff")],
            )
        if request.item == "never":
            return Deferred[Any]()
        context.send_initial_metadata({"first": "1"})
        context.set_trailing_metadata({"last": "2"})
        return self._receipt(request.item)

    def _receipt(self, text: str) -> Any:
        receipt = RECEIPT(text=text)
        if self.extra is not None:
            receipt.extra.Pack(self.extra)
        return receipt

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        self.contexts.append(context)
        try:
            for number in range(request.count) if request.count else itertools.count():
                yield self._receipt(f"{request.item} {number}")
            if request.item == "nothing":
                raise NotFound("no more")
        except GeneratorExit:
            self.ended.append("watch")
            raise

    async def Upload(self, requests: RequestStream[Any], context: Context) -> Any:
        self.contexts.append(context)
        items = [request.item async for request in requests]
        return self._receipt(", ".join(items))

    async def Chat(self, requests: RequestStream[Any], context: Context) -> AsyncIterator[Any]:
        self.contexts.append(context)
        async for request in requests:
            yield self._receipt(request.item.upper())


class MemoryRuntime:
    """Runs a command in virtual time."""

    def __init__(self, network: MemoryNetwork, pieces: Iterable[bytes] = ()) -> None:
        self.network = network
        self.clock = network.clock
        self._pieces = pieces

    def run(self, main: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        results: list[T | Failure] = []
        Deferred.fromCoroutine(main()).addBoth(results.append)
        for _ in range(600):
            if results:
                break
            self.network.advance(0.1)
        (result,) = results
        self.network.run()
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def cpu_seconds(self) -> float:
        return 0.0

    def when_signalled(self, number: int, call: Callable[[], object]) -> None:
        raise AssertionError("only a terminal's programs mind signals")

    async def standard_input(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


class Done(NamedTuple):
    """What a command has printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        assert (self.status, self.err) == (0, "")
        return self.out.splitlines()


class World:
    """A server in memory, and commands that ask it."""

    def __init__(
        self,
        capsys: pytest.CaptureFixture[str],
        services: Sequence[Any] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._capsys = capsys
        self.network = MemoryNetwork(faults=faults)
        self.shop = Shop()
        given: list[Any] = [self.shop, Reflection()] if services is None else [self.shop, *services]
        self.server = Server(self.network, given)
        self.server.listen(ADDRESS)

    def run(self, *arguments: str, stdin: Iterable[bytes] = ()) -> Done:
        """Do a command, with the address in the place of ``AT``."""
        given = [ADDRESS if argument == "AT" else argument for argument in arguments]
        status = invoke(given, lambda: MemoryRuntime(self.network, stdin))
        printed = self._capsys.readouterr()
        return Done(status, printed.out, printed.err)

    def call(self, method: str, *arguments: str, stdin: Iterable[bytes] = ()) -> Done:
        return self.run("call", "AT", f"acme.shop.v1.Shop/{method}", *arguments, stdin=stdin)

    def close(self) -> None:
        stopped = self.server.stop(0)
        self.network.advance(30)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the tester's own environment decides."""
    for name in [*os.environ]:
        if name.startswith("TXZMQ_") and not name.startswith("TXZMQ_TEST"):
            monkeypatch.delenv(name)
    for name, value in (("NO_COLOR", None), ("COLUMNS", None), ("TERM", "xterm-256color")):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
