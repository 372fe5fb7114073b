"""ZeroMQ's plain proxy as the library runs it: calls pass, keys are asked for, it ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import CannotListenError

from tests.rpc.service import ECHO, OTHER, Echo, Stubborn, Waiting, text
from tests.support import Loop, captured_log, gather
from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials, CurveKeyPair, CurveServerCredentials, Identity
from txzmq.rpc import (
    Channel,
    DeadlineExceeded,
    InsecureBindError,
    Server,
    ServerLimits,
    Unauthenticated,
    Unavailable,
)
from txzmq.rpc.proxy import Proxy

ANY_PORT = "tcp://127.0.0.1:*"


class World:
    """A proxy, a worker and a channel."""

    def __init__(self, loop: Loop, service: Echo | None = None, **proxy: Any) -> None:
        self.loop = loop
        self.factory = ZmqFactory(loop.reactor)
        self.proxy = Proxy(self.factory, ANY_PORT, ANY_PORT, **proxy)
        self.service = service or Echo()
        limits = ServerLimits(running_per_peer=4_096, queued_per_peer=16_384)
        self.server = Server(self.factory, [self.service], limits=limits)

    def channel(self, **options: Any) -> Channel:
        return Channel(self.factory, self.proxy.clients, wait_for_ready=True, **options)

    async def has_ended(self, channel: Channel) -> None:
        channel.close()
        await self.server.stop(0)
        await self.proxy.stop(0)
        self.factory.shutdown()


def test_calls_pass_and_are_counted(one_loop: Loop) -> None:
    w = World(one_loop)

    async def main() -> None:
        w.server.connect(w.proxy.workers)
        channel = w.channel()
        calls = [channel.unary_unary(ECHO, text(str(number)), timeout=20) for number in range(500)]
        assert [each.value for each in await gather(list(calls))] == [
            str(each) for each in range(500)
        ]
        large = "x" * 4_000_000
        assert (await channel.unary_unary(ECHO, text(large))).value == large
        counted = w.proxy.statistics
        # Five frames each: routing id, number, an empty one, header and message.
        assert counted.request_frames >= 5 * 501
        assert counted.reply_frames >= 5 * 501
        assert counted.request_bytes > 4_000_000 < counted.reply_bytes
        with captured_log() as logged:
            channel.close()
            await w.server.stop()
            await w.proxy.stop()
        (end,) = [event for event in logged if "request_frames" in event]
        assert end["reply_frames"] >= 5 * 501
        assert w.proxy.statistics.reply_frames == end["reply_frames"]
        await w.proxy.stop()  # again
        w.factory.shutdown()

    one_loop.run(main)


def test_it_passes_replies_on_while_it_drains(one_loop: Loop) -> None:
    service = Waiting()
    w = World(one_loop, service)

    async def main() -> None:
        w.server.connect(w.proxy.workers)
        channel = w.channel()
        calls = [channel.unary_unary(ECHO, text("x"), timeout=20) for _ in range(3)]
        await w.loop.until(lambda: len(service.results) == 3)
        stopped = w.proxy.stop(20)
        late = channel.unary_unary(ECHO, text("late"), timeout=20)
        await w.loop.sleep(0.1)
        assert not stopped.called
        for result in service.results:
            result.callback(text("done"))
        assert [each.value for each in await gather(list(calls))] == ["done"] * 3
        await stopped
        with pytest.raises(Unavailable):
            await late
        assert service.seen == ["x"] * 3
        await w.has_ended(channel)

    one_loop.run(main)


@pytest.mark.parametrize("shortens", [True, False])
def test_the_grace_ends_it_whatever_waits(one_loop: Loop, shortens: bool) -> None:
    service = Stubborn()
    w = World(one_loop, service)

    async def main() -> None:
        w.server.connect(w.proxy.workers)
        channel = w.channel()
        call = channel.unary_unary(ECHO, text("x"), timeout=20)
        await w.loop.until(lambda: service.results)
        before = w.loop.reactor.seconds()
        stopped = w.proxy.stop(60 if shortens else 0.2)
        if shortens:
            await w.proxy.stop(0.2)
        await stopped
        assert w.loop.reactor.seconds() - before < 10
        with pytest.raises(Unavailable):
            await call
        channel.close()
        await w.server.stop(0)
        w.factory.shutdown()

    one_loop.run(main)


def test_a_factory_that_is_shut_down_ends_a_server_between_two_connections(one_loop: Loop) -> None:
    """There is no socket then whose end would tell it."""
    w = World(one_loop)

    async def main() -> bool:
        w.server.connect(w.proxy.workers)
        channel = w.channel()
        await channel.unary_unary(ECHO, text("x"), timeout=20)
        await w.proxy.stop(0)
        await w.loop.until(lambda: w.server.counters["connection to a proxy lost"])
        channel.close()
        w.factory.shutdown()
        stopped = w.server.stop()
        return stopped.called

    assert one_loop.run(main)  # which checks that no timer is left


def test_the_factory_ends_it(one_loop: Loop) -> None:
    w = World(one_loop)

    async def main() -> None:
        stopped = w.proxy.stop(60)  # before anything has passed
        await stopped
        other = World(w.loop)
        other.factory.shutdown()
        await other.proxy.stop()
        w.factory.shutdown()

    one_loop.run(main)


def keys_of(*names: str) -> dict[str, CurveKeyPair]:
    return {name: CurveKeyPair.generate() for name in names}


def test_both_sides_ask_for_keys_and_revoked_ones_are_out(one_loop: Loop) -> None:
    keys = keys_of("proxy", "alice", "bob", "worker")
    clients = {keys[name].public_key: Identity(name, keys[name].public_key) for name in keys}
    known = {keys[name].public_key: name for name in ("alice", "bob")}
    credentials = CurveServerCredentials(keys["proxy"], lambda key, _: known_identity(key))
    workers = CurveServerCredentials(keys["proxy"], {keys["worker"].public_key: "worker"})

    def known_identity(key: str) -> Identity | None:
        return clients[key] if key in known else None

    def of_client(name: str) -> CurveClientCredentials:
        return CurveClientCredentials(keys[name], server_keys=[keys["proxy"].public_key])

    w = World(one_loop, credentials=credentials, worker_credentials=workers)

    async def main() -> None:
        w.server.connect(w.proxy.workers, credentials=of_client("worker"))
        alice = w.channel(credentials=of_client("alice"))
        bob = w.channel(credentials=of_client("bob"))
        for channel in (alice, bob):
            assert (await channel.unary_unary(ECHO, text("x"), timeout=20)).value == "x"
        # A worker is no client, and a client no worker.
        stranger = Channel(w.factory, w.proxy.clients, credentials=of_client("worker"))
        with pytest.raises((Unauthenticated, Unavailable)):
            await stranger.unary_unary(ECHO, text("x"), timeout=20)
        stranger.close()
        other = Echo()
        no_worker = Server(w.factory, [other])
        no_worker.connect(w.proxy.workers, credentials=of_client("alice"))
        for _ in range(20):
            await alice.unary_unary(ECHO, text("x"), timeout=20)
        assert other.seen == []
        await no_worker.stop(0)
        del known[keys["bob"].public_key]
        credentials.clients.reload()
        # All connect anew, and the worker may come later; a call that was on its way is told so.
        answered = 0
        while answered < 20:
            try:
                answered += (await alice.unary_unary(ECHO, text("y"), timeout=1)).value == "y"
            except (Unavailable, DeadlineExceeded):
                assert answered == 0
        with pytest.raises((Unauthenticated, Unavailable)):
            await bob.unary_unary(ECHO, text("x"), timeout=20, wait_for_ready=False)
        bob.close()
        await w.has_ended(alice)

    one_loop.run(main)


def refused(loop: Loop, clients: str, workers: str, **options: Any) -> Callable[[], Proxy]:
    factory = ZmqFactory(loop.reactor)
    factory.registerForShutdown()
    return lambda: Proxy(factory, clients, workers, **options)


def test_wrong_addresses_are_refused(one_loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"tcp://127.0.0.1:{taken.getsockname()[1]}"

        async def main() -> None:
            for clients, workers in ((used, ANY_PORT), (ANY_PORT, used)):
                with pytest.raises(CannotListenError, match="in use"):
                    refused(one_loop, clients, workers)()
            for clients, workers in (("tcp://0.0.0.0:*", ANY_PORT), (ANY_PORT, "tcp://0.0.0.0:*")):
                with pytest.raises(InsecureBindError):
                    refused(one_loop, clients, workers)()
            with pytest.raises(ValueError, match=r"workers.*inproc"):
                refused(one_loop, ANY_PORT, "inproc://x")()
            with pytest.raises(ValueError, match="clients"):
                refused(one_loop, "nonsense", ANY_PORT)()

        one_loop.run(main)


def test_a_worker_that_is_slow_does_not_hold_up_others(one_loop: Loop) -> None:
    slow, fast = Waiting(), Echo()
    w = World(one_loop, slow)

    async def main() -> None:
        w.server.connect(w.proxy.workers)
        other = Server(w.factory, [fast])
        other.connect(w.proxy.workers)
        channel = w.channel()
        while not (slow.seen and fast.seen):
            channel.unary_unary(ECHO, text("x"), timeout=20).addErrback(lambda _: None)
            await w.loop.sleep(0.01)
        before = len(slow.results)
        # In turn: each second one is answered.
        calls = [channel.unary_unary(ECHO, text("y"), timeout=20) for _ in range(20)]
        await w.loop.until(lambda: sum(call.called for call in calls) == 10)
        await w.loop.until(lambda: len(slow.results) == before + 10)
        for result in slow.results:
            result.callback(text("z"))
        assert len(await gather(list(calls))) == 20
        await channel.unary_unary(OTHER, text("x"), timeout=20)
        await other.stop(0)
        await w.has_ended(channel)

    one_loop.run(main)
