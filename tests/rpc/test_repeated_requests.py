"""Requests that come again, by any connection: executed once, and answered each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, Stubborn, Waiting, World, text
from txzmq.rpc import Code, Context, ReplyCacheLimits, RpcError, ServerLimits, UnaryResult
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.v1.control_pb2 import CancelRequest

KEY = b"sixteen bytes..."
HEAD = RequestHead(ECHO.path, None, (), request_key=KEY)
BODY = text("x").SerializeToString()
CANCEL = RequestHead("/txzmq.rpc.v1.Control/Cancel", None, ())


class Twice(World):
    """A server with two addresses, and a client at each."""

    def __init__(self, service: Echo | None = None, limits: ServerLimits | None = None) -> None:
        super().__init__(service, limits=limits)
        self.server.listen("inproc://second")
        self.one = RawClient(self.network, ADDRESS)
        self.two = RawClient(self.network, "inproc://second")
        self.network.run()

    def send(self, client: RawClient, head: RequestHead = HEAD) -> int:
        number = client.request(head, BODY)
        self.network.run()
        return number

    def answer(self, client: RawClient, number: int) -> tuple[Code, str] | None:
        reply = client.replies().get(number)
        if reply is None:
            return None
        head, body = reply
        return head.code, head.message or StringValue.FromString(body).value

    def finish(self, index: int, value: str = "done") -> None:
        assert isinstance(self.service, Waiting)
        self.service.results[index].callback(text(value))
        self.network.run()

    def close(self) -> None:
        self.one.transport.close()
        self.two.transport.close()
        super().close()


@pytest.fixture
def waiting() -> Iterator[Twice]:
    world = Twice(Waiting())
    yield world
    world.close()


DONE = (Code.OK, "done")


def test_a_repeat_is_answered_from_the_cache_until_that_is_too_old() -> None:
    world = Twice(limits=ServerLimits(reply_cache=ReplyCacheLimits(age=10)))
    first = world.send(world.one)
    again = [world.send(client) for client in (world.one, world.two)]
    assert world.answer(world.one, first) == (Code.OK, "x")
    assert world.answer(world.one, again[0]) == world.answer(world.two, again[1]) == (Code.OK, "x")
    assert world.service.seen == ["x"]
    assert world.server.counters == {"repeated request": 2}
    world.network.advance(10)
    world.send(world.two)
    assert world.service.seen == ["x", "x"]
    world.close()


def test_other_keys_other_methods_and_no_key_are_other_calls() -> None:
    world = Twice()
    for head in (
        HEAD,
        HEAD._replace(request_key=KEY[::-1]),
        HEAD._replace(path=OTHER.path),
        HEAD._replace(request_key=b""),
        HEAD._replace(request_key=b""),
    ):
        world.send(world.one, head)
    assert len(world.service.seen) == 5
    world.close()


def test_a_repeat_waits_while_the_first_runs(waiting: Twice) -> None:
    first, again, other = (waiting.send(c) for c in (waiting.one, waiting.one, waiting.two))
    assert waiting.service.seen == ["x"]
    assert waiting.server.running == 1
    waiting.finish(0)
    assert waiting.answer(waiting.one, first) == waiting.answer(waiting.one, again) == DONE
    assert waiting.answer(waiting.two, other) == DONE


def test_the_handler_goes_on_while_anybody_waits(waiting: Twice) -> None:
    waiting.send(waiting.one)
    again = waiting.send(waiting.two)
    waiting.one.transport.close()
    waiting.network.run()
    assert not waiting.service.contexts[0].cancelled.called
    waiting.finish(0)
    assert waiting.answer(waiting.two, again) == DONE
    assert waiting.server.running == 0


def test_the_handler_ends_when_nobody_waits_any_more(waiting: Twice) -> None:
    waiting.send(waiting.one)
    again = waiting.send(waiting.two)
    waiting.one.transport.close()
    waiting.network.run()
    request_id = waiting.two.id_of(again)
    waiting.two.request(CANCEL, CancelRequest(request_ids=[request_id]).SerializeToString())
    waiting.network.run()
    reason = waiting.network.result(waiting.service.contexts[0].cancelled)
    assert reason == "the client cancelled it"
    assert waiting.server.running == 0
    third = waiting.send(waiting.two)
    assert waiting.service.seen == ["x", "x"], "nothing is kept of a run that was cancelled"
    waiting.finish(1)
    assert waiting.answer(waiting.two, third) == DONE


def test_a_repeat_may_be_cancelled_or_lost_alone(waiting: Twice) -> None:
    first = waiting.send(waiting.one)
    again = waiting.send(waiting.one)
    waiting.send(waiting.two)
    body = CancelRequest(request_ids=[waiting.one.id_of(again)]).SerializeToString()
    waiting.one.request(CANCEL, body)
    waiting.two.transport.close()
    waiting.network.run()
    assert not waiting.service.contexts[0].cancelled.called
    waiting.finish(0)
    assert waiting.answer(waiting.one, first) == DONE
    assert waiting.answer(waiting.one, again) is None


def test_each_has_its_own_deadline_and_the_firsts_ends_the_run(waiting: Twice) -> None:
    first = waiting.send(waiting.one, HEAD._replace(timeout_us=3_000_000))
    short = waiting.send(waiting.two, HEAD._replace(timeout_us=1_000_000))
    long = waiting.send(waiting.two, HEAD._replace(timeout_us=9_000_000))
    waiting.network.advance(2)
    assert waiting.answer(waiting.one, first) is None
    answer = waiting.answer(waiting.two, short)
    assert answer is not None
    assert answer[0] is Code.DEADLINE_EXCEEDED
    waiting.network.advance(2)
    for client, number in ((waiting.one, first), (waiting.two, long)):
        answer = waiting.answer(client, number)
        assert answer is not None
        assert answer[0] is Code.DEADLINE_EXCEEDED
    waiting.send(waiting.one)
    assert waiting.service.seen == ["x", "x"], "a failure by time is not kept"


@pytest.mark.parametrize(
    ("code", "executions"),
    [
        (Code.NOT_FOUND, 1),
        (Code.FAILED_PRECONDITION, 1),
        (Code.UNAVAILABLE, 2),
        (Code.RESOURCE_EXHAUSTED, 2),
        (Code.ABORTED, 2),
        (Code.INTERNAL, 2),
    ],
)
def test_errors_are_kept_unless_clients_try_again_after_them(code: Code, executions: int) -> None:
    class Failing(Echo):
        def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
            self.note(request, context)
            raise RpcError(code, "because", metadata=[("k", "v")])

    world = Twice(Failing())
    first, again = world.send(world.one), world.send(world.two)
    assert len(world.service.seen) == executions
    assert world.one.replies()[first] == world.two.replies()[again]
    assert world.one.replies()[first][0].trailing == (("k", "v"),)
    world.close()


def test_a_run_that_waits_for_a_place_is_one_too() -> None:
    world = Twice(Waiting(), ServerLimits(running=1))
    world.send(world.one, HEAD._replace(request_key=b""))
    first, again = world.send(world.one), world.send(world.two)
    assert (world.server.queued, len(world.service.seen)) == (1, 1)
    world.finish(0)
    world.finish(1)
    assert world.answer(world.one, first) == world.answer(world.two, again) == DONE
    assert len(world.service.seen) == 2
    world.close()


def test_too_many_repeats_are_refused() -> None:
    limits = ServerLimits(reply_cache=ReplyCacheLimits(waiting=2))
    world = Twice(Waiting(), limits)
    numbers = [world.send(world.one) for _ in range(3)]
    head, _ = world.one.replies()[numbers[2]]
    assert head.code is Code.RESOURCE_EXHAUSTED
    assert "ReplyCacheLimits.waiting" in head.message
    assert not head.not_executed, "another attempt may be"
    world.finish(0)
    assert [world.answer(world.one, number) for number in numbers[:2]] == [DONE, DONE]
    world.close()


def test_the_cache_is_bounded_by_entries_and_bytes() -> None:
    # A reply costs 515 bytes here.
    for limits, kept in ((ReplyCacheLimits(entries=3), 3), (ReplyCacheLimits(size=8 * 515), 8)):
        world = Twice(limits=ServerLimits(reply_cache=limits))
        keys = [bytes([i]) * 16 for i in range(10)]
        for key in keys:
            world.send(world.one, HEAD._replace(request_key=key))
        for key in reversed(keys):
            world.send(world.two, HEAD._replace(request_key=key))
        assert len(world.service.seen) == 20 - kept
        world.close()


def test_stopping_ends_the_run_and_all_who_wait_for_it() -> None:
    world = Twice(Stubborn())
    first, again = world.send(world.one), world.send(world.two)
    stopped = world.server.stop(5)
    repeat = world.send(world.two)
    assert world.answer(world.two, repeat) is None, "it waits for what runs, also now"
    world.network.advance(5)
    assert stopped.called
    for client, number in ((world.one, first), (world.two, again), (world.two, repeat)):
        head, _ = client.replies()[number]
        assert (head.code, head.not_executed) == (Code.UNAVAILABLE, False)
    world.close()


def test_a_repeat_that_comes_too_late_for_the_cache_is_refused_like_a_first_request() -> None:
    world = Twice(limits=ServerLimits(reply_cache=ReplyCacheLimits(age=10)))
    world.send(world.one)
    world.network.advance(10)
    late = world.send(world.two, HEAD._replace(timeout_us=0))
    head, _ = world.two.replies()[late]
    assert (head.code, head.not_executed) == (Code.DEADLINE_EXCEEDED, True)
    assert world.service.seen == ["x"]
    world.close()


def test_the_cache_can_be_turned_off() -> None:
    world = Twice(Waiting(), ServerLimits(reply_cache=None))
    numbers = [world.send(world.one) for _ in range(2)]
    assert world.service.seen == ["x", "x"]
    world.finish(1, "second")
    world.finish(0, "first")
    answers = [world.answer(world.one, number) for number in numbers]
    assert answers == [(Code.OK, "first"), (Code.OK, "second")]
    assert world.server.counters["repeated request"] == 0
    world.close()


def test_nothing_is_kept_after_the_end() -> None:
    world = Twice()
    world.send(world.one)
    world.close()
    dispatcher: Any = world.server._dispatcher  # pyright: ignore[reportPrivateUsage]  # its tables
    replies = dispatcher._replies
    assert len(replies) == replies.size == replies.running == 0
