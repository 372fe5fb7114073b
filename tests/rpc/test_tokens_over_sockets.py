"""Tokens from end to end: over connections with keys, by a provider that changes its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("jwt", reason="PyJWT and cryptography, the extra jwt, are not installed here")

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.auth.support import ALICE, BOB
from tests.programs import succeeds
from tests.rpc.issuer import AUDIENCE, ISSUER, jwk, jwks, key, signed
from tests.rpc.service import ECHO, Echo, text
from tests.rpc.streaming import COUNT, TICKS, Endless, Reader, Streaming
from tests.rpc.trusted import Trusted, failure
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import Identity
from txzmq.rpc import (
    Channel,
    InsecureBindError,
    PermissionDenied,
    Server,
    Unauthenticated,
)
from txzmq.rpc.authentication import AccessToken, BearerCredentials
from txzmq.rpc.authorization import permissions
from txzmq.rpc.tokens import BearerTokens, JwksKeys


def site(resource: Resource) -> Site:
    return Site(resource)  # type: ignore[no-untyped-call]  # Twisted's


class Keys(Resource):
    """Where an identity provider publishes its keys."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.number = 0
        self.asked = 0
        self.port: Any = None

    def render_GET(self, request: Any) -> bytes:
        self.asked += 1
        request.setHeader(b"content-type", b"application/json")
        return jwks(jwk(key("P-256", self.number), self.kid))

    @property
    def kid(self) -> str:
        return f"key {self.number}"

    def token(self, name: str, **changes: Any) -> str:
        changes = {"sub": name, "exp": int(time.time()) + 600, **changes}
        return signed(key("P-256", self.number), kid=self.kid, **changes)

    def listen(self, loop: Loop) -> str:
        self.port = loop.reactor.listenTCP(0, site(self), interface="127.0.0.1")
        return f"http://127.0.0.1:{self.port.getHost().port}/keys"

    async def close(self) -> None:
        await self.port.stopListening()


def verifying(keys: JwksKeys) -> BearerTokens:
    return BearerTokens(keys, audience=AUDIENCE, issuer=ISSUER)


def run(
    loop: Loop, services: list[Any], main: Callable[..., Any], **options: Any
) -> tuple[Keys, JwksKeys]:
    """Serve with tokens, and run *main* with the provider and the world."""
    provider = Keys()
    verifier = JwksKeys(provider.listen(loop), loop.reactor, pause=0.0)
    world = Trusted(loop, services, authenticate=verifying(verifier), **options)

    async def whole() -> None:
        try:
            await main(provider, world)
        finally:
            verifier.close()
            await provider.close()

    world.run(whole)
    return provider, verifier


def test_tokens_from_end_to_end_while_the_provider_changes_its_keys(loop: Loop) -> None:
    echo = Echo()

    async def main(provider: Keys, world: Trusted) -> None:
        names = iter(["ann", "ann", "ann", "bea"])

        def get_token() -> Deferred[AccessToken]:
            later: Deferred[AccessToken] = Deferred()
            token = AccessToken(provider.token(next(names)))
            loop.reactor.callLater(0.01, later.callback, token)
            return later

        credentials = BearerCredentials(get_token)
        channel = world.channel(ALICE, call_credentials=credentials)
        for _ in range(5):
            await channel.unary_unary(ECHO, text("x"), timeout=30)
        assert provider.asked == 1
        provider.number = 1
        # The old token is good as long as its key is known; the next one has the new key.
        fresh = world.channel(ALICE, call_credentials=BearerCredentials(get_token))
        await fresh.unary_unary(ECHO, text("x"), timeout=30)
        assert provider.asked == 2
        # Its key has gone: the server refuses it, and the client gets another one.
        await channel.unary_unary(ECHO, text("x"), timeout=30)
        credentials.close()

    run(loop, [echo], main)
    assert [it.identity and it.identity.name for it in echo.contexts] == ["ann"] * 7
    machines = [it.peer_identity and it.peer_identity.name for it in echo.contexts]
    assert machines == ["alice"] * 7


def test_who_has_a_key_and_no_good_token_gets_nothing(one_loop: Loop) -> None:
    echo = Echo()
    table = permissions({ECHO.path: {"staff"}})

    async def main(provider: Keys, world: Trusted) -> None:
        for token, error in [
            ("", Unauthenticated),
            (provider.token("eve", exp=1), Unauthenticated),
            (provider.token("eve", aud="billing"), Unauthenticated),
            (signed(key("P-256", 9), kid=provider.kid), Unauthenticated),
            (provider.token("eve", groups=["guests"]), PermissionDenied),
        ]:
            metadata = {"authorization": f"Bearer {token}"} if token else {}
            call = world.channel(ALICE).unary_unary(ECHO, text("x"), metadata=metadata, timeout=30)
            assert type(await failure(call)) is error

    run(one_loop, [echo], main, authorize=table)
    assert echo.seen == []


@pytest.mark.parametrize("method", [COUNT, TICKS], ids=["private", "shared"])
def test_a_stream_belongs_to_the_connection_and_its_call_to_the_user(
    one_loop: Loop, method: Any
) -> None:
    endless = Endless()
    streaming = Streaming(endless)

    async def main(provider: Keys, world: Trusted) -> None:
        channel = world.channel(
            ALICE, call_credentials=BearerCredentials(lambda: provider.token("ann"))
        )
        reader = Reader(channel.unary_stream(method, text("x")))
        await one_loop.until(lambda: endless.waiting)
        endless.give()
        await one_loop.until(lambda: reader.items)
        # Nothing of another key reaches it, whatever token it has.
        other = world.channel(
            BOB, call_credentials=BearerCredentials(lambda: provider.token("ann"))
        )
        await other.unary_unary(ECHO, text("x"), timeout=30)
        reader.stream.cancel()
        await one_loop.until(lambda: not world.server.running)

    run(one_loop, [streaming, Echo()], main)
    if method is COUNT:
        assert streaming.contexts[0].identity == Identity("ann", groups=frozenset({"staff"}))


def test_a_key_that_is_revoked_ends_a_call_that_waits_for_the_provider(one_loop: Loop) -> None:
    echo = Echo()
    asked: list[Deferred[Identity]] = []

    def authenticate(identity: Any, method: str, metadata: Any) -> Deferred[Identity]:
        asked.append(Deferred())
        return asked[-1]

    world = Trusted(one_loop, [echo], authenticate=authenticate)

    async def main() -> None:
        call = world.channel(ALICE).unary_unary(ECHO, text("x"), timeout=30)
        await one_loop.until(lambda: asked)
        world.revoke(ALICE)
        assert "was revoked" in (await failure(call)).message

    world.run(main)
    assert echo.seen == []


def test_a_server_without_keys_wants_to_be_told(one_loop: Loop, tmp_path: Any) -> None:
    tmp_path.chmod(0o700)
    factory = ZmqFactory(one_loop.reactor)
    server = Server(factory, [Echo()], authenticate=lambda identity, method, metadata: None)

    async def main() -> None:
        with pytest.raises(InsecureBindError, match="any user of this machine can listen"):
            server.listen("tcp://127.0.0.1:*")
        server.listen(f"ipc://{tmp_path}/private")
        server.listen("inproc://here")
        endpoint = server.listen("tcp://127.0.0.1:*", insecure=True)
        with pytest.raises(ValueError, match="call_credentials"):
            Channel(factory, endpoint, call_credentials=BearerCredentials(lambda: "x"))
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_keys_come_from_who_can_prove_to_be_the_provider() -> None:
    """In a process of its own: Twisted's TLS knows the process's reactor only."""
    told = succeeds(["-m", "tests.rpc.https_keys"]).splitlines()
    assert told == ["a stranger: certificate verify failed", "the provider: 1 asked"]
