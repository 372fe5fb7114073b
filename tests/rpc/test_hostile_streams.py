"""Clients that say about streams what nobody should, in any order, beside one that means well.

Nothing escapes into what receives it, the other client's streams end as they should, and when all
have gone nothing is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.raw import Deaf
from tests.rpc.service import ADDRESS, text
from tests.rpc.sharing import Group
from tests.rpc.streaming import (
    CHAT,
    COUNT,
    PUBLISHER,
    RESUME,
    TICKS,
    Reader,
    StreamWorld,
    streams_of,
)
from tests.support import examples
from txzmq.rpc import Context, ServerLimits, Unavailable
from txzmq.rpc._wire.headers import OpenStream, RequestHead, decode_response
from txzmq.rpc._wire.streams import SEPARATOR
from txzmq.rpc.v1 import streams_pb2
from txzmq.rpc.v1.control_pb2 import CancelRequest
from txzmq.testing import assert_all_given_back

LIMITS = ServerLimits(
    streams=20,
    streams_per_peer=8,
    subscribers=12,
    streams_bytes=2_000,
    stream_window_bytes=500,
    stream_grace=1,
    stream_silence=4,
)
NUMBERS = [0, 1, 2, 3, 10, 2**63]
REQUESTS = b"r" * 16


class Game:
    """Three of them, one of the others, and chance."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.world = (Group if seed % 2 else StreamWorld)(self.handler, limits=LIMITS)
        self.bad = [Deaf(self.world) for _ in range(3)]
        self.good: list[Reader] = []
        self.topics = [b"x" * 16]
        self.world.network.run()

    async def handler(self, request: Any, context: Context) -> AsyncIterator[StringValue]:
        if self.chance.random() < 0.2:
            raise Unavailable("not now")
        for number in range(self.chance.randint(0, 5)):
            if self.chance.random() < 0.3:
                await self.world.sleep(self.chance.random())
            yield text(str(number) * self.chance.randint(1, 300))

    def say(self, method: str, message: Message | bytes) -> None:
        body = message if isinstance(message, bytes) else message.SerializeToString()
        head = RequestHead(f"/txzmq.rpc.v1.{method}", None, ())
        self.chance.choice(self.bad).raw.request(head, body)

    def open(self) -> None:
        deaf, method = (
            self.chance.choice(self.bad),
            self.chance.choice([COUNT, TICKS, RESUME, CHAT]),
        )
        stream = OpenStream(
            window_items=self.chance.choice([0, 1, 5]),
            sequence=self.chance.choice([0, 1, 5]),
            requests=REQUESTS if method is CHAT else b"",
        )
        head = RequestHead(method.path, None, (), open_stream=stream)
        deaf.raw.request(head, text(self.chance.choice("ab")).SerializeToString())
        self.world.network.run()
        messages, deaf.raw.messages = deaf.raw.messages, []
        for opened in [decode_response(message[2]).stream for message in messages]:
            if opened is not None:
                self.topics.append(opened.topic)
                for topic in filter(None, (opened.topic, opened.bundle)):
                    if self.chance.random() < 0.7:
                        deaf.transport.subscribe(topic + SEPARATOR)

    def acknowledge(self) -> None:
        positions = [
            streams_pb2.Position(topic=topic, sequence=self.chance.choice(NUMBERS))
            for topic in self.chance.choices(self.topics, k=self.chance.randint(1, 5))
        ]
        self.say("Streams/Acknowledge", streams_pb2.AcknowledgeRequest(positions=positions))

    def replay(self) -> None:
        topic, sequence = self.chance.choice(self.topics), self.chance.choice(NUMBERS)
        self.say("Streams/Replay", streams_pb2.ReplayRequest(topic=topic, sequence=sequence))

    def cancel(self) -> None:
        topics = self.chance.choices(self.topics, k=3)
        self.say("Streams/Cancel", streams_pb2.CancelStreamsRequest(topics=topics))

    def cancel_calls(self) -> None:
        ids = [deaf.raw.id_of(self.chance.randint(1, 40)) for deaf in self.bad]
        self.say("Control/Cancel", CancelRequest(request_ids=ids))

    def send(self) -> None:
        request = streams_pb2.SendRequest(
            requests=self.chance.choice([REQUESTS, b""]),
            sequence=self.chance.choice(NUMBERS),
            items=[b"\n\x01q", b"\xff"][: self.chance.randint(0, 2)],
            end=self.chance.random() < 0.3,
            acknowledge=True,
        )
        self.say("Streams/Send", request)

    def babble(self) -> None:
        method = self.chance.choice(["Send", "Replay", "Acknowledge", "Nothing"])
        self.say(f"Streams/{method}", self.chance.randbytes(20))

    def cut(self) -> None:
        self.world.network.cut(self.chance.choice([ADDRESS, PUBLISHER]))

    def read(self) -> None:
        method, request = self.chance.choice([TICKS, COUNT]), text(self.chance.choice("ab"))
        self.good.append(Reader(self.world.channel.unary_stream(method, request, timeout=30)))

    def pass_time(self) -> None:
        self.world.network.advance(self.chance.random() * 2)

    def play(self) -> None:
        moves = [self.open] * 6 + [self.acknowledge] * 4 + [self.replay, self.cancel] * 2
        moves += [self.cancel_calls, self.send, self.babble, self.cut, self.read, self.pass_time]
        for _ in range(150):
            self.chance.choice(moves)()
            self.world.network.run()
        for deaf in self.bad:
            deaf.close()
        self.world.network.advance(60)
        assert all(reader.has_ended for reader in self.good)
        assert not streams_of(self.world)
        self.world.close()
        assert_all_given_back(self.world.channel, self.world.server)


@pytest.mark.parametrize("seed", range(examples(10)))
def test_nothing_escapes_and_nothing_is_left(seed: int) -> None:
    Game(seed).play()
