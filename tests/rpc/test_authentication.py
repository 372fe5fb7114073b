"""Who calls, by what the call carries: found out before anything else is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.rpc.identified import Identified, RawCaller, bearer, by_name
from tests.rpc.service import ADDRESS, ECHO, MISSING, Echo, Waiting, made, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, TICKS, Reader, Streaming
from tests.support import Logged
from txzmq.auth import Identity
from txzmq.rpc import (
    Channel,
    Code,
    Context,
    Count,
    InsecureBindError,
    Internal,
    NotFound,
    PermissionDenied,
    ReplyCacheLimits,
    ResourceExhausted,
    Server,
    ServerLimits,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from txzmq.rpc.authorization import permissions
from txzmq.testing import MemoryNetwork

Make = Callable[..., Identified]


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(Identified)


class Later:
    """An authenticate that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Identity | None]] = []
        self.given_up: list[object] = []

    def __call__(
        self, identity: Identity | None, method: str, metadata: Any
    ) -> Deferred[Identity | None]:
        self.asked.append(Deferred(self._cancelled))
        return self.asked[-1]

    def _cancelled(self, asked: object) -> None:
        self.given_up.append(asked)

    @property
    def cancelled(self) -> int:
        return len(self.given_up)

    def answer(self, name: str = "alice") -> None:
        asked, self.asked = self.asked, []
        for deferred in asked:
            if not deferred.called:
                deferred.callback(Identity(name))


def raising(error: BaseException) -> Any:
    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
        raise error

    return authenticate


# -- what it says counts ------------------------------------------------------------------------


def test_the_handler_and_the_rule_know_who_calls(world: Make) -> None:
    asked: list[Any] = []

    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        asked.append((None if identity is None else identity.name, method))
        return True

    w = world(authorize=authorize)
    w.result("alice")
    assert w.names == ["alice"]
    assert asked == [("alice", ECHO.path)]
    assert w.echo.contexts[0].peer_identity is None


async def _later(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
    return by_name(identity, method, metadata)


def test_a_coroutine_will_do(world: Make) -> None:
    w = world(_later)
    w.result("alice")
    assert w.names == ["alice"]


def test_a_call_whose_time_is_up_waits_no_more(world: Make) -> None:
    later = Later()
    w = world(later)
    outcome = w.call("alice", timeout=3)
    outcome.addErrback(lambda _: None)
    w.network.advance(3.1)
    assert (later.cancelled, w.server.queued) == (1, 0)


class Kinds(Streaming):
    """Methods of all kinds that stream."""

    async def collect(self, requests: Any, context: Context) -> StringValue:
        self.contexts.append(context)
        return text("".join([item.value async for item in requests]))

    def chat(self, requests: Any, context: Context) -> Any:
        self.contexts.append(context)
        return requests


@pytest.mark.parametrize("waits", [False, True])
def test_each_kind_of_call_knows_who_calls(world: Make, waits: bool) -> None:
    later = Later()
    w = world(later if waits else by_name, streaming=Kinds())
    carried: Any = {"metadata": {"authorization": "Bearer alice"}}
    items = [text(value) for value in "abc"]
    collected = w.channel.stream_unary(COLLECT, items, **carried)
    chatted = Reader(w.channel.stream_stream(CHAT, items, **carried))
    counted, ticked = w.read(COUNT, "alice"), w.read(TICKS, "alice")
    w.network.advance(0.5)
    if waits:
        assert not w.streaming.contexts
        later.answer()
    w.network.advance(5)
    assert w.network.result(collected).value == "abc"
    assert (chatted.items, chatted.ended) == (["a", "b", "c"], "well")
    assert (counted.items, counted.ended) == (["0", "1", "2"], "well")
    assert (ticked.items, ticked.ended) == (["0", "1", "2"], "well")
    assert w.names.count("alice") == 3
    assert w.names.count(None) == 1  # a run that calls share is nobody's


def test_control_calls_are_the_connections(world: Make) -> None:
    """They carry no token: nobody asks for one, and they reach only what the connection has."""
    asked: list[str] = []

    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
        asked.append(method)
        return by_name(identity, method, metadata)

    w = world(authenticate)
    reader = w.read(COUNT, "alice", 500)
    w.network.advance(5)
    assert (len(reader.items), reader.ended) == (500, "well")
    assert asked == [COUNT.path]


# -- who is refused -----------------------------------------------------------------------------


def test_nobody_is_refused_unless_a_rule_lets_anybody_in(world: Make) -> None:
    w = world()
    with pytest.raises(Unauthenticated, match="does not know who calls"):
        w.result()
    assert not w.names
    assert w.server.counters[Count.UNAUTHENTICATED] == 1
    w = world(authorize=permissions({ECHO.path: {"anybody"}}))
    w.result()
    assert w.names == [None]


def test_what_is_found_is_what_a_table_judges(world: Make) -> None:
    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
        return Identity("alice", groups=frozenset({bearer(metadata)}))

    w = world(authenticate, authorize=permissions({ECHO.path: {"staff"}}))
    w.result("staff")
    with pytest.raises(PermissionDenied, match="alice may not call"):
        w.result("guests")
    assert w.names == ["alice"]


def test_an_error_that_it_raises_is_the_answer(world: Make) -> None:
    w = world(raising(Unauthenticated("no token", metadata={"realm": "here"})))
    with pytest.raises(Unauthenticated, match="no token") as raised:
        w.result("x")
    assert dict(raised.value.metadata) == {"realm": "here"}
    assert w.server.counters[Count.UNAUTHENTICATED] == 1


def test_what_an_error_carries_is_limited(world: Make) -> None:
    w = world(raising(Unauthenticated("no", metadata={"much": "x" * 10_000})))
    with pytest.raises(ResourceExhausted, match=r"ServerLimits\.metadata_size"):
        w.result("x")


@pytest.mark.parametrize("is_late", [False, True])
def test_what_else_it_raises_refuses_and_no_token_gets_into_the_log(
    world: Make, logged: Logged, is_late: bool
) -> None:
    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Any:
        error = ValueError(f"what is {bearer(metadata)}")
        if not is_late:
            raise error
        failed: Deferred[Any] = Deferred()
        failed.errback(error)
        return failed

    w = world(authenticate)
    for _ in range(20):
        with pytest.raises(Internal, match="failed to find out who calls"):
            w.result("s3cr3t")
    assert not w.names
    lines = [event for event in logged if "authenticate" in event["log_format"]]
    assert 1 <= len(lines) < 10
    assert "s3cr3t" not in repr(list(logged))


@pytest.mark.parametrize("found", ["alice", True, 1, object(), (Identity("alice"),)])
def test_what_is_no_identity_lets_nobody_in(world: Make, logged: Logged, found: Any) -> None:
    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Any:
        return found

    w = world(authenticate)
    with pytest.raises(Internal):
        w.result("x")
    assert not w.names
    assert [event for event in logged if "authenticate must return" in event["log_format"]]


def test_it_is_asked_before_anything_is_looked_at(world: Make) -> None:
    """No method, no queue, no cache, no request."""
    w = world(limits=ServerLimits(running=1, queued=0))
    raw = RawCaller(w.network)
    for path in (ECHO.path, MISSING.path, "/not.There/Missing"):
        assert raw.ask("", path, body=b"\xff" * 9) is Code.UNAUTHENTICATED
    raw.close()
    assert not w.names


def test_metadata_over_the_limit_is_not_looked_at(world: Make) -> None:
    asked: list[str] = []

    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
        asked.append(method)
        return None

    w = world(authenticate, limits=ServerLimits(metadata_size=100))
    with pytest.raises(ResourceExhausted, match="metadata"):
        w.result("x" * 200)
    assert not asked


# -- replies that are kept ----------------------------------------------------------------------


def test_nobody_reads_the_reply_to_another_users_request(world: Make) -> None:
    """Also where both come by one connection, as from a gateway."""
    w = world(limits=ServerLimits(reply_cache=ReplyCacheLimits()))
    raw = RawCaller(w.network)
    for token in ("alice", "alice", "bob", "alice", "bob"):
        assert raw.ask(token, key=b"k" * 16) is Code.OK
    assert raw.ask("", key=b"k" * 16) is Code.UNAUTHENTICATED
    raw.close()
    assert w.names == ["alice", "bob"]


def test_users_by_token_and_users_without_are_told_apart(world: Make) -> None:
    """A user may be called like the one that somebody without a token has."""

    def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity | None:
        return by_name(identity, method, metadata) or identity

    w = world(
        authenticate,
        authorize=permissions({"*": {"anybody"}}),
        limits=ServerLimits(reply_cache=ReplyCacheLimits()),
    )
    raw = RawCaller(w.network)
    for token in ("", "alice", "", "alice"):
        assert raw.ask(token, key=b"k" * 16) is Code.OK
    raw.close()
    assert w.names == [None, "alice"]


# -- calls that wait ----------------------------------------------------------------------------


def test_a_call_waits_until_it_is_known_who_makes_it(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x")
    w.network.advance(1)
    assert not w.names
    assert w.server.queued == 1
    later.answer()
    assert w.network.result(call).value == "x"
    assert (w.names, w.server.queued) == (["alice"], 0)


def test_it_waits_for_no_longer_than_a_limit(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x", timeout=60)
    w.network.advance(9.9)
    assert later.cancelled == 0
    w.network.advance(10.5)
    with pytest.raises(Unavailable, match="within 10 s who calls"):
        w.network.result(call)
    # Made once more at another server, if there is one; here it is the same.
    assert later.cancelled == 2
    assert not w.names


def test_a_call_that_is_cancelled_meanwhile_is_not_executed(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x")
    w.network.advance(0.1)
    call.cancel()
    call.addErrback(lambda _: None)
    w.network.advance(0.1)
    assert (later.cancelled, w.server.queued, w.names) == (1, 0, [])


def test_a_call_whose_client_is_lost_meanwhile_is_not_executed(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x", timeout=60)
    w.network.advance(0.1)
    w.network.cut(ADDRESS)
    w.network.advance(0.1)
    call.addErrback(lambda _: None)
    assert later.cancelled == 1
    later.asked.clear()
    assert w.names == []


def test_a_call_whose_time_is_up_meanwhile_is_not_executed(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x", timeout=1.0)
    call.addErrback(lambda _: None)
    w.network.advance(2)
    later.answer()
    w.network.advance(0.1)
    assert w.names == []


def test_a_server_that_stops_does_not_execute_what_waits(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x")
    w.network.advance(0.1)
    w.server.stop(1.0)
    w.network.advance(2)
    with pytest.raises(Unavailable):
        w.network.result(call)
    assert w.names == []
    assert later.cancelled == 1


def test_a_server_stops_when_the_last_question_ends_that_cannot_be_cancelled(world: Make) -> None:
    slow: list[Deferred[None]] = []

    async def authenticate(identity: Identity | None, method: str, metadata: Any) -> Identity:
        for _ in range(2):
            slow.append(Deferred())
            try:
                await slow[-1]
            except CancelledError:
                continue
        return Identity("alice")

    w = world(authenticate)
    call = w.call("x", timeout=60)
    w.network.advance(0.1)
    stopped = w.server.stop(30)
    call.addErrback(lambda _: None)
    call.cancel()
    done: list[None] = []
    stopped.addCallback(done.append)
    w.network.advance(5)
    assert not done
    slow[-1].callback(None)
    w.network.advance(1)
    assert done == [None]
    assert w.names == []


def test_what_waits_on_a_server_that_drains_is_made_elsewhere(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x", timeout=60, wait_for_ready=True)
    w.network.advance(0.1)
    stopped = w.server.stop(30)
    w.network.advance(0.1)
    later.answer()
    w.network.advance(3)
    assert stopped.called
    assert w.names == []
    other = Server(w.network, [w.echo], authenticate=by_name)
    other.listen(ADDRESS)
    w.network.advance(30)
    assert w.network.result(call).value == "x"
    w.server = other


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (ServerLimits(queued=3), "ServerLimits.queued"),
        (ServerLimits(queued_per_peer=3), "ServerLimits.queued_per_peer"),
        (ServerLimits(request_bytes=10_000), "ServerLimits.request_bytes"),
    ],
)
def test_what_waits_is_limited(world: Make, limits: ServerLimits, name: str) -> None:
    later = Later()
    w = world(later, limits=limits)
    metadata = {"authorization": "Bearer x"}
    request = text("x" * 3_000)
    calls = [w.channel.unary_unary(ECHO, request, metadata=metadata) for _ in range(10)]
    w.network.advance(0.1)
    for call in calls[3:]:
        with pytest.raises(ResourceExhausted, match=name):
            w.network.result(call)
    assert w.server.queued == 3
    assert w.server.counters[Count.SHED_REQUEST] == 7
    later.answer()
    for call in calls[:3]:
        assert w.network.result(call).value == request.value


def test_what_waited_takes_its_place_behind_the_limits(world: Make) -> None:
    later = Later()
    w = world(later, echo=Waiting(), limits=ServerLimits(running=1, queued=1))
    calls = [w.call("x")]
    w.network.advance(0.1)
    later.answer()
    calls.append(w.call("x"))
    w.network.advance(0.1)
    later.answer()
    w.network.advance(0.1)
    assert (w.server.running, w.server.queued) == (1, 1)
    service: Any = w.echo
    service.results[0].callback(text("1"))
    w.network.advance(0.1)
    service.results[1].callback(text("2"))
    assert [w.network.result(call).value for call in calls] == ["1", "2"]


def test_who_is_not_known_learns_not_which_methods_there_are(world: Make) -> None:
    """Neither by the answer, nor by how long it takes."""
    later = Later()
    w = world(later)
    calls = [w.call("x", method) for method in (ECHO, MISSING)]
    w.network.advance(1)
    assert not any(call.called for call in calls)
    later.answer()
    assert w.network.result(calls[0]).value == "x"
    with pytest.raises(Unimplemented):
        w.network.result(calls[1])


def test_a_failure_while_a_call_waits_is_its_answer(world: Make) -> None:
    later = Later()
    w = world(later)
    call = w.call("x")
    w.network.advance(0.1)
    later.asked[0].errback(NotFound("such a user"))
    with pytest.raises(NotFound, match="such a user"):
        w.network.result(call)


def test_a_repeated_request_waits_as_the_first_one_does(world: Make) -> None:
    later = Later()
    w = world(later, limits=ServerLimits(reply_cache=ReplyCacheLimits()))
    raw = RawCaller(w.network)
    for _ in range(2):
        with pytest.raises(KeyError):
            raw.ask("x", key=b"k" * 16)
    later.answer()
    w.network.run()
    assert [reply.code for reply, _ in raw.raw.replies().values()] == [Code.OK] * 2
    raw.close()
    assert w.names == ["alice"]


# -- where it may be done -----------------------------------------------------------------------


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://10.0.0.1:1"])
def test_a_server_that_takes_tokens_wants_them_encrypted(address: str) -> None:
    server = Server(MemoryNetwork(), [Echo()], authenticate=by_name)
    with pytest.raises(InsecureBindError, match="loopback"):
        server.listen(address)
    with pytest.raises(InsecureBindError, match="loopback"):
        server.connect(address)
    server.listen(address, insecure=True)
    server.stop(0)


def test_inproc_needs_no_encryption() -> None:
    server = Server(MemoryNetwork(), [Echo()], authenticate=by_name)
    server.listen(ADDRESS)
    server.stop(0)


def test_a_channel_of_somebody_else_is_not_confused() -> None:
    """Two servers, one with and one without: each call is judged by its own."""
    network = MemoryNetwork()
    plain, strict = Echo(), Echo()
    servers = [
        Server(network, [plain]),
        Server(network, [strict], authenticate=by_name),
    ]
    for number, server in enumerate(servers):
        server.listen(f"inproc://{number}")
    for number, code in enumerate([None, Unauthenticated]):
        channel = Channel(network, f"inproc://{number}")
        call = channel.unary_unary(ECHO, text("x"))
        if code is None:
            network.result(call)
        else:
            with pytest.raises(code):
                network.result(call)
        channel.close()
    assert (plain.seen, strict.seen) == (["x"], [])
    for server in servers:
        server.stop(0)
