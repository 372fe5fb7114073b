"""A server as a service of Twisted: what ``greeter.tac`` and ``web.tac`` run.

python -m txzmq.codegen protos/
PYTHONPATH=. twistd -y examples/application/greeter.tac
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase
from txzmq.rpc import Context, InvalidArgument
from txzmq.rpc.application import ServerService

_log = Logger()


class Greeter(GreeterBase):
    """Greets people, sloths after a second."""

    # Any: Twisted types reactors with zope interfaces.
    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        _log.info("greeting {name}", name=request.name)
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        if request.name == "Sloth":
            await deferLater(self._reactor, 1)
        return HelloReply(message=f"Hello, {request.name}!")


def make_services() -> list[Greeter]:
    """Called when the service starts, so after twistd has forked: the reactor runs soon."""
    from twisted.internet import reactor

    return [Greeter(reactor)]


class GreeterService(ServerService):
    """A greeter at one address."""

    def __init__(self, address: str) -> None:
        super().__init__(make_services, address, grace=5)
        self.setName("greeter")
