"""A log, followed by a client of its own pace: ``python -m examples.streams.log_tail``.

The server reads no further than the client does, but for a window. The connection may break in
between; no line is lost.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from generated.demo.streams.v1.streams_pb2 import TailRequest, TailResponse
from generated.demo.streams.v1.streams_txzmq import LogsBase, LogsClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, Server


class Logs(LogsBase):
    """Follows one file."""

    def __init__(self, reactor: Any, path: Path) -> None:
        self.reactor = reactor
        self.path = path

    async def tail(self, request: TailRequest, context: Context) -> AsyncIterator[TailResponse]:
        with self.path.open(encoding="utf-8") as log:
            number = 0
            while True:
                line = log.readline()
                if not line.endswith("\n"):
                    await deferLater(self.reactor, 0.05, lambda: None)
                    continue
                if number >= request.from_line:
                    yield TailResponse(number=number, text=line.rstrip("\n"))
                number += 1


async def follow(client: LogsClient) -> None:
    """Print lines until one says that there are no more."""
    async with client.tail(TailRequest(from_line=1)) as lines:
        async for line in lines:
            print(f"{line.number}: {line.text}")
            if line.text == "the end":
                break


async def main(reactor: Any) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "service.log")
        path.write_text("before\nstarted\n", encoding="utf-8")
        server = Server(factory, [Logs(reactor, path)])
        channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
        following = Deferred.fromCoroutine(follow(LogsClient(channel)))
        for text in ("one request", "another request", "the end"):
            await deferLater(reactor, 0.1, lambda: None)
            with path.open("a", encoding="utf-8") as log:
                log.write(f"{text}\n")
        await following
        channel.close()
        await server.stop()


if __name__ == "__main__":
    react(main)
