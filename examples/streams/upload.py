"""A file, sent piece by piece: ``python -m examples.streams.upload [FILE]``.

The client reads no further than the server's handler does, but for a window, so that neither side
ever has much of a large file in memory.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.task import react

from generated.demo.streams.v1.streams_pb2 import UploadRequest, UploadResponse
from generated.demo.streams.v1.streams_txzmq import FilesBase, FilesClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, RequestStream, Server


class Files(FilesBase):
    """Looks at files, and forgets them."""

    async def upload(
        self, requests: RequestStream[UploadRequest], context: Context
    ) -> UploadResponse:
        size, digest = 0, hashlib.sha256()
        async for request in requests:
            size += len(request.piece)
            digest.update(request.piece)
        return UploadResponse(size=size, sha256=digest.hexdigest())


def pieces(path: Path) -> Iterator[UploadRequest]:
    """What the file has, 64 KiB at a time."""
    with path.open("rb") as file:
        while piece := file.read(65_536):
            yield UploadRequest(piece=piece)


async def main(reactor: Any) -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else __file__)
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [Files()])
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
    response = await FilesClient(channel).upload(pieces(path))
    print(f"{path.name}: {response.size} bytes, {response.sha256}")
    channel.close()
    await server.stop()


if __name__ == "__main__":
    react(main)
