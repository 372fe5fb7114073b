"""Protos that are made at run time, and a server that tells of them."""

from __future__ import annotations

from typing import Any, ClassVar

from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS
from txzmq.rpc import (
    Channel,
    Code,
    Context,
    Method,
    Server,
    Service,
)
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.reflection import (
    Reflection,
    ServerReflectionClient,
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from txzmq.testing import MemoryNetwork

#: What a client asks.
Request = ServerReflectionRequest


def file(name: str, *imports: str, package: str = "acme", size: int = 0) -> FileDescriptorProto:
    """A file with a message, and a field of it for each import."""
    proto = FileDescriptorProto(name=name, package=package, dependency=imports, syntax="proto2")
    message = proto.message_type.add(name=f"M{name.removesuffix('.proto').replace('/', '')}")
    message.extension_range.add(start=100, end=200)
    message.field.add(
        name="text" + "x" * size,
        number=1,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    return proto


def pool_of(*files: FileDescriptorProto) -> DescriptorPool:
    pool = DescriptorPool()
    for proto in files:
        pool.AddSerializedFile(proto.SerializeToString())
    return pool


def extension(proto: FileDescriptorProto, extendee: str, number: int) -> None:
    proto.extension.add(
        name=f"e{number}",
        number=number,
        extendee=f".{extendee}",
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )


def diamond() -> list[FileDescriptorProto]:
    """``top`` imports ``left`` and ``right``, which import ``base``; an extension of base's."""
    top = file("top.proto", "left.proto", "right.proto")
    service = top.service.add(name="Orders")
    service.method.add(name="Place", input_type=".acme.Mtop", output_type=".acme.Mtop")
    more = file("more.proto", "base.proto")
    extension(more, "acme.Mbase", 101)
    extension(more, "acme.Mbase", 100)
    return [
        file("base.proto"),
        file("left.proto", "base.proto"),
        file("right.proto", "base.proto"),
        top,
        more,
    ]


def orders(pool: DescriptorPool) -> ServiceHandler:
    """A handler of the service ``acme.Orders`` in a pool."""
    message: type[Message] = GetMessageClass(pool.FindMessageTypeByName("acme.Mtop"))
    method = Method("/acme.Orders/Place", "place", message, message)

    class Orders:
        __txzmq_service__: ClassVar[Service] = Service("acme.Orders", (method,))

        def place(self, request: Message, context: Context) -> Message:
            return request

    return Orders()


class World:
    def __init__(
        self, *services: ServiceHandler, reflection: Reflection | None = None, **server: Any
    ) -> None:
        self.network = MemoryNetwork()
        self.reflection = reflection or Reflection()
        self.server = Server(self.network, [*services, self.reflection], **server)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, wait_for_ready=True)

    def ask(self, *requests: ServerReflectionRequest) -> list[ServerReflectionResponse]:
        """Ask all in one stream."""
        stream = ServerReflectionClient(self.channel).server_reflection_info(requests)

        async def read() -> list[ServerReflectionResponse]:
            return [response async for response in stream]

        return self.network.result(Deferred.fromCoroutine(read()))

    def files(self, request: ServerReflectionRequest) -> list[str]:
        """The names of the files in the answer."""
        (response,) = self.ask(request)
        return names(response)

    def error(self, request: ServerReflectionRequest) -> tuple[Code, str]:
        (response,) = self.ask(request)
        assert response.WhichOneof("message_response") == "error_response", response
        assert response.original_request == request
        error = response.error_response
        return Code(error.error_code), error.error_message

    def close(self) -> None:
        self.channel.close()
        stopped = self.server.stop(0)
        self.network.advance(1)
        assert stopped.called
        assert not self.network.clock.getDelayedCalls()


def names(response: ServerReflectionResponse) -> list[str]:
    assert response.WhichOneof("message_response") == "file_descriptor_response", response
    files = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(data).name for data in files]
