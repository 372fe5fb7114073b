"""What a channel of gRPC's is made with: credentials, tokens, service configs, reactors."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from twisted.internet.defer import CancelledError

from tests.grpc_channel.support import Rig, call, served
from tests.grpc_channel.test_calls import error
from tests.programs import running, succeeds
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import COLLECT, COUNT
from tests.support import Logged, Loop, fresh_loop
from txzmq import ForkedError, WrongThreadError
from txzmq.rpc import (
    ConnectivityState,
    EndpointChange,
    Observer,
    ServiceConfig,
    ServiceConfigError,
    Unavailable,
    Watched,
)
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.grpc import GrpcChannel

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def make(grpc_loop: Loop) -> Iterator[Callable[..., GrpcChannel]]:
    """Makes channels that nobody serves; they are closed at the end."""
    channels: list[GrpcChannel] = []

    def make(target: Any = NOWHERE, *arguments: Any, **options: Any) -> GrpcChannel:
        channels.append(GrpcChannel(target, *arguments, reactor=grpc_loop.reactor, **options))
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()


# -- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 5}, "target must be"),
        ({"target": ""}, "target must"),
        ({"target": "tcp://127.0.0.1:5"}, "use '127.0.0.1:5'"),
        ({"target": "https://example.org/"}, "use 'example.org'"),
        ({"target": "ipc:///run/x"}, "use 'unix:/run/x'"),
        ({"credentials": "x"}, "credentials must be a grpc.ChannelCredentials"),
        ({"interceptors": [5]}, r"interceptors\[0\] must be"),
        ({"observer": 5}, "observer must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"message_size": 0}, "message_size must be"),
        ({"stream_window": True}, "stream_window must be"),
        ({"keepalive": 0}, "keepalive must be"),
        ({"keepalive_timeout": "x"}, "keepalive_timeout must be"),
        ({"options": "x"}, "options must be a sequence of pairs"),
        ({"options": ["ab"]}, "options must be a sequence of pairs"),
        ({"options": [("grpc.x", None)]}, "options must be a sequence of pairs"),
        ({"service_config": 5}, "service_config must be JSON or a mapping"),
        ({"service_config": ServiceConfig()}, "gRPC gets the JSON itself"),
        ({"service_config": "{"}, "service_config: "),
        ({"service_config": "[]"}, "service_config: "),
        ({"service_config": {"methodConfig": 5}}, "service_config: methodConfig"),
        ({"call_credentials": "x"}, "call_credentials must be"),
        ({"call_credentials": BearerCredentials(lambda: "t")}, "is not encrypted"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    make: Callable[..., GrpcChannel], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make(**options)


def test_a_service_config_names_all_errors(make: Callable[..., GrpcChannel]) -> None:
    config: dict[str, Any] = {"methodConfig": [{"name": [{}], "timeout": "x", "waitForReady": 5}]}
    with pytest.raises(ServiceConfigError) as caught:
        make(service_config=json.dumps(config))
    assert len(caught.value.errors) == 2


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("dns:///example.org:443", "'example.org' is not a loopback address"),
        ("unix:///tmp/x", "no folder above the socket keeps other users out"),
        ("unix-abstract:x", "an abstract socket has no permissions"),
    ],
)
def test_tokens_are_not_sent_where_others_read_them(
    make: Callable[..., GrpcChannel], target: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make(target, call_credentials=BearerCredentials(lambda: "t"))
    make(target, call_credentials=BearerCredentials(lambda: "t", insecure=True))


# -- reactors, processes, threads -----------------------------------------------------------------


def test_another_reactor_is_refused_with_what_to_do() -> None:
    with fresh_loop("epoll") as loop, pytest.raises(RuntimeError) as caught:
        GrpcChannel(NOWHERE, reactor=loop.reactor)
    assert "Twisted runs on EPollReactor" in str(caught.value)
    assert "twistd --reactor=asyncio" in str(caught.value)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "no reactor is installed yet"),
        ("from twisted.internet import reactor", "EPollReactor, and grpc.aio needs a reactor on"),
    ],
)
def test_no_reactor_is_installed(before: str, said: str) -> None:
    program = f"""
import sys
{before}
from txzmq.rpc.grpc import GrpcChannel
try:
    GrpcChannel("127.0.0.1:1")
except RuntimeError as error:
    print(error)
print("twisted.internet.reactor" in sys.modules)
"""
    first, last = succeeds(["-c", program]).splitlines()
    assert said in first
    assert last == str(bool(before))


def test_without_grpcio_it_is_said_what_to_install() -> None:
    program = """
import sys
sys.modules["grpc"] = None
import txzmq.rpc.blocking, txzmq.rpc.channel, txzmq.rpc.server
try:
    import txzmq.rpc.grpc
except ImportError as error:
    print(error)
"""
    assert "pip install 'txzmq[grpc]'" in succeeds(["-c", program])


def test_in_asyncio_run() -> None:
    """As docs/guide/styles.md has the reactor on a loop that runs already."""
    program = """
import asyncio, os
os.environ["GRPC_VERBOSITY"] = "ERROR"  # its server logs that it ends
from twisted.internet import asyncioreactor

async def main():
    asyncioreactor.install(asyncio.get_running_loop())
    from twisted.internet import reactor
    reactor.startRunning(installSignalHandlers=False)
    from tests.grpc_channel.support import Rig, call
    from tests.rpc.service import ECHO
    class Loop: pass
    Loop.reactor = reactor
    rig = Rig(Loop)
    loop = asyncio.get_running_loop()
    from twisted.internet.defer import CancelledError, Deferred
    await Deferred.fromCoroutine(rig.serve()).asFuture(loop)
    channel = rig.channel()
    print((await call(channel, ECHO, "x").asFuture(loop)).value)
    await Deferred.fromCoroutine(rig.stop()).asFuture(loop)
    channel.close()

asyncio.run(main())
"""
    assert succeeds(["-c", program]) == "x"


def test_another_thread_is_refused(grpc_loop: Loop, make: Callable[..., GrpcChannel]) -> None:
    channel = make()
    with grpc_loop.in_thread():
        for use in (channel.close, lambda: call(channel, ECHO, "x")):
            with pytest.raises(WrongThreadError):
                use()


def test_a_forked_child_is_refused(make: Callable[..., GrpcChannel]) -> None:
    channel = make()
    child = os.fork()
    if not child:
        try:
            channel.close()
        except ForkedError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_ctrl_c_ends_a_program_without_a_word() -> None:
    program = """
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from txzmq.rpc.grpc import GrpcChannel
from tests.rpc.service import ECHO, OTHER, WATCH, text
channel = GrpcChannel("127.0.0.1:1")
made = channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
made.addErrback(lambda failure: print(failure.value))
reactor.callLater(0, print, "running")
reactor.run()
"""
    with running("-c", program) as process:
        process.expect("running")
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.output == ["running", "the channel was closed"]


# -- states and observers -------------------------------------------------------------------------


class States(Observer):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def started(self, source: Watched) -> None:
        self.seen.append("started")

    def stopped(self, source: Watched) -> None:
        self.seen.append("stopped")

    def channel_changed(
        self, source: Watched, previous: ConnectivityState, state: ConnectivityState
    ) -> None:
        self.seen.append(state.name)

    def endpoint_changed(self, source: Watched, change: EndpointChange) -> None:
        self.seen.append(f"{change.address} {change.state.name} {change.reason}".strip())


def test_states_are_told(grpc_loop: Loop, logged: Logged) -> None:
    states = States()

    async def main() -> str:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(observer=states)
            with pytest.raises(TypeError, match="a ConnectivityState"):
                channel.wait_for_state_change("READY")  # type: ignore[arg-type]  # that is the test
            waiting = channel.wait_for_state_change(channel.state)
            waiting.cancel()
            assert type(await error(waiting)) is CancelledError
            while channel.state is not ConnectivityState.READY:
                await channel.wait_for_state_change(channel.state)
            await rig.stop()
            state = await channel.wait_for_state_change(ConnectivityState.READY)
            while state is not ConnectivityState.TRANSIENT_FAILURE:
                state = await channel.wait_for_state_change(state)
            return channel.target

    target = grpc_loop.run(main)
    assert states.seen[0] == "started"
    assert states.seen[-1] == "stopped"
    for state in ("READY", "TRANSIENT_FAILURE", "SHUTDOWN"):  # others may pass too quickly
        assert state in states.seen
    assert f"{target} TRANSIENT_FAILURE {target} cannot be reached" in states.seen
    assert [event["address"] for event in logged if "address" in event]


# -- service configs and options ------------------------------------------------------------------


def test_gRPC_retries_by_the_service_config(grpc_loop: Loop) -> None:
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"some_policy_of_gRPC": {}}, {"round_robin": {}}],
        "methodConfig": [
            {"name": [{"service": "test.Echo"}], "retryPolicy": policy},
            {"name": [{}], "timeout": "5s", "waitForReady": True, "maxRequestMessageBytes": 20},
        ],
    }

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            for given in (config, json.dumps(config)):
                channel = rig.channel(service_config=given)
                assert type(await error(call(channel, ECHO, "code 14"))) is Unavailable
                assert rig.notes.seen == ["code 14"] * 3
                rig.notes.seen.clear()
                await call(channel, COLLECT, ["a"])
                assert rig.notes.remaining is not None
                assert rig.notes.remaining < 6
                rig.notes.seen.clear()
                assert "maxRequestMessageBytes" in str(
                    await error(channel.unary_stream(COUNT, text("x" * 30)).ended())
                )

    grpc_loop.run(main)


def test_options_and_keepalive_reach_gRPC(grpc_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[tuple[str, Any]]] = []
    made = grpc.aio.insecure_channel

    def insecure_channel(target: str, options: Any) -> grpc.aio.Channel:
        given.append(options)
        return made(target, options)

    monkeypatch.setattr(grpc.aio, "insecure_channel", insecure_channel)

    async def main() -> None:
        async with served(grpc_loop, Rig) as rig:
            channel = rig.channel(
                keepalive=1.5, keepalive_timeout=2, options=[("grpc.enable_retries", 0)]
            )
            assert (await call(channel, ECHO, "x")).value == "x"

    grpc_loop.run(main)
    (options,) = given
    assert ("grpc.keepalive_time_ms", 1500) in options
    assert ("grpc.keepalive_timeout_ms", 2000) in options
    assert ("grpc.http2.ping_timeout_ms", 2000) in options
    assert options[-1] == ("grpc.enable_retries", 0)
