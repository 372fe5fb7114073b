"""A client's tokens: got when needed, renewed in time, and sent where nobody else reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from tests.rpc.identified import Identified, bearer
from tests.rpc.service import ADDRESS, ECHO, made, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, RESUME, TICKS, Network, Reader, Streaming
from txzmq.auth import Identity
from txzmq.rpc import (
    Channel,
    Context,
    DeadlineExceeded,
    IdempotencyLevel,
    Method,
    PermissionDenied,
    ResourceExhausted,
    Server,
    StaticResolver,
    Unauthenticated,
    Unavailable,
)
from txzmq.rpc.authentication import AccessToken, BearerCredentials
from txzmq.testing import MemoryNetwork

#: What somebody's clock shows when the tests begin.
EPOCH = 1_800_000_000.0


class Tokens:
    """A client's function, and a server that knows which tokens are good."""

    def __init__(self, network: MemoryNetwork, lifetime: float | None = 600.0) -> None:
        self.clock = network.clock
        self.lifetime = lifetime
        #: How often it was asked.
        self.asked = 0
        #: What it answers in place of tokens.
        self.answers: list[Any] = []
        #: What the server refuses; it takes any other.
        self.bad: set[str] = set()
        #: What the server has got.
        self.seen: list[str] = []

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def get(self) -> Any:
        self.asked += 1
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        expires = None if self.lifetime is None else self.now() + self.lifetime
        return AccessToken(f"token-{self.asked}", expires)

    def authenticate(self, identity: Identity | None, method: str, metadata: Any) -> Identity:
        token = bearer(metadata)
        self.seen.append(token)
        if not token or token in self.bad or "all" in self.bad:
            raise Unauthenticated("a valid token is needed")
        return Identity("alice")


class Renewing(Identified):
    """A channel with tokens, and a server that looks at them."""

    def __init__(self, lifetime: float | None = 600.0, **options: Any) -> None:
        super().__init__(self._authenticate, streaming=options.pop("streaming", None))
        self.tokens = Tokens(self.network, lifetime)
        self.credentials = BearerCredentials(self.tokens.get, now=self.tokens.now, **options)
        self.channel = self.connect(call_credentials=self.credentials)

    def _authenticate(self, identity: Identity | None, method: str, metadata: Any) -> Identity:
        return self.tokens.authenticate(identity, method, metadata)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.credentials.close()
        super().close()


Make = Callable[..., Renewing]


@pytest.fixture
def world() -> Iterator[Make]:
    yield from made(Renewing)


# -- getting, keeping, renewing -----------------------------------------------------------------


def test_a_token_goes_with_each_call_and_is_kept(world: Make) -> None:
    w = world()
    for _ in range(3):
        w.result()
    assert (w.tokens.asked, w.tokens.seen) == (1, ["token-1"] * 3)
    assert w.names == ["alice"] * 3


async def _coroutine() -> str:
    return "a.coroutines"


def _later(network: MemoryNetwork) -> Deferred[str]:
    deferred: Deferred[str] = Deferred()
    network.clock.callLater(0.5, deferred.callback, "a.deferreds")
    return deferred


def test_a_token_may_come_at_once_or_later(world: Make) -> None:
    answers: list[tuple[Callable[[MemoryNetwork], Any], str]] = [
        (lambda _: "a.str", "a.str"),
        (lambda _: AccessToken("a.pair"), "a.pair"),
        (lambda _: ("a.tuple", EPOCH + 900), "a.tuple"),
        (lambda _: _coroutine(), "a.coroutines"),
        (_later, "a.deferreds"),
    ]
    for answer, token in answers:
        w = world()
        w.tokens.answers.append(answer(w.network))
        call = w.call()
        w.network.advance(1)
        assert w.network.result(call).value == "x"
        assert w.tokens.seen == [token]


def test_all_calls_wait_for_one_token(world: Make) -> None:
    w = world()
    asked: Deferred[str] = Deferred()
    w.tokens.answers.append(asked)
    calls = [w.call() for _ in range(5)]
    w.network.advance(1)
    assert (w.tokens.asked, w.tokens.seen) == (1, [])
    asked.callback("slow")
    assert [w.network.result(call).value for call in calls] == ["x"] * 5
    assert w.tokens.seen == ["slow"] * 5


def test_a_token_is_renewed_before_it_expires_and_no_call_waits(world: Make) -> None:
    w = world(lifetime=600.0, renew_before=60.0)
    w.result()
    w.network.advance(539)
    w.result()
    assert w.tokens.asked == 1
    asked: Deferred[str] = Deferred()
    w.tokens.answers.append(asked)
    w.network.advance(2)
    for _ in range(3):
        w.result()
    assert (w.tokens.asked, w.tokens.seen[-1]) == (2, "token-1")
    asked.callback("fresh")
    w.result()
    assert w.tokens.seen[-1] == "fresh"


def test_a_token_of_a_short_life_is_used_for_most_of_it(world: Make) -> None:
    w = world(lifetime=10.0, renew_before=60.0)
    w.result()
    w.network.advance(8.9)
    w.result()
    assert w.tokens.asked == 1
    w.network.advance(0.2)
    w.result()
    assert w.tokens.asked == 2


def test_a_token_that_has_expired_is_not_sent(world: Make) -> None:
    w = world(lifetime=10.0)
    w.result()
    w.network.advance(11)
    w.result()
    assert w.tokens.seen == ["token-1", "token-2"]


def test_a_failure_to_renew_does_not_matter_while_the_old_one_holds(world: Make) -> None:
    w = world(lifetime=600.0, renew_before=60.0)
    w.result()
    w.tokens.answers = [ValueError("down")] * 3
    w.network.advance(545)
    for _ in range(5):
        w.result()
    assert w.tokens.asked == 2  # and not with each call
    w.network.advance(10)
    w.result()
    assert w.tokens.asked == 3
    w.network.advance(50)
    with pytest.raises(Unavailable, match="get_token raised ValueError: down"):
        w.result()


# -- what goes wrong ----------------------------------------------------------------------------


def test_an_error_of_get_token_that_has_no_words_ends_the_call(world: Make) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError("no words")

    w = world()
    w.tokens.answers = [Mute()] * 2
    with pytest.raises(Unavailable, match=r"get_token raised Mute \(the call was not"):
        w.result()


def test_what_get_token_raises_is_told_and_it_is_not_hammered(world: Make) -> None:
    w = world()
    w.tokens.answers = [OSError("no route")] * 100
    with pytest.raises(Unavailable, match=r"get_token raised OSError: no route \(the call was not"):
        w.result()
    for _ in range(20):
        with pytest.raises(Unavailable, match="it is asked again in 1 s"):
            w.result()
    assert w.tokens.asked == 1
    for _ in range(600):
        w.network.advance(1)
        with pytest.raises(Unavailable):
            w.result()
    assert 8 <= w.tokens.asked <= 17  # once a minute in the end
    w.tokens.answers.clear()
    w.network.advance(60)
    w.result()
    assert not [token for token in w.tokens.seen if token.startswith("no")]


def test_an_error_that_get_token_chooses_is_the_calls(world: Make) -> None:
    w = world()
    w.tokens.answers.append(PermissionDenied("log in first"))
    with pytest.raises(PermissionDenied, match=r"log in first \(the call was not sent\)") as raised:
        w.result()
    assert raised.value.method == ECHO.path


def test_each_call_has_an_error_of_its_own(world: Make) -> None:
    w = world()
    asked: Deferred[str] = Deferred()
    w.tokens.answers.append(asked)
    calls = [w.call(), w.channel.unary_unary(ECHO, text("y"))]
    asked.errback(OSError("no"))
    errors: list[Any] = []
    for call in calls:
        with pytest.raises(Unavailable) as raised:
            w.network.result(call)
        errors.append(raised.value)
    assert errors[0] is not errors[1]


def test_get_token_may_take_so_long(world: Make) -> None:
    w = world(timeout=5.0)
    cancelled: list[Any] = []
    w.tokens.answers.append(Deferred(cancelled.append))
    call = w.call()
    w.network.advance(5.1)
    with pytest.raises(Unavailable, match="get_token took over 5 s"):
        w.network.result(call)
    assert cancelled


@pytest.mark.parametrize(
    "answer",
    [
        *(None, b"s3cr3t", 5, "", "two words", "line\nbreak", "ünicode", ("a",), ("a", 1, 2)),
        *(("", 1), ("a", "soon"), ("a", math.nan), ("a", True), (5, 1)),
    ],
    ids=repr,
)
def test_what_is_no_token_is_told_and_not_shown(world: Make, answer: Any) -> None:
    w = world()
    w.tokens.answers.append(answer)
    with pytest.raises(Unavailable, match="get_token gave none, but") as raised:
        w.result()
    for secret in ("words", "line", "nicode", "s3cr3t"):
        assert secret not in str(raised.value)
    assert not w.tokens.seen


def test_a_token_that_has_expired_already_is_told(world: Make) -> None:
    w = world()
    w.tokens.answers.append(AccessToken("old", EPOCH - 90))
    with pytest.raises(Unavailable, match="but one that expired 90 s ago"):
        w.result()


def test_the_wait_for_a_token_counts(world: Make) -> None:
    w = world()
    asked: Deferred[str] = Deferred()
    w.tokens.answers.append(asked)
    call = w.call(timeout=1.0)
    w.network.advance(1.1)
    with pytest.raises(DeadlineExceeded, match=r"was not executed \(get_token has not answered"):
        w.network.result(call)
    assert w.tokens.seen == []


def test_what_is_left_of_the_time_is_told_to_the_server(world: Make) -> None:
    w = world()
    asked: Deferred[str] = Deferred()
    w.tokens.answers.append(asked)
    call = w.call(timeout=5.0)
    w.network.advance(3)
    asked.callback("slow")
    w.network.result(call)
    left = w.echo.contexts[0].time_remaining()
    assert left == pytest.approx(2.0, abs=0.01)


def test_a_call_that_is_cancelled_is_not_sent(world: Make) -> None:
    w = world()
    cancelled: list[Any] = []
    asked: Deferred[str] = Deferred(cancelled.append)
    w.tokens.answers.append(asked)
    calls = [w.call(), w.call()]
    calls[0].cancel()
    with pytest.raises(CancelledError):
        w.network.result(calls[0])
    assert not cancelled  # another one waits
    calls[1].cancel()
    with pytest.raises(CancelledError):
        w.network.result(calls[1])
    assert cancelled
    assert w.tokens.seen == []


def test_a_channel_that_is_closed_ends_the_calls_that_wait(world: Make) -> None:
    w = world()
    w.tokens.answers.append(Deferred())
    call = w.call()
    w.channel.close()
    with pytest.raises(CancelledError):
        w.network.result(call)


def test_a_token_is_no_more_than_metadata_may_be(world: Make) -> None:
    w = world()
    w.tokens.answers.append("x" * 9_000)
    with pytest.raises(ResourceExhausted, match="metadata with the token is over the client's"):
        w.result()


def test_a_call_with_a_token_of_its_own_keeps_it(world: Make) -> None:
    w = world()
    w.result("own")
    assert (w.tokens.seen, w.tokens.asked) == (["own"], 0)
    w.tokens.bad.add("own")
    with pytest.raises(Unauthenticated):
        w.result("own")
    assert w.tokens.seen == ["own", "own"]


# -- what a server refuses ----------------------------------------------------------------------


def test_a_token_that_a_server_refuses_is_renewed_and_the_call_made_once_more(world: Make) -> None:
    w = world()
    w.result()
    w.tokens.bad.add("token-1")
    calls = [w.call() for _ in range(4)]
    assert [w.network.result(call).value for call in calls] == ["x"] * 4
    assert w.tokens.asked == 2
    assert sorted(w.tokens.seen[1:]) == ["token-1"] * 4 + ["token-2"] * 4


def test_a_server_that_refuses_all_is_not_hammered(world: Make) -> None:
    w = world()
    w.tokens.bad.add("all")
    for _ in range(50):
        with pytest.raises(Unauthenticated, match="a valid token is needed"):
            w.result()
    assert w.tokens.asked == 2
    assert len(w.tokens.seen) == 51
    w.network.advance(10)
    with pytest.raises(Unauthenticated):
        w.result()
    assert w.tokens.asked == 3


def test_a_handler_that_refuses_is_not_called_twice(world: Make) -> None:
    """It may have done something before."""
    w = world()
    calls: list[str] = []

    def refusing(request: Any, context: Context) -> Any:
        calls.append(request.value)
        raise Unauthenticated("not you")

    w.echo.echo = refusing  # type: ignore[method-assign]  # of one instance
    other = Server(w.network, [w.echo], authenticate=w.tokens.authenticate)
    other.listen("inproc://refusing")
    channel = Channel(w.network, "inproc://refusing", call_credentials=w.credentials)
    with pytest.raises(Unauthenticated, match="not you"):
        w.network.result(channel.unary_unary(ECHO, text("x")))
    assert (calls, w.tokens.asked) == (["x"], 1)
    channel.close()
    other.stop(0)


class Kinds(Streaming):
    """Methods of all kinds that stream."""

    async def collect(self, requests: Any, context: Context) -> Any:
        return text("".join([item.value async for item in requests]))

    def chat(self, requests: Any, context: Context) -> Any:
        return requests


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("is_late", [False, True])
def test_calls_of_all_kinds_carry_a_token(world: Make, is_refused: bool, is_late: bool) -> None:
    w = world(streaming=Kinds())
    asked: Deferred[str] = Deferred()
    if is_late:
        w.tokens.answers.append(asked)
    items = [text(value) for value in "abc"]
    collected = w.channel.stream_unary(COLLECT, items)
    chatted = Reader(w.channel.stream_stream(CHAT, items))
    counted = Reader(w.channel.unary_stream(COUNT, text("3")))
    ticked = Reader(w.channel.unary_stream(TICKS, text("3")))
    if is_refused:
        w.tokens.bad |= {"token-1", "late"}
    if is_late:
        w.network.advance(0.5)
        asked.callback("late")
    w.network.advance(5)
    assert w.network.result(collected).value == "abc"
    assert (chatted.items, chatted.ended) == (["a", "b", "c"], "well")
    assert (counted.items, counted.ended) == (["0", "1", "2"], "well")
    assert (ticked.items, ticked.ended) == (["0", "1", "2"], "well")
    assert w.tokens.asked == 1 + is_refused
    assert len(w.tokens.seen) == (8 if is_refused else 4)


def test_an_attempt_of_a_policy_carries_the_token_of_its_time(world: Make) -> None:
    w = world(lifetime=2.0)
    failing = iter([True, False])

    def failing_once(request: Any, context: Context) -> Any:
        if next(failing):
            raise Unavailable("try again")
        return text("done")

    w.echo.echo = failing_once  # type: ignore[method-assign]  # of one instance
    other = Server(w.network, [w.echo], authenticate=w.tokens.authenticate)
    other.listen("inproc://failing")
    retry = {
        "maxAttempts": 2,
        "initialBackoff": "5s",
        "maxBackoff": "5s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    everything: dict[str, str] = {}
    config: Any = {"methodConfig": [{"name": [everything], "retryPolicy": retry}]}
    level = IdempotencyLevel.IDEMPOTENT
    echo = Method(ECHO.path, "echo", StringValue, StringValue, idempotency_level=level)
    channel = Channel(
        w.network, "inproc://failing", call_credentials=w.credentials, service_config=config
    )
    call = channel.unary_unary(echo, text("x"))
    w.network.advance(8)
    assert w.network.result(call).value == "done"
    assert w.tokens.seen == ["token-1", "token-2"]
    channel.close()
    other.stop(0)


def test_a_stream_that_goes_on_elsewhere_carries_a_token_of_its_time() -> None:
    """Hours after it was opened, when the one that opened it has expired."""
    network = Network()
    tokens = Tokens(network, lifetime=600.0)
    credentials = BearerCredentials(tokens.get, now=tokens.now)

    async def slowly(request: Any, context: Context) -> Any:
        for number in range(context.first_item - 1, 5):
            yield text(str(number))
            pause: Deferred[None] = Deferred()
            network.clock.callLater(400.0, pause.callback, None)
            await pause

    def serve() -> Server:
        server = Server(network, [Streaming(slowly)], authenticate=tokens.authenticate)
        server.listen(ADDRESS)
        return server

    first = serve()
    channel = Channel(network, ADDRESS, call_credentials=credentials)
    reader = Reader(channel.unary_stream(RESUME, text("x")))
    network.advance(900)
    assert reader.items == ["0", "1", "2"]
    network.die(ADDRESS)
    network.die(f"{ADDRESS}.streams")
    second = serve()
    network.advance(3_000)
    assert (reader.items, reader.ended) == (list("01234"), "well")
    assert tokens.seen == ["token-1", "token-2"]
    channel.close()
    for server in (first, second):
        server.stop(0)


# -- where tokens go ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://10.0.0.1:1",
        "tcp://127.0.0.1:1",
        "tcp://localhost:1",
        ["inproc://a", "tcp://127.0.0.1:1"],
        "ipc://@abstract",
        "dns:///host:1",
        pytest.param(StaticResolver("inproc://a"), id="a resolver"),
    ],
    ids=str,
)
def test_a_token_is_not_sent_where_others_may_read_it(endpoint: Any) -> None:
    network = MemoryNetwork()
    with pytest.raises(ValueError, match=r"call_credentials: .* not encrypted"):
        Channel(network, endpoint, call_credentials=BearerCredentials(lambda: "x"))


def test_a_token_is_sent_where_only_this_user_reads(tmp_path: Any) -> None:
    tmp_path.chmod(0o700)
    network = MemoryNetwork()
    for endpoint in (ADDRESS, f"ipc://{tmp_path}/x", [ADDRESS, "inproc://b"]):
        Channel(network, endpoint, call_credentials=BearerCredentials(lambda: "x")).close()
    tokens = BearerCredentials(lambda: "x", insecure=True)
    Channel(network, "tcp://10.0.0.1:1", call_credentials=tokens).close()


def test_no_token_is_shown() -> None:
    credentials = BearerCredentials(lambda: "s3cr3t")
    shown: list[str] = []
    first = credentials.token(Clock())
    assert isinstance(first, Deferred)
    first.addCallback(shown.append)
    assert (shown, credentials.token(Clock())) == (["s3cr3t"], "s3cr3t")
    assert "s3cr3t" not in repr(credentials)
    token = AccessToken("s3cr3t", 1.0)
    assert (token.token, token.expires_at) == ("s3cr3t", 1.0)
    for each in (repr(token), str(token), f"{token}", str(succeed(token)), str([token])):
        assert "s3cr3t" not in each
