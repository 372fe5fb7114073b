from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

from benchmarks.workload import Messages, Order, Window, WrongReplyError

if TYPE_CHECKING:
    from benchmarks.workload import EchoRequest


@dataclass
class Echo:
    """Stands for both generated messages."""

    sequence: int
    payload: bytes


MESSAGES = Messages(cast("Any", Echo), cast("Any", Echo))


def window(seconds: float = 0.0, message_bytes: int = 100) -> Window:
    order = Order(in_flight=1, seconds=seconds, message_bytes=message_bytes)
    return Window(MESSAGES, order)


def test_requests_differ_and_are_as_long_as_ordered() -> None:
    measured = window(message_bytes=100)
    requests = [measured.issue()[1] for _ in range(3)]
    assert [request.sequence for request in requests] == [1, 2, 3]
    assert {len(request.payload) for request in requests} == {94}


def test_a_sample_counts_what_is_complete() -> None:
    measured = window(seconds=3600)
    for _ in range(3):
        started, request = measured.issue()
        assert measured.complete(started, request, MESSAGES.answer(request))
    sample = measured.sample()
    assert sample.calls == 3
    assert 0 < sample.p50 <= sample.p99 <= sample.elapsed
    assert sample.client_cpu >= 0


def test_no_call_follows_when_the_time_is_over() -> None:
    measured = window(seconds=0)
    started, request = measured.issue()
    assert not measured.complete(started, request, MESSAGES.answer(request))


@pytest.mark.parametrize("wrong", [Echo(2, b"\xa5" * 94), Echo(1, b"\xa5" * 93)])
def test_a_wrong_reply_is_an_error(wrong: Echo) -> None:
    measured = window()
    started, request = measured.issue()
    with pytest.raises(WrongReplyError, match="call 1"):
        measured.complete(started, request, cast("Any", wrong))


def test_the_answer_is_what_was_asked() -> None:
    request = cast("EchoRequest", Echo(7, b"x"))
    assert MESSAGES.answer(request) == Echo(7, b"x")
