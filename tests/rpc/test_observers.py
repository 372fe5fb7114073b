"""Several observers of one channel or server; in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.observing import Calls
from tests.rpc.service import Echo, World, made, text
from tests.support import Logged
from txzmq.rpc import (
    CallRecord,
    Channel,
    Context,
    EndpointChange,
    Observer,
    Observers,
    StartedCall,
    Watched,
)
from txzmq.rpc._client.calls import Calls as PlainCalls
from txzmq.rpc._core.call_watch import CallWatch
from txzmq.testing import MemoryNetwork


@pytest.fixture
def echoing() -> Iterator[Callable[..., World]]:
    yield from made(World)


class Noting(Observer):
    """Notes the names of some events, with a name of its own."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events

    def started(self, source: Watched) -> None:
        self.events.append(f"{self.name} started")

    def stopped(self, source: Watched) -> None:
        self.events.append(f"{self.name} stopped")


class Broken(Observer):
    """Raises whenever it is told."""

    def started(self, source: Watched) -> None:
        raise LookupError("started")

    def call_started(self, source: Watched, call: StartedCall) -> None:
        raise KeyboardInterrupt

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        raise LookupError("ended")


class States(Observer):
    def __init__(self) -> None:
        self.changes: list[str] = []

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        self.changes.append(change.state.name)


def test_each_is_told_in_order_of_what_it_has_methods_for(echoing: Any) -> None:
    events: list[str] = []
    states, calls = States(), Calls()
    observer = Observers(Noting("a", events), states, Observers(calls, Noting("b", events)))
    world = echoing(observer=observer)
    world.network.result(world.call("x"))
    assert events == ["a started", "b started"] * 2
    assert states.changes[-1] == "READY"
    assert len(calls.both()) == 2
    world.channel.close()
    assert events[4:] == ["a stopped", "b stopped"]


def test_what_one_raises_keeps_no_other_from_being_told(echoing: Any, logged: Logged) -> None:
    before, behind = Calls(), Calls()
    world = echoing(observer=Observers(before, Broken(), behind))
    assert world.network.result(world.call("x")).value == "x"
    assert before.both() == behind.both()
    assert [type(failure).__name__ for failure in logged.failures()] == [
        *["LookupError"] * 2,  # started
        *["KeyboardInterrupt", "KeyboardInterrupt", "LookupError", "LookupError"],
    ]


def test_what_several_raise_is_logged_together(echoing: Any, logged: Logged) -> None:
    calls = Calls()
    world = echoing(observer=Observers(Broken(), Broken(), calls))
    world.network.result(world.call("x"))
    groups = logged.failures()
    assert len(groups) == 6
    assert all(isinstance(group, BaseExceptionGroup) for group in groups)
    assert len(calls.both()) == 2


@pytest.mark.parametrize("observers", [(), (Observer(), States())], ids=["nobody", "not of calls"])
def test_nothing_is_paid_per_call_where_none_wants_to_know(
    echoing: Any, observers: tuple[Observer, ...]
) -> None:
    world: Any = echoing(observer=Observers(*observers))
    assert type(world.channel._calls) is PlainCalls
    assert world.server._dispatcher._watched is None


def test_a_single_one_is_told_itself() -> None:
    calls = Calls()
    watch: Any = CallWatch(MemoryNetwork().clock, Observers(Observer(), calls))
    assert watch._call_started == calls.call_started
    assert watch._call_ended == calls.call_ended


def test_all_are_told_of_a_call_in_the_context_of_its_handler(echoing: Any) -> None:
    first: ContextVar[str] = ContextVar("first", default="")
    second: ContextVar[str] = ContextVar("second", default="")

    class Setting(Observer):
        def __init__(self, variable: ContextVar[str]) -> None:
            self.variable = variable

        def call_started(self, source: Watched, call: StartedCall) -> None:
            self.variable.set(call.side)

    class Seeing(Echo):
        def echo(self, request: StringValue, context: Context) -> StringValue:
            return text(f"{first.get()} {second.get()}")

    world = echoing(Seeing(), observer=Observers(Setting(first), Setting(second)))
    assert world.network.result(world.call("x")).value == "server server"


def test_what_is_no_observer_is_refused() -> None:
    wrong: Any = object()
    with pytest.raises(TypeError, match=r"^observers must be an Observer, not "):
        Observers(Observer(), wrong)
    with pytest.raises(TypeError, match="pass an instance"):
        Observers(Observer)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake


def test_a_method_that_cannot_be_called_is_refused_where_it_is_used() -> None:
    class Odd(Observer):
        def started(self) -> None:  # type: ignore[override]  # the mistake
            """Takes too little."""

    with pytest.raises(TypeError, match=r"^observer\.started must be a function of \(source\)"):
        Channel(MemoryNetwork(), "inproc://x", observer=Observers(Observer(), Observers(Odd())))
