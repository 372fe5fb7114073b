"""Who was let in, refused and denied: what observers are told of it, and the log."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, formatEvent

from tests.auth.support import ALICE, BOB, SERVER, STRANGER, knowing, serving
from tests.rpc.identified import by_name
from tests.rpc.lines import Lines
from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, OTHER, Echo, text
from tests.rpc.streaming import COUNT, Streaming
from tests.rpc.trusted import Trusted, all_of, failure
from tests.support import Logged, Loop
from txzmq.auth import CurveKeyPair, Identity
from txzmq.rpc import (
    Authentication,
    Channel,
    Code,
    Count,
    Denial,
    Method,
    Observer,
    PermissionDenied,
    Refusal,
    RpcError,
    Server,
    Unauthenticated,
    Unavailable,
    Watched,
)
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.authentication import Authenticate
from txzmq.rpc.authorization import MethodPath, permissions
from txzmq.rpc.metadata import Metadata
from txzmq.testing import MemoryNetwork


class Auditor(Observer):
    """Notes what it is told, with the channel or server."""

    def __init__(self) -> None:
        self.seen: list[tuple[Watched, Authentication | Refusal | Denial]] = []

    def authenticated(self, source: Watched, authentication: Authentication) -> None:
        self.seen.append((source, authentication))

    def refused(self, source: Watched, refusal: Refusal) -> None:
        self.seen.append((source, refusal))

    def denied(self, source: Watched, denial: Denial) -> None:
        self.seen.append((source, denial))

    def of(self, source: Watched) -> list[Authentication | Refusal | Denial]:
        return [event for of, event in self.seen if of is source]


def denial(**changed: Any) -> Denial:
    """As of a caller in memory, who is not known."""
    usual: dict[str, Any] = {
        "user": "",
        "public_key": "",
        "address": "memory",
        "method": ECHO.path,
        "code": Code.UNAUTHENTICATED,
        "reason": f"{ECHO.path} is not for everybody; the call was not executed",
    }
    return Denial(**{**usual, **changed})


def lines_of(logged: Logged, beginning: str) -> list[str]:
    """The lines that begin so."""
    return [line for event in logged if (line := formatEvent(event)).startswith(beginning)]


# -- denied ----------------------------------------------------------------------------------


class World:
    """In memory: a server that denies all but what a rule allows, and is watched."""

    def __init__(
        self,
        authorize: Any = None,
        observer: Observer | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        self.network = MemoryNetwork()
        self.auditor = Auditor()
        self.server = Server(
            self.network,
            [Echo()],
            authorize=authorize or permissions({}),
            authenticate=authenticate,
            observer=observer or self.auditor,
        )
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS)

    def call(self, method: Method[StringValue, StringValue] = ECHO) -> None:
        with pytest.raises(RpcError):
            self.network.result(self.channel.unary_unary(method, text("x"), timeout=5))

    def close(self) -> None:
        self.channel.close()
        self.server.stop(0)
        self.network.advance(1)


def test_each_denied_call_is_told_and_counted_and_few_are_logged(logged: Logged) -> None:
    world = World()
    for _ in range(50):
        world.call()
    world.call(OTHER)
    told = denial(
        method=OTHER.path, reason=f"{OTHER.path} is not for everybody; the call was not executed"
    )
    assert world.auditor.of(world.server) == [denial()] * 50 + [told]
    assert world.server.counters[Count.DENIED] == 51
    line = "denied somebody unknown a call of /test.Echo/{} (UNAUTHENTICATED, from memory)"
    assert lines_of(logged, "denied") == [line.format("Echo"), line.format("Other")]
    world.network.advance(61)
    world.call()
    assert lines_of(logged, "denied")[2:] == [
        f"{line.format('Echo')}; 49 more since the last such line"
    ]
    assert len(logged.warnings()) == 3
    world.close()


@pytest.mark.parametrize(
    ("error", "count"),
    [
        (Unauthenticated("the token has expired"), Count.UNAUTHENTICATED),
        (PermissionDenied("the token has expired"), Count.DENIED),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_call_is_denied_whose_token_is_refused(
    error: RpcError, count: Count, *, later: bool, logged: Logged
) -> None:
    def authenticate(
        identity: Identity | None, method: str, metadata: Metadata
    ) -> Deferred[Identity | None]:
        if not later:
            raise error
        found: Deferred[Identity | None] = Deferred()
        world.network.clock.callLater(1, found.errback, error)
        return found

    world = World(authenticate=authenticate)
    call = world.channel.unary_unary(ECHO, text("x"), timeout=5)
    world.network.advance(2)
    with pytest.raises(type(error)):
        world.network.result(call)
    told = denial(code=error.code, reason="the token has expired")
    assert world.auditor.of(world.server) == [told]
    assert world.server.counters[count] == 1
    assert len(lines_of(logged, "denied")) == len(logged.warnings()) == 1
    world.close()


@pytest.mark.parametrize("error", [Unavailable, ZeroDivisionError])
def test_a_call_is_not_denied_that_cannot_be_decided_about(
    error: type[Exception], logged: Logged
) -> None:
    def authenticate(identity: Identity | None, method: str, metadata: Metadata) -> Identity:
        raise error("user")

    world = World(authenticate=authenticate)
    world.call()
    assert world.auditor.of(world.server) == []
    world.close()


def test_a_line_has_its_values_apart(logged: Logged) -> None:
    def authorize(identity: Identity | None, method: MethodPath, metadata: Metadata) -> bool:
        raise PermissionDenied("not\non a \x1b[31mSunday")

    world = World(authorize)
    world.call()
    world.close()
    (event,) = logged.warnings()
    assert {name: event[name] for name in ("identity", "public_key", "address", "method")} == {
        "identity": "",
        "public_key": "",
        "address": "memory",
        "method": ECHO.path,
    }
    assert event["code"] == "PERMISSION_DENIED"
    assert event["reason"] == r"not\non a \x1b[31mSunday"
    assert world.auditor.of(world.server) == [
        denial(code=Code.PERMISSION_DENIED, reason="not\non a \x1b[31mSunday")
    ]


def test_names_are_escaped_in_the_log(logged: Logged) -> None:
    watch = Notifier(MemoryNetwork().clock, None)
    watch.denied(denial(user="eve\n{x}", address="a\x00"), is_served=True)
    assert lines_of(logged, "denied") == [
        r"denied eve\n{x} a call of /test.Echo/Echo (UNAUTHENTICATED, from a\x00)"
    ]


def test_methods_that_there_are_not_are_of_one_kind(logged: Logged) -> None:
    """A peer thinks up any number of them; it must neither fill the log nor the memory."""
    world = World()
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    for number in range(1_000):
        raw.request(RequestHead(f"/made.Up/Number{number}", None, ()), b"")
    world.network.run()
    assert len(world.auditor.seen) == 1_000
    assert len(lines_of(logged, "denied")) == 1
    raw.transport.close()
    world.close()


def test_calls_of_somebody_revoked_are_told_without_a_name(one_loop: Loop, logged: Logged) -> None:
    auditor = Auditor()
    world = Trusted(one_loop, [Echo()], observer=auditor)

    async def main() -> None:
        channel = world.channel()
        await channel.unary_unary(ECHO, text("x"))
        world.revoke()
        assert (await failure(channel.unary_unary(ECHO, text("x"), timeout=5))).code == 16
        assert world.server.counters[Count.UNAUTHENTICATED] == 1

    world.run(main)
    (first, *others) = [it for it in auditor.of(world.server) if isinstance(it, Denial)]
    assert first.address.startswith("127.0.0.1")
    assert first == denial(
        address=first.address,
        reason="the server does not know who calls, or not any more; the call was not executed",
    )
    # When it is closed, the channel says that it leaves.
    assert {it.method for it in others} <= {"/txzmq.rpc.v1.Control/Leave"}


def test_an_observer_that_raises_changes_nothing(logged: Logged) -> None:
    class Broken(Observer):
        def denied(self, source: Watched, denial: Denial) -> None:
            raise ZeroDivisionError("user")

    world = World(observer=Broken())
    world.call()
    world.call()
    world.close()
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError] * 2
    assert world.server.counters[Count.DENIED] == 2


def test_an_observer_may_stop_the_server(logged: Logged) -> None:
    class Stopping(Observer):
        def denied(self, source: Watched, denial: Denial) -> None:
            assert isinstance(source, Server)
            source.stop(0)

    world = World(observer=Stopping())
    world.call()
    world.close()
    assert not logged.failures()


# -- channels --------------------------------------------------------------------------------


def test_a_channel_tells_that_it_was_refused() -> None:
    network, auditor = Lines(), Auditor()
    channel = Channel(network, ["tcp://a", "tcp://b"], observer=auditor)
    first, second = network.made
    first.handler.refused("no key", is_last=True)
    second.handler.refused("another key", is_last=False)
    told = [
        Refusal(public_key="", address="tcp://a", mechanism="", reason="no key"),
        Refusal(public_key="", address="tcp://b", mechanism="", reason="another key"),
    ]
    assert auditor.of(channel) == told
    assert channel.counters[Count.REFUSED] == 2
    channel.close()


# -- handshakes, over real sockets -----------------------------------------------------------


def let_in(name: str, key: str, address: str = "127.0.0.1") -> Authentication:
    return Authentication(user=name, public_key=key, address=address, mechanism="CURVE")


def test_who_is_let_in_is_told_once_for_each_connection(one_loop: Loop, logged: Logged) -> None:
    auditor = Auditor()
    world = Trusted(one_loop, [Echo(), Streaming()], observer=auditor)

    async def main() -> None:
        alice, bob = world.channel(ALICE), world.channel(BOB)
        for _ in range(3):
            await alice.unary_unary(ECHO, text("x"))
        await bob.unary_unary(ECHO, text("x"))
        assert await all_of(bob.unary_stream(COUNT, text("1"))) == ["0"]

    world.run(main)
    hers, his = let_in("alice", ALICE.public_key), let_in("bob", BOB.public_key)
    told = auditor.of(world.server)
    assert sorted(map(repr, told)) == sorted(map(repr, [hers, his, his])), "one for his streams"
    lines = lines_of(logged, "let ")
    assert sorted(lines) == [
        f"let {name} in from 127.0.0.1 ({keys.public_key})"
        for name, keys in (("alice", ALICE), ("bob", BOB))
    ]
    assert SERVER.secret_key not in repr(list(logged)) + repr(auditor.seen)
    assert ALICE.secret_key not in repr(list(logged)) + repr(auditor.seen)


def test_who_is_refused_is_told_and_so_is_the_channel(one_loop: Loop, logged: Logged) -> None:
    auditor = Auditor()
    world = Trusted(one_loop, [Echo()], observer=auditor)
    ours = Auditor()

    async def main() -> None:
        channel = Channel(
            world.factory, world.endpoint, credentials=knowing(STRANGER), observer=ours
        )
        world.opened.append(channel)
        assert (await failure(channel.unary_unary(ECHO, text("x"), timeout=5))).code == 16
        await one_loop.until(lambda: ours.seen and auditor.seen)
        assert len(ours.seen) == channel.counters[Count.REFUSED]

    world.run(main)
    refusal = Refusal(
        public_key=STRANGER.public_key,
        address="127.0.0.1",
        mechanism="CURVE",
        reason="the key is unknown",
    )
    assert {event for _, event in auditor.seen} == {refusal}
    assert {event for _, event in ours.seen} == {
        Refusal(
            public_key="",
            address=world.endpoint,
            mechanism="",
            reason="the server does not know this client's key",
        )
    }
    (line,) = lines_of(logged, "refused a client")
    assert line == (f"refused a client from 127.0.0.1: the key is unknown ({STRANGER.public_key})")


@pytest.mark.parametrize("keys", [None, ALICE], ids=["no key", "wrong server key"])
def test_who_shows_no_key_that_can_be_read_is_told_of_on_its_own_side_only(
    one_loop: Loop, logged: Logged, keys: CurveKeyPair | None
) -> None:
    """Libzmq ends such a handshake by itself: it asks nobody, and knows nobody."""
    auditor, ours = Auditor(), Auditor()
    world = Trusted(one_loop, [Echo()], observer=auditor)

    async def main() -> None:
        credentials = None if keys is None else knowing(keys, STRANGER)
        channel = Channel(world.factory, world.endpoint, credentials=credentials, observer=ours)
        world.opened.append(channel)
        assert (await failure(channel.unary_unary(ECHO, text("x"), timeout=5))).code == 16

    world.run(main)
    assert auditor.seen == []
    assert ours.seen


def test_each_server_hears_of_its_own_clients(one_loop: Loop, logged: Logged) -> None:
    """Two share credentials, and are both told; a third has its own; a fourth has stopped."""
    auditor = Auditor()
    world = Trusted(one_loop, [Echo()], observer=auditor)
    sharing, other = world.serve(), world.serve(serving({BOB.public_key: "robert"}))
    stopped = world.serve()

    async def main() -> None:
        sharing.listen("tcp://127.0.0.1:*")
        stopped.listen("tcp://127.0.0.1:*")
        elsewhere = other.listen("tcp://127.0.0.1:*")
        await stopped.stop(0)
        await world.channel(ALICE).unary_unary(ECHO, text("x"))
        channel = Channel(world.factory, elsewhere, credentials=knowing(BOB))
        world.opened.append(channel)
        await channel.unary_unary(ECHO, text("x"))

    world.run(main)
    hers, his = let_in("alice", ALICE.public_key), let_in("robert", BOB.public_key)
    assert auditor.of(world.server) == auditor.of(sharing) == [hers]
    assert auditor.of(other) == [his]
    assert auditor.of(stopped) == []


def test_the_key_of_the_connection_is_told_of_a_user_with_a_token(
    one_loop: Loop, logged: Logged
) -> None:
    auditor = Auditor()
    world = Trusted(
        one_loop,
        [Echo()],
        authenticate=by_name,
        authorize=permissions({"*": {"staff"}}),
        observer=auditor,
    )

    async def main() -> None:
        call = world.channel(BOB).unary_unary(
            ECHO, text("x"), timeout=5, metadata={"authorization": "Bearer carol"}
        )
        assert type(await failure(call)) is PermissionDenied

    world.run(main)
    (denial,) = [event for _, event in auditor.seen if isinstance(event, Denial)]
    assert (denial.user, denial.public_key) == ("carol", BOB.public_key)
    (line,) = [it for it in logged if it["log_format"].startswith("denied")]
    assert (line["identity"], line["public_key"]) == ("carol", BOB.public_key)


def test_who_may_not_is_told_with_name_key_and_address(one_loop: Loop, logged: Logged) -> None:
    auditor = Auditor()
    world = Trusted(one_loop, [Echo()], authorize=permissions({"*": {"staff"}}), observer=auditor)

    async def main() -> None:
        for _ in range(3):
            error = await failure(world.channel(BOB).unary_unary(ECHO, text("x"), timeout=5))
            assert type(error) is PermissionDenied

    world.run(main)
    denials = [event for _, event in auditor.seen if isinstance(event, Denial)]
    assert len(denials) == 3
    assert {(it.user, it.public_key, it.method, it.code) for it in denials} == {
        ("bob", BOB.public_key, ECHO.path, Code.PERMISSION_DENIED)
    }
    assert all(it.address.startswith("127.0.0.1") for it in denials)
    (line,) = lines_of(logged, "denied")
    assert line.startswith("denied bob a call of /test.Echo/Echo (PERMISSION_DENIED, from 127.0")
    (event,) = [it for it in logged if "method" in it and it["log_level"] is LogLevel.warn]
    assert (event["identity"], event["public_key"]) == ("bob", BOB.public_key)
