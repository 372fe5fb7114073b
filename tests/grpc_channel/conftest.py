"""Fixtures of the tests of channels to gRPC's servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Loop, fresh_loop


@pytest.fixture
def grpc_loop() -> Iterator[Loop]:
    """A fresh reactor on a loop of asyncio's."""
    with fresh_loop("asyncio") as loop:
        yield loop
