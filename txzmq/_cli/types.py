"""Where the types of services and messages come from: a server's reflection, or files."""

from __future__ import annotations

import graphlib
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from txzmq._cli.problems import Problem, did_you_mean
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
    "FileTypes",
    "ReflectedTypes",
    "Symbol",
    "Types",
    "compile_protos",
    "find_method",
    "find_service",
    "find_standard",
    "find_symbol",
    "lookup",
    "message_class",
    "options_of",
    "read_sets",
    "to_method",
]

_STREAM: Final = "txzmq.rpc.v1.stream"
_SHARINGS: Final = frozenset(int(each) for each in Sharing)

#: A descriptor of any kind. Any: protobuf's have no common class.
Symbol: TypeAlias = Any

_NO_REFLECTION: Final = (
    "pass the types by --protoset FILE or --proto FILE, or give the server Reflection() of "
    "txzmq.rpc.reflection"
)
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


class Types(Protocol):
    """Finds descriptors by their names."""

    @property
    def pool(self) -> DescriptorPool:
        """What has been found so far, and what that needs."""
        ...

    async def services(self) -> Sequence[str]:
        """The full names of all services, in order."""
        ...

    async def find(self, symbol: str) -> Symbol | None:
        """The descriptor of a full name, without a leading dot; None if there is none."""
        ...


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


#: Modules whose messages everybody may use in an Any; the last one is of googleapis-common-protos.
_STANDARD: Final = (
    *(f"google.protobuf.{name}_pb2" for name in ("duration", "empty", "field_mask", "struct")),
    *(f"google.protobuf.{name}_pb2" for name in ("timestamp", "wrappers")),
    "google.rpc.error_details_pb2",
)


def find_standard(pool: DescriptorPool, symbol: str) -> Symbol | None:
    """A message that is the same everywhere, such as ``google.rpc.ErrorInfo``, put into *pool*.

    None if there is none, or this machine does not have it.
    """
    if not symbol.startswith(("google.protobuf.", "google.rpc.")):
        return None
    for module in _STANDARD:
        try:
            importlib.import_module(module)
        except ImportError:  # the extra status is not installed
            continue
    try:
        file = descriptor_pool.Default().FindFileContainingSymbol(symbol)
        _copy(file, pool)
    # TypeError: the pool has another version of a file.
    except (KeyError, TypeError):
        return None
    return lookup(pool, symbol)


def _copy(file: FileDescriptor, pool: DescriptorPool) -> None:
    try:
        pool.FindFileByName(file.name)
    except KeyError:
        for imported in file.dependencies:
            _copy(imported, pool)
        pool.AddSerializedFile(file.serialized_pb)


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

        :raises Problem: if they contradict each other.
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
            raise Problem(f"the files import each other: {', '.join(error.args[1])}") from None
        except (TypeError, KeyError, ValueError) as error:
            raise Problem(f"protobuf refuses the descriptors: {error}") from None


def _load_standard(name: str) -> None:
    """Have the default pool know a file, if it is one that protoc brings along."""
    parts = name.removesuffix(".proto").split("/")
    if parts[:2] == ["google", "protobuf"] and all(map(str.isidentifier, parts)):
        with suppress(ImportError):
            importlib.import_module(".".join(parts) + "_pb2")


class FileTypes:
    """Types of descriptor sets, which have all that they import."""

    def __init__(self, files: Sequence[FileDescriptorProto]) -> None:
        """:raises Problem: if something is missing, or they contradict each other."""
        held = _Files()
        held.take(files)
        standard = descriptor_pool.Default()
        while missing := held.missing():
            for name in missing:
                # Those that protoc itself brings along.
                found = FileDescriptorProto()
                _load_standard(name)
                try:
                    standard.FindFileByName(name).CopyToProto(found)
                except KeyError:
                    found.Clear()
                if not name.startswith("google/protobuf/") or not found.name:
                    raise Problem(
                        f"{name} is imported, and not in the descriptor set",
                        "make the set with protoc --include_imports",
                    )
                held.take([found])
        held.add()
        self.pool = held.pool
        self._services = sorted(
            ".".join(filter(None, [file.package, service.name]))
            for file in files
            for service in file.service
        )

    async def services(self) -> Sequence[str]:
        """See :class:`Types`."""
        return self._services

    async def find(self, symbol: str) -> Symbol | None:
        """See :class:`Types`."""
        return lookup(self.pool, symbol)


class ReflectedTypes:
    """Types that a server tells of itself."""

    def __init__(self, channel: Caller, metadata: Metadata, timeout: float | None) -> None:
        """
        :param metadata: of each question.
        :param timeout: seconds for each answer.
        """
        self._channel = channel
        self._metadata = metadata
        self._timeout = timeout
        self._files = _Files()
        self._methods = [*_REFLECTION]

    @property
    def pool(self) -> DescriptorPool:
        """See :class:`Types`."""
        return self._files.pool

    async def services(self) -> Sequence[str]:
        """See :class:`Types`."""
        answer = await self._ask(ServerReflectionRequest(list_services="*"))
        return sorted(service.name for service in answer.list_services_response.service)

    async def find(self, symbol: str) -> Symbol | None:
        """See :class:`Types`."""
        found = lookup(self.pool, symbol)
        if found is not None:
            return found
        request = ServerReflectionRequest(file_containing_symbol=symbol)
        try:
            await self._fetch(request)
            asked: set[str] = set()
            while missing := self._files.missing():
                if not asked.isdisjoint(missing):
                    raise Problem(f"the server does not tell {missing[0]}, which it imports")
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
            raise Problem("the server's reflection answers with what is no descriptor") from None

    async def _ask(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """Ask by the newest version that the server has."""
        while True:
            try:
                answer = await self._ask_by(self._methods[0], request)
            except Unimplemented as error:
                if len(self._methods) > 1:
                    del self._methods[0]
                    continue
                raise Problem(
                    "the server does not tell its types: it has no reflection service",
                    _NO_REFLECTION,
                    code=error.code,
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
            method, [request], timeout=self._timeout, metadata=self._metadata
        )
        async with stream:
            async for answer in stream:
                return answer
        raise Problem("the server's reflection has ended without an answer")


class _NotFound(Exception):
    """The server does not know what it was asked for."""


# -- by names that users give -----------------------------------------------------------------


async def find_symbol(types: Types, symbol: str) -> Symbol:
    """What a user means: a full name, with a slash or a dot before a method.

    :raises Problem: if there is nothing of this name.
    """
    name = symbol.strip("/.").replace("/", ".")
    found = await types.find(name)
    if found is None:
        raise _unknown(f"there is no symbol {symbol}", name, await types.services())
    return found


async def find_service(types: Types, name: str) -> ServiceDescriptor:
    """A service, by its full name.

    :raises Problem: if there is none.
    """
    found = await types.find(name)
    if not isinstance(found, ServiceDescriptor):
        raise _unknown(f"there is no service {name}", name, await types.services())
    return found


def _unknown(said: str, name: str, services: Sequence[str]) -> Problem:
    if name in services:
        # It was made without a proto, or passes messages on as bytes.
        return Problem(
            f"the server has {name}, but does not tell its types",
            "pass them by --protoset FILE or --proto FILE",
        )
    return Problem(said, did_you_mean(name, services, among="the services are"))


async def find_method(types: Types, given: str) -> MethodDescriptor:
    """The method that a user means, ``package.Service/Method`` or ``package.Service.Method``.

    :raises Problem: if there is none.
    """
    service_name, slash, name = given.strip("/").rpartition("/")
    if not slash:
        service_name, _, name = given.rpartition(".")
    if not service_name or not name:
        raise Problem(f"{given} is no method", "name it as package.Service/Method")
    service = await find_service(types, service_name)
    found = service.methods_by_name.get(name)
    if found is None:
        near = did_you_mean(name, service.methods_by_name.keys(), among="its methods are")
        raise Problem(f"{service_name} has no method {name}", near)
    method: MethodDescriptor = found
    return method


# -- files ------------------------------------------------------------------------------------


def read_sets(paths: Iterable[str]) -> list[FileDescriptorProto]:
    """The files of descriptor sets; of a file that several have, the first.

    :raises Problem: if one cannot be read, or is none.
    """
    found: dict[str, FileDescriptorProto] = {}
    for path in paths:
        try:
            files = FileDescriptorSet.FromString(Path(path).read_bytes())
        except OSError as error:
            raise Problem(f"{path}: {error.strerror}") from None
        except DecodeError:
            files = FileDescriptorSet()
        if not files.file:
            raise Problem(
                f"{path} is no descriptor set",
                "make one with protoc --include_imports --descriptor_set_out=FILE; --proto takes "
                "sources",
            )
        for file in files.file:
            found.setdefault(file.name, file)
    return [*found.values()]


def compile_protos(protos: Sequence[str], folders: Sequence[str]) -> list[FileDescriptorProto]:
    """Protos and all that they import, compiled by protoc.

    :param folders: where imports are looked for; the current one if there is none.
    :raises Problem: if protoc is not there, or complains.
    """
    from txzmq_codegen.sources import own_include

    path = [*(folders or ["."]), str(own_include())]
    with tempfile.TemporaryDirectory(prefix="txzmq-") as name:
        output = Path(name, "set")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", "--include_imports"),
                f"--descriptor_set_out={output}",
                *(f"--proto_path={folder}" for folder in path),
                *protos,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if "No module named" in done.stderr and "grpc_tools" in done.stderr:
            raise Problem(
                "--proto needs protoc, which is not installed",
                "pip install 'txzmq[codegen]', or pass a descriptor set by --protoset",
            )
        if done.returncode:
            *_, first = [line for line in done.stderr.splitlines() if line.strip()][:1] or [""]
            raise Problem(
                f"protoc refuses the protos: {first}",
                "" if folders else "--import-path FOLDER says where imports are",
            )
        return read_sets([str(output)])


# -- for calls --------------------------------------------------------------------------------


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
