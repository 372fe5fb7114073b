"""Test cases for Twisted's trial: a network in memory, or sockets of this machine.

::

    class GreeterTests(MemoryTestCase):
        def test_hello(self) -> None:
            client = GreeterClient(self.serve(Greeter()))
            reply = self.result(client.say_hello(HelloRequest(name="x")))
            self.assertEqual(reply.message, "Hello, x!")

    class GreeterSocketTests(SocketTestCase):
        async def test_hello(self) -> None:
            client = GreeterClient(self.serve(Greeter()))
            reply = await client.say_hello(HelloRequest(name="x"))
            self.assertEqual(reply.message, "Hello, x!")

Each test has a network or a factory of its own, and fails if not all was given back at its end.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Coroutine
from typing import Any, ClassVar, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial import unittest
from twisted.trial.itrial import IReporter
from twisted.trial.reporter import TestResultDecorator

from txzmq.factory import ZmqFactory
from txzmq.testing._faults import Faults
from txzmq.testing._network import MemoryNetwork
from txzmq.testing._serving import ServeBySockets, ServeInMemory

__all__ = ["MemoryTestCase", "SocketTestCase"]

T = TypeVar("T")

#: Any: they are made by interfaces of zope's, which hide what they have.
_IReporter: Any = IReporter
_Decorator: Any = TestResultDecorator
#: The environment variable that has a seed.
_SEED: Final = "TXZMQ_SEED"
#: Seeds are short enough to be typed.
_SEEDS: Final = 10**6


class MemoryTestCase(unittest.SynchronousTestCase):
    """Tests on a network in memory, in virtual time; each has one of its own.

    The seed of the network is random. It is printed where a test fails, and the environment
    variable ``TXZMQ_SEED`` repeats it: ``TXZMQ_SEED=123 trial tests``.

    :ivar network: the network, from ``setUp`` on.
    :ivar serve: serves on it: ``channel = self.serve(Greeter())``. At the test's end it closes all,
        and the test fails if not all was given back.
    """

    #: What happens to messages, in the tests of a class; their seed is not used.
    faults: ClassVar[Faults] = Faults()

    network: MemoryNetwork
    serve: ServeInMemory

    def setUp(self) -> None:
        """Make the network. A subclass that has a ``setUp`` calls this first.

        :raises ValueError: if ``TXZMQ_SEED`` is no integer.
        """
        seed = _seed()
        self.network = MemoryNetwork(dataclasses.replace(self.faults, seed=seed))
        self.serve = ServeInMemory(self.network)
        self.addCleanup(self.serve.close)

    def run(self, result: Any = None) -> Any:  # Any: trial's results are typed by interfaces
        """Run the test; called by trial."""
        noting = _Noting(result) if _IReporter.providedBy(result) else None
        returned: Any = super().run(noting or result)  # type: ignore[no-untyped-call]  # Twisted's
        network: MemoryNetwork | None = getattr(self, "network", None)
        if noting is not None and noting.has_failed and network is not None:
            seed = network.faults.seed
            sys.stdout.write(f"\n{self.id()}: the seed was {seed}; {_SEED}={seed} repeats it.\n")
        return returned

    def result(
        self, awaitable: Deferred[T] | Coroutine[Deferred[Any], Any, T], *, within: float = 0.0
    ) -> T:
        """As :meth:`txzmq.testing.MemoryNetwork.result`."""
        return self.network.result(awaitable, within=within)


class _Noting(_Decorator):  # type: ignore[misc]  # Any, see there
    """Notes whether the test has failed."""

    has_failed = False

    def addError(self, *arguments: Any) -> Any:
        """The test, its ``setUp`` or a cleanup has raised."""
        self.has_failed = True
        return super().addError(*arguments)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # Twisted's

    def addFailure(self, *arguments: Any) -> Any:
        """The test has failed."""
        self.has_failed = True
        return super().addFailure(*arguments)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # as above


def _seed() -> int:
    given = os.environ.get(_SEED)
    if given is None:
        return random.randrange(_SEEDS)
    try:
        return int(given)
    except ValueError:
        raise ValueError(f"{_SEED}={given!r} must be an integer") from None


class SocketTestCase(unittest.TestCase):
    """Tests over sockets of this machine, in trial's reactor; they may be ``async def``.

    :ivar factory: owns the sockets, from ``setUp`` on.
    :ivar serve: serves by it: ``channel = self.serve(Greeter())``. At the test's end it closes all,
        and the test fails if not all was given back.
    """

    factory: ZmqFactory
    serve: ServeBySockets

    def setUp(self) -> None:
        """Make the factory. A subclass that has a ``setUp`` calls this first."""
        self.factory = ZmqFactory()
        self.serve = ServeBySockets(self.factory)
        self.addCleanup(self._close)

    async def _close(self) -> None:
        try:
            await self.serve.close()
        finally:
            self.factory.shutdown()
