"""A server says of its own refusals that no handler saw the call, and of nothing else."""

from __future__ import annotations

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, Waiting, World, text
from txzmq.rpc import Code, ServerLimits
from txzmq.rpc._wire.headers import RequestHead

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
