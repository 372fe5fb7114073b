"""Channels and servers for what is given to them, by callers without a type checker."""

from __future__ import annotations

from typing import Any

from tests.rpc.service import ADDRESS
from txzmq.rpc import Channel, Server
from txzmq.testing import MemoryNetwork


def channel(**options: Any) -> Channel:
    return Channel(MemoryNetwork(), ADDRESS, **options)


def server(*services: Any, **options: Any) -> Server:
    return Server(MemoryNetwork(), services, **options)


def untyped(thing: Any) -> Any:
    """The same, for callers whose code no checker sees."""
    return thing
