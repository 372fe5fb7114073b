"""What users' interceptors, policies and resolvers give of a wrong type: who gave it, and what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import CannotListenError

from tests.rpc.ends import Outcome, read
from tests.rpc.service import ADDRESS, Echo, made, text
from tests.rpc.streaming import COUNT, TICKS, StreamWorld, Worlds, texts
from tests.support import Logged
from txzmq import ZmqFactory
from txzmq.rpc import (
    Channel,
    Context,
    Internal,
    ResolvedAddress,
    Server,
    ServerProceed,
    Unavailable,
)
from txzmq.testing import MemoryNetwork


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(StreamWorld)


@pytest.mark.parametrize("method", ["collect", "count", "ticks"])
@pytest.mark.parametrize("given", [None, b"bytes", 5])
def test_what_an_interceptor_of_a_server_passes_on_is_said_of_it(
    make: Worlds, logged: Logged, method: str, given: object
) -> None:
    def passes_on(request: Any, context: Context, proceed: ServerProceed) -> Any:
        return proceed(given)

    world = make(interceptors=[passes_on])
    if method == "collect":
        outcome = Outcome(world.collect(texts(1)))
    else:
        shared = TICKS if method == "ticks" else COUNT
        outcome = read(world.channel.unary_stream(shared, text("1")))
    world.network.advance(1)
    assert type(outcome.end) is Internal
    assert outcome.end.message == "an interceptor passed on a wrong type"
    assert world.service.contexts == []
    (line,) = [event["log_format"].format(**event) for event in logged if "what" in event]
    due = "an asynchronous iterable of StringValue" if method == "collect" else "StringValue"
    passed = "None" if given is None else type(given).__name__
    assert line == (
        f"/test.Streaming/{method.capitalize()}: an interceptor of Streaming.{method} passed on "
        f"{passed}, not {due}"
    )


class Policy:
    """Gives a picker, or a pick of it, of any type."""

    def __init__(self, given: Any, *, picks: bool) -> None:
        self._given = given
        self._picks = picks

    def picker(self, endpoints: Any, ready: Any) -> Any:
        return self._pick if self._picks else self._given

    def _pick(self, path: Any, metadata: Any, used: Any) -> Any:
        return self._given


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (
            Policy(None, picks=False),
            "picker() of the balancing policy must return a function, not None",
        ),
        (
            Policy("x", picks=False),
            "picker() of the balancing policy must return a function, not 'x'",
        ),
        (Policy("x", picks=True), "the balancing policy must pick an endpoint or None, not 'x'"),
        (Policy(99, picks=True), "the balancing policy must pick an endpoint or None, not 99"),
    ],
)
def test_what_a_policy_picks(make: Worlds, policy: Policy, why: str) -> None:
    world = make(policy=policy)
    outcome = read(world.open(1))
    world.network.run()
    assert type(outcome.end) is TypeError
    assert str(outcome.end) == why


class Resolver:
    """Tells what it is told to, at the start or later."""

    def __init__(self) -> None:
        self.first: Any = [ResolvedAddress(ADDRESS)]
        self.listener: Any = None

    def start(self, clock: Any, listener: Any) -> None:
        self.listener = listener
        listener.resolved(self.first)

    def resolve_now(self) -> None:
        pass

    def close(self) -> None:
        pass


ONE = ResolvedAddress(ADDRESS)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "addresses must be a sequence of ResolvedAddress, not None"),
    ("tcp://127.0.0.1:1", TypeError, "addresses must be a sequence of ResolvedAddress, not 'tcp:"),
    (ONE, TypeError, "addresses must be a sequence of ResolvedAddress, not an object of type"),
    ([ADDRESS], TypeError, f"addresses[0] must be a ResolvedAddress, not '{ADDRESS}'"),
    ([ONE, None], TypeError, "addresses[1] must be a ResolvedAddress, not None"),
]


@pytest.mark.parametrize(("told", "error", "why"), WRONG)
@pytest.mark.parametrize("of_sockets", [False, True])
def test_what_a_resolver_tells(
    factory: ZmqFactory, told: Any, error: type[Exception], why: str, of_sockets: bool
) -> None:
    network = factory if of_sockets else MemoryNetwork()
    wrong = Resolver()
    wrong.first = told
    with pytest.raises(error) as caught:
        Channel(network, wrong)
    assert str(caught.value).startswith(why)
    later = Resolver()
    channel = Channel(network, later)
    with pytest.raises(error) as caught:
        later.listener.resolved(told)
    assert str(caught.value).startswith(why)
    channel.close()


def test_a_folder_that_is_not_there_is_no_matter_of_trust(factory: ZmqFactory) -> None:
    server = Server(factory, [Echo()])
    with pytest.raises(
        CannotListenError, match="there is no folder '/no/such'; make it first"
    ) as caught:
        server.listen("ipc:///no/such/socket")
    assert "insecure" not in str(caught.value)


@pytest.mark.parametrize("told", [None, "no registry", ValueError("x"), Unavailable])
@pytest.mark.parametrize("of_sockets", [False, True])
def test_why_a_resolver_knows_nothing(factory: ZmqFactory, told: Any, of_sockets: bool) -> None:
    resolver = Resolver()
    channel = Channel(factory if of_sockets else MemoryNetwork(), resolver)
    with pytest.raises(TypeError, match="error must be an Unavailable, not "):
        resolver.listener.not_resolved(told)
    channel.close()
