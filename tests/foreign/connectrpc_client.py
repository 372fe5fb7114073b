"""A client of Python's connectrpc.

Arguments: where the gateway is, as http://host:port, and the protocol. What it is asked and
answers is as in ``programs/lines.mjs``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from connectrpc.client import ConnectClient, ResponseMetadata
from connectrpc.code import Code as ConnectCode
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from connectrpc.request import Headers
from google.protobuf.message_factory import GetMessageClass
from pyqwest import Client, HTTPTransport, HTTPVersion

from tests.foreign.calls import method_descriptor
from txzmq.rpc import Code

_TYPES: Final = {
    (False, False): (StreamType.UNARY, "unary"),
    (False, True): (StreamType.SERVER_STREAM, "server_stream"),
    (True, False): (StreamType.CLIENT_STREAM, "client_stream"),
    (True, True): (StreamType.BIDI_STREAM, "bidi_stream"),
}
_PROTOCOLS: Final = {"grpc": ProtocolType.GRPC, "grpc-web": ProtocolType.GRPC_WEB}


class Calling:
    """One call."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self._answered = asyncio.Event()
        self.go_on = asyncio.Event()
        self._responses: list[str] = []
        self._count = 0

    async def run(self, client: Any) -> dict[str, Any]:
        """Make the call; its outcome."""
        asked = self._asked
        headers = Headers()
        for key, value in asked["metadata"]:
            headers.add(key, value)
        kind, name = _TYPES[asked["clientStreaming"], asked["serverStreaming"]]
        method = method_info(asked, kind)
        requests = [
            method.input.FromString(base64.b64decode(request)) for request in asked["requests"]
        ]
        outcome: dict[str, Any] = {"code": 0, "message": "", "details": []}
        with ResponseMetadata() as received:
            try:
                made = getattr(client, f"execute_{name}")(
                    request=self._stream(requests) if asked["clientStreaming"] else requests[0],
                    method=method,
                    headers=headers,
                    timeout_ms=round(asked["timeout"] * 1_000) if asked["timeout"] else None,
                    **({"use_get": asked["get"]} if name == "unary" else {}),
                )
                if asked["serverStreaming"]:
                    async with aclosing(made):
                        async for response in made:
                            await self._received(response)
                else:
                    await self._received(await made)
            except asyncio.CancelledError:
                outcome["code"] = int(Code.CANCELLED)
            except ConnectError as error:
                outcome.update(code=number_of(error.code), message=error.message)
                outcome["details"] = [
                    {
                        "type": detail.type_name,
                        "value": base64.b64encode(detail.message_bytes).decode(),
                    }
                    for detail in error.details
                ]
        return {
            **outcome,
            "count": self._count,
            "responses": self._responses,
            "initial": list(received.headers.allitems()),
            "trailing": list(received.trailers.allitems()),
        }

    async def _stream(self, requests: list[Any]) -> AsyncIterator[Any]:
        for request in requests:
            self._answered.clear()
            yield request
            if self._asked["alternate"]:
                await self._answered.wait()
        if self._asked["open"]:
            await asyncio.Event().wait()

    async def _received(self, response: Any) -> None:
        self._count += 1
        if not self._asked["slow"] or self._count == 1:
            self._responses.append(base64.b64encode(response.SerializeToString()).decode())
        if self._asked["slow"] and self._count == 1:
            tell({"first": True})
            await self.go_on.wait()
        self._answered.set()


def method_info(asked: dict[str, Any], kind: StreamType) -> MethodInfo[Any, Any]:
    service, _, name = asked["path"].removeprefix("/").partition("/")
    descriptor = method_descriptor(asked["path"])
    return MethodInfo(
        name=name,
        service_name=service,
        input=GetMessageClass(descriptor.input_type),
        output=GetMessageClass(descriptor.output_type),
        idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS
        if asked["get"]
        else IdempotencyLevel.UNKNOWN,
        stream_type=kind,
    )


def number_of(code: ConnectCode) -> int:
    """A code as gRPC has it."""
    return int(Code[code.name.replace("CANCELED", "CANCELLED")])


def tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def main(url: str, protocol: str) -> None:
    lines = asyncio.StreamReader(limit=2**26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    calling = Calling(json.loads(await lines.readline()))
    version = HTTPVersion.HTTP2 if protocol == "grpc" else HTTPVersion.HTTP1
    transport = HTTPTransport(http_version=version)
    is_json = protocol == "connect-json"
    client = ConnectClient(
        url,
        codec=google_protobuf_json_codec() if is_json else google_protobuf_binary_codec(),
        protocol=_PROTOCOLS.get(protocol, ProtocolType.CONNECT),
        http_client=Client(transport),
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(calling.run(client))
        running.add_done_callback(lambda task: tell(task.result()))
        while line := await lines.readline():
            if line == b"cancel\n":
                running.cancel()
            else:
                calling.go_on.set()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
