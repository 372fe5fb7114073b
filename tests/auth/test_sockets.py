"""Sockets of each kind with credentials: who has a key is let in, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq
from twisted.internet.defer import Deferred

from tests.auth.support import ALICE, BOB, CLIENTS, SERVER, STRANGER, knowing, serving
from tests.sockets.support import Echo, Pull, Sub, bind, connect_to, raw_sockets
from tests.support import Logged, Loop
from txzmq import (
    ZmqEndpoint,
    ZmqFactory,
    ZmqMonitor,
    ZmqPubConnection,
    ZmqPushConnection,
    ZmqREPConnection,
    ZmqREQConnection,
    ZmqRequestTimeoutError,
    ZmqXPubConnection,
)
from txzmq.auth import CurveServerCredentials, Identity

ANYWHERE = bind("tcp://127.0.0.1:*")


class Named(Echo):
    """Answers with who asks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super(Echo, self).__init__(*args, **options)

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        self.reply(messageId, str(self.sender()).encode())


class Told:
    """Makes a client, and waits until it is let in, or is not."""

    def __init__(self) -> None:
        self.event: Deferred[tuple[str, int]] = Deferred()

    def __call__(self, event: Any) -> None:
        name = event.event.name
        if name.startswith("HANDSHAKE") and not self.event.called:
            self.event.callback((name, event.value))


def handshake(client: Any, endpoint: ZmqEndpoint) -> Deferred[tuple[str, int]]:
    """How the handshake of a client ends."""
    told = Told()
    ZmqMonitor(client, told)
    client.addEndpoints([endpoint])
    return told.event


OK = ("HANDSHAKE_SUCCEEDED", 0)
UNKNOWN = ("HANDSHAKE_FAILED_AUTH", 400)
MISMATCH = ("HANDSHAKE_FAILED_PROTOCOL", 0x11000002)


def test_a_reply_knows_who_asked(loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(loop.reactor)
        server = Named(factory, ANYWHERE, credentials=serving())
        for keys, name in ((ALICE, b"alice"), (BOB, b"bob")):
            client = ZmqREQConnection(factory, connect_to(server), credentials=knowing(keys))
            assert await client.sendMsg(b"who") == [name]
        factory.shutdown()

    loop.run(main)


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (knowing(STRANGER), UNKNOWN),
        (None, MISMATCH),
        (knowing(ALICE, STRANGER), None),
    ],
    ids=["unknown key", "no key", "wrong server"],
)
def test_nobody_else_is_let_in(
    one_loop: Loop,
    factory: ZmqFactory,
    logged: Logged,
    credentials: Any,
    expected: tuple[str, int] | None,
) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        server = Named(factory, ANYWHERE, credentials=serving())
        server.gotMessage = lambda messageId, *parts: seen.append(messageId)  # type: ignore[method-assign]  # nothing may come
        client = ZmqREQConnection(factory, credentials=credentials)
        ending = handshake(client, connect_to(server))
        client.sendMsg(b"who", timeout=5).addErrback(lambda _: None)  # it is shut down before
        end = await ending
        assert end[0].startswith("HANDSHAKE_FAILED")
        assert expected in (None, end)
        assert not seen
        factory.shutdown()

    one_loop.run(main)


def test_a_server_without_credentials_takes_no_client_that_asks_for_them(
    one_loop: Loop, factory: ZmqFactory
) -> None:
    async def main() -> None:
        server = Echo(factory, ANYWHERE)
        client = ZmqREQConnection(factory, credentials=knowing())
        assert await handshake(client, connect_to(server)) == MISMATCH
        factory.shutdown()

    one_loop.run(main)


class SecureEcho(ZmqREPConnection):
    credentials = serving()

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        self.reply(messageId, *messageParts)


class SecureREQ(ZmqREQConnection):
    credentials = knowing()


def test_a_class_may_have_credentials(one_loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        server = SecureEcho(factory, ANYWHERE)
        client = SecureREQ(factory, connect_to(server))
        assert await client.sendMsg(b"x") == [b"x"]
        # The keyword counts for more.
        stranger = SecureREQ(factory, credentials=knowing(STRANGER))
        assert await handshake(stranger, connect_to(server)) == UNKNOWN
        factory.shutdown()

    one_loop.run(main)


def test_a_publisher_with_credentials(one_loop: Loop, factory: ZmqFactory) -> None:
    subscribers: list[Identity | None] = []

    class Publisher(ZmqXPubConnection):
        def gotSubscription(self, tag: bytes) -> None:
            subscribers.append(self.subscriberIdentity())

    class Subscriber(Sub):
        credentials = knowing()

    async def main() -> None:
        publisher = Publisher(factory, ANYWHERE, credentials=serving())
        subscriber = Subscriber(factory, connect_to(publisher))
        subscriber.subscribe(b"tag")
        await one_loop.until(lambda: subscribers)
        publisher.publish(b"item", b"tag")
        await one_loop.until(lambda: subscriber.messages)
        assert subscriber.messages == [(b"item", b"tag")]
        assert subscribers == [Identity("alice", ALICE.public_key, frozenset({"staff"}))]
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize("publisher_type", [ZmqPubConnection, ZmqXPubConnection])
def test_a_publisher_lets_nobody_else_in(
    one_loop: Loop, factory: ZmqFactory, logged: Logged, publisher_type: Callable[..., Any]
) -> None:
    class Stranger(Sub):
        credentials = knowing(STRANGER)

    async def main() -> None:
        publisher = publisher_type(factory, ANYWHERE, credentials=serving())
        for subscriber, expected in ((Stranger(factory), UNKNOWN), (Sub(factory), MISMATCH)):
            subscriber.subscribe(b"")
            assert await handshake(subscriber, connect_to(publisher)) == expected
            publisher.publish(b"secret")
        factory.shutdown()

    one_loop.run(main)


def test_pull_takes_from_those_that_it_knows(
    one_loop: Loop, factory: ZmqFactory, logged: Logged
) -> None:
    class SecurePull(Pull):
        credentials = serving()

    async def main() -> None:
        pull = SecurePull(factory)
        pull.addEndpoints([ANYWHERE])
        stranger = ZmqPushConnection(factory, credentials=knowing(STRANGER))
        assert await handshake(stranger, connect_to(pull)) == UNKNOWN
        push = ZmqPushConnection(factory, connect_to(pull), credentials=knowing())
        push.push(b"x")
        await one_loop.until(lambda: pull.messages)
        assert pull.messages == [[b"x"]]
        factory.shutdown()

    one_loop.run(main)


def test_a_server_may_connect_and_a_client_may_bind(one_loop: Loop, factory: ZmqFactory) -> None:
    """Who has the server's key is the server, whichever side connects."""

    async def main() -> None:
        client = ZmqREQConnection(factory, ANYWHERE, credentials=knowing())
        told = Told()
        ZmqMonitor(client, told)
        Named(factory, connect_to(client), credentials=serving())
        assert await told.event == OK
        assert await client.sendMsg(b"who") == [b"alice"]
        factory.shutdown()

    one_loop.run(main)


def test_who_was_revoked_is_nobody_with_the_next_message(
    one_loop: Loop, factory: ZmqFactory
) -> None:
    clients = dict(CLIENTS)

    async def main() -> None:
        credentials = serving(clients)
        server = Named(factory, ANYWHERE, credentials=credentials)
        client = ZmqREQConnection(factory, connect_to(server), credentials=knowing())
        assert await client.sendMsg(b"who") == [b"alice"]
        del clients[ALICE.public_key]
        credentials.clients.reload()
        assert await client.sendMsg(b"who") == [b"None"]
        factory.shutdown()

    one_loop.run(main)


def test_plain_sockets_of_pyzmq_are_let_in_by_their_keys(
    one_loop: Loop, factory: ZmqFactory
) -> None:
    async def main() -> None:
        server = Named(factory, ANYWHERE, credentials=serving())
        with raw_sockets() as raw:
            req = raw(
                zmq.REQ,
                CURVE_SERVERKEY=SERVER.public_key.encode(),
                CURVE_PUBLICKEY=ALICE.public_key.encode(),
                CURVE_SECRETKEY=ALICE.secret_key.encode(),
            )
            req.connect(connect_to(server).address)
            req.send(b"who")
            await one_loop.until(lambda: req.poll(0))
            assert req.recv() == b"alice"
        factory.shutdown()

    one_loop.run(main)


def test_where_nobody_decides_any_more_nobody_is_let_in(
    one_loop: Loop, factory: ZmqFactory, logged: Logged
) -> None:
    """Libzmq's own default is the opposite."""

    async def main() -> None:
        credentials = serving()
        server = Named(factory, ANYWHERE, credentials=credentials)
        ends: list[tuple[str, int]] = []
        inside: Any = factory
        inside._authenticator.shutdown()
        client = ZmqREQConnection(factory, credentials=knowing())
        handshake(client, connect_to(server)).addCallback(ends.append)
        with pytest.raises(ZmqRequestTimeoutError):
            await client.sendMsg(b"who", timeout=0.3)
        assert OK not in ends
        factory.shutdown()

    one_loop.run(main)


@pytest.mark.parametrize("wrong", ["secret", b"x", 5, object(), CurveServerCredentials, ALICE])
def test_what_are_no_credentials_is_told(factory: ZmqFactory, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"credentials must be of txzmq\.auth, or None") as caught:
        ZmqPushConnection(factory, ANYWHERE, credentials=wrong)
    assert ALICE.secret_key not in str(caught.value)
    assert not factory.connections
