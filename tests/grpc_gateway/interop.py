"""The service of gRPC's interop tests, as its published protos have it, served by txzmq.

https://github.com/grpc/grpc/blob/master/src/proto/grpc/testing/messages.proto and test.proto, with
the fields that the cases of ``test_interop.py`` need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodOptions,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from twisted.internet import task
from twisted.internet.defer import CancelledError

from txzmq.rpc import Context, Kind, Method, RequestStream, RpcError, Service
from txzmq.rpc.errors import to_code

_PACKAGE: Final = "grpc.testing"
_INT32, _BYTES = FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.TYPE_BYTES
_STRING = FieldDescriptorProto.TYPE_STRING
#: Fields of each message: name, number, and a type or the name of a message, * where repeated.
_MESSAGES: Final[dict[str, list[tuple[str, int, Any]]]] = {
    "Empty": [],
    "Payload": [("body", 2, _BYTES)],
    "EchoStatus": [("code", 1, _INT32), ("message", 2, _STRING)],
    "SimpleRequest": [
        ("response_size", 2, _INT32),
        ("payload", 3, "Payload"),
        ("response_status", 7, "EchoStatus"),
    ],
    "SimpleResponse": [("payload", 1, "Payload")],
    "StreamingInputCallRequest": [("payload", 1, "Payload")],
    "StreamingInputCallResponse": [("aggregated_payload_size", 1, _INT32)],
    "ResponseParameters": [("size", 1, _INT32), ("interval_us", 2, _INT32)],
    "StreamingOutputCallRequest": [
        ("response_parameters", 2, "*ResponseParameters"),
        ("payload", 3, "Payload"),
        ("response_status", 7, "EchoStatus"),
    ],
    "StreamingOutputCallResponse": [("payload", 1, "Payload")],
}


def _described() -> DescriptorPool:
    file = FileDescriptorProto(name="grpc/testing/test.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        _add_fields(file.message_type.add(name=name), fields)
    service = file.service.add(name="TestService")
    for name, kind, request, response in _METHODS:
        service.method.add(
            name=name,
            input_type=f".{_PACKAGE}.{request}",
            output_type=f".{_PACKAGE}.{response}",
            client_streaming=kind.request_streaming,
            server_streaming=kind.response_streaming,
        ).options.idempotency_level = _IDEMPOTENCY.get(name, MethodOptions.IDEMPOTENCY_UNKNOWN)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_fields(message: DescriptorProto, fields: list[tuple[str, int, Any]]) -> None:
    for name, number, kind in fields:
        field = message.field.add(name=name, number=number)
        field.label = FieldDescriptorProto.LABEL_OPTIONAL
        if isinstance(kind, str):
            if kind.startswith("*"):
                field.label = FieldDescriptorProto.LABEL_REPEATED
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{kind.lstrip('*')}"
        else:
            field.type = kind


_METHODS: Final = [
    ("EmptyCall", Kind.UNARY_UNARY, "Empty", "Empty"),
    ("UnaryCall", Kind.UNARY_UNARY, "SimpleRequest", "SimpleResponse"),
    ("CacheableUnaryCall", Kind.UNARY_UNARY, "SimpleRequest", "SimpleResponse"),
    (
        "StreamingOutputCall",
        Kind.UNARY_STREAM,
        "StreamingOutputCallRequest",
        "StreamingOutputCallResponse",
    ),
    (
        "StreamingInputCall",
        Kind.STREAM_UNARY,
        "StreamingInputCallRequest",
        "StreamingInputCallResponse",
    ),
    (
        "FullDuplexCall",
        Kind.STREAM_STREAM,
        "StreamingOutputCallRequest",
        "StreamingOutputCallResponse",
    ),
    ("UnimplementedCall", Kind.UNARY_UNARY, "Empty", "Empty"),
]
#: Connect's clients make a GET of it.
_IDEMPOTENCY: Final = {"CacheableUnaryCall": MethodOptions.NO_SIDE_EFFECTS}
POOL: Final = _described()


# Any: classes that are made while the tests run.
def message(name: str) -> Any:
    """The class of a message."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


METHODS: Final[dict[str, Method[Any, Any]]] = {
    name: Method(f"/{_PACKAGE}.TestService/{name}", name, message(request), message(response), kind)
    for name, kind, request, response in _METHODS
}
ECHO_INITIAL: Final = "x-grpc-test-echo-initial"
ECHO_TRAILING: Final = "x-grpc-test-echo-trailing-bin"
#: Keys that begin so are echoed as well.
_INITIAL, _TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing"


class TestService:
    """What a server of the interop tests does; UnimplementedCall it does not have."""

    __test__ = False  # it is no test of pytest's
    __txzmq_service__: ClassVar[Service] = Service(
        f"{_PACKAGE}.TestService",
        tuple(method for name, method in METHODS.items() if name != "UnimplementedCall"),
    )

    def __init__(self, clock: Any) -> None:
        """:param clock: by which it waits between two responses."""
        self._clock = clock
        #: Calls that were cancelled.
        self.cancelled = 0

    async def EmptyCall(self, request: Any, context: Context) -> Any:
        return request

    async def UnaryCall(self, request: Any, context: Context) -> Any:
        _echo(request, context)
        return message("SimpleResponse")(payload=_payload(request.response_size))

    async def CacheableUnaryCall(self, request: Any, context: Context) -> Any:
        return await self.UnaryCall(request, context)

    async def StreamingInputCall(self, requests: RequestStream[Any], context: Context) -> Any:
        size = 0
        try:
            async for request in requests:
                size += len(request.payload.body)
        except CancelledError:
            self.cancelled += 1
            raise
        return message("StreamingInputCallResponse")(aggregated_payload_size=size)

    async def StreamingOutputCall(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for response in self._responses(request, context):
            yield response

    async def FullDuplexCall(
        self, requests: RequestStream[Any], context: Context
    ) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                async for response in self._responses(request, context):
                    yield response
        except CancelledError:
            self.cancelled += 1
            raise

    async def _responses(self, request: Any, context: Context) -> AsyncIterator[Any]:
        _echo(request, context)
        for wanted in request.response_parameters:
            if wanted.interval_us:
                await task.deferLater(self._clock, wanted.interval_us / 1e6)
            yield message("StreamingOutputCallResponse")(payload=_payload(wanted.size))


def _payload(size: int) -> Any:
    return message("Payload")(body=bytes(size))


def _echo(request: Any, context: Context) -> None:
    """Give back the metadata, and fail, as the request wants it."""
    pairs = context.metadata
    context.send_initial_metadata([pair for pair in pairs if pair[0].startswith(_INITIAL)])
    context.set_trailing_metadata([pair for pair in pairs if pair[0].startswith(_TRAILING)])
    if request.HasField("response_status") and request.response_status.code:
        raise RpcError(to_code(request.response_status.code), request.response_status.message)
