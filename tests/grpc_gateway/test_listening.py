"""Where a gateway listens, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from twisted.internet.error import CannotListenError

from tests.grpc_gateway.support import Rig, failure, stub, through
from tests.programs import succeeds
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import COUNT
from tests.support import Loop
from txzmq.rpc import Channel, InsecureBindError
from txzmq.rpc.grpc_gateway import GrpcGateway
from txzmq.rpc.health import Health
from txzmq.rpc.method_sources import FirstOf, ReflectedMethods, ServedMethods, standard_methods
from txzmq.rpc.reflection import Reflection
from txzmq.testing import MemoryNetwork


def gateway() -> GrpcGateway:
    """One with a channel to nowhere."""
    return GrpcGateway(Channel(MemoryNetwork(), "inproc://nobody"), ServedMethods([]))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("0.0.0.0:0", "'0.0.0.0' is not a loopback address"),
        ("[::]:0", "is not a loopback address"),
        ("192.0.2.1:50051", "'192.0.2.1' is not a loopback address"),
        ("unix:/tmp/gateway.sock", "no folder above the socket keeps other users out"),
        ("unix-abstract:gateway", "an abstract socket has no permissions"),
    ],
)
def test_strangers_need_tls(grpc_loop: Loop, target: str, why: str) -> None:
    with pytest.raises(InsecureBindError) as caught:
        gateway().listen(target, reactor=grpc_loop.reactor)
    assert str(caught.value).startswith(f"refusing to listen at {target} without TLS: ")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"target": "tcp://127.0.0.1:1"}, ValueError, "use '127.0.0.1:1'"),
        ({"target": "127.0.0.1"}, ValueError, "'127.0.0.1' has no port; port 0 has the kernel"),
        ({"target": "*:50051"}, ValueError, "use '0.0.0.0:50051', or '[::]:50051'"),
        ({"target": 50051}, TypeError, "target must be a target of gRPC's"),
        ({"credentials": "key"}, TypeError, "credentials must be a grpc.ServerCredentials or"),
        ({"insecure": 1}, TypeError, "insecure must be True or False"),
        ({"grace": -1}, ValueError, "grace must be"),
        ({"maximum_concurrent_rpcs": 0}, ValueError, "maximum_concurrent_rpcs must be"),
        ({"keepalive": 0}, ValueError, "keepalive must be"),
        ({"keepalive_timeout": "x"}, TypeError, "keepalive_timeout must be"),
        ({"options": ["x"]}, TypeError, "options must be a sequence of pairs"),
    ],
)
def test_wrong_values(
    grpc_loop: Loop, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        gateway().listen(reactor=grpc_loop.reactor, **arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("methods", "size", "words"),
    [
        (None, 1, "methods must be a MethodSource"),
        (ServedMethods([]), 0, "message_size must be an integer of 1 or more"),
    ],
)
def test_wrong_values_of_a_gateway(methods: Any, size: int, words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        GrpcGateway(Channel(MemoryNetwork(), "inproc://nobody"), methods, message_size=size)
    assert words in str(caught.value)


def test_another_reactor(one_loop: Loop) -> None:
    with pytest.raises(RuntimeError, match=r"grpc\.aio needs a reactor on asyncio's loop"):
        gateway().listen(reactor=one_loop.reactor)


def test_a_port_that_is_in_use(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        reactor = rig.loop.reactor
        with pytest.raises(CannotListenError) as caught:
            await rig.gateway.listen(rig.target, reactor=reactor).asFuture(loop)
        assert f"port {rig.target.rpartition(':')[2]} is in use" in str(caught.value)
        listening = rig.gateway.listen("192.0.2.1:0", insecure=True, reactor=reactor)
        with pytest.raises(CannotListenError, match="is no address of this machine"):
            await listening.asFuture(loop)

    through(grpc_loop, body)


def test_a_socket_that_is_a_file(grpc_loop: Loop, tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        assert rig.target == target
        assert await stub(rig.client(), ECHO)(text("a")) == text("a")
        listening = rig.gateway.listen(f"unix:{tmp_path}/no/x", reactor=rig.loop.reactor)
        with pytest.raises(CannotListenError, match=r"there is no folder"):
            await listening.asFuture(asyncio.get_running_loop())

    tmp_path.chmod(0o700)
    target = f"unix:{tmp_path}/gateway"
    through(grpc_loop, body, target=target)


def test_tls_and_who_connects(grpc_loop: Loop) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed here")
    authority: Any = trustme.CA()
    ours, theirs = (authority.issue_cert("127.0.0.1") for _ in range(2))
    root = authority.cert_pem.bytes()

    def pair(cert: Any) -> tuple[bytes, bytes]:
        return cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes()

    server = grpc.ssl_server_credentials([pair(ours)], root, require_client_auth=True)

    async def body(rig: Rig) -> None:
        client = grpc.ssl_channel_credentials(root, *pair(theirs))
        async with grpc.aio.secure_channel(rig.target, client) as channel:
            assert await stub(channel, ECHO)(text("a")) == text("a")
        async with grpc.aio.secure_channel(rig.target, grpc.ssl_channel_credentials(root)) as known:
            error = await failure(stub(known, ECHO)(text("a")))
            assert error.code() is grpc.StatusCode.UNAVAILABLE

    through(grpc_loop, body, credentials=server)


def test_certificates_whose_time_is_over_or_has_not_come(grpc_loop: Loop) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed here")
    authority: Any = trustme.CA()
    now = datetime.now(UTC)
    ours, theirs = (authority.issue_cert("127.0.0.1") for _ in range(2))
    old = authority.issue_cert(
        "127.0.0.1", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    )
    new = authority.issue_cert(
        "127.0.0.1", not_before=now + timedelta(days=1), not_after=now + timedelta(days=2)
    )
    root = authority.cert_pem.bytes()

    def pair(cert: Any) -> tuple[bytes, bytes]:
        return cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes()

    server = grpc.ssl_server_credentials([pair(ours)], root, require_client_auth=True)

    async def body(rig: Rig) -> None:
        for certificate in (old, new):
            client = grpc.ssl_channel_credentials(root, *pair(certificate))
            async with grpc.aio.secure_channel(rig.target, client) as channel:
                error = await failure(stub(channel, ECHO)(text("a")))
                assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert rig.notes.seen == []
        client = grpc.ssl_channel_credentials(root, *pair(theirs))
        async with grpc.aio.secure_channel(rig.target, client) as channel:
            assert await stub(channel, ECHO)(text("a")) == text("a")

    through(grpc_loop, body, credentials=server)


def test_calls_may_end_when_it_stops(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        call = stub(rig.client(), COUNT)(text("2000 of 10000"))
        items = aiter(call)
        await anext(items)
        stopping = rig.listener.stop(10).asFuture(loop)
        error = await failure(stub(rig.client(), ECHO)(text("a")))
        # The latter where gRPC had accepted the connection before it heard of the end.
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert not stopping.done()
        assert len([item async for item in items]) == 1_999
        await stopping

    through(grpc_loop, body)


def test_calls_that_go_on_for_too_long_when_it_stops(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        call = asyncio.ensure_future(failure(stub(rig.client(), ECHO)(text("wait"))))
        await rig.until(lambda: rig.notes.seen)
        await rig.listener.stop(0.05).asFuture(asyncio.get_running_loop())
        assert (await call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await rig.until(lambda: rig.notes.cancelled == ["wait"])
        with pytest.raises(ValueError, match="grace must be"):
            rig.listener.stop(-1)

    through(grpc_loop, body)


def test_nobody_wants_it_any_more_while_it_starts(grpc_loop: Loop) -> None:
    """Nothing of it is left, so that another one can be where it was to be."""

    async def body(rig: Rig) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            target = f"127.0.0.1:{free.getsockname()[1]}"
        for turns in range(5):
            starting = rig.gateway.listen(target, reactor=grpc_loop.reactor)
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            try:
                listener = await starting.asFuture(asyncio.get_running_loop())
            except asyncio.CancelledError:
                continue
            await listener.stop().asFuture(asyncio.get_running_loop())
        await rig.until(lambda: can_listen(target))

    def can_listen(target: str) -> bool:
        host, _, port = target.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) != 0

    through(grpc_loop, body)


def test_it_stops_with_the_reactor() -> None:
    program = """
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txzmq import ZmqFactory
from txzmq.rpc import Channel
from txzmq.rpc.grpc_gateway import GrpcGateway
from txzmq.rpc.method_sources import ServedMethods

async def main(reactor):
    channel = Channel(ZmqFactory(), "inproc://nobody")
    listener = await GrpcGateway(channel, ServedMethods([])).listen()
    print(listener.target.startswith("127.0.0.1:") and not listener.target.endswith(":0"))

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""
    assert succeeds(["-c", program]) == "True"


def _reflected(channel: Channel) -> FirstOf:
    return FirstOf(ReflectedMethods(channel), standard_methods())


def test_without_grpcio_it_is_said_what_to_install() -> None:
    program = """
import sys
sys.modules["grpc"] = None
try:
    import txzmq.rpc.grpc_gateway
except ImportError as error:
    print(error)
"""
    assert succeeds(["-c", program]) == (
        "txzmq.rpc.grpc_gateway needs grpcio 1.75.1 or later: pip install 'txzmq[grpc]'"
    )


def test_a_forked_child_leaves_the_server_alone() -> None:
    program = """
import os
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from txzmq.rpc._gateway.readiness import Readiness
from txzmq.rpc.grpc_gateway import GrpcListener

class Server:
    def stop(self, grace):
        print("stopped", flush=True)

listener = GrpcListener(Server(), "127.0.0.1:1", 0.0, reactor, Readiness(None))
child = os.fork()
if not child:
    print(listener._stopping(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    assert succeeds(["-c", program]) == "None"


def test_health_and_reflection_pass(grpc_loop: Loop) -> None:
    pb2 = pytest.importorskip("grpc_health.v1.health_pb2", reason="grpcio-health-checking")
    reflection = pytest.importorskip(
        "grpc_reflection.v1alpha.proto_reflection_descriptor_database", reason="grpcio-reflection"
    )

    def ask(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            database: Any = reflection.ProtoReflectionDescriptorDatabase(channel)
            assert "grpc.health.v1.Health" in database.get_services()
            found = database.FindFileContainingSymbol("grpc.health.v1.Health")
            assert [method.name for method in found.service[0].method] == ["Check", "List", "Watch"]
            check: Any = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=pb2.HealthCheckResponse.FromString,
            )
            assert check(pb2.HealthCheckRequest()).status == pb2.HealthCheckResponse.SERVING

    async def body(rig: Rig) -> None:
        await asyncio.to_thread(ask, rig.target)

    through(
        grpc_loop,
        body,
        services=[Health(), Reflection()],
        methods=_reflected,
    )
