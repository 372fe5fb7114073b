"""Who may call what: rules, which are asked before anything else, and tables."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import eventAsText

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, Echo, Waiting, text
from tests.support import Logged, examples
from txzmq.auth import Identity
from txzmq.rpc import (
    Channel,
    Code,
    Method,
    PermissionDenied,
    ReplyCacheLimits,
    ResourceExhausted,
    Server,
    ServerLimits,
    Unauthenticated,
)
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.authorization import permissions
from txzmq.testing import MemoryNetwork


class Denying:
    """In memory: a server whose rule is asked first, and whatever it says or raises."""

    def __init__(self, authorize: Any, service: Echo | None = None, **options: Any) -> None:
        self.network = MemoryNetwork()
        self.service = service or Echo()
        self.server = Server(self.network, [self.service], authorize=authorize, **options)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS)

    def call(self, **options: Any) -> Any:
        return self.network.result(self.channel.unary_unary(ECHO, text("x"), timeout=5, **options))

    def close(self) -> None:
        self.channel.close()
        self.server.stop(0)
        self.network.advance(1)


def answering(answer: Any) -> Any:
    def authorize(identity: Identity | None, method: str, metadata: Any) -> Any:
        return answer

    return authorize


def first_of(answers: list[bool]) -> Any:
    """Answers with what is in the list by then."""

    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        return answers[0]

    return authorize


def test_a_rule_is_given_who_calls_what_with_which_metadata() -> None:
    asked: list[Any] = []

    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        asked.append((identity, method, dict(metadata)))
        return True

    world = Denying(authorize)
    world.call(metadata={"a": "b"})
    world.close()
    assert asked == [(None, "/test.Echo/Echo", {"a": "b"})]


@pytest.mark.parametrize("answer", [None, 1, "yes", object(), False, 0])
def test_only_true_allows_and_what_is_no_answer_is_told(logged: Logged, answer: Any) -> None:
    world = Denying(answering(answer))
    with pytest.raises(Unauthenticated, match=r"/test\.Echo/Echo is not for everybody"):
        world.call()
    world.close()
    assert not world.service.seen
    told = [event for event in logged if "authorize must return" in event["log_format"]]
    assert len(told) == (answer is not False)


def test_what_a_rule_raises_denies(logged: Logged) -> None:
    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        raise ZeroDivisionError("user")

    world = Denying(authorize)
    with pytest.raises(Unauthenticated):
        world.call()
    world.close()
    assert not world.service.seen
    assert [type(error) for error in logged.failures()] == [ZeroDivisionError]


def test_an_error_that_a_rule_raises_is_the_answer() -> None:
    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        raise PermissionDenied("not on a Sunday")

    world = Denying(authorize)
    with pytest.raises(PermissionDenied, match="not on a Sunday"):
        world.call()
    world.close()


def test_what_an_error_carries_goes_along_within_the_limits() -> None:
    errors = iter(
        [
            PermissionDenied("no", details=[text("why")], metadata={"retry": "never"}),
            PermissionDenied("no", metadata={"much": "x" * 10_000}),
        ]
    )

    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        raise next(errors)

    world = Denying(authorize)
    with pytest.raises(PermissionDenied) as raised:
        world.call()
    assert raised.value.detail(StringValue) == text("why")
    assert dict(raised.value.metadata) == {"retry": "never"}
    with pytest.raises(ResourceExhausted, match=r"ServerLimits\.metadata_size"):
        world.call()
    world.close()
    assert not world.service.seen


def test_an_error_that_says_ok_is_no_leave(logged: Logged) -> None:
    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        error = PermissionDenied("no")
        error.code = Code.OK
        raise error

    world = Denying(authorize)
    with pytest.raises(Unauthenticated):
        world.call()
    world.close()
    assert not world.service.seen


@pytest.mark.parametrize("answer", [ZeroDivisionError("user"), None])
def test_the_log_is_not_filled_by_those_who_call(logged: Logged, answer: Any) -> None:
    def authorize(identity: Identity | None, method: str, metadata: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    world = Denying(authorize)
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            world.call()
    world.close()
    told = [event for event in logged if event["log_format"].startswith("authorize ")]
    assert 1 <= len(told) < 10


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"tenant": "acme"}, None),
        ({"authorization": "Bearer s3cr3t"}, "KeyError"),
        ({"authorization": "s3cr3t"}, "KeyError"),
        ({"x-key-bin": b"s3cr3t"}, "KeyError"),
    ],
)
def test_what_a_rule_raises_shows_no_token_and_moves_no_cursor(
    logged: Logged, metadata: dict[str, Any], said: str | None
) -> None:
    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        value = next(iter(dict(metadata).values()))
        text = value.decode() if isinstance(value, bytes) else value.removeprefix("Bearer ")
        if text == "acme":
            raise ValueError(f"\x1b[2J\n{text[::-1]}")
        raise KeyError(text)

    world = Denying(authorize)
    with pytest.raises(Unauthenticated):
        world.call(metadata=metadata)
    world.close()
    (event,) = [it for it in logged if it["log_format"].startswith("authorize raised")]
    shown = eventAsText(event)
    assert "s3cr3t" not in shown
    assert "\x1b" not in shown
    assert (said or "\\x1b[2J\\nemca") in shown


@pytest.mark.parametrize("path", ["/txzmq.rpc.v1.Control/Nothing", "/txzmq.rpc.v1.Mine/Ping"])
def test_what_only_looks_like_a_control_call_is_asked_for(path: str) -> None:
    asked: list[str] = []

    def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        asked.append(method)
        return False

    world = Denying(authorize)
    method = Method(path, "ping", StringValue, StringValue)
    with pytest.raises(Unauthenticated):
        world.network.result(world.channel.unary_unary(method, text("x"), timeout=5))
    world.close()
    assert asked == [path]


def test_an_async_rule_is_refused() -> None:
    """A rule must not wait."""

    async def authorize(identity: Identity | None, method: str, metadata: Any) -> bool:
        return True

    with pytest.raises(TypeError, match=r"authorize must be .*, not an async def"):
        Denying(authorize)


def test_a_denied_request_is_refused_where_others_wait() -> None:
    """Before the queue: it is answered while the place is taken and the queue is full."""
    limits = ServerLimits(running=1, queued=0)
    allowed = [True]
    world = Denying(first_of(allowed), Waiting(), limits=limits)
    call = world.channel.unary_unary(ECHO, text("first"))
    world.network.run()
    allowed[0] = False
    with pytest.raises(Unauthenticated):
        world.call()
    service: Any = world.service
    service.results[0].callback(text("done"))
    assert world.network.result(call).value == "done"
    world.close()


def test_a_denied_request_gets_no_reply_that_was_kept() -> None:
    """Before the cache: whoever knows the key of a request has no right to its reply."""
    allowed = [True]
    world = Denying(first_of(allowed), limits=ServerLimits(reply_cache=ReplyCacheLimits()))
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    body = text("x").SerializeToString()
    codes: list[str] = []
    for allowed[0] in (True, True, False):
        number = raw.request(RequestHead(ECHO.path, None, (), request_key=b"k" * 16), body)
        world.network.run()
        codes.append(raw.replies()[number][0].code.name)
    assert codes == ["OK", "OK", "UNAUTHENTICATED"]
    assert world.service.seen == ["x"]
    raw.transport.close()
    world.close()


def test_a_denied_request_is_not_parsed() -> None:

    world = Denying(answering(False))
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    numbers = [
        raw.request(RequestHead(path, None, ()), b"\xff" * 10)
        for path in (ECHO.path, "/test.Echo/Missing", "/not.There/Missing")
    ]
    world.network.run()
    codes = {raw.replies()[number][0].code.name for number in numbers}
    # Nor is it told which methods there are.
    assert codes == {"UNAUTHENTICATED"}
    raw.transport.close()
    world.close()


# -- tables ----------------------------------------------------------------------------------

GROUPS = st.sampled_from(["staff", "admin", "*", "anybody"])
PATHS = st.sampled_from(["*", "/a.B/*", "/a.B/C", "/a.B/D", "/a.Bx/*", "/e.F/C"])
METHODS = st.sampled_from(
    ["/a.B/C", "/a.B/D", "/a.B/E", "/a.Bx/C", "/e.F/C", "/", "", "/a.B/*", "*"]
)


@given(
    st.dictionaries(PATHS, st.frozensets(GROUPS)),
    METHODS,
    st.none() | st.frozensets(st.sampled_from(["staff", "admin", "other"])),
)
@settings(max_examples=examples(300))
def test_the_nearest_row_of_a_table_decides(
    table: dict[str, frozenset[str]], method: str, groups: frozenset[str] | None
) -> None:
    identity = None if groups is None else Identity("alice", groups=groups)
    allowed = permissions(table)(identity, method, ())
    service = method.rpartition("/")[0]
    rows = [table[row] for row in (method, f"{service}/*", "*") if row in table]
    nearest = rows[0] if rows else frozenset[str]()
    if groups is None:
        assert allowed is ("anybody" in nearest)
    else:
        assert allowed is bool(nearest & (groups | {"*", "anybody"}))


def test_a_group_that_is_called_like_everybody_gives_nothing_more() -> None:
    """Groups come from certificates and tokens: whoever names one ``anybody`` is in it only."""
    authorize = permissions({"/a.B/*": {"anybody"}, "*": {"staff"}})
    assert authorize(None, "/a.B/C", ()) is True
    assert authorize(Identity("eve", groups=frozenset({"*", "anybody"})), "/e.F/C", ()) is False


def test_a_table_is_read_once() -> None:
    groups = {"staff"}
    table = {"/a.B/C": groups}
    authorize = permissions(table)
    groups.add("*")
    table["*"] = {"anybody"}
    assert authorize(Identity("bob"), "/a.B/C", ()) is False
    assert authorize(Identity("bob"), "/a.B/D", ()) is False


#: Any: whatever somebody may try.
WRONG: list[tuple[Any, type[Exception]]] = [
    (5, TypeError),
    ([("/a.B/C", {"staff"})], TypeError),
    ({"a.B/C": {"staff"}}, ValueError),
    ({"/a.B": {"staff"}}, ValueError),
    ({"/a.B/": {"staff"}}, ValueError),
    ({"//C": {"staff"}}, ValueError),
    ({"/a.B/C/D": {"staff"}}, ValueError),
    ({"": {"staff"}}, ValueError),
    ({5: {"staff"}}, TypeError),
    ({"/a.B/C": "staff"}, TypeError),
    ({"/a.B/C": 5}, TypeError),
    ({"/a.B/C": [5]}, TypeError),
    ({"/a.B/C": [[]]}, TypeError),
    ({"/a.B/C": [""]}, ValueError),
    ({"/*/*": {"staff"}}, ValueError),
    ({"/a.B/Get*": {"staff"}}, ValueError),
    ({"/a.*/Get": {"staff"}}, ValueError),
]


@pytest.mark.parametrize(("table", "error"), WRONG)
def test_a_wrong_table_is_told(table: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="table"):
        permissions(table)
