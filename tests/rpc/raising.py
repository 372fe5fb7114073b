"""A handler that raises what the test gives it, and what is told of it on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import fail
from twisted.logger import LogEvent

from tests.rpc.service import Echo, World
from tests.support import Logged
from txzmq.rpc import Context, RpcError, UnaryResult

SECRET = "the password is swordfish"


class Raising(Echo):
    """Raises what a test gives it: at once, from a coroutine, or by a Deferred."""

    def __init__(self, make: Callable[[], BaseException], style: str = "at once") -> None:
        super().__init__()
        self.make = make
        self.style = style

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        if self.style == "coroutine":
            return self.coroutine()
        if self.style == "deferred":
            return fail(self.make())
        raise self.make()

    async def coroutine(self) -> StringValue:
        raise self.make()


def outcome(world: World, **kwargs: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        world.network.result(world.call(**kwargs))
    return caught.value


def everything(error: RpcError) -> str:
    """All that the caller got, as text."""
    return f"{error} {error.details} {error.metadata} {vars(error)}"


def logged_under(logged: Logged, error: RpcError) -> LogEvent:
    (event,) = [e for e in logged if "identifier" in e and e["identifier"] in error.message]
    return event
