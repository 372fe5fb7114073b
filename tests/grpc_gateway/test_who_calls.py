"""Who calls, as a gateway for gRPC's clients tells it."""

from __future__ import annotations

import asyncio
import ssl
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from tests.grpc_gateway.support import Rig, stub, texts, through
from tests.rpc.service import text
from tests.support import Loop
from txzmq.auth import CurveClientCredentials, CurveKeyPair, CurveServerCredentials
from txzmq.rpc import Channel, Context, Kind, Method, RequestStream, Server, Service
from txzmq.rpc._grpc.senders import host_of
from txzmq.rpc.forwarded import ClientCertificate, ForwardedClient, Gateways
from txzmq.rpc.grpc_gateway import GrpcGateway
from txzmq.rpc.method_sources import ServedMethods

WHO = Method("/test.Who/Calls", "calls", StringValue, StringValue, Kind.UNARY_UNARY)
ALL = Method("/test.Who/CallAll", "call_all", StringValue, StringValue, Kind.STREAM_UNARY)
LOCALHOST = ip_address("127.0.0.1")


class Who:
    """Finds out who calls."""

    __txzmq_service__: ClassVar[Service] = Service("test.Who", (WHO, ALL))

    def __init__(self, gateways: Gateways | None = None) -> None:
        self.gateways = gateways or Gateways(addresses=["inproc:"])
        self.clients: list[ForwardedClient | None] = []
        self.keys: list[str] = []

    def calls(self, request: StringValue, context: Context) -> StringValue:
        self.clients.append(self.gateways.client_of(context))
        self.keys = [key for key, _ in context.metadata]
        return request

    async def call_all(self, requests: RequestStream[StringValue], context: Context) -> StringValue:
        async for _ in requests:
            pass
        return self.calls(text(""), context)


#: What a client may send to be taken for another.
LIES = (
    ("x-forwarded-for", "198.51.100.7"),
    ("x-forwarded-client-cert", f"Hash={'0' * 64}"),
    ("forwarded", "for=198.51.100.7"),
    ("x-real-ip", "198.51.100.7"),
)


@pytest.mark.parametrize("method", [WHO, ALL])
def test_the_address_of_a_client(grpc_loop: Loop, method: Method[Any, Any]) -> None:
    async def body(rig: Rig) -> None:
        given = texts("a") if method is ALL else text("a")
        await stub(rig.client(), method)(given, metadata=(*LIES, ("x-own", "1")))
        assert who.clients == [ForwardedClient(address=LOCALHOST)]
        assert "x-own" in who.keys
        assert not {"forwarded", "x-real-ip"}.intersection(who.keys)

    who = Who()
    through(grpc_loop, body, services=[who])


def test_the_word_of_a_trusted_proxy(grpc_loop: Loop) -> None:
    async def body(rig: Rig) -> None:
        await stub(rig.client(), WHO)(text("a"), metadata=(*LIES, ("x-forwarded-proto", "https")))
        client = ForwardedClient(
            address=ip_address("198.51.100.7"), proxies=(LOCALHOST,), secure=True
        )
        assert who.clients == [client]

    who = Who()
    through(grpc_loop, body, services=[who], gateway={"trusted_proxies": ["127.0.0.0/8"]})


def test_a_unix_socket(grpc_loop: Loop, tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        await stub(rig.client(), WHO)(text("a"), metadata=LIES)
        assert who.clients == [ForwardedClient(address=None)]

    who = Who()
    tmp_path.chmod(0o700)
    through(grpc_loop, body, services=[who], target=f"unix:{tmp_path}/gateway")


def test_the_certificates_of_clients(grpc_loop: Loop) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed here")
    authority: Any = trustme.CA()
    ours = authority.issue_cert("127.0.0.1")
    theirs = [
        authority.issue_cert("a.example", "b.example", common_name="One, Two", organization_name=it)
        for it in ('"A"', "B")
    ]
    root = authority.cert_pem.bytes()

    def pair(cert: Any) -> tuple[bytes, bytes]:
        return cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes()

    server = grpc.ssl_server_credentials([pair(ours)], root, require_client_auth=True)

    async def body(rig: Rig) -> None:
        for cert in theirs:
            client = grpc.ssl_channel_credentials(root, *pair(cert))
            async with grpc.aio.secure_channel(rig.target, client) as channel:
                await stub(channel, WHO)(text("a"), metadata=LIES)
        certificates: list[ClientCertificate] = []
        for seen in who.clients:
            assert seen is not None
            assert (seen.address, seen.secure) == (LOCALHOST, True)
            assert seen.certificate is not None
            certificates.append(seen.certificate)
        for cert, certificate in zip(theirs, certificates, strict=True):
            der = ssl.PEM_cert_to_DER_cert(pair(cert)[1].decode())
            assert certificate.hash == sha256(der).hexdigest()
            assert certificate.dns_names == ("a.example", "b.example")
        assert certificates[0].subject.startswith("CN=One\\, Two,OU=")
        assert certificates[0].subject.endswith('O=\\"A\\"')
        assert certificates[1].subject.endswith("O=B")

    who = Who()
    through(grpc_loop, body, services=[who], credentials=server)


def test_a_gateway_with_a_key(grpc_loop: Loop) -> None:
    """The service believes it by its name; a client with a key of its own tells lies."""
    keys = {name: CurveKeyPair.generate() for name in ("server", "edge", "mallory")}
    known = {keys[name].public_key: name for name in ("edge", "mallory")}

    async def body(rig: Rig) -> None:
        behind = Server(
            rig.factory, [who], credentials=CurveServerCredentials(keys["server"], known)
        )
        address = behind.listen("tcp://127.0.0.1:*")
        channels = {
            name: Channel(
                rig.factory,
                address,
                credentials=CurveClientCredentials(
                    keys[name], server_keys=[keys["server"].public_key]
                ),
            )
            for name in ("edge", "mallory")
        }
        gateway = GrpcGateway(channels["edge"], ServedMethods([who]))
        loop = asyncio.get_running_loop()
        listener = await gateway.listen(reactor=rig.loop.reactor).asFuture(loop)
        await stub(rig.client(listener.target), WHO)(text("a"), metadata=LIES)
        await channels["mallory"].unary_unary(WHO, text("a"), metadata=LIES).asFuture(loop)
        assert who.clients == [ForwardedClient(address=LOCALHOST), None]
        await listener.stop().asFuture(loop)
        for channel in channels.values():
            channel.close()
        await behind.stop(0).asFuture(loop)

    who = Who(Gateways(["edge"]))
    through(grpc_loop, body)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:50051", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50051", "::1"),
        ("ipv6:[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50051", "fe80::1%eth0"),
        ("unix:", None),
        ("unix:/run/gateway.sock", None),
        ("unix-abstract:gateway", None),
        ("unknown", ""),
    ],
)
def test_peers_as_grpc_writes_them(peer: str, host: str | None) -> None:
    assert host_of(peer) == host
