"""A client and a server that speak in frames, to see what goes over the wire in memory."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.service import ADDRESS, text
from tests.rpc.streaming import COUNT, PUBLISHER, StreamWorld
from txzmq._ids import new_epoch, request_id
from txzmq.rpc import Method
from txzmq.rpc._wire.headers import (
    OpenStream,
    RequestHead,
    ResponseHead,
    decode_response,
    encode_request,
)
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.transport import ClientTransport, Network


class RawClient:
    """A connection that sends what it is told to and keeps what comes (a ``ClientHandler``)."""

    def __init__(self, network: Network, address: str) -> None:
        self._epoch = new_epoch()
        self._latest = 0
        self.messages: list[list[bytes]] = []
        self.events: list[str] = []
        self.transport: ClientTransport = network.connect(address, self, {})

    def request(self, head: RequestHead, body: bytes = b"") -> int:
        """Send a request; its number."""
        self._latest += 1
        message = [self.id_of(self._latest), b"", encode_request(head), body]
        self.transport.send_message(message)
        return self._latest

    def id_of(self, number: int) -> bytes:
        """The id of a request."""
        return request_id(self._epoch, number)

    def replies(self) -> dict[int, tuple[ResponseHead, bytes]]:
        """Header and body of each reply that was no batch, by the request's number."""
        return {
            int.from_bytes(id_[8:], "big"): (decode_response(header), body)
            for id_, _, header, body in (m for m in self.messages if len(m) == 4)
        }

    def received(self, message: list[bytes]) -> None:
        self.messages.append(message)

    def connected(self) -> None:
        self.events.append("connected")

    def disconnected(self) -> None:
        self.events.append("disconnected")

    def accepted(self, what: str) -> None: ...

    def unreachable(self, reason: str) -> None:
        self.events.append("unreachable")

    def failed(self, reason: str) -> None:
        self.events.append("failed")

    def refused(self, reason: str, *, is_last: bool) -> None:
        self.events.append("refused")

    def flush(self) -> None:
        pass

    def closed(self) -> None:
        self.events.append("closed")


class Deaf:
    """Subscribes to streams, and says nothing of what it gets (a ``SubscriberHandler``)."""

    def __init__(self, world: StreamWorld) -> None:
        self.raw = RawClient(world.network, ADDRESS)
        self.transport = world.network.subscribe(PUBLISHER, self, {})
        self.run = world.network.run
        #: What it got.
        self.frames: list[bytes] = []

    def open(
        self, method: Method[StringValue, StringValue] = COUNT, *, subscribes: bool = True
    ) -> ResponseHead:
        head = RequestHead(method.path, None, (), open_stream=OpenStream())
        number = self.raw.request(head, text("0").SerializeToString())
        self.run()
        reply, _ = self.raw.replies()[number]
        if reply.stream is not None and subscribes:
            self.transport.subscribe(reply.stream.topic + SEPARATOR)
            self.run()
        return reply

    def close(self) -> None:
        self.raw.transport.close()
        self.transport.close()

    def published(self, frame: bytes) -> None:
        self.frames.append(frame)

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def failed(self, reason: str) -> None: ...

    def flush(self) -> None: ...

    def closed(self) -> None: ...
