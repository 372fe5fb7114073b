"""Calls of one turn of the reactor travel together, and nobody above notices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

import txzmq
from tests.rpc.service import ADDRESS, ECHO_AS_BYTES, OTHER, Echo, Waiting, World, closing
from txzmq.rpc import Channel, NotFound, ResourceExhausted, Server, ServerLimits
from txzmq.rpc._wire.batches import EARLY_BATCH, MAX_BATCH
from txzmq.rpc._wire.headers import decode_request
from txzmq.rpc.transport import (
    ClientHandler,
    ClientTransport,
    SendResult,
    ServerHandler,
    ServerTransport,
)
from txzmq.testing import MemoryNetwork


class Tap(MemoryNetwork):
    """Sees how many parts each message has, and may let nobody send."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[list[bytes]] = []
        self.replies: list[list[bytes]] = []
        self.full = False
        self.clients: list[ClientHandler] = []

    def connect(  # type: ignore[override]  # MemoryNetwork promises its own class
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> ClientTransport:
        self.clients.append(handler)
        line = super().connect(address, handler, options)
        self._tap(line, self.requests)
        return line

    def listen(  # type: ignore[override]  # as above
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> ServerTransport:
        listener = super().listen(address, handler, options)
        self._tap(listener, self.replies)
        return listener

    def _tap(self, transport: ClientTransport | ServerTransport, seen: list[list[bytes]]) -> None:
        send = transport.send_message

        def send_message(message: list[bytes]) -> SendResult:
            if self.full:
                return SendResult.BLOCKED
            seen.append(message)
            return send(message)

        transport.send_message = send_message  # type: ignore[method-assign]  # that is the tap


class TappedWorld(World):
    def __init__(
        self,
        service: Echo | None = None,
        *,
        client_batches: bool = True,
        server_batches: bool = True,
        limits: ServerLimits | None = None,
    ) -> None:
        self.tap = Tap()
        self.network = self.tap
        self.service = Echo() if service is None else service
        self.server = Server(self.network, [self.service], batching=server_batches, limits=limits)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS, batching=client_batches)

    def greet(self) -> None:
        """A first call, by which client and server get to know each other."""
        first = self.call("first")
        self.network.run()
        if isinstance(self.service, Waiting):
            self.service.results.pop().callback(StringValue(value="first"))
        assert self.network.result(first).value == "first"
        self.tap.requests.clear()
        self.tap.replies.clear()

    def calls(self, count: int) -> list[str]:
        answers = [self.call(str(number)) for number in range(count)]
        self.network.run()
        return [self.network.result(answer).value for answer in answers]


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    yield from closing()


def test_calls_of_one_turn_travel_together_once_both_sides_know(worlds: list[World]) -> None:
    world = TappedWorld()
    worlds.append(world)
    assert world.calls(3) == ["0", "1", "2"]
    assert [len(message) for message in world.tap.requests] == [4, 4, 4]  # nobody knows yet
    assert [len(message) for message in world.tap.replies] == [4]  # the client has said it
    world.tap.requests.clear()
    assert world.calls(3) == ["0", "1", "2"]
    assert [len(message) for message in world.tap.requests] == [3]
    assert world.calls(1) == ["0"]
    assert [len(message) for message in world.tap.requests] == [3, 4]  # alone, it travels alone


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("server", [True, False])
def test_who_does_not_batch_gets_no_batches(
    worlds: list[World], client: bool, server: bool
) -> None:
    world = TappedWorld(client_batches=client, server_batches=server)
    worlds.append(world)
    world.greet()
    assert world.calls(20) == [str(number) for number in range(20)]
    batches = client and server
    assert len(world.tap.requests) == len(world.tap.replies) == (1 if batches else 20)


def test_after_a_reconnect_they_get_to_know_each_other_anew(worlds: list[World]) -> None:
    world = TappedWorld()
    worlds.append(world)
    world.greet()
    world.network.cut(ADDRESS)
    world.network.advance(1)
    assert world.calls(2) == ["0", "1"]
    assert [len(message) for message in world.tap.requests] == [4, 4]


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("server", [True, False])
def test_the_first_request_of_a_connection_says_what_the_client_is(
    worlds: list[World], client: bool, server: bool
) -> None:
    world = TappedWorld(client_batches=client, server_batches=server)
    worlds.append(world)
    world.network.run()
    world.tap.full = True
    blocked = world.call("blocked")
    world.network.run()
    world.tap.full = False
    world.channel.close()  # nothing was sent, so that nothing was said
    with pytest.raises(CancelledError):
        world.network.result(blocked)
    world.channel = Channel(world.network, ADDRESS, batching=client)
    for _ in range(2):
        world.tap.requests.clear()
        for _ in range(3):
            world.calls(1)
        heads = [decode_request(message[2]) for message in world.tap.requests]
        assert [head.user_agent for head in heads] == [f"txzmq/{txzmq.__version__}", "", ""]
        asks = [client, client and not server, client and not server]
        assert [head.accepts_batches for head in heads] == asks
        world.network.cut(ADDRESS)
        world.network.advance(1)


def test_enough_calls_do_not_wait_for_the_end_of_the_turn(worlds: list[World]) -> None:
    service = Waiting()
    world = TappedWorld(service)
    worlds.append(world)
    world.greet()
    answers = [world.call(str(number)) for number in range(EARLY_BATCH)]
    assert len(world.tap.requests) == 1  # the turn has not ended
    answers.append(world.call("one more"))
    assert len(world.tap.requests) == 1
    world.network.run()
    assert [len(message) for message in world.tap.requests] == [3, 4]
    for result in service.results[:EARLY_BATCH]:
        assert not world.tap.replies
        result.callback(StringValue(value="x"))
    assert [len(message) for message in world.tap.replies] == [4]
    service.results[-1].callback(StringValue(value="y"))
    values = [world.network.result(answer).value for answer in answers]
    assert values == ["x"] * EARLY_BATCH + ["y"]


def test_a_batch_has_a_limit_and_large_messages_travel_alone(worlds: list[World]) -> None:
    world = TappedWorld()
    worlds.append(world)
    world.greet()
    world.tap.full = True
    waiting = [world.call(str(number)) for number in range(2 * MAX_BATCH + 1)]
    world.tap.full = False
    world.tap.clients[0].flush()  # as a socket says that it has room again
    for number, answer in enumerate(waiting):
        assert world.network.result(answer).value == str(number)
    assert [len(message) for message in world.tap.requests] == [3, 3, 4]
    world.tap.requests.clear()
    values = ["a", "b", "c" * 33_000, "d", "e", *["f" * 20_000] * 10]
    answers = [world.call(value) for value in values]
    assert [world.network.result(answer).value for answer in answers] == values
    assert [len(message) for message in world.tap.requests] == [3, 4, 3, 3]
    assert world.service.seen[-len(values) :] == values  # in the order of the calls


def test_each_call_of_a_batch_has_its_own_end(worlds: list[World]) -> None:
    class Service(Echo):
        def other(self, request: StringValue, context: object) -> StringValue:
            raise NotFound(request.value)

    world = TappedWorld(Service())
    worlds.append(world)
    world.greet()
    good, bad = world.call("x"), world.call("y", method=OTHER)
    unreadable = world.channel.unary_unary(ECHO_AS_BYTES, BytesValue(value=b"\xff"))
    too_late = world.call("never", timeout=1e-7)
    cancelled = world.call("cancelled")
    cancelled.addErrback(lambda _: None)
    cancelled.cancel()
    failures: list[object] = []
    for answer in (unreadable, too_late):
        answer.addErrback(failures.append)
    with pytest.raises(NotFound, match="y"):
        world.network.result(bad)
    assert world.network.result(good).value == "x"
    assert len(failures) == 2
    assert [len(message) for message in world.tap.requests] == [3]
    assert "cancelled" not in world.service.seen


def test_a_reply_may_lead_to_the_end_of_a_call_whose_reply_came_with_it(
    worlds: list[World],
) -> None:
    service = Waiting()
    world = TappedWorld(service)
    worlds.append(world)
    world.greet()
    one, two, three = (world.call(name) for name in ("1", "2", "3"))
    ends: list[str] = []

    def failed(failure: Failure) -> None:
        assert isinstance(failure.value, CancelledError)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        ends.append("cancelled")

    def cancel_two(_: StringValue) -> None:
        two.cancel()

    def note(reply: StringValue) -> None:
        ends.append(reply.value)

    two.addErrback(failed)
    one.addCallback(cancel_two)
    three.addCallback(note)
    world.network.run()
    for result in service.results:
        result.callback(StringValue(value="x"))
    world.network.run()
    assert ends == ["cancelled", "x"]
    assert world.channel.counters["late reply"] == 1


def test_what_a_full_socket_does_not_take_is_sent_later_with_the_time_that_is_left(
    worlds: list[World],
) -> None:
    world = TappedWorld()
    worlds.append(world)
    world.greet()
    world.tap.full = True
    answers = [world.call(str(number), timeout=10) for number in range(3)]
    dropped = world.call("cancelled")
    dropped.addErrback(lambda _: None)
    world.network.advance(4)
    dropped.cancel()
    assert not world.tap.requests
    world.tap.full = False
    world.tap.clients[0].flush()  # as a socket says that it has room again
    assert [world.network.result(answer).value for answer in answers] == ["0", "1", "2"]
    assert world.service.seen == ["first", "0", "1", "2"]
    left = [context.time_remaining() for context in world.service.contexts[1:4]]
    assert left == pytest.approx([6, 6, 6])


def test_replies_wait_for_a_slow_client_up_to_a_limit(worlds: list[World]) -> None:
    service = Waiting()
    world = TappedWorld(service, limits=ServerLimits(backlog_per_peer=1_000))
    worlds.append(world)
    world.greet()
    answers = [world.call(str(number)) for number in range(3)]
    world.network.run()
    world.tap.full = True
    waiting: list[Deferred[StringValue]] = service.results
    for result in waiting:
        result.callback(StringValue(value="x" * 600))
        world.network.run()
    world.network.advance(1)
    world.tap.full = False
    world.network.advance(1)
    assert world.network.result(answers[0]).value == "x" * 600
    for answer in answers[1:]:
        with pytest.raises(ResourceExhausted, match=r"ServerLimits\.backlog.*was executed"):
            world.network.result(answer)
    assert world.server.counters["reply over a slow client's backlog"] == 2
