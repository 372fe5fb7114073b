"""What large messages cost the allocator, and what keeps them."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest
import zmq

from tests.sockets.support import Turns, bind
from txzmq import ZmqPullConnection

_PAGE_FAULTS = """
import resource
from txzmq._memory import keep_large_blocks

keep_large_blocks()

def use():
    return [b"x" * 2**20 for _ in range(6)]

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.python_implementation() != "CPython",
    reason="other allocators have other ways",
)
def test_what_a_large_message_took_is_kept_for_the_next() -> None:
    output = subprocess.run(
        [sys.executable, "-c", _PAGE_FAULTS], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert int(output) < 1000  # 256 for each of 600 messages otherwise


@pytest.mark.skipif(
    platform.python_implementation() != "PyPy", reason="elsewhere a frame is freed when it is read"
)
@pytest.mark.parametrize("size", [20_000, 3_000_000])
def test_the_collector_finds_no_large_frames(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It does not know of libzmq's memory, and would let gigabytes of it wait."""
    frames: list[zmq.Frame] = []
    recv: Any = zmq.Socket[bytes].recv

    def spy(*args: object, **kwargs: object) -> object:
        frames.append(received := recv(*args, **kwargs))
        return received

    monkeypatch.setattr(zmq.Socket, "recv", spy)
    pull = ZmqPullConnection(turns.factory, bind("inproc://large"))
    messages: list[object] = []
    monkeypatch.setattr(pull, "onPull", messages.append)
    push = turns.raw(zmq.PUSH, "inproc://large")
    push.send_multipart([b"x" * size, b"y" * size])
    turns.settle()
    assert messages == [[b"x" * size, b"y" * size]]
    assert [frame.closed for frame in frames] == [True, True]
