"""What methods require by their protos, and how tables and rules decide by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.rpc.service import ADDRESS, Echo, text
from tests.support import Logged, examples
from txzmq.auth import Identity
from txzmq.rpc import (
    Channel,
    Context,
    Kind,
    Method,
    Server,
    Service,
    Unauthenticated,
)
from txzmq.rpc._server.access import Access
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.authorization import MethodPath, permissions
from txzmq.rpc.metadata import Metadata
from txzmq.testing import MemoryNetwork

WORD = "orders.write"
WRITE = Method("/test.Orders/Write", "write", StringValue, StringValue, requires=WORD)
READ = Method("/test.Orders/Read", "read", StringValue, StringValue)


class Orders(Echo):
    """Of two methods one requires a word."""

    __txzmq_service__: ClassVar[Service] = Service("test.Orders", (WRITE, READ))

    def write(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        return text("written")

    def read(self, request: StringValue, context: Context) -> StringValue:
        self.note(request, context)
        return text("read")


class World:
    """In memory: a server of orders, and a channel."""

    def __init__(self, authorize: Any) -> None:
        self.network = MemoryNetwork()
        self.service = Orders()
        self.server = Server(self.network, [self.service], authorize=authorize)
        self.server.listen(ADDRESS)
        self.channel = Channel(self.network, ADDRESS)

    def call(self, method: Method[StringValue, StringValue]) -> str:
        """What the method answers, or why not."""
        try:
            reply = self.network.result(self.channel.unary_unary(method, text("x"), timeout=5))
        except Unauthenticated:
            return "denied"
        return str(reply.value)

    def close(self) -> None:
        self.channel.close()
        self.server.stop(0)
        self.network.advance(1)


def calls(authorize: Any) -> tuple[str, str]:
    """What writing and reading answer to somebody who has not authenticated."""
    world = World(authorize)
    answers = world.call(WRITE), world.call(READ)
    world.close()
    assert len(world.service.seen) == sum(answer != "denied" for answer in answers)
    return answers


# -- tables ----------------------------------------------------------------------------------

ROWS: list[tuple[dict[str, set[str]], tuple[str, str]]] = [
    ({"orders.write": {"anybody"}}, ("written", "denied")),
    ({"orders.write": {"staff"}}, ("denied", "denied")),
    ({"orders.write": set()}, ("denied", "denied")),
    # The word goes before the service and all others, whichever allows more.
    ({"orders.write": {"staff"}, "/test.Orders/*": {"anybody"}}, ("denied", "read")),
    ({"orders.write": {"staff"}, "*": {"anybody"}}, ("denied", "read")),
    ({"orders.write": {"anybody"}, "/test.Orders/*": {"staff"}}, ("written", "denied")),
    # The path of the method goes before the word, which then need not be there.
    ({"orders.write": {"staff"}, "/test.Orders/Write": {"anybody"}}, ("written", "denied")),
    ({"orders.write": {"anybody"}, "/test.Orders/Write": {"staff"}}, ("denied", "denied")),
    ({"/test.Orders/Write": {"anybody"}}, ("written", "denied")),
    # Another server's word.
    ({"orders.write": {"anybody"}, "stock.write": {"anybody"}}, ("written", "denied")),
]


@pytest.mark.parametrize(("table", "answers"), ROWS)
def test_a_word_is_mapped_by_the_table(
    table: Mapping[str, Iterable[str]], answers: tuple[str, str]
) -> None:
    assert calls(permissions(table)) == answers


def asked_by_a_rule(table: Mapping[str, Iterable[str]]) -> Callable[..., bool]:
    """A user's own rule, which asks a table."""
    allowed = permissions(table)

    def authorize(identity: Identity | None, method: MethodPath, metadata: Metadata) -> bool:
        return allowed(identity, method, metadata)

    return authorize


@pytest.mark.parametrize(("table", "answers"), ROWS)
def test_a_table_that_another_rule_asks_decides_the_same(
    table: Mapping[str, Iterable[str]], answers: tuple[str, str]
) -> None:
    assert calls(asked_by_a_rule(table)) == answers


@pytest.mark.parametrize("table", [{"/test.Orders/*": {"anybody"}}, {"*": {"anybody"}}, {}])
def test_a_word_that_the_table_of_a_rule_lacks_denies(table: dict[str, set[str]]) -> None:
    """The server cannot see that table, so the call is what fails."""
    assert calls(asked_by_a_rule(table))[0] == "denied"


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({}, ""),
        ({"/test.Orders/*": {"staff"}}, ""),
        ({"*": {"staff"}}, ""),
        ({"/test.Orders/Read": {"staff"}}, ""),
        ({"order.write": {"staff"}}, "; did you mean order.write?"),
        ({"Orders.Write": {"staff"}}, "; did you mean Orders.Write?"),
        ({"stock": {"staff"}}, ""),
    ],
)
def test_a_word_that_the_table_lacks_is_told_when_the_server_is_made(
    table: dict[str, set[str]], hint: str
) -> None:
    with pytest.raises(ValueError, match="authorize") as raised:
        Server(MemoryNetwork(), [Orders()], authorize=permissions(table))
    assert str(raised.value) == (
        "authorize: /test.Orders/Write requires 'orders.write', and the table has neither this "
        f"word nor this path{hint}"
    )


def test_a_server_whose_methods_require_something_must_have_a_rule() -> None:
    with pytest.raises(ValueError, match="authorize") as raised:
        Server(MemoryNetwork(), [Orders()])
    assert str(raised.value) == (
        "authorize: /test.Orders/Write requires 'orders.write', and the server has no rule of who "
        "may call what: authorize=permissions({'orders.write': {'staff'}}), or {'anybody'} for "
        "everybody"
    )


def test_servers_may_share_a_table_and_are_told_what_is_not_theirs(logged: Logged) -> None:
    table = permissions({"orders.write": {"anybody"}, "stock.write": {"*"}, "b": {"*"}})
    assert calls(table) == ("written", "denied")
    network = MemoryNetwork()
    Server(network, [Echo()], authorize=table).stop(0)
    network.advance(1)
    told = [event["words"] for event in logged if "words" in event]
    assert told == ["b, stock.write", "b, orders.write, stock.write"]


def test_one_table_serves_two_versions_of_a_proto() -> None:
    """What one server has found out about a path is not kept for another."""
    later = Method(WRITE.path, "write", StringValue, StringValue, requires="orders.all")
    table = permissions({"orders.write": {"staff"}, "orders.all": {"*"}})
    assert table.for_methods([WRITE]) == {WRITE.path: {"staff"}}
    assert table.for_methods([later]) == {WRITE.path: {"*"}}


class Anyone(NamedTuple):
    """A caller."""

    authenticates: bool
    identity: Identity | None


PATHS = ("*", "/a.B/*", "/a.B/C", "/a.B/D", "/a.Bx/*", "/e.F/C")
NAMES = ("w", "a.B", "anybody", "orders.write")
GROUPS = st.sampled_from(["staff", "admin", "*", "anybody"])


@given(
    st.dictionaries(st.sampled_from(PATHS + NAMES), st.frozensets(GROUPS)),
    st.sampled_from(["/a.B/C", "/a.B/D", "/a.B/E", "/a.Bx/C", "/e.F/C"]),
    st.sampled_from(("", *NAMES)),
    st.none() | st.frozensets(st.sampled_from(["staff", "admin", "other"])),
)
@settings(max_examples=examples(500))
def test_the_nearest_row_decides_and_the_same_for_a_server_as_for_a_rule(
    table: dict[str, frozenset[str]], path: str, word: str, groups: frozenset[str] | None
) -> None:
    identity = None if groups is None else Identity("alice", groups=groups)
    rows = [path, *([word] if word else [f"{path.rpartition('/')[0]}/*", "*"])]
    found = [table[row] for row in rows if row in table]
    nearest = found[0] if found else frozenset[str]()
    if groups is None:
        expected = "anybody" in nearest
    else:
        expected = bool(nearest & (groups | {"*", "anybody"}))
    rule, method = permissions(table), Method(path, "m", StringValue, StringValue, requires=word)
    assert rule(identity, MethodPath(path, word), ()) is expected
    if word and not found:
        with pytest.raises(ValueError, match="the table has neither"):
            rule.for_methods([method])
        return
    clock = Clock()
    access = Access(rule, [method], lambda name: None, clock, 8_192)
    caller = Anyone(authenticates=False, identity=identity)
    assert (access.refusal(caller, RequestHead(path, None, ())) is None) is expected


def test_a_table_with_words_is_not_asked_about_a_path_alone() -> None:
    """A rule that gives it another str than it got would else let in by a wider row."""
    table = permissions({"w": {"staff"}, "/a.B/*": {"*"}, "/a.B/Own": {"*"}})
    with pytest.raises(TypeError, match=r"method must be a MethodPath, not the str '/a\.B/C'"):
        table(Identity("bob"), "/a.B/C", ())
    assert table(Identity("bob"), "/a.B/Own", ()) is True
    assert permissions({"/a.B/*": {"*"}})(Identity("bob"), "/a.B/C", ()) is True


@pytest.mark.parametrize(
    "word", ["**", "orders.*", "orders write", "é", "a\n", '"', "a\\b", "\u200b"]
)
def test_a_word_that_no_proto_can_have_is_refused(word: str) -> None:
    for refused in (
        lambda: permissions({word: {"staff"}}),
        lambda: Method("/a.B/C", "c", StringValue, StringValue, requires=word),
    ):
        with pytest.raises(ValueError, match="is no word that a method may require"):
            refused()


@pytest.mark.parametrize("word", [None, 5, b"orders", ["orders"]])
def test_what_is_required_is_a_str(word: Any) -> None:
    with pytest.raises(TypeError, match="requires must be str"):
        Method("/a.B/C", "c", StringValue, StringValue, requires=word)


# -- rules of users --------------------------------------------------------------------------


def test_a_rule_sees_what_the_method_requires() -> None:
    seen: list[tuple[str, str]] = []

    def authorize(identity: Identity | None, method: MethodPath, metadata: Metadata) -> bool:
        seen.append((method, method.requires))
        return method.requires != "orders.write"

    world = World(authorize)
    missing = Method("/test.Orders/Missing", "missing", StringValue, StringValue, requires=WORD)
    assert [world.call(method) for method in (WRITE, READ)] == ["denied", "read"]
    with pytest.raises(Exception, match="has no method"):
        world.call(missing)
    world.close()
    # What the server does not have requires nothing, whatever clients think.
    assert seen == [(WRITE.path, "orders.write"), (READ.path, ""), (missing.path, "")]


def test_a_rule_that_wants_a_str_gets_one() -> None:
    def authorize(identity: Identity | None, method: str, metadata: Metadata) -> bool:
        return {"/test.Orders/Write": True}.get(method, False) and method.endswith("Write")

    assert calls(authorize) == ("written", "denied")


def test_a_rule_need_not_care() -> None:
    """It is the user's own: who has one has said who may call what."""

    def authorize(identity: Identity | None, method: str, metadata: Metadata) -> bool:
        return True

    assert calls(authorize) == ("written", "read")


# -- all kinds of method ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("allowed", [True, False])
def test_methods_of_all_kinds_are_guarded(kind: Kind, *, allowed: bool) -> None:
    path, ran = "/test.Guarded/Run", list[str]()
    method = Method(path, "run", StringValue, StringValue, kind=kind, requires="w")

    class Guarded:
        __txzmq_service__: ClassVar[Service] = Service("test.Guarded", (method,))

        def run(self, request: object, context: Context) -> Any:
            ran.append(context.method)
            return [text("done")] if kind.response_streaming else text("done")

    network = MemoryNetwork()
    rule = permissions({"w": {"anybody" if allowed else "staff"}, "*": {"anybody"}})
    server = Server(network, [Guarded()], authorize=rule)
    server.listen(ADDRESS)
    channel = Channel(network, ADDRESS)
    request: Any = [text("x")] if kind.request_streaming else text("x")
    call: Any = getattr(channel, kind.name.lower())(method, request, timeout=5)

    async def read() -> list[StringValue]:
        return [item async for item in call]

    result = Deferred.fromCoroutine(read()) if kind.response_streaming else call
    if allowed:
        network.result(result)
    else:
        with pytest.raises(Unauthenticated, match="is not for everybody"):
            network.result(result)
    assert ran == ([path] if allowed else [])
    channel.close()
    server.stop(0)
    network.advance(1)
