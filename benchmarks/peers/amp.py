"""Twisted AMP: the protobuf message is the one argument of a command. It offers no timeout."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.amp import AMP, Argument, Command, String

from benchmarks.drivers import follow_in_twisted
from benchmarks.stacks import Peer
from benchmarks.workload import Messages, Orders

if TYPE_CHECKING:
    from benchmarks.workload import EchoReply, EchoRequest

# Any: Twisted's endpoints and AMP's arguments have no types that the checkers could follow.
endpoints: Any = import_module("twisted.internet.endpoints")
string: Any = String


class _Echo(Command):
    """The method."""

    commandName = b"Echo"  # noqa: N815 - AMP's spelling
    arguments: ClassVar[list[tuple[bytes, Argument]]] = [(b"message", string())]
    response: ClassVar[list[tuple[bytes, Argument]]] = [(b"message", string())]


class _Connection(AMP):
    """Either end."""

    def connectionMade(self) -> None:
        cast("Any", self).transport.setTcpNoDelay(True)  # ZeroMQ and gRPC do the same
        super().connectionMade()  # type: ignore[no-untyped-call] # AMP has no types


class _Amp:
    """Implements :class:`Peer`."""

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        class Service(_Connection):
            @_Echo.responder
            def echo(self, message: bytes) -> dict[str, bytes]:
                request = messages.request.FromString(message)
                return {"message": messages.answer(request).SerializeToString()}

        async def main(reactor: object) -> None:
            endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            port = await endpoint.listen(Factory.forProtocol(Service))
            announce(str(port.getHost().port))
            await Deferred[None]()  # never fires

        react(main)

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        connection: Any = _Connection

        def parse(answer: dict[str, bytes]) -> EchoReply:
            return messages.reply.FromString(answer["message"])

        async def main(reactor: object) -> None:
            endpoint = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", int(address))
            peer = await endpoints.connectProtocol(endpoint, connection())

            def call(request: EchoRequest) -> Deferred[EchoReply]:
                answer: Deferred[dict[str, bytes]] = peer.callRemote(
                    _Echo, message=request.SerializeToString()
                )
                return answer.addCallback(parse)

            await follow_in_twisted(messages, orders, call)
            peer.transport.loseConnection()

        react(main)


PEER: Final[Peer] = _Amp()
