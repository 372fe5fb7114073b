"""A snapshot and then the updates that a shared stream gives, in virtual time."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import text
from txzmq.rpc import Channel, Context, Kind, Method, Server, Service, StreamWriter
from txzmq.rpc.method import Sharing, StreamOptions
from txzmq.testing import MemoryNetwork

SNAPSHOT = Method("/test.State/Snapshot", "snapshot", StringValue, StringValue)
UPDATES = Method(
    "/test.State/Updates",
    "updates",
    StringValue,
    StringValue,
    kind=Kind.UNARY_STREAM,
    stream=StreamOptions(sharing=Sharing.SHARED, replay=50),
)


class State:
    """A list that grows; its updates are shared, and a snapshot is a call of its own."""

    __txzmq_service__: ClassVar[Service] = Service("test.State", (SNAPSHOT, UPDATES))

    def __init__(self) -> None:
        self.values: list[int] = []
        self.writers: list[StreamWriter[StringValue]] = []

    def snapshot(self, request: StringValue, context: Context) -> StringValue:
        return text(",".join(map(str, self.values)))

    def updates(self, request: StringValue, context: Context) -> StreamWriter[StringValue]:
        writer: StreamWriter[StringValue] = StreamWriter()
        writer.write(text(str(len(self.values))))
        self.writers.append(writer)
        return writer

    def change(self) -> None:
        self.values.append(len(self.values) + 1)
        for writer in self.writers:
            writer.write(text(str(len(self.values))))


async def follow(channel: Channel, state: list[int]) -> None:
    """The guide's recipe; the values are their own versions."""
    async with channel.unary_stream(UPDATES, text("x")) as updates:
        await anext(updates)
        snapshot = await channel.unary_unary(SNAPSHOT, text("x"))
        state.extend(int(value) for value in snapshot.value.split(",") if value)
        version = len(state)
        async for update in updates:
            if int(update.value) > version:
                state.append(int(update.value))  # noqa: PERF401 - as they come


@pytest.mark.parametrize("seed", range(30))
def test_a_snapshot_and_then_updates_miss_nothing(seed: int) -> None:
    chance = random.Random(seed)
    network = MemoryNetwork()
    service = State()
    server = Server(network, [service])
    channels = [Channel(network, server.listen("inproc://state"))]
    states: list[list[int]] = []
    ended: list[Deferred[None]] = []
    for _ in range(60):
        if chance.random() < 0.1:
            channels.append(Channel(network, "inproc://state"))
            states.append([])
            ended.append(Deferred.fromCoroutine(follow(channels[-1], states[-1])))
        if chance.random() < 0.7:
            service.change()
        if chance.random() < 0.05:
            network.cut("inproc://state.streams")
        if chance.random() < 0.3:
            network.advance(chance.choice([0, 0.01, 0.1, 0.5]))
        else:
            network.clock.advance(0)
    network.advance(10)
    assert all(state == service.values for state in states)
    for channel in channels:
        channel.close()
    for end in ended:
        end.addErrback(lambda _: None)
    server.stop(0)
    network.advance(3)
