"""What is played while instructions are counted: rounds of calls, or of a stream's items.

Client and server are in one process, in memory and in virtual time, so that a run of so many rounds
does the same each time, instruction for instruction, but for what the interpreter does by address.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.internet.defer import Deferred

from benchmarks.peers import txzmq_, txzmq_dressed, txzmq_observed, txzmq_permitted
from benchmarks.peers.txzmq_ import Txzmq, bench_client, bench_service
from benchmarks.workload import SERVICE, TIMEOUT, Messages
from txzmq.rpc import Channel, Context, Kind, Method, RequestStream, ServerLimits, Service
from txzmq.testing import MemoryNetwork

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

__all__ = ["SCENARIOS", "Round", "Scenario", "Stage"]

_PAYLOAD: Final = b"\xa5" * 94

#: Plays the round of this number; returns how many replies or items arrived in it.
Round = Callable[[int], int]


class Stage(NamedTuple):
    """A server that serves *service*, and a channel that is connected to it."""

    network: MemoryNetwork
    channel: Channel
    messages: Messages
    # Any: that of calls has a base that is generated when the benchmarks run.
    service: Any


class Scenario(ABC):
    """One kind of round, played many times."""

    def __init__(self, count: int, *, peer: Txzmq = txzmq_.PEER) -> None:
        """
        :param count: calls or items of a round; all arrive before the next round begins.
        :param peer: makes the server and the channel.
        """
        self.count = count
        self.peer = peer

    @abstractmethod
    def make_service(self, messages: Messages) -> Any:
        """What the server serves."""

    @abstractmethod
    def begin(self, stage: Stage) -> Round:
        """Make ready for the first round."""

    def play(self, rounds: int, messages: Messages) -> int:
        """Play so many rounds; returns how many replies or items arrived."""
        network = MemoryNetwork()
        service = self.make_service(messages)
        # The watchdog's timer runs four times a second, whatever the calls; but the clock of
        # virtual time sorts all timers for each call, so that it would count as a part of each.
        server = self.peer.make_server(network, service, ServerLimits(blocked_after=None))
        channel = self.peer.make_channel(network, server.listen("inproc://bench"))
        play_round = self.begin(Stage(network, channel, messages, service))
        network.run()  # connected
        arrived = sum(play_round(number) for number in range(rounds))
        channel.close()
        server.stop(0)
        network.advance(1)
        return arrived


class Calls(Scenario):
    """Unary calls, all of a round made in one turn of the reactor."""

    def make_service(self, messages: Messages) -> Any:
        """As :class:`Scenario`."""
        return bench_service(messages)

    def begin(self, stage: Stage) -> Round:
        """As :class:`Scenario`."""
        network, messages = stage.network, stage.messages
        call = self.peer.caller(bench_client(stage.channel), network.clock)
        replies = 0

        def count(reply: Any) -> None:
            nonlocal replies
            replies += 1

        def play_round(number: int) -> int:
            before = replies
            calls: list[Deferred[Any]] = []
            for _ in range(self.count):
                request = messages.request(sequence=number, payload=_PAYLOAD)
                calls.append(call(request).addCallback(count))
            network.run()
            return replies - before

        return play_round


class Downloads(Scenario):
    """Streams of responses, one a round, read to its end with ``async for``."""

    def make_service(self, messages: Messages) -> _Streams:
        """As :class:`Scenario`."""
        return _Streams(messages, self.count)

    def begin(self, stage: Stage) -> Round:
        """As :class:`Scenario`."""
        network, channel, messages, service = stage
        method = service.download_method

        async def read(number: int) -> int:
            items = 0
            request = messages.request(sequence=number, payload=_PAYLOAD)
            async for _ in channel.unary_stream(method, request, timeout=TIMEOUT):
                items += 1
            return items

        return lambda number: network.result(Deferred.fromCoroutine(read(number)))


class Uploads(Scenario):
    """Streams of requests, one a round, which a generator gives; the handler counts them."""

    def make_service(self, messages: Messages) -> _Streams:
        """As :class:`Scenario`."""
        return _Streams(messages, self.count)

    def begin(self, stage: Stage) -> Round:
        """As :class:`Scenario`."""
        network, channel, messages, service = stage
        method = service.upload_method

        def requests() -> Iterator[EchoRequest]:
            for sequence in range(self.count):
                yield messages.request(sequence=sequence, payload=_PAYLOAD)

        def play_round(number: int) -> int:
            reply = channel.stream_unary(method, requests(), timeout=TIMEOUT)
            items: int = network.result(reply).sequence
            return items

        return play_round


class _Streams:
    """Serves a stream each way."""

    def __init__(self, messages: Messages, count: int) -> None:
        request, reply = messages
        self._reply = reply
        self._count = count
        self.download_method: Final = Method(
            f"/{SERVICE}/Download", "download", request, reply, kind=Kind.UNARY_STREAM
        )
        self.upload_method: Final = Method(
            f"/{SERVICE}/Upload", "upload", request, reply, kind=Kind.STREAM_UNARY
        )
        self.__txzmq_service__: Final = Service(SERVICE, (self.download_method, self.upload_method))

    async def download(self, request: EchoRequest, context: Context) -> AsyncIterator[EchoReply]:
        """Say as many items as were agreed on."""
        for sequence in range(self._count):
            yield self._reply(sequence=sequence, payload=request.payload)

    async def upload(self, requests: RequestStream[EchoRequest], context: Context) -> EchoReply:
        """Say how many items came."""
        items = 0
        async for _ in requests:
            items += 1
        return self._reply(sequence=items, payload=b"")


#: Opening and ending a stream is spread over its items: a thousandth of it is in each.
SCENARIOS: Final[dict[str, Scenario]] = {
    "single calls": Calls(1),
    "batches of 100": Calls(100),
    "dressed, batches of 100": Calls(100, peer=txzmq_dressed.PEER),
    "by a table, batches of 100": Calls(100, peer=txzmq_permitted.PEER),
    "counted by the client, batches of 100": Calls(100, peer=txzmq_observed.ON_CLIENT),
    "counted by the server, batches of 100": Calls(100, peer=txzmq_observed.ON_SERVER),
    "items of response streams": Downloads(1_000),
    "items of request streams": Uploads(1_000),
}
