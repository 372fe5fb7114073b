"""Use in another thread than the reactor's, without the facade: refused, and nothing is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.rpc.retried_streams import config
from tests.rpc.service import OTHER, text
from tests.rpc.streaming import following
from tests.rpc.threads import Outcome, World, calls_of, until, uses
from tests.support import Logged, Loop, error_of
from txzmq import WrongThreadError
from txzmq.rpc import Channel, ClientCall, ClientProceed, ResponseStream, Unknown


@pytest.fixture
def world(one_loop: Loop) -> Iterator[World]:
    world = World(one_loop)
    yield world
    world.factory.shutdown()


@pytest.fixture
def running(world: World) -> Iterator[World]:
    with world.loop.in_thread():
        yield world


def test_p6_use_in_another_thread_is_refused(running: World) -> None:
    calls: list[Deferred[StringValue]] = []
    streams: list[ResponseStream[StringValue]] = []
    running.in_reactor(lambda: calls.append(running.echo("waits")))
    running.in_reactor(lambda: streams.append(running.watch()))
    until(lambda: len(running.service.seen) == 2)
    for name, use in uses(running, calls[0], streams[0]).items():
        error = Outcome(use).ended()
        assert isinstance(error, WrongThreadError), name
        assert re.search("'worker' is another: use reactor.callFromThread.*Blocking", str(error))
    running.in_reactor(lambda: running.service.results[0].callback(text("answer")))
    until(lambda: calls[0].called)
    assert calls[0].result == text("answer")
    assert running.blocking(running.other, "x").value == "other x"
    assert running.service.seen == ["waits", "watched", "x"]
    assert not running.service.watching.called
    running.in_reactor(streams[0].cancel)
    until(lambda: running.service.watching.called)


def go_on(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    return proceed(call)


def look_at(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
    return proceed(call).addCallback(lambda response: response)


#: How calls wait that no connection has.
CHANNELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a policy": {"service_config": config()},
    "with an interceptor": {"interceptors": [go_on]},
    "with one that adds callbacks": {"interceptors": [look_at]},
}


@pytest.mark.parametrize("options", CHANNELS.values(), ids=CHANNELS)
def test_p6_calls_that_wait_for_a_connection(running: World, options: dict[str, Any]) -> None:
    """No socket is touched, which would refuse it, too."""
    channels: list[Channel] = []
    waiting: list[Deferred[StringValue]] = []
    method = replace(OTHER, path="/test.Streaming/Other")

    def begin() -> None:
        channels.append(Channel(running.factory, "tcp://127.0.0.1:1", **options))  # nobody listens
        waiting.append(channels[0].unary_unary(method, text("x"), wait_for_ready=True))

    running.in_reactor(begin)
    until(lambda: waiting)
    for name, use in {**calls_of(channels[0]), "cancelling": waiting[0].cancel}.items():
        error = Outcome(use).ended()
        assert isinstance(error, WrongThreadError), name
    assert not waiting[0].called
    running.in_reactor(channels[0].close)  # which ends the calls that go on
    until(lambda: waiting[0].called)
    failures: list[Failure] = []
    waiting[0].addErrback(failures.append)
    assert isinstance(error_of(failures[0]), CancelledError)


def test_a_stream_goes_on_that_another_thread_cannot_cancel(running: World) -> None:
    streams: list[ResponseStream[StringValue]] = []
    running.in_reactor(lambda: streams.append(running.watch()))
    until(lambda: running.service.seen)
    (stream,) = streams

    def refuse() -> None:
        assert isinstance(Outcome(stream.cancel).ended(), WrongThreadError)

    refuse()  # while it is being opened
    items = [text("a"), text("b")]
    running.in_reactor(lambda: running.service.watching.callback(items))
    assert running.blocking(following, stream).value == "a"
    refuse()
    assert running.blocking(following, stream).value == "b"
    with pytest.raises(StopAsyncIteration):
        running.blocking(following, stream)
    refuse()


def test_a_handler_whose_deferred_fires_in_another_thread(running: World, logged: Logged) -> None:
    worker = Outcome(lambda: running.blocking(running.echo, "x"))
    until(lambda: running.service.results)
    stranger = Outcome(lambda: running.service.results[0].callback(text("too easy")))
    assert stranger.ended() is None
    error = worker.ended()
    assert isinstance(error, Unknown)
    [identifier] = re.findall(r"logged it as (\w+)", str(error))
    [event] = [event for event in logged if event.get("identifier") == identifier]
    assert isinstance(event["log_failure"].value, WrongThreadError)
    assert running.server.running == 0
