"""Requests: ids that come once, replies that reach only who asked."""

from __future__ import annotations

from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.sockets.support import Turns, bind, error_of, fresh_turns, has_message
from tests.support import Logged
from txzmq import ZmqREQConnection, ZmqRequestTimeoutError


class Conversation:
    """A REQ connection and the server, a plain socket that the test drives."""

    def __init__(self, turns: Turns, cls: type[ZmqREQConnection] = ZmqREQConnection) -> None:
        self.turns = turns
        self.client = cls(turns.factory, bind("inproc://client"))
        self.server = turns.raw(zmq.DEALER, "inproc://client")
        self.results: list[tuple[bytes, Any]] = []
        turns.settle()

    def ask(self, data: bytes, timeout: float | None = None) -> Deferred[list[bytes]]:
        """Ask; what comes of it is put into :attr:`results`."""
        deferred = self.client.sendMsg(data, timeout=timeout)
        deferred.addBoth(lambda result: self.results.append((data, result)))
        return deferred

    def next_request(self) -> tuple[bytes, bytes]:
        """The next request's id and data, at the server."""
        requestId, delimiter, data = self.server.recv_multipart(zmq.NOBLOCK)
        assert delimiter == b""
        return requestId, data

    def answer(self, requestId: bytes, *parts: bytes) -> None:
        self.server.send_multipart([requestId, b"", *parts])
        self.client.doRead()


@pytest.fixture
def talk(turns: Turns) -> Conversation:
    return Conversation(turns)


# -- ids ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["ask", "answer", "answer twice", "cancel", "time"]), max_size=200),
    st.randoms(use_true_random=False),
)
def test_no_id_comes_twice_and_no_reply_reaches_another(steps: list[str], random: Any) -> None:
    """Whatever happens to requests: asked, answered once or twice, late or never, cancelled."""
    with fresh_turns() as turns:
        talk = Conversation(turns)
        seen: dict[bytes, bytes] = {}  # id -> data
        waiting: list[tuple[bytes, Deferred[list[bytes]]]] = []
        for number, step in enumerate(steps):
            if step == "ask":
                data = b"%d" % number
                deferred = talk.ask(data, random.choice([None, 1, 5]))
                requestId, received = talk.next_request()
                assert received == data
                assert requestId not in seen
                seen[requestId] = data
                waiting.append((data, deferred))
            elif step.startswith("answer") and seen:
                requestId = random.choice(list(seen))  # perhaps long over
                for _ in range(1 + step.endswith("twice")):
                    talk.answer(requestId, b"to " + seen[requestId])
            elif step == "cancel" and waiting:
                waiting.pop(random.randrange(len(waiting)))[1].cancel()
            elif step == "time":
                turns.reactor.advance(1)
        for data, result in talk.results:
            if isinstance(result, Failure):
                assert isinstance(error_of(result), (ZmqRequestTimeoutError, CancelledError))
            else:
                assert result == [b"to " + data]
        assert len({data for data, _ in talk.results}) == len(talk.results)
        turns.settle()


def test_ids_are_not_used_again_by_thousands_of_requests(talk: Conversation) -> None:
    """In txZMQ the ids of answered requests go back into a pool."""
    ids: set[bytes] = set()
    for i in range(3000):
        talk.ask(b"x", timeout=1 if i % 3 == 1 else None)
        requestId, _ = talk.next_request()
        ids.add(requestId)
        if i % 3 == 0:
            talk.answer(requestId, b"y")
            talk.answer(requestId, b"y")
        elif i % 3 == 1 and i % 10 == 0:
            talk.turns.reactor.advance(2)
    assert len(ids) == 3000


def test_two_connections_have_no_ids_in_common(turns: Turns) -> None:
    """The replies to a connection before this one, perhaps in another process, fit nowhere."""
    connections: list[Any] = [ZmqREQConnection(turns.factory) for _ in range(2)]
    first, second = ({connection._getNextId() for _ in range(100)} for connection in connections)
    assert not first & second


# -- replies that nobody waits for -------------------------------------------------------------


def test_the_second_of_two_replies_is_dropped_and_counted(
    talk: Conversation, logged: Logged
) -> None:
    """In txZMQ it answers whichever request gets the id next."""
    talk.ask(b"first")
    requestId, _ = talk.next_request()
    talk.answer(requestId, b"1")
    talk.answer(requestId, b"1 again")
    for data in (b"second", b"third", b"fourth"):
        talk.ask(data)
    talk.answer(requestId, b"1 once more")
    assert talk.results == [(b"first", [b"1"])]
    assert talk.client.discarded == {"unexpected reply": 2}
    assert len(logged.warnings()) == 1, "a peer must not be able to fill the log"


def test_late_and_unknown_replies_are_dropped_and_counted(talk: Conversation) -> None:
    talk.ask(b"cancelled").cancel()
    talk.ask(b"timed out", timeout=1)
    talk.turns.reactor.advance(1)
    talk.answer(talk.next_request()[0], b"late")
    talk.answer(talk.next_request()[0], b"late")
    talk.answer(b"never asked", b"?")
    assert [data for data, _ in talk.results] == [b"cancelled", b"timed out"]
    assert talk.results[0][1].check(CancelledError)
    assert talk.results[1][1].check(ZmqRequestTimeoutError)
    assert talk.client.discarded == {"unexpected reply": 3}


# -- timeouts ----------------------------------------------------------------------------------


def test_the_timeout_of_a_request_goes_before_that_of_the_connection(talk: Conversation) -> None:
    talk.client.defaultRequestTimeout = 5
    talk.ask(b"long", timeout=10)
    talk.ask(b"default")
    talk.ask(b"short", timeout=1)
    for _ in range(10):
        talk.turns.reactor.advance(1)
    assert [data for data, _ in talk.results] == [b"short", b"default", b"long"]
    ids = [talk.next_request()[0] for _ in range(3)]
    assert [result.value.args for _, result in talk.results] == [(i,) for i in reversed(ids)]


def test_an_answered_request_leaves_no_timer(talk: Conversation) -> None:
    talk.ask(b"x", timeout=10)
    talk.answer(talk.next_request()[0], b"y")
    talk.turns.settle()
    assert not talk.turns.scheduled()


def test_a_negative_timeout_is_refused_before_anything_is_sent(talk: Conversation) -> None:
    with pytest.raises(ValueError, match="negative"):
        talk.client.sendMsg(b"x", timeout=-1)
    assert not has_message(talk.server)


# -- ids of the user's own ---------------------------------------------------------------------


class Numbered(ZmqREQConnection):
    number = 0

    def _getNextId(self) -> str:
        self.number += 1
        return f"id-{self.number}"


def test_ids_may_come_from_a_subclass(turns: Turns) -> None:
    talk = Conversation(turns, Numbered)
    talk.ask(b"x")
    assert talk.next_request() == (b"id-1", b"x")
    talk.answer(b"id-1", b"y", b"z")
    assert talk.results == [(b"x", [b"y", b"z"])]


def test_ids_may_come_from_a_function_assigned_on_the_instance(talk: Conversation) -> None:
    ids = iter([b"a", b"b"])
    setattr(talk.client, "_getNextId", lambda: next(ids))
    talk.ask(b"x")
    talk.ask(b"y")
    talk.answer(b"b", b"2")
    talk.answer(b"a", b"1")
    assert talk.results == [(b"y", [b"2"]), (b"x", [b"1"])]


@pytest.mark.parametrize("bad", [b"busy", b""])
def test_an_id_in_use_is_refused_before_anything_is_sent(talk: Conversation, bad: bytes) -> None:
    ids = iter([b"busy", bad])
    setattr(talk.client, "_getNextId", lambda: next(ids))
    talk.ask(b"x")
    talk.next_request()
    with pytest.raises(ValueError, match="in use"):
        talk.client.sendMsg(b"y")
    assert not has_message(talk.server)


# -- the end -----------------------------------------------------------------------------------


def test_shutdown_fails_all_that_wait_and_no_more_can_be_asked(talk: Conversation) -> None:
    again: list[Exception] = []

    def ask_again(failure: Failure) -> None:
        assert isinstance(error_of(failure), ConnectionDone)
        try:
            talk.client.sendMsg(b"again")
        except zmq.ZMQError as error:
            again.append(error)

    for data in (b"1", b"2"):
        talk.client.sendMsg(data, timeout=60).addErrback(ask_again)
    talk.ask(b"3").cancel()
    talk.client.shutdown()
    assert len(again) == 2
    assert not talk.turns.scheduled()


def test_a_client_may_shut_down_in_the_callback_of_a_reply(talk: Conversation) -> None:
    """In the middle of a burst of a thousand replies."""
    answered: list[Any] = []

    def done(result: object) -> None:
        answered.append(result)
        if len(answered) == 500:
            talk.client.shutdown()

    for i in range(1000):
        talk.client.sendMsg(b"%d" % i, timeout=60).addBoth(done)
    for _ in range(1000):
        requestId, data = talk.next_request()
        talk.server.send_multipart([requestId, b"", data])
    talk.client.doRead()
    talk.turns.settle()
    assert answered[:500] == [[b"%d" % i] for i in range(500)]
    assert all(result.check(ConnectionDone) for result in answered[500:])
    assert len(answered) == 1000
    assert not talk.turns.scheduled()


def test_an_error_in_a_callback_of_a_reply_ends_nothing(talk: Conversation) -> None:
    """It belongs to the Deferred, whose owner Twisted tells."""
    failed: list[Failure] = []
    for _ in range(2):
        deferred: Deferred[Any] = talk.client.sendMsg(b"x")
        deferred.addCallback(lambda _: 1 / 0)
        deferred.addErrback(failed.append)
        talk.answer(talk.next_request()[0], b"y")
    assert [type(error_of(failure)) for failure in failed] == [ZeroDivisionError] * 2


def test_a_deferred_that_its_user_fired_ends_nothing(talk: Conversation, logged: Logged) -> None:
    talk.client.sendMsg(b"x").callback([b"mine"])
    talk.ask(b"y")
    talk.answer(talk.next_request()[0], b"1")
    talk.answer(talk.next_request()[0], b"2")
    assert talk.results == [(b"y", [b"2"])]
    assert len(logged.failures()) == 1
