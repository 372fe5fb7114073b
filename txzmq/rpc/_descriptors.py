"""Methods and messages that no generated code knows, by descriptors of files or reflection."""

from __future__ import annotations

import graphlib
import importlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from txzmq.rpc.client import Caller
from txzmq.rpc.errors import Code, RpcError, Unimplemented, to_code
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import IdempotencyLevel, Kind, Method, Sharing, StreamOptions
from txzmq.rpc.reflection import (
    SERVICE_NAMES,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

__all__ = [
    "DescriptorError",
    "MissingImport",
    "NoReflection",
    "Reflector",
    "Symbol",
    "lookup",
    "message_class",
    "options_of",
    "pool_of",
    "to_method",
]

_STREAM: Final = "txzmq.rpc.v1.stream"
_SHARINGS: Final = frozenset(int(each) for each in Sharing)

#: A descriptor of any kind. Any: protobuf's have no common class.
Symbol: TypeAlias = Any

_REFLECTION: Final = tuple(
    Method(
        f"/{name}/ServerReflectionInfo",
        "server_reflection_info",
        ServerReflectionRequest,
        ServerReflectionResponse,
        kind=Kind.STREAM_STREAM,
    )
    for name in SERVICE_NAMES
)


class DescriptorError(ValueError):
    """Descriptors are malformed, contradict each other, or lack something."""


class MissingImport(DescriptorError):
    """A file is imported that is not there.

    :ivar name: of the file.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is imported, and not in the descriptor set")
        self.name = name


class NoReflection(Unimplemented):
    """A server has no reflection service."""


def lookup(pool: DescriptorPool, symbol: str) -> Symbol | None:
    """The descriptor of a full name in a pool; None if it has none."""
    finders = (
        pool.FindServiceByName,
        pool.FindMessageTypeByName,
        pool.FindEnumTypeByName,
        pool.FindMethodByName,
        pool.FindFieldByName,
        pool.FindExtensionByName,
        pool.FindOneofByName,
    )
    for find in finders:
        try:
            return find(symbol)
        except KeyError:
            continue
    return None


class _Files:
    """Files that are put into a pool when all that they import is there."""

    def __init__(self) -> None:
        self.pool = DescriptorPool()
        self._waiting: dict[str, FileDescriptorProto] = {}
        self._added: set[str] = set()

    def take(self, files: Iterable[FileDescriptorProto]) -> None:
        for file in files:
            if file.name not in self._added:
                self._waiting.setdefault(file.name, file)

    def missing(self) -> list[str]:
        """What is imported and not there."""
        imported = {name for file in self._waiting.values() for name in file.dependency}
        return sorted(imported - self._waiting.keys() - self._added)

    def add(self) -> None:
        """Put all into the pool.

        :raises DescriptorError: if they contradict each other.
        """
        graph = {
            name: [each for each in file.dependency if each in self._waiting]
            for name, file in self._waiting.items()
        }
        try:
            for name in graphlib.TopologicalSorter(graph).static_order():
                file = self._waiting.pop(name)
                self.pool.AddSerializedFile(file.SerializeToString())
                self._added.add(name)
                # Now, not when it is used: protobuf's Python checks it only then.
                self.pool.FindFileByName(name)
        except graphlib.CycleError as error:
            raise DescriptorError(
                f"the files import each other: {', '.join(error.args[1])}"
            ) from None
        except (TypeError, KeyError, ValueError) as error:
            raise DescriptorError(f"protobuf refuses the descriptors: {error}") from None


def _load_standard(name: str) -> None:
    """Have the default pool know a file, if it is one that protoc brings along."""
    parts = name.removesuffix(".proto").split("/")
    if parts[:2] == ["google", "protobuf"] and all(map(str.isidentifier, parts)):
        with suppress(ImportError):
            importlib.import_module(".".join(parts) + "_pb2")


def pool_of(files: Iterable[FileDescriptorProto]) -> DescriptorPool:
    """A pool of files that have all that they import, but for those that protoc brings along.

    :raises MissingImport: if something is missing.
    :raises DescriptorError: if they contradict each other.
    """
    held = _Files()
    held.take(files)
    standard = descriptor_pool.Default()
    while missing := held.missing():
        for name in missing:
            found = FileDescriptorProto()
            _load_standard(name)
            try:
                standard.FindFileByName(name).CopyToProto(found)
            except KeyError:
                found.Clear()
            if not name.startswith("google/protobuf/") or not found.name:
                raise MissingImport(name)
            held.take([found])
    held.add()
    return held.pool


class Reflector:
    """Types that a server tells of itself."""

    def __init__(
        self,
        channel: Caller,
        metadata: Metadata,
        timeout: float | None,
        *,
        wait_for_ready: bool | None = None,
    ) -> None:
        """
        :param metadata: of each question.
        :param timeout: seconds for each answer.
        :param wait_for_ready: as :class:`~txzmq.rpc.Caller` has it.
        """
        self._channel = channel
        self._metadata = metadata
        self._timeout = timeout
        self._wait_for_ready = wait_for_ready
        self._files = _Files()
        self._methods = [*_REFLECTION]

    @property
    def pool(self) -> DescriptorPool:
        """What has been found so far, and what that needs."""
        return self._files.pool

    async def services(self) -> Sequence[str]:
        """The full names of all services, in order."""
        answer = await self._ask(ServerReflectionRequest(list_services="*"))
        return sorted(service.name for service in answer.list_services_response.service)

    async def find(self, symbol: str) -> Symbol | None:
        """The descriptor of a full name, without a leading dot; None if there is none.

        :raises NoReflection: if the server has no reflection service; another RpcError if it does
            not answer.
        :raises DescriptorError: if what it answers is malformed.
        """
        found = lookup(self.pool, symbol)
        if found is not None:
            return found
        request = ServerReflectionRequest(file_containing_symbol=symbol)
        try:
            await self._fetch(request)
            asked: set[str] = set()
            while missing := self._files.missing():
                if not asked.isdisjoint(missing):
                    raise DescriptorError(
                        f"the server does not tell {missing[0]}, which it imports"
                    )
                asked.update(missing)
                for name in missing:
                    await self._fetch(ServerReflectionRequest(file_by_filename=name))
        except _NotFound:
            return None
        self._files.add()
        return lookup(self.pool, symbol)

    async def _fetch(self, request: ServerReflectionRequest) -> None:
        answer = await self._ask(request)
        try:
            self._files.take(
                FileDescriptorProto.FromString(data)
                for data in answer.file_descriptor_response.file_descriptor_proto
            )
        except DecodeError:
            raise DescriptorError(
                "the server's reflection answers with what is no descriptor"
            ) from None

    async def _ask(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """Ask by the newest version that the server has."""
        while True:
            try:
                answer = await self._ask_by(self._methods[0], request)
            except Unimplemented as error:
                if len(self._methods) > 1:
                    del self._methods[0]
                    continue
                raise NoReflection(
                    "the server does not tell its types: it has no reflection service"
                ) from error
            if not answer.HasField("error_response"):
                return answer
            error_response = answer.error_response
            code = to_code(error_response.error_code)
            if code is Code.NOT_FOUND:
                raise _NotFound
            raise RpcError(code or Code.UNKNOWN, f"reflection: {error_response.error_message}")

    async def _ask_by(
        self,
        method: Method[ServerReflectionRequest, ServerReflectionResponse],
        request: ServerReflectionRequest,
    ) -> ServerReflectionResponse:
        stream = self._channel.stream_stream(
            method,
            [request],
            timeout=self._timeout,
            metadata=self._metadata,
            wait_for_ready=self._wait_for_ready,
        )
        async with stream:
            async for answer in stream:
                return answer
        raise DescriptorError("the server's reflection has ended without an answer")


class _NotFound(Exception):
    """The server does not know what it was asked for."""


# Any: the messages are known at run time only.
def to_method(method: MethodDescriptor, pool: DescriptorPool) -> Method[Any, Any]:
    """What a channel calls, with its options as far as its client needs them."""
    options: Any = options_of(method.GetOptions(), pool)
    stream = None
    for field, value in options.ListFields():
        if field.is_extension and field.full_name == _STREAM:
            stream = StreamOptions(
                sharing=Sharing(value.sharing) if value.sharing in _SHARINGS else Sharing.PRIVATE,
                replay=value.replay,
                resumable=value.resumable,
            )
    level: int = options.idempotency_level
    return Method(
        f"/{method.containing_service.full_name}/{method.name}",
        method.name,
        message_class(method.input_type),
        message_class(method.output_type),
        kind=Kind((method.client_streaming, method.server_streaming)),
        idempotency_level=IdempotencyLevel(level),
        stream=stream,
    )


def options_of(options: Message, pool: DescriptorPool) -> Message:
    """Options, read again with the extensions that a pool knows."""
    try:
        kind = pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
    except KeyError:
        return options
    return message_class(kind).FromString(options.SerializeToString())


# Any: the class is made of the descriptor.
def message_class(descriptor: Any) -> type[Message]:
    """The class of messages of a descriptor."""
    made: type[Message] = GetMessageClass(descriptor)
    return made
