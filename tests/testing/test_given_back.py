"""What assert_all_given_back sees, and says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.rpc.service import ECHO, Echo, Stubborn, Waiting, text
from tests.rpc.streaming import COUNT, Endless, Streaming
from tests.support import Loop, error_of
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ReplyCacheLimits, Server, ServerLimits
from txzmq.rpc.admin import Admin
from txzmq.rpc.health import Health
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.reflection import Reflection
from txzmq.testing import (
    MemoryNetwork,
    ServeBySockets,
    ServeInMemory,
    all_given_back,
    assert_all_given_back,
)
from txzmq.testing._leftovers import NUMBERS

OWNERS = {
    "Admission": "txzmq.rpc._server.admission",
    "Backlog": "txzmq.rpc._server.backlogs",
    "BacklogBytes": "txzmq.rpc._server.backlogs",
    "CallRegistry": "txzmq.rpc._client.call",
    "KeptBytes": "txzmq.rpc._server.response_stream",
    "RequestBytes": "txzmq.rpc._server.admission",
    "StreamRegistry": "txzmq.rpc._server.streams",
    "WaitingCalls": "txzmq.rpc._server.waiting",
}


def is_cancelled(failure: Failure) -> None:
    assert isinstance(error_of(failure), CancelledError)


def said(serve: ServeInMemory) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_all_given_back(*serve.ends)
    return str(caught.value)


def test_each_number_that_is_looked_at_is_there() -> None:
    assert OWNERS.keys() == NUMBERS.keys()
    for name, attributes in NUMBERS.items():
        module = importlib.import_module(OWNERS[name])
        assert module.__file__ is not None
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert f"class {name}" in source
        for attribute in attributes:
            assert f"self.{attribute} = 0" in source


def test_open_ends_without_calls_have_given_back_all() -> None:
    serve = ServeInMemory()
    channel = serve(Echo(), Streaming())
    assert_all_given_back(*serve.ends)
    serve.network.result(channel.unary_unary(ECHO, text("x")))
    serve.network.advance(30)
    assert_all_given_back(*serve.ends)
    serve.close()
    assert serve.ends == []


def test_calls_are_told_on_both_sides_with_their_ages() -> None:
    serve = ServeInMemory()
    channel = serve(Waiting(), make_server=partial(Server, limits=ServerLimits(running=1)))
    for _ in range(2):
        channel.unary_unary(ECHO, text("x")).addErrback(lambda _: None)
    serve.network.advance(2.5)
    text_ = said(serve)
    assert "- Server (open):\n  - 2 calls of /test.Echo/Echo, for 2.5 s: " in text_
    assert "- Channel to inproc://served-1 (open):" in text_
    assert (
        "2 calls of /test.Echo/Echo, for 2.5 s: it has not ended; await its result, cancel its "
        "Deferred, or close the channel"
    ) in text_
    serve.close()


def test_a_stream_is_told_on_both_sides() -> None:
    serve = ServeInMemory()
    stream = serve(Streaming(Endless())).unary_stream(COUNT, text("3"))

    async def read() -> None:
        await anext(stream)

    reading = Deferred.fromCoroutine(read())
    reading.addErrback(is_cancelled)
    serve.network.advance(2)
    text_ = said(serve)
    assert "a stream of /test.Streaming/Count, for 2 s: its handler has not ended;" in text_
    assert "a stream of /test.Streaming/Count: it was neither read to its end nor canc" in text_
    stream.cancel()
    serve.network.advance(2)
    assert_all_given_back(*serve.ends)
    serve.close()


def test_a_handler_that_is_cancelled_and_goes_on_is_told() -> None:
    serve = ServeInMemory()
    call = serve(Stubborn()).unary_unary(ECHO, text("x"))
    call.addErrback(is_cancelled)
    serve.network.run()
    with pytest.raises(AssertionError) as caught:
        serve.close()
    assert "- Server (closed):\n  - a call of /test.Echo/Echo: its handler was cancelled" in str(
        caught.value
    )
    assert "Channel" not in str(caught.value)


def test_what_no_call_explains_is_shown_with_its_place() -> None:
    serve = ServeInMemory()
    channel = serve(Echo())
    vars(channel)["_registry"].size = 7
    assert "No call is known that would explain this." in said(serve)
    assert "    Channel._registry.size: 7" in said(serve)


def test_a_timer_of_a_closed_end_is_left() -> None:
    serve = ServeInMemory()
    channel = serve(Echo())
    serve.close()
    timer = vars(channel)["_registry"]._deadlines._timer
    timer.start(5)
    with pytest.raises(AssertionError, match=r"_deadlines\._timer: a timer that runs"):
        assert_all_given_back(channel)
    timer.stop()
    assert_all_given_back(channel)


LIMITS = ServerLimits(
    running_per_method={"/test.Echo/Echo": 3},
    queued_per_method={"/test.Echo/Echo": 3},
    reply_cache=ReplyCacheLimits(),
    connection_age=100,
)


async def go_on(request: Any, context: Any, proceed: Any) -> Any:
    return await proceed(request)


def allow(identity: object, method: str, metadata: object) -> bool:
    return True


def serve_nothing(path: str) -> None:
    """The fallback."""


#: Options of a server, and more services.
GIVEN: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "observed": ({"observer": Metrics()}, []),
    "services": ({}, [Health(), Reflection(), Admin()]),
    "limits": ({"limits": LIMITS}, []),
    "intercepted": ({"interceptors": [go_on]}, []),
    "authorized": ({"authorize": allow}, []),
    "fallback": ({"fallback": serve_nothing}, []),
}


@pytest.mark.parametrize("given", GIVEN)
def test_what_a_server_is_given_is_not_left(given: str) -> None:
    options, services = GIVEN[given]
    serve = ServeInMemory()
    channel = serve(Echo(), *services, make_server=partial(Server, **options))
    serve.network.result(channel.unary_unary(ECHO, text("x")))
    serve.network.advance(1)
    assert_all_given_back(*serve.ends)
    serve.close()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Echo(), "a service has none of its calls: pass its server"),
        (type("Client", (), {"_channel": None})(), "pass its channel"),
        (MemoryNetwork(), "ends must be a Server or a Channel"),
    ],
    ids=["service", "client", "network"],
)
def test_other_things_are_refused(end: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        assert_all_given_back(end)


@pytest.mark.parametrize("look", [assert_all_given_back, all_given_back])
def test_to_look_at_nothing_is_refused(look: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="there is nothing to look at"):
        look()


def test_it_waits_as_long_as_it_is_told() -> None:
    serve, clock = ServeInMemory(), Clock()
    service = Waiting()
    call = serve(service).unary_unary(ECHO, text("x"))
    serve.network.run()
    late = all_given_back(*serve.ends, within=1, clock=clock)
    waits = all_given_back(*serve.ends, within=3, clock=clock)
    cancelled = all_given_back(*serve.ends, within=3, clock=clock)
    failures: list[Any] = []
    cancelled.addErrback(failures.append).cancel()
    clock.advance(0.99)
    late.addErrback(failures.append)
    assert [failure.type for failure in failures] == [CancelledError]
    clock.advance(0.02)
    assert [failure.type for failure in failures] == [CancelledError, AssertionError]
    service.results[0].callback(text("y"))
    serve.network.result(call)
    ended: list[None] = []
    waits.addCallback(ended.append)
    assert ended == []
    clock.advance(0.02)
    assert ended == [None]
    assert not clock.getDelayedCalls()


def test_at_sockets_it_waits_for_what_is_on_its_way(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        async with ServeBySockets(factory) as serve:
            channel = serve(Echo(), make_channel=partial(Channel, timeout=20))
            assert (await channel.unary_unary(ECHO, text("x"))).value == "x"
        factory.shutdown()

    one_loop.run(main)
