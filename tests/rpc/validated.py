"""A service whose requests have rules: the example's protos, in a pool of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from tests.programs import ROOT
from tests.rpc.service import ADDRESS
from txzmq.rpc import (
    Channel,
    ClientInterceptor,
    Context,
    Kind,
    Method,
    RequestStream,
    RpcError,
    Server,
    ServerInterceptor,
    Service,
)
from txzmq.rpc.method import Sharing, StreamOptions
from txzmq.rpc.validation import ClientValidationInterceptor, ServerValidationInterceptor
from txzmq.testing import MemoryNetwork

EXAMPLE = ROOT / "examples" / "validation"
FOLDERS = (EXAMPLE / "protos", EXAMPLE / "third_party", ROOT / "protos")
PROTO = "accounts/v1/accounts.proto"


def compiled(*protos: str, folders: Sequence[Path] = FOLDERS) -> descriptor_pb2.FileDescriptorSet:
    """What protoc makes of protos, with all that they import."""
    with TemporaryDirectory() as folder:
        output = Path(folder, "set")
        includes = [f"-I{include}" for include in folders]
        options = ["--include_imports", f"--descriptor_set_out={output}"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *options, *protos]
        subprocess.run(command, check=True)
        return descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())


# Any: the messages are made at run time.
def messages(
    *protos: str, folders: Sequence[Path] = FOLDERS
) -> Callable[[str], Callable[..., Any]]:
    """Finds messages of protos by their names, in a pool that no other test shares."""
    pool = descriptor_pool.DescriptorPool()
    for file in compiled(*protos, folders=folders).file:
        pool.Add(file)

    def find(name: str) -> Callable[..., Any]:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

    return find


#: Fields of every shape that a path leads through, and rules that do not work.
PATHS = """
syntax = "proto2";
package paths.v1;
import "buf/validate/validate.proto";
message Leaf {
  optional int32 value = 1 [(buf.validate.field).int32.gt = 0];
}
extend buf.validate.Int32Rules {
  optional bool even = 80048952 [
    (buf.validate.predefined).cel = { id: "int32.even" expression: "this % 2 == 0 ? '' : 'is odd'" }
  ];
}
message Root {
  map<bool, Leaf> flags = 1;
  map<int32, Leaf> signed = 2;
  map<uint64, Leaf> unsigned = 3;
  map<string, Leaf> named = 4;
  repeated Leaf listed = 5;
  optional Leaf single = 6;
  oneof choice { option (buf.validate.oneof).required = true; string a = 7; string b = 8; }
  optional int32 quotient = 9 [
    (buf.validate.field).cel = { id: "quotient" expression: "10 / this > 1 ? '' : 'is small'" }
  ];
  optional int32 pairs = 11 [(buf.validate.field).int32.(even) = true];
  optional string echoed = 10 [
    (buf.validate.field).cel = { id: "echoed" expression: "'refused: %s'.format([this])" }
  ];
}
message Broken {
  optional int32 value = 1 [
    (buf.validate.field).cel = { id: "broken" expression: "this +" }
  ];
}
"""


@cache
def _paths() -> Callable[[str], Callable[..., Any]]:
    with TemporaryDirectory() as folder:
        Path(folder, "paths.proto").write_text(PATHS, "utf-8")
        return messages("paths.proto", folders=[Path(folder), *FOLDERS])


def on_paths(name: str, fields: str) -> Message:
    """A message of ``PATHS``, with its fields as text."""
    message: Message = _paths()(f"paths.v1.{name}")()
    return text_format.Parse(fields, message)


@cache
def accounts(name: str) -> Any:
    """A message of the example."""
    return _accounts()(f"accounts.v1.{name}")


@cache
def _accounts() -> Callable[[str], Callable[..., Any]]:
    return messages(PROTO)


def account(**fields: Any) -> Any:
    """A request that keeps all rules, but for the *fields*."""
    return accounts("CreateRequest")(**{"email": "ada@example.org", "age": 36, **fields})


def _method(name: str, request: str, kind: Kind, **options: Any) -> Method[Any, Any]:
    path = f"/accounts.v1.Accounts/{name}"
    return Method(path, name, accounts(request), accounts("CreateResponse"), kind=kind, **options)


#: A field that breaks a rule.
WRONG = {"email": "nobody"}


class Accounts:
    """Notes what reaches its handlers; says how many, in as many responses as the kind has."""

    CREATE: ClassVar = _method("create", "CreateRequest", Kind.UNARY_UNARY)
    MANY: ClassVar = _method("create_many", "CreateRequest", Kind.STREAM_UNARY)
    EACH: ClassVar = _method("create_each", "CreateRequest", Kind.STREAM_STREAM)
    FIND: ClassVar = _method("find", "FindRequest", Kind.UNARY_STREAM)
    WATCH: ClassVar = _method(
        "watch",
        "FindRequest",
        Kind.UNARY_STREAM,
        stream=StreamOptions(sharing=Sharing.SHARED, replay=10),
    )
    __txzmq_service__: ClassVar = Service("accounts.v1.Accounts", (CREATE, MANY, EACH, FIND, WATCH))

    def __init__(self) -> None:
        self.seen: list[Message] = []
        #: Errors that a handler got for an item of a stream.
        self.refused: list[Exception] = []

    def _response(self) -> Any:
        return accounts("CreateResponse")(id=str(len(self.seen)))

    def create(self, request: Message, context: Context) -> Any:
        self.seen.append(request)
        return self._response()

    async def create_many(self, requests: RequestStream[Message], context: Context) -> Any:
        async for request in requests:
            self.seen.append(request)
        return self._response()

    async def create_each(
        self, requests: RequestStream[Message], context: Context
    ) -> AsyncIterator[Any]:
        async for request in requests:
            self.seen.append(request)
            yield self._response()

    async def find(self, request: Message, context: Context) -> AsyncIterator[Any]:
        self.seen.append(request)
        yield self._response()

    watch = find


class ValidatedWorld:
    """A server and a channel in memory, each with interceptors."""

    def __init__(
        self,
        service: Any = None,
        *,
        server: Sequence[ServerInterceptor] = (),
        client: Sequence[ClientInterceptor] = (),
    ) -> None:
        self.network = MemoryNetwork()
        self.service: Any = Accounts() if service is None else service
        self.server = Server(self.network, [self.service], interceptors=server)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, interceptors=client)

    def call(self, method: Method[Any, Any], request: Any) -> list[str]:
        """Make a call of any kind to its end; the ids that were answered.

        :raises Exception: the error of the call.
        """
        call: Any = {
            Kind.UNARY_UNARY: self.channel.unary_unary,
            Kind.STREAM_UNARY: self.channel.stream_unary,
            Kind.UNARY_STREAM: self.channel.unary_stream,
            Kind.STREAM_STREAM: self.channel.stream_stream,
        }[method.kind]
        made: Any = call(method, request)
        ids: list[str] = []
        if method.kind.response_streaming:
            self.network.result(made.each(_noting(ids)))
        else:
            ids.append(self.network.result(made).id)
        return ids

    def emails(self) -> list[str]:
        """Of the accounts that reached a handler."""
        return [request.email for request in self.service.seen]


def _noting(ids: list[str]) -> Callable[[Any], None]:
    def note(response: Any) -> None:
        ids.append(response.id)

    return note


def on_server(**options: Any) -> ValidatedWorld:
    return ValidatedWorld(server=[ServerValidationInterceptor(**options)])


def on_client(**options: Any) -> ValidatedWorld:
    return ValidatedWorld(client=[ClientValidationInterceptor(**options)])


def request_for(method: Method[Any, Any], *, wrong: bool) -> Any:
    if method.request_type is accounts("FindRequest"):
        return accounts("FindRequest")(prefix="far too long" if wrong else "a")
    return account(**(WRONG if wrong else {}))


def found(error: RpcError) -> list[tuple[str, str]]:
    """Field and reason of each violation in an error's details."""
    (request,) = error.details_of(BadRequest)
    return [(violation.field, violation.reason) for violation in request.field_violations]
