"""Calls that end with errors that cannot say what they are, or say what nobody can encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred, fail

from tests.rpc.observing import Calls
from tests.rpc.service import ADDRESS, ECHO, Echo, World, made, text
from tests.rpc.streaming import COLLECT, StreamWorld
from tests.support import Logged, error_of
from txzmq.rpc import Channel, Code, Context, Internal, NotFound, Side
from txzmq.testing import MemoryNetwork


class Mute(Exception):
    """Raises where its text is asked for."""

    def __str__(self) -> str:
        raise LookupError("no words")


class MuteCancelling(CancelledError):
    """The same of a cancellation."""

    def __str__(self) -> str:
        raise LookupError("no words")


# Any: calls and responses of any kind.
def at_once(call: Any, proceed: Any) -> Any:
    raise Mute


def by_deferred(call: Any, proceed: Any) -> Any:
    return fail(Mute())


async def by_coroutine(call: Any, proceed: Any) -> Any:
    raise Mute


def cancelled(call: Any, proceed: Any) -> Any:
    return fail(MuteCancelling())


def spoilt(call: Any, proceed: Any) -> Any:
    error: Any = NotFound("x")
    error.message = 7
    raise error


def ended(outcome: Deferred[Any]) -> BaseException:
    results: list[Any] = []
    outcome.addErrback(error_of).addCallback(results.append)
    (error,) = results
    assert isinstance(error, BaseException)
    return error


@pytest.mark.parametrize(
    ("interceptor", "error", "code", "message"),
    [
        (at_once, Mute, Code.UNKNOWN, "Mute"),
        (by_deferred, Mute, Code.UNKNOWN, "Mute"),
        (by_coroutine, Mute, Code.UNKNOWN, "Mute"),
        (cancelled, MuteCancelling, Code.CANCELLED, "the caller cancelled it"),
        (spoilt, NotFound, Code.NOT_FOUND, "7"),
    ],
)
def test_an_error_without_words_ends_a_call_and_is_the_one_that_its_caller_gets(
    interceptor: Any, error: type[BaseException], code: Code, message: str
) -> None:
    calls = Calls()
    network = MemoryNetwork()
    channel = Channel(network, ADDRESS, interceptors=[interceptor], observer=calls)
    outcome = channel.unary_unary(ECHO, text("x"))
    network.run()
    assert isinstance(ended(outcome), error)
    record = calls.take(Side.CLIENT)
    assert (record.code, record.message) == (code, message)
    channel.close()


def test_requests_that_end_without_words() -> None:
    def requests() -> Iterator[StringValue]:
        yield text("a")
        raise Mute

    for make in made(StreamWorld):
        calls = Calls()
        world = make(lambda request, context: None, observer=calls)
        outcome = world.channel.stream_unary(COLLECT, requests())
        world.network.advance(1)
        assert isinstance(ended(outcome), Mute)
        record = next(record for record in calls.records if record.side is Side.CLIENT)
        assert (record.code, record.message) == (Code.UNKNOWN, "Mute")


class Surrogates(Echo):
    """Fails with half of a character, as text of file names has."""

    def echo(self, request: StringValue, context: Context) -> StringValue:
        raise Internal("no file \udcff\u00e4")


class Spoilt(Echo):
    """Fails with an error whose message is no text any more."""

    def echo(self, request: StringValue, context: Context) -> StringValue:
        error: Any = NotFound("x")
        error.message = 7
        raise error


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    yield from made(World)


def test_a_message_can_be_encoded_and_is_the_same_on_both_sides(worlds: Any) -> None:
    calls = Calls()
    world = worlds(Surrogates(), observer=calls)
    outcome = world.call("x")
    world.network.run()
    error = ended(outcome)
    assert isinstance(error, Internal)
    client, server = calls.both()
    assert client.message == server.message == error.message == "no file ?\u00e4"


def test_a_message_that_is_no_text_ends_a_call_on_both_sides(worlds: Any, logged: Logged) -> None:
    calls = Calls()
    world = worlds(Spoilt(), observer=calls)
    outcome = world.call("x")
    world.network.run()
    assert isinstance(ended(outcome), Internal)
    assert (calls.problems, calls.open) == ([], {})
    assert {record.side for record in calls.records} == set(Side)
    assert len(logged.failures()) == 1  # the handler's


def test_a_message_of_the_clients_own_can_be_encoded() -> None:
    def fails(call: Any, proceed: Any) -> Any:
        raise ValueError("no file \udcff")

    calls = Calls()
    network = MemoryNetwork()
    channel = Channel(network, ADDRESS, interceptors=[fails], observer=calls)
    outcome = channel.unary_unary(ECHO, text("x"))
    assert isinstance(ended(outcome), ValueError)
    assert calls.take(Side.CLIENT).message == "ValueError: no file ?"
    channel.close()
