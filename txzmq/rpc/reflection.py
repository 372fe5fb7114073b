"""gRPC's reflection service: which services a server has, and of what messages.

Clients that know no protos, such as grpcurl behind a gateway, learn from it what they can call::

    server = Server(factory, [Orders(), Reflection()])

It serves ``grpc.reflection.v1.ServerReflection`` and, for older clients, ``v1alpha``, as
https://github.com/grpc/grpc/blob/master/doc/server-reflection.md has it.
:class:`ServerReflectionClient` calls it, with the messages that are here; generated code and
message classes of others do as well.

It tells everything that is in the descriptor pools of the server's messages, which are the protos
of all modules that the process has imported. Whoever is not to know them must not be allowed to
call it: see :mod:`txzmq.rpc.authorization`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, cast

from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from txzmq import _check
from txzmq.rpc._core.hosting import Hosted
from txzmq.rpc._services.grpc.reflection.v1.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    ExtensionRequest,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from txzmq.rpc._services.grpc.reflection.v1.reflection_txzmq import (
    ServerReflectionBase,
    ServerReflectionClient,
)

# The older version: its descriptors are in the pool from here on.
from txzmq.rpc._services.grpc.reflection.v1alpha import reflection_pb2 as _v1alpha
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import Kind, Method, Service
from txzmq.rpc.streams import RequestStream

__all__ = [
    "SERVICE_NAMES",
    "ErrorResponse",
    "ExtensionNumberResponse",
    "ExtensionRequest",
    "FileDescriptorResponse",
    "ListServiceResponse",
    "Reflection",
    "ServerReflectionClient",
    "ServerReflectionRequest",
    "ServerReflectionResponse",
    "ServiceResponse",
]

_ALPHA: Final = _v1alpha.DESCRIPTOR.services_by_name["ServerReflection"].full_name
#: The names of the reflection service itself, the newer one first.
SERVICE_NAMES: Final = ("grpc.reflection.v1.ServerReflection", _ALPHA)
#: Bytes that a file has in a response besides its own, at most.
_AROUND: Final = 16
#: Bytes of a response besides its files and the request, at most.
_ENVELOPE: Final = 64


class _Alpha:
    """The older version, with the messages of the newer one, which are the same but for names.

    So that one handler serves both.
    """

    __txzmq_service__: ClassVar[Service] = Service(
        name=_ALPHA,
        methods=(
            Method(
                path=f"/{_ALPHA}/ServerReflectionInfo",
                name="server_reflection_info",
                request_type=ServerReflectionRequest,
                response_type=ServerReflectionResponse,
                kind=Kind.STREAM_STREAM,
            ),
        ),
    )


class _Unanswerable(Exception):
    """Why a question has no answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.response = ErrorResponse(error_code=code.value, error_message=message)


class Reflection(Hosted, ServerReflectionBase, _Alpha):
    """Serves the descriptors of a server's services; an instance is for one server.

    It finds them in the descriptor pools of the services' messages: protobuf's default pool, and
    any other that has one of them. What several pools define is told as the server serves it.
    """

    def __init__(self, *, pools: Sequence[DescriptorPool] = ()) -> None:
        """
        :param pools: further pools to look into, after those of the server's services: with
            messages that travel in a ``google.protobuf.Any``, for instance.
        :raises TypeError: if they are no sequence of pools.
        """
        _check_pools(pools)
        self._more = tuple(pools)
        self._pools: Sequence[DescriptorPool] = ()
        # The files that the server's messages come from, with their pools.
        self._served: frozenset[tuple[DescriptorPool, str]] = frozenset()
        self._names: Sequence[str] = ()
        self._largest = 0

    def __txzmq_served__(self, services: Sequence[Service], limits: ServerLimits) -> None:
        if self._pools:
            raise ValueError(
                "services: this Reflection is another server's; make one for each server"
            )
        self._names = sorted(service.name for service in services)
        self._largest = limits.message_size
        types = [
            message
            for service in services
            for method in service.methods
            for message in (method.request_type, method.response_type)
        ]
        # What a gateway passes on as bytes has no descriptor.
        described = [getattr(message, "DESCRIPTOR", None) for message in types]
        files = [descriptor.file for descriptor in described if descriptor is not None]
        # The older version of our own messages is in no method.
        files.append(_v1alpha.DESCRIPTOR)
        self._pools = [*dict.fromkeys([*(file.pool for file in files), *self._more])]
        self._served = frozenset((each.pool, each.name) for file in files for each in _walk(file))

    def __txzmq_stopping__(self) -> None:
        """Nothing: those who ask come to an end by themselves."""

    async def server_reflection_info(
        self, requests: RequestStream[ServerReflectionRequest], context: Context
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Answer each question; a file that the stream has had is not sent along again."""
        sent: dict[str, bytes] = {}
        async for request in requests:
            response = ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, response, sent)
            except _Unanswerable as error:
                response.error_response.CopyFrom(error.response)
            yield response

    def _answer(
        self,
        request: ServerReflectionRequest,
        response: ServerReflectionResponse,
        sent: dict[str, bytes],
    ) -> None:
        """Fill in the answer to one question.

        :param sent: the files that the stream has had, by their names.
        :raises _Unanswerable: if there is none.
        """
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            services = [ServiceResponse(name=name) for name in self._names]
            response.list_services_response.CopyFrom(ListServiceResponse(service=services))
        elif asked == "all_extension_numbers_of_type":
            name = request.all_extension_numbers_of_type
            numbers = self._extension_numbers(name)
            response.all_extension_numbers_response.CopyFrom(
                ExtensionNumberResponse(base_type_name=name, extension_number=numbers)
            )
        else:
            file = self._file(request, asked)
            room = self._largest - 2 * request.ByteSize() - _ENVELOPE
            files = _with_imports(file, sent, room)
            response.file_descriptor_response.CopyFrom(
                FileDescriptorResponse(file_descriptor_proto=files)
            )

    def _file(self, request: ServerReflectionRequest, asked: str | None) -> FileDescriptor:
        if asked == "file_by_filename":
            name = request.file_by_filename
            return self._first(lambda pool: pool.FindFileByName(name), "no file has this name")
        if asked == "file_containing_symbol":
            symbol = request.file_containing_symbol
            return self._first(lambda pool: _containing(pool, symbol), "no file has this symbol")
        if asked == "file_containing_extension":
            # Any: protobuf's stubs do not know in which file a field is.
            extension: Any = self._extension(request.file_containing_extension)
            found: FileDescriptor = extension.file
            return found
        raise _Unanswerable(Code.INVALID_ARGUMENT, "the request asks for nothing that is known")

    def _first(
        self, find: Callable[[DescriptorPool], FileDescriptor], missing: str
    ) -> FileDescriptor:
        """What the server serves by; else what is found in the first pool that has it."""
        first: FileDescriptor | None = None
        for pool in self._pools:
            try:
                found = find(pool)
            except KeyError:
                continue
            if (pool, found.name) in self._served:
                return found
            first = first or found
        if first is None:
            raise _Unanswerable(Code.NOT_FOUND, missing)
        return first

    def _extension(self, asked: ExtensionRequest) -> FieldDescriptor:
        for extension in self._extensions(asked.containing_type):
            if extension.number == asked.extension_number:
                return extension
        raise _Unanswerable(Code.NOT_FOUND, "no extension of the message has this number")

    def _extension_numbers(self, name: str) -> list[int]:
        return sorted({extension.number for extension in self._extensions(name)})

    def _extensions(self, name: str) -> list[FieldDescriptor]:
        """All extensions of a message, in every pool."""
        is_known = False
        found: list[FieldDescriptor] = []
        for pool in self._pools:
            try:
                message = pool.FindMessageTypeByName(name)
            except KeyError:
                continue
            is_known = True
            found += pool.FindAllExtensions(message)
        if not is_known:
            raise _Unanswerable(Code.NOT_FOUND, "no message has this name")
        return found


def _check_pools(pools: object) -> None:
    if isinstance(pools, str | bytes) or not isinstance(pools, Sequence):
        raise _check.wrong_type("pools", pools, "a sequence of descriptor pools")
    # The cast is for pyright, which knows a sequence of what as little as the caller may.
    for index, pool in enumerate(cast("Sequence[object]", pools)):
        # Not by its class: in C, what DescriptorPool() makes is of another one.
        if isinstance(pool, type) or not hasattr(pool, "FindFileContainingSymbol"):
            raise _check.wrong_type(f"pools[{index}]", pool, "a DescriptorPool")


def _containing(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    """The file that defines a symbol.

    :raises KeyError: if there is none in the pool.
    """
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        # protobuf's implementation in Python does not know methods and oneofs by their names.
        holder, _, name = symbol.rpartition(".")
        with suppress(KeyError):
            return pool.FindServiceByName(holder).methods_by_name[name].containing_service.file
        return pool.FindMessageTypeByName(holder).oneofs_by_name[name].containing_type.file


def _with_imports(file: FileDescriptor, sent: dict[str, bytes], room: int) -> list[bytes]:
    """A file, and what it imports and the stream has not had, the nearest first.

    What would make the response too large is left out; the client can ask for it by its name.

    :param room: bytes that they may have.
    """
    files: list[bytes] = []
    for each in _walk(file):
        data = each.serialized_pb
        if files and sent.get(each.name) == data:
            continue
        room -= len(data) + _AROUND
        if room < 0:
            break
        files.append(data)
        sent[each.name] = data
    if not files:
        raise _Unanswerable(
            Code.RESOURCE_EXHAUSTED,
            f"the file has {len(file.serialized_pb)} bytes, more than a response of the server may "
            "have (ServerLimits.message_size)",
        )
    return files


def _walk(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """A file and all that it imports, directly or not, each once."""
    known = {file.name}
    waiting = deque([file])
    while waiting:
        each = waiting.popleft()
        yield each
        for imported in each.dependencies:
            if imported.name not in known:
                known.add(imported.name)
                waiting.append(imported)
