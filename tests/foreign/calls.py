"""What a client is asked to do, and what came of it."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.foreign.service import NAME
from tests.grpc_gateway.interop import POOL
from txzmq.rpc import Code
from txzmq.rpc.v1.header_pb2 import Status

#: What a client speaks.
Protocol = Literal["grpc", "connect", "connect-json", "grpc-web"]
Pairs = tuple[tuple[str, str | bytes], ...]
PACKAGE: Final = "grpc.testing"


def _described() -> FileDescriptorProto:
    """What clients know: a method and a service more than the server."""
    file = FileDescriptorProto()
    POOL.FindFileByName("grpc/testing/test.proto").CopyToProto(file)
    empty = f".{PACKAGE}.Empty"
    file.service[0].method.add(name="NoSuchCall", input_type=empty, output_type=empty)
    unimplemented = file.service.add(name="UnimplementedService")
    unimplemented.method.add(name="UnimplementedCall", input_type=empty, output_type=empty)
    # protoc writes it into its descriptors, and protobuf-es relies on it.
    for described in file.message_type:
        for each in described.field:
            each.json_name = re.sub(r"_(\w)", lambda found: found[1].upper(), each.name)
    return file


_FILE: Final = _described()
_POOL: Final = DescriptorPool()
_POOL.AddSerializedFile(_FILE.SerializeToString())
#: In base64, for clients that have types by descriptors.
SCHEMA: Final = base64.b64encode(FileDescriptorSet(file=[_FILE]).SerializeToString()).decode()
_numbers: Final = itertools.count(1)


# Any: classes that are made while the tests run.
def message(kind: str, **fields: Any) -> Any:
    """A message of the service."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{kind}"))(**fields)


def method_descriptor(path: str) -> Any:
    """The descriptor of a method."""
    return _POOL.FindMethodByName(path[1:].replace("/", "."))


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    :ivar method: of the service of interop tests, or a path.
    :ivar requests: one, where they do not stream.
    :ivar alternate: whether a request is sent when the one before is answered.
    :ivar open: whether the requests do not end.
    :ivar slow: whether the client reads no more behind the first response, until it may go on.
    :ivar get: whether it is a GET, where the protocol has that.
    :ivar name: by which the server tells of it.
    """

    method: str
    requests: tuple[Message, ...] = ()
    metadata: Pairs = ()
    timeout: float | None = None
    alternate: bool = False
    open: bool = False
    slow: bool = False
    get: bool = False
    name: str = field(default_factory=lambda: f"call-{next(_numbers)}")

    @property
    def path(self) -> str:
        """The method's."""
        found = self.method
        return found if "/" in found else f"/{PACKAGE}.TestService/{found}"

    @property
    def all_metadata(self) -> Pairs:
        """With the name."""
        return ((NAME, self.name), *self.metadata)

    @property
    def descriptor(self) -> Any:
        """The method's."""
        return method_descriptor(self.path)

    def response(self, serialised: bytes = b"") -> Any:
        """One of its responses."""
        made = GetMessageClass(self.descriptor.output_type)()
        made.ParseFromString(serialised)
        return made

    def asked(self) -> dict[str, Any]:
        """As the programs are asked, see ``programs/lines.mjs``."""
        return {
            "path": self.path,
            "clientStreaming": self.descriptor.client_streaming,
            "serverStreaming": self.descriptor.server_streaming,
            "requests": [_text(request.SerializeToString()) for request in self.requests],
            "metadata": [
                (key, value if isinstance(value, str) else _text(value))
                for key, value in self.all_metadata
            ],
            "timeout": self.timeout,
            "alternate": self.alternate,
            "open": self.open,
            "slow": self.slow,
            "get": self.get,
            "schema": SCHEMA,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a client has seen of a call; metadata are sorted, without those of HTTP.

    :ivar count: how many responses there were, where a slow reader keeps the first one only.
    """

    code: Code
    message: str = ""
    details: tuple[Any, ...] = ()
    responses: tuple[Any, ...] = ()
    count: int | None = None
    initial: Pairs = ()
    trailing: Pairs = ()

    @property
    def sizes(self) -> list[int]:
        """How large the payloads of the responses are."""
        return [len(response.payload.body) for response in self.responses]

    @classmethod
    def told(cls, call: Call, line: str) -> Outcome:
        """As a program has told it."""
        told = json.loads(line)
        status = Status.FromString(base64.b64decode(told.get("status") or ""))
        details = [
            (detail["type"], base64.b64decode(detail["value"]))
            for detail in told.get("details") or ()
        ]
        return cls(
            code=Code(told["code"]),
            message=told["message"],
            details=(*details_of(status), *details),
            count=told["count"] if call.slow else None,
            responses=tuple(call.response(base64.b64decode(each)) for each in told["responses"]),
            initial=own(told["initial"]),
            trailing=own(told["trailing"]),
        )


def details_of(status: Any) -> Iterable[tuple[str, bytes]]:
    """The details of an error: types and bytes."""
    return ((detail.type_url.rpartition("/")[2], detail.value) for detail in status.details)


def own(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """The metadata of the service, of what a client has seen; keys in lower case."""
    found: list[tuple[str, str | bytes]] = []
    for key, value in pairs:
        if key.lower().startswith("x-grpc-test-"):
            # A program that does not tell values of a key apart gives them all together.
            for part in value.split(", ") if key.endswith("-bin") else [value]:
                is_bytes = key.lower().endswith("-bin")
                # Padding may be left out.
                found.append((key.lower(), base64.b64decode(part + "==") if is_bytes else part))
    return tuple(sorted(found, key=repr))


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
