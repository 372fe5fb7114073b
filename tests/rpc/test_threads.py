"""Channels for programs without Twisted: ``txzmq.rpc.threads``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.programs import running
from tests.rpc.service import text
from tests.rpc.tasks import SAY
from tests.rpc.test_blocking_streams import Client, World
from tests.rpc.threads import Outcome, until, until_garbage
from tests.support import Loop
from txzmq import WrongThreadError, ZmqFactory
from txzmq.rpc import Channel, Context, RpcError
from txzmq.rpc import threads as threads_module
from txzmq.rpc.threads import BlockingChannel, blocking_channel


@pytest.fixture
def world(one_loop: Loop) -> Iterator[World]:
    """A server on a reactor of its own, as in another process."""
    world = World(one_loop)
    with one_loop.in_thread():
        yield world
        world.in_reactor(world.factory.shutdown)


@pytest.fixture
def channel(world: World) -> Iterator[BlockingChannel]:
    with blocking_channel(world.endpoint) as channel:
        yield channel


def test_calls_and_streams(channel: BlockingChannel) -> None:
    client = Client(channel)
    assert [item.value for item in channel(client.count, text("3"))] == ["0", "1", "2"]
    with channel(client.count, text("1000000")) as stream:
        assert next(stream).value == "0"


def test_many_threads_share_one(world: World, channel: BlockingChannel) -> None:
    def handler(request: Any, context: Context) -> Any:
        return request

    world.serve(handler)

    def work(name: str) -> list[str]:
        return [
            channel(channel.unary_unary, SAY, text(f"{name} {i}"), timeout=20).value
            for i in range(20)
        ]

    workers = [Outcome(lambda name=name: work(name)) for name in "abcdefgh"]  # type: ignore[misc]  # a lambda's default
    for name, worker in zip("abcdefgh", workers, strict=True):
        assert worker.ended() is None
        assert worker.results == [[f"{name} {i}" for i in range(20)]]


def test_options_of_the_channel(world: World) -> None:
    made: list[Channel] = []

    def make(factory: ZmqFactory) -> Channel:
        made.append(Channel(factory, world.endpoint, timeout=0.1))
        return made[-1]

    async def silent(request: Any, context: Context) -> None:
        await Deferred()

    world.serve(silent)
    with blocking_channel(make) as channel, pytest.raises(RpcError, match="the call's time was up"):
        channel(channel.unary_unary, SAY, text("x"))
    assert len(made) == 1


def test_a_client_that_is_called_without_the_channel(channel: BlockingChannel) -> None:
    client = Client(channel)
    with pytest.raises(WrongThreadError, match=r"txzmq\.rpc\.Blocking"):
        client.count(text("3"))
    with pytest.raises(WrongThreadError):
        channel.unary_unary(SAY, text("x"))


def test_a_channel_that_is_closed(world: World, channel: BlockingChannel) -> None:
    client = Client(channel)

    async def silent(request: Any, context: Context) -> None:
        await Deferred()

    world.serve(silent)
    call = Outcome(lambda: channel(channel.unary_unary, SAY, text("x")))
    until(lambda: world.service.contexts)
    channel.close()
    channel.close()
    assert isinstance(call.ended(), CancelledError)
    with pytest.raises(RuntimeError, match="the channel was closed"):
        channel(client.count, text("3"))


def test_a_channel_that_is_forgotten(world: World) -> None:
    made: list[Channel] = []

    def make(factory: ZmqFactory) -> Channel:
        made.append(Channel(factory, world.endpoint))
        return made[-1]

    blocking_channel(make)
    until_garbage(lambda: made[0].state.name == "SHUTDOWN")


def test_a_wrong_target() -> None:
    with pytest.raises(ValueError, match="no-address"):
        blocking_channel("no-address")
    wrong: Any = 7
    with pytest.raises(TypeError):
        blocking_channel(wrong)


def test_a_function_that_makes_no_channel(world: World) -> None:
    async def later(factory: ZmqFactory) -> Channel:
        return Channel(factory, world.endpoint)

    def nothing(factory: ZmqFactory) -> None:
        pass

    makers: list[Any] = [nothing, later, str]
    for maker in makers:
        with pytest.raises(TypeError, match="a Channel"):
            blocking_channel(maker)
    with pytest.raises(ValueError, match="the factory that it is given"):
        blocking_channel(lambda factory: world.channel)


def test_a_start_that_is_interrupted_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            super().wait(timeout)
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    ours = SimpleNamespace(Event=Interrupted, Thread=threading.Thread)
    monkeypatch.setattr(threads_module, "threading", ours)
    with pytest.raises(KeyboardInterrupt):
        vars(threads_module)["_ReactorThread"]()
    until(lambda: not set(threading.enumerate()) - before)


def test_all_share_one_thread(world: World, channel: BlockingChannel) -> None:
    with blocking_channel(world.endpoint):
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("txzmq reactor") == 1


@pytest.mark.parametrize("mode", ["script", "open"])
def test_a_script(world: World, mode: str) -> None:
    with running("-X", "dev", "-m", "tests.rpc.thread_program", mode, world.endpoint) as program:
        assert program.wait() == 0
    assert program.output == ["['0', '1', '2']", "0", "done"]


def test_the_thread_of_the_applications_reactor_is_told(world: World) -> None:
    with running(
        "-X", "dev", "-m", "tests.rpc.thread_program", "twisted", world.endpoint
    ) as program:
        assert program.wait() == 0
    told = "WrongThreadError: Twisted's reactor runs in this thread"
    assert [line[: len(told)] for line in program.output] == [told, told, "in a thread: 0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason=f"{sys.platform} does not fork")
def test_forked_children_open_channels_of_their_own(world: World) -> None:
    with running("-X", "dev", "-m", "tests.rpc.thread_program", "fork", world.endpoint) as program:
        assert program.wait() == 0
    called = ["['0', '1', '2']", "0"]
    assert program.output == [
        *("child", *called),
        *("grandchild", *called),
        *("parent", *called),
        "done",
    ]
