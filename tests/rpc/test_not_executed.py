"""A server says of its own refusals that no handler saw the call, and of nothing else."""

from __future__ import annotations

import pytest

from tests.rpc.lines import Lines
from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, Waiting, World, text
from tests.rpc.streaming import COUNT, Reader
from txzmq.rpc import Channel, Code, ServerLimits, Unavailable
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, encode_response

ECHO = RequestHead("/test.Echo/Echo", None, ())
BODY = text("x").SerializeToString()


def test_refusals_say_that_the_call_was_not_executed() -> None:
    limits = ServerLimits(running=1, queued=2, message_size=100, metadata_size=50)
    world = World(Waiting(), limits=limits)
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    running = raw.request(ECHO, BODY)
    refused = [
        raw.request(ECHO._replace(path="/test.Echo/Missing")),
        raw.request(ECHO._replace(path="/test.Echo/Watch")),
        raw.request(ECHO._replace(timeout_us=0), BODY),
        raw.request(ECHO._replace(metadata=(("k", "v" * 50),)), BODY),
        raw.request(ECHO, bytes(101)),
        raw.request(ECHO._replace(timeout_us=1_000_000), BODY),  # late while it waits
    ]
    queued = raw.request(ECHO, BODY)
    refused.append(raw.request(ECHO, BODY))  # over the limit of waiting calls
    world.network.advance(2)
    stopped = world.server.stop(5)
    refused.append(raw.request(ECHO, BODY))
    world.network.advance(10)
    assert stopped.called
    replies = raw.replies()
    refused.append(queued)  # the server was stopped before it had a place
    assert {number for number, (head, _) in replies.items() if head.not_executed} == set(refused)
    assert replies[running][0].code is Code.UNAVAILABLE
    assert all(replies[number][0].code is not Code.OK for number in refused)
    raw.transport.close()
    world.close()


def test_a_request_that_cannot_be_parsed_was_not_executed() -> None:
    world = World()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    bad = raw.request(ECHO, b"\xff")
    raw.transport.send_message([b"x" * 16, b"", b"", BODY])
    world.network.run()
    head, _ = raw.replies()[bad]
    assert (head.code, head.not_executed) == (Code.INTERNAL, True)
    assert all(head.not_executed for head, _ in raw.replies().values())
    assert len(raw.messages) == 2
    raw.transport.close()
    world.close()


@pytest.mark.parametrize("not_executed", [True, False])
def test_a_stream_that_a_server_refuses_is_opened_on_another_one(not_executed: bool) -> None:
    network = Lines()
    channel = Channel(network, ["tcp://a", "tcp://b"])
    for line in network.made:
        line.handler.connected()
    reader = Reader(channel.unary_stream(COUNT, text("1")))
    network.run()
    (first,) = (line for line in network.made if line.requests)
    (second,) = (line for line in network.made if not line.requests)
    refusal = ResponseHead(Code.UNAVAILABLE, "not here", not_executed=not_executed)
    first.handler.received([first.requests[0][0], b"", encode_response(refusal), b""])
    network.run()
    assert second.paths == (["Count"] if not_executed else [])
    assert isinstance(reader.ended, Unavailable) is not not_executed
    channel.close()
    assert reader.has_ended
