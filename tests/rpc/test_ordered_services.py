"""Services that start and stop in order, so that handlers keep what they use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred

from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.test_application import SECOND, World
from tests.support import Logged
from txzmq.rpc import Channel, Server
from txzmq.rpc.application import ChannelService, OrderedMultiService


class Noting(Service):
    """A service of somebody else's, which ends when the test says so."""

    def __init__(self, notes: list[str], name: str, fails: bool = False) -> None:
        self.notes, self.label, self.fails = notes, name, fails
        self.done: Deferred[None] = Deferred()
        self.then: Callable[[], object] = lambda: None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self.notes.append(f"start {self.label}")
        self.then()

    # Twisted's own returns None or a Deferred, of which pyright infers the first.
    def stopService(self) -> Deferred[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self.notes.append(f"stop {self.label}")
        if self.fails:
            raise ValueError(self.label)
        return self.done


def in_order(*labels: str) -> tuple[OrderedMultiService, dict[str, Noting], list[str]]:
    parent = OrderedMultiService()
    notes: list[str] = []
    services = {label: Noting(notes, label) for label in labels}
    for service in services.values():
        service.setServiceParent(parent)  # type: ignore[no-untyped-call]  # Twisted's
    return parent, services, notes


def test_services_stop_in_the_reverse_order_each_when_the_last_is_done() -> None:
    parent, services, notes = in_order("a", "b", "c")
    parent.startService()
    assert notes == ["start a", "start b", "start c"]
    notes.clear()
    done, again = parent.stopService(), parent.stopService()
    assert notes == ["stop c"]
    with pytest.raises(RuntimeError, match="still stops"):
        parent.startService()
    services["c"].done.callback(None)
    assert notes == ["stop c", "stop b"]
    services["b"].done.callback(None)
    assert [done.called, again.called] == [False, False]
    services["a"].done.callback(None)
    assert notes == ["stop c", "stop b", "stop a"]
    assert [done.called, again.called] == [True, True]
    assert parent.stopService().called
    parent.startService()
    assert notes[3:] == ["start a", "start b", "start c"]


def test_what_fails_to_stop_is_logged_and_the_others_stop(logged: Logged) -> None:
    parent, services, notes = in_order("a", "b", "c")
    parent.startService()
    services["b"].fails = True
    services["a"].done.callback(None)
    services["c"].done.errback(OSError("c"))
    done = parent.stopService()
    assert done.called
    assert notes[3:] == ["stop c", "stop b", "stop a"]
    assert list(map(str, logged.failures())) == ["c", "b"]


def test_what_fails_to_start_stops_those_before_it() -> None:
    def fail() -> None:
        raise OSError("b")

    parent, services, notes = in_order("a", "b", "c")
    services["b"].then = fail
    services["b"].done.callback(None)
    with pytest.raises(OSError, match="b"):
        parent.startService()
    assert parent.running == 0
    # Twisted's own say that they run before they have started, as this one does.
    assert notes == ["start a", "start b", "stop b", "stop a"]


def test_a_stop_while_they_start_keeps_the_others_from_starting() -> None:
    parent, services, notes = in_order("a", "b")
    services["a"].then = parent.stopService
    services["a"].done.callback(None)
    parent.startService()
    assert notes == ["start a", "stop a"]


def test_handlers_that_still_run_keep_their_channel() -> None:
    """The server of the front calls the one behind it through a channel, while it drains."""
    world = World(OrderedMultiService())
    behind = Server(world.network, [Echo()])
    behind.listen(SECOND)
    world.channel = ChannelService(SECOND, factory=world.network)
    world.start()
    front = Channel(world.network, ADDRESS)
    called = front.unary_unary(ECHO, text("x"))
    world.network.run()
    done = world.parent.stopService()
    world.network.advance(1)
    answer = world.channel.channel.unary_unary(ECHO, text("from behind"))
    answer.chainDeferred(world.service.results[0])
    assert world.network.result(called).value == "from behind"
    assert world.stopped(done)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = world.channel.channel
