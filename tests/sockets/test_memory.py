"""What large messages cost the allocator."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
