"""A network in memory between two versions: all messages have fields that the receiver lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from txzmq.rpc._wire.streams import SEPARATOR, topic_of
from txzmq.rpc.v1 import batch_pb2, control_pb2, header_pb2, streams_pb2
from txzmq.rpc.v1.batch_pb2 import Batch
from txzmq.rpc.v1.header_pb2 import RequestHeader, ResponseHeader
from txzmq.rpc.v1.streams_pb2 import Bundle, Publication
from txzmq.testing import MemoryNetwork

M = TypeVar("M", bound=Message)

#: Of a message's full name: serialised fields that no version has yet.
Fields = Callable[[str], bytes]

_FILES = (header_pb2, batch_pb2, control_pb2, streams_pb2)
#: All messages of the protocol, by their full names.
MESSAGES = {
    descriptor.full_name: GetMessageClass(descriptor)
    for file in _FILES
    for descriptor in file.DESCRIPTOR.message_types_by_name.values()
}
#: Requests and responses of control calls, by method.
_BODIES = {
    f"/{service.full_name}/{method.name}": (
        MESSAGES[method.input_type.full_name],
        MESSAGES[method.output_type.full_name],
    )
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class Growth:
    """Adds fields to the messages of a connection.

    :ivar seen: the full names of the messages that it has added fields to.
    :ivar bundles: the topics of bundles, which replies have named.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.seen: set[str] = set()
        # The method of each control call.
        self._methods: dict[bytes, str] = {}
        self.bundles: set[bytes] = set()

    def grow(self, message: M) -> M:
        """Add fields to a message and to those in it."""
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for each in value if field.is_repeated else [value]:
                    if each.DESCRIPTOR.full_name in MESSAGES:
                        self.grow(each)
        if isinstance(message, Publication):
            for name in ("start", "end"):
                if message.HasField(name):
                    setattr(message, name, self._reply_header(getattr(message, name)))
        name = message.DESCRIPTOR.full_name
        self.seen.add(name)
        message.MergeFromString(self._fields(name))
        return message

    def _reply_header(self, header: bytes) -> bytes:
        message = ResponseHeader.FromString(header)
        self.bundles.add(message.stream.bundle)
        return self.grow(message).SerializeToString()

    def requests(self, message: list[bytes]) -> list[bytes]:
        """What a client has sent, or a server got; with routing ids."""
        return self._messages(message, self._request)

    def replies(self, message: list[bytes]) -> list[bytes]:
        """What a server has sent."""
        return self._messages(message, self._reply)

    def _messages(
        self,
        message: list[bytes],
        one: Callable[[bytes, bytes, bytes], tuple[bytes, bytes]],
    ) -> list[bytes]:
        empty = message.index(b"")
        front, id_, parts = message[: empty + 1], message[empty - 1], message[empty + 1 :]
        if len(parts) == 2:
            return [*front, *one(id_, parts[0], parts[1])]
        batch = Batch.FromString(parts[0])
        grown = Batch(counters=batch.counters)
        for index, (counter, header_index) in enumerate(
            zip(batch.counters, batch.header_indexes, strict=True)
        ):
            request_id = id_ + counter.to_bytes(8, "big")
            header, body = one(request_id, batch.headers[header_index], batch.bodies[index])
            grown.header_indexes.append(index)
            grown.headers.append(header)
            grown.bodies.append(body)
        return [*front, self.grow(grown).SerializeToString()]

    def _request(self, id_: bytes, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        message = RequestHeader.FromString(header)
        if message.method in _BODIES:
            self._methods[id_] = message.method
            body = self.grow(_BODIES[message.method][0].FromString(body)).SerializeToString()
        return self.grow(message).SerializeToString(), body

    def _reply(self, id_: bytes, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        method = self._methods.pop(id_, None)
        if method is not None and not ResponseHeader.FromString(header).status.code:
            body = self.grow(_BODIES[method][1].FromString(body)).SerializeToString()
        return self._reply_header(header), body

    def publication(self, frame: bytes) -> bytes:
        """What a publisher has published."""
        topic = topic_of(frame)
        data = frame[len(topic) + len(SEPARATOR) :]
        grown: Message
        if topic in self.bundles:
            bundle = Bundle.FromString(data)
            frames = [self.publication(each) for each in bundle.publications]
            grown = self.grow(Bundle(publications=frames))
        else:
            grown = self.grow(Publication.FromString(data))
        return topic + SEPARATOR + grown.SerializeToString()


class _Receiver:
    """Takes the place of a socket's handler: what it receives is made another."""

    def __init__(self, handler: Any, receive: Callable[[Any], Any]) -> None:
        self._handler = handler
        self._receive = receive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def received(self, message: list[bytes]) -> None:
        self._handler.received(self._receive(message))

    def published(self, frame: bytes) -> None:
        self._handler.published(self._receive(frame))


class GrownNetwork(MemoryNetwork):
    """Both ends get messages of a later version."""

    def __init__(self, growth: Growth) -> None:
        super().__init__()
        self._growth = growth

    def connect(self, address: str, handler: Any, options: Mapping[str, int]) -> Any:
        receiver: Any = _Receiver(handler, self._growth.replies)
        return super().connect(address, receiver, options)

    def listen(self, address: str, handler: Any, options: Mapping[str, int]) -> Any:
        receiver: Any = _Receiver(handler, self._growth.requests)
        return super().listen(address, receiver, options)

    def subscribe(self, address: str, handler: Any, options: Mapping[str, int]) -> Any:
        receiver: Any = _Receiver(handler, self._growth.publication)
        return super().subscribe(address, receiver, options)


class OlderServers(MemoryNetwork):
    """Servers lack the methods of the service ``Control``: they get others' names."""

    def listen(self, address: str, handler: Any, options: Mapping[str, int]) -> Any:
        receiver: Any = _Receiver(handler, self._rename)
        return super().listen(address, receiver, options)

    def _rename(self, message: list[bytes]) -> list[bytes]:
        # As long as before, since a length stands in front of it.
        return [
            frame.replace(b"txzmq.rpc.v1.Control/", b"txzmq.rpc.v1.Cxxxxxx/") for frame in message
        ]
