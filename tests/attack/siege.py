"""A server in a process of its own, attackers in others, and a client here that is served."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.auth.support import ALICE, BOB, SERVER, STRANGER, knowing
from tests.programs import Program, running
from tests.rpc.service import ECHO, OTHER, text
from tests.rpc.streaming import COUNT, Reader
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel
from txzmq.rpc._wire.headers import RequestHead, encode_request

#: Calls of the client that is served while somebody attacks, and for how long, both at least.
CALLS, SECONDS = 60, 0.5


class Siege:
    """A server, and who attacks it.

    Alice is the client that is served; Bob's key, which the server knows, is an attacker's.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        match = program.expect(r"listening (\S+) (\S+)")
        self.endpoint, self.publisher = match[1], match[2]

    @contextmanager
    def attacker(self, name: str) -> Generator[Program]:
        """Somebody attacks from now on, until the end."""
        given = {
            "endpoint": self.endpoint,
            "publisher": self.publisher,
            "server_key": SERVER.public_key,
            "known": [BOB.public_key, BOB.secret_key],
            "header": encode_request(RequestHead(ECHO.path, None, ())).hex(),
            "unknown": [STRANGER.public_key, STRANGER.secret_key],
        }
        with running("-m", "tests.attack.attackers", name, json.dumps(given)) as program:
            yield program

    def megabytes(self, what: str = "VmRSS") -> float:
        """The server's memory; ``VmHWM`` for the most that it ever was."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        match = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) / 1024

    def forget_peak(self) -> None:
        """``VmHWM`` begins anew."""
        Path(f"/proc/{self.program.process.pid}/clear_refs").write_text("5")

    def log(self) -> list[str]:
        """What the server has logged so far."""
        self.program.has_said("")
        return self.program.output


@contextmanager
def siege(*, hangs: bool = False, handshake: float | None = None) -> Generator[Siege]:
    """A server that is there to be attacked.

    :param hangs: whether it has a function decide, which never answers about strangers.
    :param handshake: seconds that a handshake may take; None for the default.
    """
    given = {
        "secret": SERVER.secret_key,
        "clients": {ALICE.public_key: "alice", BOB.public_key: "bob"},
        "hangs": hangs,
        "handshake": handshake,
    }
    with running("-m", "tests.attack.server", json.dumps(given)) as program:
        yield Siege(program)


class Client:
    """The client that is to be served; closed at the end of :meth:`run`."""

    def __init__(self, loop: Loop, siege: Siege) -> None:
        self.loop = loop
        self.siege = siege
        self.factory = ZmqFactory(loop.reactor)
        self.channels: list[Channel] = []
        #: Seconds that calls have taken.
        self.took: list[float] = []

    def connect(self) -> Channel:
        """A new channel."""
        channel = Channel(self.factory, self.siege.endpoint, credentials=knowing(ALICE))
        self.channels.append(channel)
        return channel

    async def is_served(self, channel: Channel) -> None:
        """Calls and a stream end well, on a connection that there is and on a new one."""
        began = self.loop.reactor.seconds()
        while len(self.took) < CALLS or self.loop.reactor.seconds() - began < SECONDS:
            start = self.loop.reactor.seconds()
            reply = await channel.unary_unary(ECHO, text("healthy"), timeout=20)
            self.took.append(self.loop.reactor.seconds() - start)
            assert reply.value == "healthy"
        await self.streams(channel)
        new = self.connect()
        call: Deferred[StringValue] = new.unary_unary(ECHO, text("healthy"), timeout=20)
        assert (await call).value == "healthy"
        new.close()

    async def streams(self, channel: Channel) -> None:
        """A stream ends well, for which a channel has a second connection from now on."""
        reader = Reader(channel.unary_stream(COUNT, text("20"), timeout=20))
        await reader.done
        assert (reader.ended, len(reader.items)) == ("well", 20)

    async def facts(self, channel: Channel) -> dict[str, Any]:
        """What the server knows of itself."""
        facts: dict[str, Any] = json.loads(
            (await channel.unary_unary(OTHER, text(""), timeout=20)).value
        )
        return facts

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.factory.shutdown()

    @property
    def figures(self) -> str:
        """How long calls have taken."""
        took = sorted(self.took)
        half, most = took[len(took) // 2], took[len(took) * 99 // 100]
        return f"p50 {half * 1_000:.1f} ms, p99 {most * 1_000:.1f} ms"
