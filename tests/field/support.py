"""What the field tests share: calls whose ends are written down."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from tests.field.namespaces import Host, Wire
from tests.field.network import QuickNetwork
from tests.programs import Program
from tests.rpc.service import ECHO, OTHER, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Liveness, Method, RpcError, Unavailable
from txzmq.testing import assert_all_given_back

#: Told within seconds what the defaults tell within half a minute.
QUICK = Liveness(
    ping_interval=1, dead_after=2, probe_timeout=1, first_backoff=0.05, max_backoff=0.5
)


class History:
    """Calls on a channel, and how each of them ended."""

    def __init__(self, loop: Loop, channel: Channel, factory: ZmqFactory | None = None) -> None:
        """:param factory: shut down by :meth:`close`."""
        self._loop = loop
        self._factory = factory
        self.channel = channel
        self.made = 0
        #: Values that came back, by call.
        self.answers: dict[int, str] = {}
        #: Errors, by call.
        self.errors: dict[int, RpcError] = {}
        self.ends = 0

    def call(
        self,
        *,
        answered: bool = True,
        method: Method[StringValue, StringValue] | None = None,
        **options: Any,
    ) -> Deferred[None]:
        """Make a call, of ``Echo`` or of ``Other``, which never answers; fires when it ended."""
        number = self.made
        self.made += 1
        if method is None:
            method = ECHO if answered else OTHER
        deferred = self.channel.unary_unary(method, text(str(number)), **options)

        def succeeded(value: StringValue) -> None:
            self.ends += 1
            assert number not in self.answers
            self.answers[number] = value.value

        def failed(failure: Any) -> None:
            self.ends += 1
            # Cancelled: a test has failed, and closes what is open.
            if failure.trap(RpcError, CancelledError) is RpcError:
                self.errors[number] = failure.value

        return deferred.addCallbacks(succeeded, failed)

    def call_many(self, count: int, **options: Any) -> None:
        """Make calls without waiting for their ends."""
        for _ in range(count):
            self.call(**options)

    async def all_ended(self) -> None:
        """Wait until all calls that were made have ended."""
        await self._loop.until(lambda: self.ends == self.made)

    async def call_until_answered(self) -> None:
        """Call until a call is answered: for the time between a loss and its being noticed."""
        answers = len(self.answers)
        while len(self.answers) == answers:
            await self.call(wait_for_ready=True, timeout=5)
            await self._loop.sleep(0.005)

    def close(self) -> None:
        """Close the channel, and with it the factory; nothing is left in any table."""
        self.channel.close()
        assert_all_given_back(self.channel)
        if self._factory is not None:
            self._factory.shutdown()

    def check(self) -> None:
        """Each call has ended, once, and no answer is another call's."""
        assert self.ends == self.made
        assert self.answers.keys().isdisjoint(self.errors)
        assert all(value == str(number) for number, value in self.answers.items())

    def check_lost(self, count: int) -> None:
        """*count* calls failed, all with UNAVAILABLE and the doubt whether they were executed."""
        errors = list(self.errors.values())
        assert len(errors) == count
        for error in errors:
            assert isinstance(error, Unavailable)
            assert "may have been executed" in error.message


class EchoServer:
    """A server process on the server's host, and its successors."""

    def __init__(self, hosts: Wire, stack: contextlib.ExitStack, *arguments: str) -> None:
        self._hosts = hosts
        self._arguments = arguments
        self._stack = stack
        self.program = self._start(f"tcp://{hosts.server.address}:*")

    def _start(self, address: str) -> Program:
        program = self._stack.enter_context(
            self._hosts.server.running("-m", "tests.field.server", address, *self._arguments)
        )
        self.endpoint: str = program.expect("listening at (.*)")[1]
        return program

    def kill(self) -> None:
        """``kill -9``."""
        self.program.kill()

    def restart(self) -> None:
        """Kill it, and start another at the same endpoint; returns when that listens."""
        self.kill()
        self.program = self._start(self.endpoint)


@contextlib.contextmanager
def echo_server(hosts: Wire, *arguments: str) -> Generator[EchoServer]:
    """A server process, killed afterwards; *arguments* are those of tests/field/server.py."""
    with contextlib.ExitStack() as stack:
        yield EchoServer(hosts, stack, *arguments)


@contextlib.contextmanager
def channel_in(
    loop: Loop, host: Host, *endpoints: str, quick: bool = True, **options: Any
) -> Generator[History]:
    """A channel whose sockets are in a namespace; *options* are the channel's.

    :param quick: whether its keepalive is that of :mod:`tests.field.network`, or the default.
    """
    with host.entered():
        factory = ZmqFactory(loop.reactor)
        network = QuickNetwork(factory) if quick else factory
        calls = History(loop, Channel(network, endpoints, **options), factory)
    try:
        yield calls
    finally:
        factory.shutdown()
