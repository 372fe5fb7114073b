"""Watching a connection: what is refused, what goes wrong, and that nothing of it is left."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from tests.sockets.support import Pull, Turns, address_of, bind, connect_to
from tests.support import Logged, Loop
from txzmq import SocketEvent, ZmqFactory, ZmqMonitor, ZmqPushConnection

CONNECTED = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)


def ignore(event: SocketEvent) -> None:
    pass


def watcher(connection: Any) -> object:
    """Its monitor, whatever was known of it before."""
    return connection.monitor


def test_a_connection_has_one_monitor(turns: Turns) -> None:
    pull = Pull(turns.factory, bind("inproc://watched"))
    monitor = ZmqMonitor(pull, ignore)
    with pytest.raises(ValueError, match="has a monitor"):
        ZmqMonitor(pull, ignore)
    assert watcher(pull) is monitor
    monitor.shutdown()
    assert watcher(pull) is None
    assert ZmqMonitor(pull, ignore).socket is not None


def test_a_closed_connection_cannot_be_watched(turns: Turns) -> None:
    pull = Pull(turns.factory, bind("inproc://watched"))
    pull.shutdown()
    with pytest.raises(ValueError, match="it is closed"):
        ZmqMonitor(pull, ignore)


def test_events_that_are_none_leave_the_connection_without_a_monitor(turns: Turns) -> None:
    pull = Pull(turns.factory, bind("inproc://watched"))
    wrong: Any = "all"
    with pytest.raises(TypeError):
        ZmqMonitor(pull, ignore, wrong)
    assert watcher(pull) is None
    assert turns.factory.connections == {pull}
    ZmqMonitor(pull, ignore)


def test_a_monitor_may_be_shut_down_at_any_time(turns: Turns) -> None:
    pull = Pull(turns.factory, bind("inproc://watched"))
    monitor = ZmqMonitor(pull, ignore)
    monitor.shutdown()
    monitor.shutdown()
    another = ZmqMonitor(pull, ignore)
    monitor.shutdown()
    assert watcher(pull) is another, "it is not the old one's to end"
    pull.shutdown()
    another.shutdown()
    assert another.socket is None


def test_a_monitor_ends_though_the_socket_is_closed_already(turns: Turns) -> None:
    pull = Pull(turns.factory, bind("inproc://watched"))
    monitor = ZmqMonitor(pull, ignore)
    assert pull.socket is not None
    zmq.Socket[bytes].close(pull.socket)
    pull.shutdown()
    assert [connection.fileno() for connection in (pull, monitor)] == [-1, -1]


@pytest.mark.parametrize(
    "message", [[b""], [b"\1\0"], [b"\1\0\7\0\0\0"], [b"\1\0\7\0\0\0\0", b"tcp://x"], [b""] * 3]
)
def test_what_is_no_event_is_dropped(turns: Turns, message: list[bytes]) -> None:
    events: list[SocketEvent] = []
    monitor = ZmqMonitor(Pull(turns.factory), events.append)
    monitor.messageReceived(message)
    monitor.messageReceived([b"\1\0\7\0\0\0", b"tcp://x"])
    assert events == [SocketEvent(zmq.EVENT_CONNECTED, 7, "tcp://x")]
    assert monitor.discarded == {"malformed": 1}


def test_a_handler_that_fails_gets_the_next_event_all_the_same(
    one_loop: Loop, logged: Logged
) -> None:
    factory = ZmqFactory(one_loop.reactor)
    events: list[zmq.Event] = []

    def handle(event: SocketEvent) -> None:
        events.append(event.event)
        raise RuntimeError("of the handler")

    async def main() -> None:
        pull = Pull(factory, bind("tcp://127.0.0.1:*"))
        ZmqMonitor(pull, handle, CONNECTED)
        push = factory.context.socket(zmq.PUSH)
        push.connect(address_of(pull))
        await one_loop.until(lambda: len(events) == 1)
        push.close(linger=0)
        await one_loop.until(lambda: len(events) == 2)
        factory.shutdown()

    one_loop.run(main)
    assert events == [zmq.EVENT_ACCEPTED, zmq.EVENT_DISCONNECTED]
    assert [str(error) for error in logged.failures()] == ["of the handler"] * 2


@pytest.mark.parametrize("what", ["connection", "monitor", "factory"])
def test_a_handler_may_shut_everything_down(one_loop: Loop, what: str) -> None:
    """Nothing is told afterwards."""
    factory = ZmqFactory(one_loop.reactor)
    events: list[zmq.Event] = []

    async def main() -> None:
        pull = Pull(factory, bind("tcp://127.0.0.1:*"))

        def handle(event: SocketEvent) -> None:
            events.append(event.event)
            ends[what].shutdown()

        monitor = ZmqMonitor(pull, handle, CONNECTED)
        ends: dict[str, Any] = {"connection": pull, "monitor": monitor, "factory": factory}
        push = ZmqPushConnection(factory, connect_to(pull))
        await one_loop.until(lambda: monitor.socket is None)
        push.shutdown()
        await one_loop.sleep(0.01)
        factory.shutdown()

    one_loop.run(main)
    assert events == [zmq.EVENT_ACCEPTED]
