"""A server, relays before it and a client, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.raw_calls import METHODS, called
from tests.rpc.streaming import Network
from txzmq.rpc import (
    CallRecord,
    Channel,
    Context,
    Kind,
    Method,
    Observer,
    Server,
    Service,
)
from txzmq.rpc._net.addresses import beside
from txzmq.rpc.method_sources import DescribedMethods
from txzmq.rpc.relay import Relay
from txzmq.testing import assert_all_given_back

#: A method of each kind, as generated code has them.
TYPED: dict[Kind, Method[StringValue, StringValue]] = {
    kind: Method(
        f"/test.Typed/{kind.name.title()}", kind.name.lower(), StringValue, StringValue, kind
    )
    for kind in Kind
}


def described() -> DescriptorPool:
    """What is known of the methods of both services; of one, that it may be sent twice."""
    file = FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    file.message_type.add(name="Any")
    for service in ("Typed", "Raw"):
        added = file.service.add(name=service)
        methods: list[Method[Any, Any]] = [*TYPED.values(), *METHODS]
        for method in methods:
            if not method.path.startswith(f"/test.{service}/"):
                continue
            one = added.method.add(
                name=method.path.rpartition("/")[2],
                input_type=".test.Any",
                output_type=".test.Any",
                client_streaming=method.kind.request_streaming,
                server_streaming=method.kind.response_streaming,
            )
            if method.kind is Kind.UNARY_UNARY:
                one.options.idempotency_level = MethodOptions.IDEMPOTENT
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


#: Where servers are, with their number.
BEHIND = "inproc://behind{}"

Do = Callable[[Context], Any]


class Behind:
    """Methods of all kinds, raw and not: what they get, they give back; a test says what else."""

    __txzmq_service__: ClassVar[Service] = Service("test.Behind", (*TYPED.values(), *METHODS))

    def __init__(self) -> None:
        #: Called first, with the context; what it returns is awaited, what it raises the answer.
        self.first: Do = lambda context: None
        #: The same, behind the items.
        self.last: Do = lambda context: None
        #: What a stream of responses has, in place of the request, twice.
        self.items: Callable[[], Iterator[Any]] | None = None
        self.seen: list[Any] = []
        self.contexts: list[Context] = []
        #: How the handlers ended that somebody cancelled.
        self.cancelled: list[str] = []

    async def _begin(self, context: Context) -> None:
        self.contexts.append(context)
        context.cancelled.addCallback(self.cancelled.append)
        result = self.first(context)
        if isinstance(result, Deferred):
            await result

    async def unary_unary(self, request: Any, context: Context) -> Any:
        await self._begin(context)
        self.seen.append(request)
        return request

    async def stream_unary(self, requests: Any, context: Context) -> Any:
        await self._begin(context)
        async for request in requests:
            self.seen.append(request)
        return self.seen[-1]

    async def unary_stream(self, request: Any, context: Context) -> Any:
        await self._begin(context)
        self.seen.append(request)

        async def twice() -> AsyncIterator[Any]:
            for item in (request, request) if self.items is None else self.items():
                yield item
            await self._end(context)

        return twice()

    async def stream_stream(self, requests: Any, context: Context) -> Any:
        await self._begin(context)

        async def back() -> AsyncIterator[Any]:
            async for request in requests:
                self.seen.append(request)
                yield request
            await self._end(context)

        return back()

    async def _end(self, context: Context) -> None:
        result = self.last(context)
        if isinstance(result, Deferred):
            await result

    UnaryUnary, StreamUnary = unary_unary, stream_unary
    UnaryStream = Shared = Resumed = unary_stream
    StreamStream = stream_stream


class Ends(Observer):
    """Notes how calls ended on the relay."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []

    def call_ended(self, source: Any, record: CallRecord) -> None:
        self.records.append(record)


class Relayed:
    """A client, a relay and the server behind it, in memory."""

    def __init__(self, *, relays: int = 1, servers: int = 1, **channel: Any) -> None:
        """
        :param relays: how many stand one behind the other.
        :param servers: how many serve, each at its own address.
        :param channel: further arguments of the channel to the servers.
        """
        self.network = Network()
        self.behind = Behind()
        self.servers: list[Server] = []
        for number in range(servers):
            self.servers.append(self._serve(number))
        addresses = [BEHIND.format(number) for number in range(servers)]
        self.to_server = Channel(self.network, addresses, **channel)
        self.found: list[Any] = []
        self.ends = Ends()
        self._relays: list[tuple[Server, Channel]] = []
        self.channel = self.to_server
        for number in range(relays):
            relay = Server(self.network, [], fallback=self._find(self.channel), observer=self.ends)
            self.channel = Channel(self.network, relay.listen(f"inproc://relay{number}"))
            self._relays.append((relay, self.channel))

    def _serve(self, number: int) -> Server:
        server = Server(self.network, [self.behind])
        server.listen(BEHIND.format(number))
        return server

    def serve_anew(self, number: int) -> None:
        """Another server is where one has stopped."""
        self.servers[number] = self._serve(number)

    @property
    def all_servers(self) -> list[Server]:
        """The relays' and those behind."""
        return [relay for relay, _ in self._relays] + self.servers

    def _find(self, channel: Channel) -> Callable[[str], Any]:
        relay = Relay(channel, DescribedMethods(described()))

        def find(path: str) -> Any:
            self.found.append(relay.find(path))
            return self.found[-1]

        return find

    def call(self, method: Method[Any, Any], *items: Any, **options: Any) -> Deferred[list[Any]]:
        return called(self.channel, method, items, **options)

    def result(self, method: Method[Any, Any], *items: Any, **options: Any) -> list[Any]:
        call = self.call(method, *items, **options)
        self.network.advance(1)
        return self.network.result(call)

    def close(self) -> None:
        """End everything, and check that nothing is left behind."""
        for relay, channel in reversed(self._relays):
            channel.close()
            self.stop(relay)
        self.to_server.close()
        for server in self.servers:
            self.stop(server)
        assert not self.network.clock.getDelayedCalls()
        ends = [end for pair in self._relays for end in pair]
        assert_all_given_back(*ends, self.to_server, *self.servers)

    def die(self, number: int) -> None:
        """The process of one of the servers dies."""
        address = BEHIND.format(number)
        self.network.die(address)
        self.network.die(beside(address))

    def stop(self, server: Server) -> None:
        stopped = server.stop(0)
        self.network.advance(3)
        assert stopped.called
