"""Where a gateway listens, and how it ends."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
import httpx
from connectrpc.code import Code as ConnectCode
from connectrpc.errors import ConnectError
from twisted.internet.error import CannotListenError

from tests.grpc_gateway.test_who_calls import WHO, Who
from tests.http_gateway.support import (
    JSON,
    STREAM,
    Rig,
    envelope,
    given_to,
    head,
    through,
)
from tests.programs import succeeds
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from tests.support import Logged, Loop
from txzmq.rpc import Channel, InsecureBindError, Method
from txzmq.rpc.health import Health
from txzmq.rpc.http_gateway import HttpGateway, server_tls
from txzmq.rpc.method_sources import FirstOf, ReflectedMethods, ServedMethods, standard_methods
from txzmq.rpc.reflection import Reflection
from txzmq.testing import MemoryNetwork


def gateway(**options: Any) -> HttpGateway:
    """One with a channel to nowhere."""
    return HttpGateway(Channel(MemoryNetwork(), "inproc://nobody"), ServedMethods([]), **options)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("0.0.0.0:0", "'0.0.0.0' is not a loopback address"),
        ("[::]:0", "is not a loopback address"),
        ("192.0.2.1:8080", "'192.0.2.1' is not a loopback address"),
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
        ({"target": "tcp://127.0.0.1:1"}, ValueError, "is no IP address with a port"),
        ({"target": "example.com:1"}, ValueError, "is no IP address with a port"),
        ({"target": "127.0.0.1"}, ValueError, "is no IP address with a port"),
        ({"target": "127.0.0.1:x"}, ValueError, "has no port from 0 to 65535"),
        ({"target": "127.0.0.1:65536"}, ValueError, "has no port from 0 to 65535"),
        ({"target": 8080}, TypeError, "target must be an IP address and a port"),
        ({"tls": "key"}, TypeError, "tls must be an ssl.SSLContext or None"),
        ({"insecure": 1}, TypeError, "insecure must be True or False"),
        ({"grace": -1}, ValueError, "grace must be"),
        ({"connections": 0}, ValueError, "connections must be"),
        ({"header_size": 0}, ValueError, "header_size must be"),
        ({"header_timeout": 0}, ValueError, "header_timeout must be"),
        ({"keep_alive": 0}, ValueError, "keep_alive must be"),
        ({"write_timeout": 0}, ValueError, "write_timeout must be"),
    ],
)
def test_wrong_values(
    grpc_loop: Loop, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        gateway().listen(reactor=grpc_loop.reactor, **arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"methods": None}, "methods must be a MethodSource"),
        ({"message_size": 0}, "message_size must be an integer of 1 or more"),
        ({"cors": "*"}, "cors must be a Cors or None"),
        ({"maximum_concurrent_rpcs": 0}, "maximum_concurrent_rpcs must be"),
        ({"body_timeout": 0}, "body_timeout must be"),
        ({"trusted_proxies": "10.0.0.0/8"}, "trusted_proxies must be"),
    ],
)
def test_wrong_values_of_a_gateway(arguments: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"methods": ServedMethods([]), **arguments}
    with pytest.raises((TypeError, ValueError), match=words):
        HttpGateway(Channel(MemoryNetwork(), "inproc://nobody"), **given)


def test_another_reactor(one_loop: Loop) -> None:
    with pytest.raises(RuntimeError, match="and uvicorn needs a reactor on asyncio's loop"):
        gateway().listen(reactor=one_loop.reactor)


def test_a_port_that_is_in_use(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        port = rig.listener.target.rpartition(":")[2]
        for target in (rig.listener.target, f"localhost:{port}"):
            listening = rig.gateway.listen(target, reactor=rig.loop.reactor)
            with pytest.raises(CannotListenError, match="is in use by another socket"):
                await listening.asFuture(loop)
        listening = rig.gateway.listen("192.0.2.1:1", reactor=rig.loop.reactor, insecure=True)
        with pytest.raises(CannotListenError, match="is no address of this machine"):
            await listening.asFuture(loop)

    through(grpc_loop, body)


def test_ipv6(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        assert rig.listener.url.startswith("http://[::1]:")
        response = await rig.http().post(ECHO.path, content='"a"', headers=JSON)
        assert response.text == '"a"'

    through(grpc_loop, body, target="[::1]:0")


# -- TLS -------------------------------------------------------------------------------------------


class Certificates:
    """An authority, and the files of a gateway and a client."""

    def __init__(self, folder: Path) -> None:
        trustme = pytest.importorskip("trustme", reason="trustme is not installed here")
        self.authority: Any = trustme.CA()
        self.gateway, self.client = (self.authority.issue_cert("127.0.0.1") for _ in range(2))
        self.ca, self.certificate, self.key = (folder / name for name in ("ca", "pem", "key"))
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.gateway.cert_chain_pems[0].write_to_path(str(self.certificate))
        self.gateway.private_key_pem.write_to_path(str(self.key))

    def known(self, *, own: bool = False) -> ssl.SSLContext:
        """What a client has that knows the authority, and perhaps a certificate of its own."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if own:
            self.client.configure_cert(context)
        return context


def test_tls_and_who_connects(grpc_loop: Loop, tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    pem = files.client.cert_chain_pems[0].bytes().decode()

    async def body(rig: Rig) -> None:
        assert rig.listener.url.startswith("https://127.0.0.1:")
        known = rig.http(verify=files.known(own=True))
        response = await known.post(WHO.path, content='"a"', headers=JSON)
        assert response.text == '"a"'
        (client,) = who.clients
        assert client is not None
        assert client.secure
        assert client.certificate is not None
        assert client.certificate.hash == sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

        unknown = rig.http(verify=files.known())
        with pytest.raises(httpx.TransportError):
            await unknown.post(WHO.path, content='"a"', headers=JSON)
        bare = await rig.connection()
        bare.send(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not (await bare.rest()).startswith(b"HTTP")

    who = Who()
    tls = server_tls(files.certificate, files.key, client_ca=files.ca)
    through(grpc_loop, body, services=[who], tls=tls)


def test_certificates_whose_time_is_over_or_has_not_come(
    grpc_loop: Loop, tmp_path: Path, logged: Logged
) -> None:
    files = Certificates(tmp_path)
    now = datetime.now(UTC)
    old = files.authority.issue_cert(
        "127.0.0.1", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    )
    new = files.authority.issue_cert(
        "127.0.0.1", not_before=now + timedelta(days=1), not_after=now + timedelta(days=2)
    )

    async def body(rig: Rig) -> None:
        for certificate in (old, new):
            context = files.known()
            certificate.configure_cert(context)
            with pytest.raises(httpx.TransportError):
                await rig.http(verify=context).post(WHO.path, content='"a"', headers=JSON)
        assert who.clients == []
        known = rig.http(verify=files.known(own=True))
        assert (await known.post(WHO.path, content='"a"', headers=JSON)).text == '"a"'

    who = Who()
    tls = server_tls(files.certificate, files.key, client_ca=files.ca)
    through(grpc_loop, body, services=[who], tls=tls)
    assert logged.failures() == []


def test_files_that_are_none(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    other = Certificates(tmp_path / "..").key
    text_file = tmp_path / "text"
    text_file.write_text("no certificate")
    with pytest.raises(ValueError, match="are no certificate and its key"):
        server_tls(files.certificate, text_file)
    with pytest.raises(ValueError, match="are no certificate and its key"):
        server_tls(files.certificate, other)
    with pytest.raises(ValueError, match="has no certificates in PEM format"):
        server_tls(files.certificate, files.key, client_ca=text_file)
    with pytest.raises(FileNotFoundError):
        server_tls(files.certificate, tmp_path / "nothing")


# -- the end ---------------------------------------------------------------------------------------


def test_calls_may_end_when_it_stops(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        data = envelope(text("2000 of 10000").SerializeToString())
        async with rig.http().stream("POST", COUNT.path, content=data, headers=STREAM) as response:
            chunks = response.aiter_raw(1_000)
            size = len(await anext(chunks))
            before = rig.gateway.readiness.is_ready
            stopping = rig.listener.stop(10).asFuture(loop)
            assert (before, rig.gateway.readiness.is_ready) == (True, False)
            client, codes = rig.client(), list[ConnectCode]()
            while not codes:  # a connection that has come before is served
                try:
                    assert await client.outcome(ECHO, text("a")) == [text("a")]
                except ConnectError as error:
                    codes.append(error.code)
            assert codes == [ConnectCode.UNAVAILABLE]
            assert not stopping.done()
            async for each in chunks:
                size += len(each)
        assert size > 20_000_000
        assert rig.notes.given == 2_000
        await stopping

    through(grpc_loop, body, channel={"stream_window": 16})


def test_a_request_that_is_on_its_way_when_it_stops(grpc_loop: Loop) -> None:
    data = b'"a"'
    request = head(ECHO, "content-type: application/json", "content-length: 3") + data

    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        used, fresh, idle = [await rig.connection() for _ in range(3)]
        for connection in (used, idle):
            connection.send(request)
            assert b"connection: close" not in (await connection.head()).lower()
            assert await connection.reader.readexactly(3) == b'"a"'
        stopping = rig.listener.stop(10).asFuture(loop)
        await asyncio.sleep(0)
        for connection in (used, fresh):
            connection.send(request)
            answer = await connection.rest()
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" in answer.lower()
        async with asyncio.timeout(5):  # nothing comes by the other, and nobody waits for long
            await stopping
        assert await idle.rest() == b""

    through(grpc_loop, body)


@pytest.mark.parametrize("method", [ECHO, COUNT, COLLECT, CHAT])
def test_calls_that_go_on_for_too_long_when_it_stops(
    grpc_loop: Loop, method: Method[Any, Any]
) -> None:
    async def body(rig: Rig) -> None:
        client = rig.client()
        call = asyncio.ensure_future(client.failure(method, given_to(method, "wait")))
        await rig.until(lambda: rig.notes.seen)
        loop = asyncio.get_running_loop()
        first = rig.listener.stop(60).asFuture(loop)
        await rig.listener.stop(0.05).asFuture(loop)
        await first
        error = await call
        assert error.code is ConnectCode.UNAVAILABLE
        assert error.message.startswith("the gateway is shutting down, and has ended the call")
        await rig.until(lambda: rig.notes.cancelled == ["wait"])
        with pytest.raises(ValueError, match="grace must be"):
            rig.listener.stop(-1)

    through(grpc_loop, body)


def test_a_reader_that_takes_nothing_when_it_stops(
    grpc_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("txzmq.rpc._http.server._END", 0.1)

    async def body(rig: Rig) -> None:
        data = envelope(text("4000 of 10000").SerializeToString())
        async with rig.http().stream("POST", COUNT.path, content=data, headers=STREAM):
            await rig.until(lambda: rig.notes.given > 2)
            async with asyncio.timeout(5):
                await rig.listener.stop().asFuture(asyncio.get_running_loop())
            await rig.until(lambda: rig.server.running == 0)

    through(grpc_loop, body, channel={"stream_window": 16})


def test_a_channel_that_is_closed_under_a_call(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        calls = [
            asyncio.ensure_future(rig.client().failure(method, given_to(method, "wait")))
            for method in (ECHO, COUNT, COLLECT, CHAT)
        ]
        await rig.until(lambda: len(rig.notes.seen) == 4)
        rig.channel.close()
        for call in calls:
            error = await call
            assert error.code is ConnectCode.UNAVAILABLE
            assert "the gateway is shutting down" in error.message

    through(grpc_loop, body)


def test_it_stops_with_the_reactor_and_takes_no_signals() -> None:
    program = """
import logging, signal
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from txzmq import ZmqFactory
from txzmq.rpc import Channel
from txzmq.rpc.http_gateway import HttpGateway
from txzmq.rpc.method_sources import ServedMethods

async def main(reactor):
    channel = Channel(ZmqFactory(), "inproc://nobody")
    await deferLater(reactor, 0)  # the reactor has taken them
    signals = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    listener = await HttpGateway(channel, ServedMethods([])).listen()
    print(signals == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)])
    print(logging.getLogger("uvicorn").handlers, logging.getLogger("uvicorn").level)
    print(listener.url.startswith("http://127.0.0.1:") and not listener.url.endswith(":0"))

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""
    assert succeeds(["-c", program]).split("\n") == ["True", "[] 0", "True"]


@pytest.mark.parametrize("missing", ["connectrpc", "uvicorn"])
def test_without_the_extra_it_is_said_what_to_install(missing: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
try:
    import txzmq.rpc.http_gateway
except ImportError as error:
    print(error)
"""
    assert succeeds(["-c", program]) == (
        "txzmq.rpc.http_gateway needs connectrpc 0.13 or later, and uvicorn: pip install "
        "'txzmq[gateway]'"
    )


def test_a_forked_child_leaves_the_server_alone() -> None:
    program = """
import os
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from txzmq.rpc._gateway.readiness import Readiness
from txzmq.rpc.http_gateway import HttpListener

class Server:
    async def stop(self, grace):
        print("stopped", flush=True)

listener = HttpListener(Server(), "127.0.0.1:1", 0.0, reactor, Readiness(None), secure=False)
child = os.fork()
if not child:
    print(listener._stopping(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    assert succeeds(["-c", program]) == "None"


# -- services --------------------------------------------------------------------------------------


def _reflected(channel: Channel) -> FirstOf:
    return FirstOf(standard_methods(), ReflectedMethods(channel, interval=0.01))


def test_health_and_reflection_pass(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        http = rig.http()
        path = "/grpc.health.v1.Health/Check"
        response = await http.post(path, content="{}", headers=JSON)
        assert response.json() == {"status": "SERVING"}
        response = await http.post(path, content='{"service": "no"}', headers=JSON)
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        headers = {"content-type": "application/connect+json"}
        content = envelope(b'{"listServices": "*"}')
        response = await http.post(path, content=content, headers=headers)
        assert '"name": "grpc.health.v1.Health"' in response.text

    through(grpc_loop, body, services=[Health(), Reflection()], methods=_reflected)


def test_it_runs_under_another_server_below_a_path(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:

        transport = httpx.ASGITransport(rig.gateway, root_path="/api")
        async with httpx.AsyncClient(transport=transport, base_url="http://x/api") as client:
            response = await client.post(ECHO.path, content='"a"', headers=JSON)
            assert response.text == '"a"'
            response = await client.post("/no/thing", content='"a"', headers=JSON)
            assert response.json()["message"] == "the gateway knows of no method /no/thing"
            assert (await client.get("/healthz")).text == "ok\n"

    through(grpc_loop, body)


def test_the_lifespan_of_a_server(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        asked = ["lifespan.startup", "lifespan.shutdown"]
        said: list[str] = []

        async def receive() -> Any:
            return {"type": asked.pop(0)}

        async def send(message: Any) -> None:
            said.append(message["type"])

        await rig.gateway({"type": "lifespan"}, receive, send)
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        await rig.gateway({"type": "websocket"}, receive, send)
        assert said[2:] == ["websocket.close"]

    through(grpc_loop, body)
