"""What asyncio needs costs nothing where no Task runs; ``benchmarks.instructions`` counts it."""

from __future__ import annotations

import sys
from abc import ABCMeta
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.programs import succeeds
from tests.rpc.intercepted import Intercepted, Worlds
from tests.rpc.service import made
from txzmq.rpc import ClientCall, ClientProceed

_PRINT_SUBCLASSES = """
from twisted.internet.defer import Deferred
from txzmq.rpc import Channel, Server
from txzmq.testing import MemoryNetwork
print([each.__name__ for each in Deferred.__subclasses__() if each.__module__[:6] == "txzmq."])
"""


@pytest.fixture
def make() -> Iterator[Worlds]:
    yield from made(Intercepted)


def test_twisted_has_one_class_more_to_look_through() -> None:
    """After each callback it looks for the result's class in a list of Deferred's subclasses."""
    assert succeeds(["-c", _PRINT_SUBCLASSES]) == "['TaskDeferred']"


def test_what_an_interceptor_passes_on_is_known_by_its_class(make: Worlds) -> None:
    """Deferred is abstract, so that ``isinstance`` takes long for an instance of a subclass."""

    def pass_on(call: ClientCall, proceed: ClientProceed) -> Deferred[Any]:
        return proceed(call)

    world = make(client=[pass_on] * 3)
    world.network.result(world.call("first"))
    asked: list[object] = []

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code is ABCMeta.__instancecheck__.__code__:
            asked.append(frame.f_locals["instance"])

    sys.setprofile(profile)
    try:
        call = world.call("second")
        isinstance(call, Deferred)  # pyright: ignore[reportUnnecessaryIsInstance]  # it is noticed
    finally:
        sys.setprofile(None)
    assert [each for each in asked if isinstance(each, Deferred)] == [call]
    assert world.network.result(call).value == "second"
