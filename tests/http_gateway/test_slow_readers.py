"""Clients that take nothing of their streams: what the gateway keeps for each has a bound."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
from tests.http_gateway.support import Rig, envelope, head, through
from tests.rpc.service import text
from tests.rpc.streaming import COUNT
from tests.support import PATIENCE, Loop

READERS: Final = 60
#: Bytes of an item.
SIZE: Final = 10_000
#: Bytes that the gateway may keep of what TCP does not take yet: asyncio has a call wait at 64 KiB,
#: and may have taken one message above that.
KEPT: Final = 65_536 + 2 * SIZE
REQUEST: Final = envelope(text(f"1000000 of {SIZE}").SerializeToString())
ASKED: Final = head(
    COUNT, "content-type: application/connect+proto", f"content-length: {len(REQUEST)}"
)


@contextmanager
def reader(target: str) -> Generator[None]:
    """A client that asks for a stream, and reads nothing of it."""
    host, _, port = target.rpartition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # the kernel keeps little
        client.connect((host, int(port)))
        client.sendall(ASKED + REQUEST)
        yield


def test_clients_that_take_nothing(grpc_loop: Loop) -> None:
    """Their handlers wait, and the gateway goes on for others."""

    async def body(rig: Rig) -> None:
        listener: Any = rig.listener  # nothing else knows what waits in connections
        connections: set[Any] = listener._server.server_state.connections

        def is_full() -> bool:
            return len(connections) == READERS and all(
                connection.flow.write_paused for connection in connections
            )

        def kept() -> list[int]:
            return [each.transport.get_write_buffer_size() for each in connections]

        with ExitStack() as readers:
            for _ in range(READERS):
                readers.enter_context(reader(rig.listener.target))
                await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE / 2):
                while not is_full():
                    await asyncio.sleep(0.01)
                assert max(kept()) <= KEPT
                given = -1
                while rig.notes.given != given:  # what is on its way fills windows
                    given = rig.notes.given
                    await asyncio.sleep(0.1)
            assert max(kept()) <= KEPT
            answer = await rig.client().outcome(COUNT, text("3"))
            assert len(answer) == 3
        await rig.until(lambda: rig.gateway.running == 0 and rig.server.running == 0)

    through(grpc_loop, body, channel={"stream_window": 16})
