"""Fixtures of the field tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.field.namespaces import Wire, needs_wire, wire


@pytest.fixture
def hosts() -> Iterator[Wire]:
    """Two hosts with a wire between them."""
    needs_wire()
    with wire() as hosts:
        yield hosts
