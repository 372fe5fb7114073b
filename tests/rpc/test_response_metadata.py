"""The metadata of a response, as its caller gets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.intercepted import Intercepted, Worlds
from tests.rpc.service import Echo, made, text
from txzmq.rpc import ClientCall, ClientProceed, Context, NotFound, ResponseMetadata


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(Intercepted)


def test_metadata_arrives_with_a_success_and_with_an_error(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.send_initial_metadata([("first", "1"), ("raw-bin", b"\0\xff")])
            context.set_trailing_metadata([("last", "2"), ("last", "3")])
            if request.value == "fail":
                raise NotFound("nobody", metadata=[("why", "4")])
            return request

    world = make(Service())
    for value in ("x", "fail"):
        with ResponseMetadata() as metadata:
            answer = world.call(value)
        assert not metadata.initial
        answer.addErrback(lambda _: text("failed"))
        world.network.run()
        assert metadata.initial == (("first", "1"), ("raw-bin", b"\0\xff"))
        why = (("why", "4"),) if value == "fail" else ()
        assert metadata.trailing == (("last", "2"), ("last", "3"), *why)


def test_metadata_in_a_coroutine_is_its_own(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.set_trailing_metadata({"of": request.value})
            return request

    world = make(Service())
    seen: dict[str, object] = {}

    async def ask(value: str) -> None:
        with ResponseMetadata() as metadata:
            await world.call(value)
        seen[value] = metadata.trailing
        await world.call("unobserved")

    asked = [Deferred.fromCoroutine(ask(value)) for value in ("a", "b")]
    world.network.run()
    assert all(deferred.called for deferred in asked)
    assert seen == {"a": (("of", "a"),), "b": (("of", "b"),)}


def test_an_interceptor_gets_it_though_its_caller_does_not_ask_for_it(make: Worlds) -> None:
    class Service(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            context.send_initial_metadata([("first", "1")])
            context.set_trailing_metadata([("last", "2")])
            return request

    seen: list[object] = []

    async def look(call: ClientCall, proceed: ClientProceed) -> Any:
        response = await proceed(call)
        seen.extend([call.response.initial, call.response.trailing])
        return response

    world = make(Service(), client=[look])
    assert world.network.result(world.call("x")).value == "x"
    assert seen == [(("first", "1"),), (("last", "2"),)]
