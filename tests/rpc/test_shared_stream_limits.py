"""Which calls that share streams count against the limits of a server; in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, made, text
from tests.rpc.sharing import Ticker, World, Worlds
from tests.rpc.streaming import TICKS, streams_of
from txzmq.rpc import DeadlineExceeded, NotFound, ResourceExhausted, ServerLimits
from txzmq.rpc._wire.headers import OpenStream, RequestHead
from txzmq.rpc.v1 import streams_pb2
from txzmq.testing import Faults


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(World)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(streams=3), "3 streams are open on the server (ServerLimits.streams)"),
        (
            ServerLimits(streams_per_peer=3),
            "3 streams of this client are open on the server (ServerLimits.streams_per_peer)",
        ),
        (
            ServerLimits(subscribers=3),
            "3 calls share streams on the server (ServerLimits.subscribers)",
        ),
    ],
)
def test_a_client_cannot_open_without_end(make: Worlds, limits: ServerLimits, name: str) -> None:
    world = make(Ticker(), limits=limits)
    readers = [world.subscribe(str(number)) for number in range(3)]
    refused = world.subscribe("3")
    assert isinstance(refused.ended, ResourceExhausted)
    assert refused.ended.message == name
    assert world.server.counters["shed stream"] == 1
    readers[0].stream.cancel()
    world.network.run()
    readers.append(world.subscribe("3"))
    assert not any(reader.has_ended for reader in readers[1:])


def test_a_run_takes_no_longer_than_a_stream_may(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(stream_timeout=30))
    reader = world.subscribe()
    world.network.advance(29)
    assert not reader.has_ended
    world.network.advance(2)
    assert isinstance(reader.ended, DeadlineExceeded)
    assert not ticker.running


def test_calls_that_share_a_run_count_each(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=3, subscribers=5))
    mine = [world.subscribe() for _ in range(4)]
    assert [reader.has_ended for reader in mine] == [False, False, False, True]
    others = [world.subscribe(channel=world.another()) for _ in range(3)]
    assert [reader.has_ended for reader in others] == [False, False, True]
    assert ticker.runs == ["x"]


def test_private_and_shared_streams_of_a_client_count_together(make: Worlds) -> None:
    world = make(Ticker(), limits=ServerLimits(streams_per_peer=2))
    world.subscribe()
    private = world.read()
    world.network.run()
    assert not private.has_ended
    for refused in (world.subscribe(), world.subscribe("y"), world.run()):
        assert isinstance(refused.ended, ResourceExhausted)
    private.stream.cancel()
    world.network.run()
    assert not world.subscribe("y").has_ended


def test_the_end_of_a_run_makes_room(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=2, subscribers=2))
    readers = [world.subscribe() for _ in range(2)]
    ticker.fail()
    world.network.run()
    assert all(isinstance(reader.ended, NotFound) for reader in readers)
    ticker.given = 0
    assert not any(world.subscribe().has_ended for _ in range(2))


def test_a_lost_connection_makes_room(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(subscribers=2))
    first = world.subscribe()
    gone = world.another()
    world.subscribe(channel=gone)
    world.vanish(gone)
    second = world.subscribe(channel=world.another())
    assert not second.has_ended
    # Those who come back after a cut are still in the run, which ends with them.
    world.cut()
    world.network.advance(3)
    ticker.give()
    world.network.run()
    assert first.items == second.items == ["0"]
    for reader in (first, second):
        assert ticker.running == 1
        reader.stream.cancel()
        world.network.advance(6)
    assert not ticker.running


def test_an_opening_call_that_is_cancelled_holds_no_place(make: Worlds) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=2))
    world.subscribe()
    world.network.faults = Faults(delay=1, seed=3)  # the answer and the Cancel cross
    for _ in range(20):
        stream = world.watch()
        world.network.advance(1)
        stream.cancel()
        world.network.advance(4)
    world.network.faults = Faults()
    world.network.advance(5)
    assert not world.subscribe().has_ended


def test_an_opening_call_that_comes_too_late_holds_no_place(make: Worlds) -> None:
    world = make(Ticker(), limits=ServerLimits(streams_per_peer=2), timeout=0.5)
    world.subscribe()
    send = world.network.carry
    held: list[Callable[[], None]] = []

    def hold(arrive: Callable[[], None], kind: object, parts: object) -> None:
        held.append(arrive)

    world.network.carry = hold  # type: ignore[method-assign]  # to hold back the answer
    late = world.subscribe("y")
    held.pop()()
    world.network.advance(1)
    assert isinstance(late.ended, DeadlineExceeded)
    world.network.carry = send  # type: ignore[method-assign]  # as it was
    for arrive in held:
        arrive()
    world.network.run()
    assert not world.subscribe().has_ended


def test_a_client_that_claims_more_calls_than_it_has_gets_no_more_than_its_limit(
    make: Worlds,
) -> None:
    ticker = Ticker()
    world = make(ticker, limits=ServerLimits(streams_per_peer=2))
    client = RawClient(world.network, ADDRESS)
    world.network.run()
    opening = RequestHead(TICKS.path, None, (), open_stream=OpenStream())
    number = client.request(opening, text("x").SerializeToString())
    world.network.run()
    stream = client.replies()[number][0].stream
    assert stream is not None
    claimed = streams_pb2.AcknowledgeRequest(
        positions=[streams_pb2.Position(topic=stream.topic)] * 10
    )
    head = RequestHead("/txzmq.rpc.v1.Streams/Acknowledge", None, ())
    client.request(head, claimed.SerializeToString())
    left = streams_pb2.CancelStreamsRequest(topics=[stream.topic])
    head = RequestHead("/txzmq.rpc.v1.Streams/Cancel", None, ())
    for running in (1, 0):
        client.request(head, left.SerializeToString())
        world.network.run()
        assert len(streams_of(world).shared) == running
    client.transport.close()
