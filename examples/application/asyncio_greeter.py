"""A server whose handlers use asyncio: what ``asyncio.tac`` runs.

python -m txzmq.codegen protos/
PYTHONPATH=. twistd --reactor=asyncio -ny examples/application/asyncio.tac
"""

from __future__ import annotations

import asyncio

from twisted.logger import Logger

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase
from txzmq.rpc import Context
from txzmq.rpc.application import ServerService

_log = Logger()


class AsyncioGreeter(GreeterBase):
    """Greets people with the help of a library that is written for asyncio."""

    async def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        _log.info("greeting {name}", name=request.name)
        return HelloReply(message=await _compose(request.name))


async def _compose(name: str) -> str:
    """Stands for the library; a cancelled call cancels it, too."""
    async with asyncio.timeout(5):
        await asyncio.sleep(1 if name == "Sloth" else 0)
        return f"Hello, {name}!"


class AsyncioGreeterService(ServerService):
    """Such a greeter at one address."""

    def __init__(self, address: str) -> None:
        super().__init__([AsyncioGreeter()], address, grace=5, handlers="asyncio")
