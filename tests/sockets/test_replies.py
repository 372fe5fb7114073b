"""The server's side: each reply goes to who asked, and nothing is kept of those who have gone."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sockets.support import (
    Echo,
    Silent,
    Turns,
    address_of,
    bind,
    fresh_turns,
    has_message,
    raw_sockets,
    tables,
)
from tests.support import Logged, Loop
from txzmq import RequestId, SocketEvent, ZmqFactory, ZmqREPConnection

Raw = Callable[..., zmq.Socket[bytes]]


@pytest.fixture
def server(turns: Turns) -> Silent:
    return Silent(turns.factory, bind("inproc://server"))


def ask(server: Silent, *sent: tuple[zmq.Socket[bytes], list[bytes]]) -> list[bytes]:
    """Send the messages; the ids by which the server knows the requests."""
    known = len(server.requests)
    for socket, message in sent:
        socket.send_multipart(message)
        server.doRead()
    return [messageId for messageId, _ in server.requests[known:]]


# -- the way back ------------------------------------------------------------------------------


def test_two_clients_with_the_same_request_id_each_get_their_reply(
    turns: Turns, server: Silent
) -> None:
    """In txZMQ the second overwrites the first, and gets both replies or none."""
    a, b = (turns.raw(zmq.DEALER, "inproc://server") for _ in range(2))
    ids = ask(server, (a, [b"id", b"", b"of a"]), (b, [b"id", b"", b"of b"]))
    assert ids == [b"id", b"id"]
    # The later first: nor may a reply go to whoever has waited longest.
    for messageId, parts in reversed(server.requests):
        server.reply(messageId, b"for", *parts)
    assert a.recv_multipart() == [b"id", b"", b"for", b"of a"]
    assert b.recv_multipart() == [b"id", b"", b"for", b"of b"]
    assert not has_message(a)
    assert not has_message(b)


def test_requests_of_one_client_with_one_id_are_all_answered(turns: Turns, server: Silent) -> None:
    client = turns.raw(zmq.DEALER, "inproc://server")
    first, second = ask(server, (client, [b"", b"1"]), (client, [b"", b"2"]))
    server.reply(second, b"2")
    server.reply(first, b"1")
    assert [client.recv_multipart()[-1] for _ in range(2)] == [b"2", b"1"]
    assert not tables(server)


def test_routing_frames_of_proxies_in_between_are_kept_and_returned(
    turns: Turns, server: Silent
) -> None:
    proxy = turns.raw(zmq.DEALER, "inproc://server")
    ids = ask(
        server,
        (proxy, [b"outer", b"inner", b"id", b"", b"x"]),
        (proxy, [b"outer", b"other", b"id", b"", b"y"]),
    )
    for messageId in ids:
        server.reply(messageId, b"reply")
    assert proxy.recv_multipart() == [b"outer", b"inner", b"id", b"", b"reply"]
    assert proxy.recv_multipart() == [b"outer", b"other", b"id", b"", b"reply"]


def pickled(messageId: bytes) -> bytes:
    result = pickle.loads(pickle.dumps(messageId))
    assert isinstance(result, bytes)
    return result


@pytest.mark.parametrize("duplicate", [bytes, copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_an_id_will_do(
    turns: Turns, server: Silent, duplicate: Callable[[bytes], bytes]
) -> None:
    client = turns.raw(zmq.DEALER, "inproc://server")
    (messageId,) = ask(server, (client, [b"id", b"", b"x"]))
    server.reply(duplicate(messageId), b"y")
    assert client.recv_multipart() == [b"id", b"", b"y"]
    with pytest.raises(KeyError):
        server.reply(messageId, b"y")


def test_a_plain_copy_does_not_do_where_two_clients_chose_one_id(
    turns: Turns, server: Silent
) -> None:
    a, b = (turns.raw(zmq.DEALER, "inproc://server") for _ in range(2))
    first, _ = ask(server, (a, [b"id", b"", b"x"]), (b, [b"id", b"", b"x"]))
    with pytest.raises(ValueError, match="several peers"):
        server.reply(b"id", b"y")
    server.reply(first, b"y")
    server.reply(b"id", b"z")  # there is only one left
    assert a.recv_multipart()[-1] == b"y"
    assert b.recv_multipart()[-1] == b"z"


def test_a_request_is_answered_once(turns: Turns, server: Silent) -> None:
    client = turns.raw(zmq.DEALER, "inproc://server")
    first, second = ask(server, (client, [b"id", b"", b"1"]), (client, [b"id", b"", b"2"]))
    server.reply(first, b"1")
    with pytest.raises(KeyError):
        server.reply(first, b"1 again")  # not in place of the second
    server.reply(second, b"2")
    with pytest.raises(KeyError):
        server.reply(b"id", b"again")
    with pytest.raises(KeyError):
        server.reply(b"never came", b"x")
    with pytest.raises(KeyError):
        server.reply(RequestId.of(b"never came", [b"x"]), b"x")


def test_a_reply_at_the_high_water_mark_can_be_sent_later(turns: Turns) -> None:
    class Strict(Silent):
        highWaterMark = 1
        socketOptions = {"ROUTER_MANDATORY": 1}  # noqa: RUF012 - an option as users write it

    server = Strict(turns.factory, bind("inproc://server"))
    client = turns.raw(zmq.DEALER, "inproc://server", RCVHWM=1)
    ids = ask(server, *[(client, [b"%d" % i, b"", b"x"]) for i in range(10)])
    blocked: list[bytes] = []
    for messageId in ids:
        try:
            server.reply(messageId, b"y")
        except zmq.Again:
            blocked.append(messageId)
    assert blocked
    got = [client.recv_multipart()[0] for _ in range(10 - len(blocked))]
    for messageId in blocked:
        server.reply(messageId, b"y")
        got.append(client.recv_multipart()[0])
    assert got == ids
    assert not tables(server)
    turns.settle()


def test_a_reply_that_libzmq_cannot_route_is_dropped_and_counted(
    turns: Turns, logged: Logged
) -> None:
    class Strict(Silent):
        socketOptions = {"ROUTER_MANDATORY": 1}  # noqa: RUF012 - an option as users write it

    server = Strict(turns.factory, bind("inproc://server"))
    # A proxy's client, of whose end nobody tells; here it has no proxy.
    server.messageReceived([b"stranger", b"id", b"", b"x"])
    server.reply(server.requests[0][0], b"y")
    assert server.discarded == {"reply to a peer that has gone": 1}
    assert not tables(server)
    turns.settle()


# -- bounds ------------------------------------------------------------------------------------


def test_no_more_requests_are_remembered_than_the_bound(turns: Turns, logged: Logged) -> None:
    class Small(Silent):
        maxPendingRequests = 10

    server = Small(turns.factory, bind("inproc://server"))
    clients = [turns.raw(zmq.DEALER, "inproc://server") for _ in range(3)]
    for i in range(100):
        ask(server, (clients[i % 3], [b"%d" % (i % 7), b"", b"x"]))
    assert tables(server)["_waiting"] == 10
    assert server.discarded == {"request never answered": 90}
    for messageId, _ in server.requests[:90]:
        server.reply(messageId, b"too late")
    assert server.discarded["reply to a peer that has gone"] == 90
    for messageId, _ in server.requests[90:]:
        server.reply(messageId, b"y")
    assert not tables(server)
    assert sum(has_message(client) for client in clients) == 3


def test_many_requests_of_one_id_are_no_slower(turns: Turns, server: Silent) -> None:
    """A stranger must not be able to make each reply a search: count steps, not time."""
    client = turns.raw(zmq.DEALER, "inproc://server", SNDHWM=0, RCVHWM=0)
    for _ in range(5000):
        client.send_multipart([b"id", b"", b"x"])
    turns.settle()
    while len(server.requests) < 5000:
        server.doRead()
    comparisons = 0

    class Counting(tuple[bytes, ...]):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return hash(self) == hash(other)

        def __hash__(self) -> int:
            return hash(tuple(self))

    for messageId, _ in server.requests:
        assert isinstance(messageId, RequestId)
        messageId.routing = Counting(messageId.routing)
    for messageId, _ in reversed(server.requests):
        server.reply(messageId, b"y")
    assert comparisons <= 20 * 5000
    assert not tables(server)


# -- peers that go -----------------------------------------------------------------------------


def test_a_peer_that_goes_is_forgotten_with_its_requests(
    loop: Loop, factory: ZmqFactory, remote_address: str, raw: Raw, logged: Logged
) -> None:
    async def main() -> None:
        server = Silent(factory, bind(remote_address))
        clients = [raw(zmq.DEALER, address_of(server)) for _ in range(10)]
        for client in clients:
            for i in range(5):
                client.send_multipart([b"%d" % i, b"", b"x"])
        await loop.until(lambda: len(server.requests) == 50)
        staying = clients.pop()
        for client in clients:
            client.close(linger=0)
        await loop.until(lambda: len(server.lost) == 9)
        assert tables(server) == {"_waiting": 5, "_pending": 5, "_peers": 1, "_peerOfFd": 1}
        for messageId, _ in server.requests:
            server.reply(messageId, b"y")
        assert server.discarded == {"reply to a peer that has gone": 45}
        await loop.until(lambda: has_message(staying))
        staying.close(linger=0)
        await loop.until(lambda: len(server.lost) == 10)
        assert not tables(server)
        assert len(set(server.lost)) == 10
        factory.shutdown()

    loop.run(main)


def test_clients_that_send_and_die_at_once_leave_nothing(
    loop: Loop, factory: ZmqFactory, remote_address: str
) -> None:
    """Their descriptors are in use again before what they sent is read."""

    async def main() -> None:
        server = Silent(factory, bind(remote_address))
        for _ in range(5):
            with raw_sockets() as make:
                for _ in range(10):
                    client = make(zmq.DEALER, address_of(server))
                    for i in range(3):
                        client.send_multipart([b"%d" % i, b"", b"x"])
                    client.close(linger=5000)
                    if len(server.requests) % 2:
                        await loop.sleep(0)
            await loop.sleep(0)
        await loop.until(lambda: not tables(server))
        factory.shutdown()

    loop.run(main)


def test_a_new_peer_on_the_descriptor_of_one_that_went_gets_its_replies(
    loop: Loop, factory: ZmqFactory, remote_address: str
) -> None:
    """The end of the one must not be taken for the end of the other, in whatever order they tell.

    Some connect only to go again, as port scanners and health checks do.
    """

    async def next_client(server: Silent, data: bytes) -> None:
        with raw_sockets() as make:
            make(zmq.DEALER, address_of(server)).close(linger=0)
            make(zmq.DEALER, address_of(server)).send_multipart([b"id", b"", b"never answered"])
            client = make(zmq.DEALER, address_of(server))
            client.send_multipart([b"id", b"", data])
            await loop.until(lambda: any(parts == (data,) for _, parts in server.requests))
            await loop.sleep(0)
            messageId = next(m for m, parts in server.requests if parts == (data,))
            server.reply(messageId, b"reply")
            await loop.until(lambda: has_message(client))
            assert client.recv_multipart() == [b"id", b"", b"reply"]
        server.requests.clear()

    async def main() -> None:
        server = Silent(factory, bind(remote_address))
        for i in range(60):
            await next_client(server, b"%d" % i)
        await loop.until(lambda: not tables(server))
        factory.shutdown()

    loop.run(main)


def test_a_peer_with_an_identity_of_its_own_may_come_back_for_its_reply(
    loop: Loop, factory: ZmqFactory, remote_address: str, raw: Raw
) -> None:
    async def main() -> None:
        server = Silent(factory, bind(remote_address))
        client = raw(zmq.DEALER, address_of(server), ROUTING_ID=b"me")
        client.send_multipart([b"id", b"", b"x"])
        await loop.until(lambda: server.requests)
        client.close(linger=0)
        await loop.until(lambda: server.lost == [b"me"])
        client = raw(zmq.DEALER, address_of(server), ROUTING_ID=b"me")
        client.send_multipart([b"hello", b"", b"x"])
        await loop.until(lambda: len(server.requests) == 2)
        for messageId, _ in server.requests:
            server.reply(messageId, b"y")
        for messageId in (b"id", b"hello"):
            await loop.until(lambda: has_message(client))
            assert client.recv_multipart() == [messageId, b"", b"y"]
        client.close(linger=0)
        await loop.until(lambda: not tables(server))
        factory.shutdown()

    loop.run(main)


def test_a_hundred_thousand_requests_of_clients_that_die_leave_nothing(one_loop: Loop) -> None:
    factory = ZmqFactory(one_loop.reactor)

    class Forgetful(ZmqREPConnection):
        count = 0

        def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
            self.count += 1

    async def ten_clients(server: Forgetful, total: int) -> None:
        with raw_sockets() as make:
            for _ in range(10):
                client = make(zmq.DEALER, address_of(server), SNDHWM=0)
                for i in range(1000):
                    client.send_multipart([b"%d" % i, b"", b"x"])
            await one_loop.until(lambda: server.count == total)

    async def main() -> None:
        server = Forgetful(factory, bind("tcp://127.0.0.1:*"))
        for total in range(10_000, 110_000, 10_000):
            await ten_clients(server, total)
        await one_loop.until(lambda: not tables(server))
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize("size", [2, 100_000])  # PyPy keeps no more than its properties of it
def test_the_address_of_a_peer_is_known(
    loop: Loop, factory: ZmqFactory, raw: Raw, size: int
) -> None:
    async def main() -> None:
        server = Silent(factory, bind("tcp://127.0.0.1:*"))
        client = raw(zmq.DEALER, address_of(server), ROUTING_ID=b"me")
        client.send_multipart([b"i" * size, b"", b"x"])
        await loop.until(lambda: server.requests)
        assert server.peerAddress(b"me") == "127.0.0.1"
        assert server.peerAddress(b"somebody else") == ""
        client.close(linger=0)
        await loop.until(lambda: server.lost)
        factory.shutdown()

    loop.run(main)


def test_an_error_in_the_hook_for_lost_peers_does_not_keep_others(
    turns: Turns, logged: Logged
) -> None:
    class Failing(Silent):
        def peerLost(self, peerId: bytes) -> None:
            super().peerLost(peerId)
            raise ZeroDivisionError

    model = Model(turns, Failing)
    for _ in range(3):
        model.open()
    for connection in list(model.connections):
        model.send(connection)
        model.read(connection)
    for connection in list(model.connections):
        model.close(connection)
    model.catchUp()
    model.drain()
    assert len(model.server.lost) == 3
    assert [type(failure) for failure in logged.failures()] == [ZeroDivisionError] * 3
    assert not tables(model.server)
    model.server.monitor = None


# -- a descriptor is no name -------------------------------------------------------------------


class FakeFrame:
    """A frame of which libzmq knows the descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def get(self, name: str | int) -> int | str:
        return self.fd if name == zmq.SRCFD else "127.0.0.1"


class Connection:
    """What the model knows of a peer's connection."""

    def __init__(self, peerId: bytes, fd: int) -> None:
        self.peerId = peerId
        self.fd = fd
        self.up = True
        self.unread = 0
        self.requests: list[RequestId] = []


class Model:
    """libzmq as it may behave: events and messages come in any order that can be.

    Events come in order, and are read when the server asks. Each peer's messages come in order,
    but when they are read is open. A new connection gets the lowest descriptor that is free.
    """

    def __init__(self, turns: Turns, cls: type[Silent] = Silent) -> None:
        server: Any = cls(turns.factory, bind("inproc://model"))
        turns.settle()
        server.monitor.shutdown()
        server.monitor = self
        self.server: Any = server  # Any: private methods
        self.connections: list[Connection] = []
        self._events: list[SocketEvent] = []
        self._made = 0

    def shutdown(self) -> None:
        """As a monitor."""

    def catchUp(self) -> None:
        """As a monitor: pass on what has happened."""
        events, self._events = self._events, []
        for event in events:
            self.server._gotEvent(event)

    def _happened(self, event: int, fd: int) -> None:
        self._events.append(SocketEvent(zmq.Event(event), fd, "tcp://127.0.0.1:1"))

    def open(self) -> None:
        used = {connection.fd for connection in self.connections if connection.up}
        fd = next(fd for fd in range(10, 100) if fd not in used)
        self._made += 1
        # Beginning near the end: the counter of libzmq wraps.
        number = (0xFFFFFFFD + self._made) & 0xFFFFFFFF
        self.connections.append(Connection(b"\0" + number.to_bytes(4, "big"), fd))
        self._happened(zmq.EVENT_ACCEPTED, fd)

    def send(self, connection: Connection) -> None:
        connection.unread += connection.up

    def read(self, connection: Connection) -> None:
        """The server reads one message of a connection; as _receive() does it."""
        if not connection.unread:
            return
        connection.unread -= 1
        peer = self.server._peers.get(connection.peerId)
        if peer is None or peer.fd is None:
            self.server._noteConnection(connection.peerId, FakeFrame(connection.fd))
        known = len(self.server.requests)
        self.server.messageReceived([connection.peerId, b"id", b"", b"x"])
        connection.requests += [messageId for messageId, _ in self.server.requests[known:]]

    def close(self, connection: Connection) -> None:
        if connection.up:
            connection.up = False
            self._happened(zmq.EVENT_DISCONNECTED, connection.fd)

    def drain(self) -> None:
        """The server has read all there is."""
        for connection in self.connections:
            while connection.unread:
                self.read(connection)
        self.server.drained()

    def check(self) -> None:
        for connection in self.connections:
            if connection.up:
                assert not any(request.forgotten for request in connection.requests)
                assert connection.peerId not in self.server.lost
        assert len(set(self.server.lost)) == len(self.server.lost), "told twice"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60))
def test_peers_are_told_apart_whatever_the_order_of_messages_and_events(
    steps: list[tuple[int, int]],
) -> None:
    """No request of a connection that is up is forgotten; of those that ended, all are."""
    with fresh_turns() as turns:
        model = Model(turns)
        for step, which in steps:
            if step <= 1 or not model.connections:
                model.open()
            elif step == 2:
                model.drain()
            elif step == 3:
                model.catchUp()
            else:
                # Mostly the last few: they share descriptors.
                connection = model.connections[-1 - which % min(len(model.connections), 4)]
                (model.send, model.read, model.close)[step % 3](connection)
            model.check()
        model.drain()
        model.check()
        for connection in model.connections:
            model.close(connection)
        model.catchUp()
        model.drain()
        model.check()
        assert not tables(model.server)
        model.server.monitor = None


def test_a_peer_that_has_gone_is_told_once_though_its_messages_are_read_later(
    turns: Turns,
) -> None:
    model = Model(turns)
    model.open()
    gone = model.connections[0]
    for _ in range(3):
        model.send(gone)
    model.read(gone)
    model.close(gone)
    model.open()  # by the same descriptor
    model.catchUp()
    model.read(gone)
    model.drain()
    assert model.server.lost == [gone.peerId]
    assert not tables(model.server)
    model.close(model.connections[1])
    model.catchUp()
    model.drain()
    assert model.server.lost == [gone.peerId]
    model.server.monitor = None


# -- names that were ----------------------------------------------------------------------------


def test_the_names_from_before_txzmq_0_6_still_work(turns: Turns) -> None:
    from txzmq.req_rep import ZmqXREPConnection, ZmqXREQConnection

    with pytest.warns(DeprecationWarning, match="ZmqREPConnection"):
        server = ZmqXREPConnection(turns.factory, bind("inproc://a"), bind("inproc://b"))
    with pytest.warns(DeprecationWarning, match="ZmqREQConnection"):
        client = ZmqXREQConnection(turns.factory)
    assert len(server.endpoints) == 2
    assert not client.endpoints


def test_a_reply_may_be_sent_from_the_callback_of_the_request(turns: Turns) -> None:
    server = Echo(turns.factory, bind("inproc://server"))
    client = turns.raw(zmq.DEALER, "inproc://server")
    for i in range(100):
        client.send_multipart([b"%d" % i, b"", b"x"])
    turns.settle()
    assert [client.recv_multipart()[0] for _ in range(100)] == [b"%d" % i for i in range(100)]
    assert not tables(server)


def test_an_endpoint_that_cannot_be_bound_is_told_to_a_subclass_that_is_not_initialised(
    turns: Turns,
) -> None:
    class Counting(Silent):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.shutdowns = 0

        def shutdown(self) -> None:
            super().shutdown()
            self.shutdowns += 1

    Silent(turns.factory, bind("inproc://taken"))
    with pytest.raises(zmq.ZMQError) as raised:
        Counting(turns.factory, bind("inproc://taken"))
    assert raised.value.errno == errno.EADDRINUSE
    assert len(turns.factory.connections) == 1
