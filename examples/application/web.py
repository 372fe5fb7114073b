"""A web site by klein whose pages call a service: what ``web.tac`` runs.

python -m txzmq.codegen protos/
PYTHONPATH=. twistd -ny examples/application/web.tac
curl http://127.0.0.1:8080/greet/Ada
"""

from __future__ import annotations

from typing import Any

from klein import Klein

from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from txzmq.rpc import Code, RpcError
from txzmq.rpc.application import ChannelService

#: HTTP's statuses for the service's; any other is 500.
STATUSES = {Code.INVALID_ARGUMENT: 400, Code.UNAVAILABLE: 503, Code.DEADLINE_EXCEEDED: 504}


class Site:
    """The pages."""

    app = Klein()

    def __init__(self, greeter: ChannelService) -> None:
        self._greeter = greeter

    # Any: klein leaves the request's type open, and that of route's further arguments.
    @app.route("/greet/<name>")  # pyright: ignore[reportUnknownMemberType]
    async def greet(self, request: Any, name: str) -> str:
        client = GreeterClient(self._greeter.channel)
        try:
            reply = await client.say_hello(HelloRequest(name=name), timeout=5)
        except RpcError as error:
            request.setResponseCode(STATUSES.get(error.code, 500))
            return f"{error.code.name}: {error.message}\n"
        return f"{reply.message}\n"
