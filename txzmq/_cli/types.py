"""Where the types of services and messages come from: a server's reflection, or files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from txzmq._cli.problems import Problem, did_you_mean
from txzmq.rpc._descriptors import (
    DescriptorError,
    MissingImport,
    NoReflection,
    Reflector,
    Symbol,
    lookup,
    message_class,
    options_of,
    pool_of,
    to_method,
)
from txzmq.rpc.client import Caller
from txzmq.rpc.metadata import Metadata

__all__ = [
    "FileTypes",
    "ReflectedTypes",
    "Symbol",
    "Types",
    "compile_protos",
    "find_method",
    "find_service",
    "find_symbol",
    "lookup",
    "message_class",
    "options_of",
    "read_sets",
    "to_method",
]

_NO_REFLECTION: Final = (
    "pass the types by --protoset FILE or --proto FILE, or give the server Reflection() of "
    "txzmq.rpc.reflection"
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


class FileTypes:
    """Types of descriptor sets, which have all that they import."""

    def __init__(self, files: Sequence[FileDescriptorProto]) -> None:
        """:raises Problem: if something is missing, or they contradict each other."""
        try:
            self.pool = pool_of(files)
        except MissingImport as error:
            raise Problem(str(error), "make the set with protoc --include_imports") from None
        except DescriptorError as error:
            raise Problem(str(error)) from None
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
        self._reflector = Reflector(channel, metadata, timeout)

    @property
    def pool(self) -> DescriptorPool:
        """See :class:`Types`."""
        return self._reflector.pool

    async def services(self) -> Sequence[str]:
        """See :class:`Types`."""
        with _as_problems():
            return await self._reflector.services()

    async def find(self, symbol: str) -> Symbol | None:
        """See :class:`Types`."""
        with _as_problems():
            return await self._reflector.find(symbol)


@contextmanager
def _as_problems() -> Generator[None]:
    """Say what is wrong with a server's reflection, and what to do."""
    try:
        yield
    except NoReflection as error:
        raise Problem(error.message, _NO_REFLECTION, code=error.code) from error
    except DescriptorError as error:
        raise Problem(str(error)) from error


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
