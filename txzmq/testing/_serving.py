"""Servers and channels of a test, which are closed at its end; public through txzmq.testing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

from txzmq import _check
from txzmq.factory import ZmqFactory
from txzmq.rpc.channel import Channel
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.server import Server
from txzmq.testing._given_back import End, all_given_back, assert_all_given_back, check_ends
from txzmq.testing._network import MemoryNetwork

__all__ = ["ServeBySockets", "ServeInMemory"]

E = TypeVar("E", bound=End)
N = TypeVar("N", MemoryNetwork, ZmqFactory)

#: Virtual seconds in which servers have stopped whose clients do not answer.
_STOPPED: Final = 5.0
#: How many calls that are left in the clock are shown.
_SHOWN: Final = 10


class _Serve(Generic[N]):
    """Makes servers and channels, and knows them all."""

    _network: N

    def __init__(self) -> None:
        #: The servers and channels that are closed at the end, in the order in which they came.
        self.ends: list[End] = []

    def __call__(
        self,
        *services: ServiceHandler,
        make_server: Callable[[N, Sequence[ServiceHandler]], Server] = Server,
        make_channel: Callable[[N, str], Channel] = Channel,
    ) -> Channel:
        """Serve services, and connect to them.

        :param services: instances of subclasses of generated ``<Service>Base`` classes.
        :param make_server: makes the server, where it is to have options:
            ``partial(Server, limits=ServerLimits(running=1))``.
        :param make_channel: makes the channel, likewise: ``partial(Channel, timeout=1)``.
        :return: a channel to a server of its own, for any number of clients.
        :raises TypeError: for a value of a wrong type, or a service that is none.
        """
        _check.function("make_server", _plain(make_server), ("network", "services"))
        _check.function("make_channel", _plain(make_channel), ("network", "address"))
        server = self.add(make_server(self._network, services))
        return self.connect(server.listen(self._new_address()), make_channel=make_channel)

    def connect(
        self, address: str, *, make_channel: Callable[[N, str], Channel] = Channel
    ) -> Channel:
        """Connect to a server of the test's: another client, for example.

        :param address: where it listens; of a channel that is there, its ``target``.
        :param make_channel: as in a call of this object.
        :return: a channel that is closed at the end.
        :raises ValueError: if *address* is none, and so TypeError.
        """
        _check.function("make_channel", _plain(make_channel), ("network", "address"))
        return self.add(make_channel(self._network, address))

    def add(self, end: E) -> E:
        """Have a server or channel closed and looked at, at the end, that the test has made.

        :return: what was given.
        :raises TypeError: if it is neither.
        """
        check_ends("end", (end,))
        self.ends.append(end)
        return end

    @property
    def servers(self) -> list[Server]:
        """The servers so far; the last one is that of the last call."""
        return [end for end in self.ends if isinstance(end, Server)]

    def _new_address(self) -> str:
        raise NotImplementedError

    def _close_channels(self) -> None:
        for end in self.ends:
            if not isinstance(end, Server):
                end.close()


# Any: a class, or a partial of one, whose constructor has more parameters, with defaults.
def _plain(make: Any) -> Any:
    """What is called, where that is known to be right."""
    return _made if _innermost(make) in (Server, Channel) else make


def _made(network: object, other: object) -> None:
    """What stands for a constructor of txzmq's where functions are checked."""


class ServeInMemory(_Serve[MemoryNetwork]):
    """Serves services on a network in memory, for one test; see :class:`MemoryNetwork`. ::

        serve = ServeInMemory(MemoryNetwork())
        client = GreeterClient(serve(Greeter()))
        reply = serve.network.result(client.say_hello(HelloRequest(name="x")))
        serve.close()

    The fixture ``serve`` of :mod:`txzmq.testing.pytest` is one, and so is ``self.serve`` of
    :class:`txzmq.testing.trial.MemoryTestCase`: these close it.
    """

    def __init__(self, network: MemoryNetwork | None = None) -> None:
        """:param network: None for one of its own, without faults."""
        if network is not None:
            _check.instance("network", network, MemoryNetwork, "a MemoryNetwork or None")
        super().__init__()
        self._network = network or MemoryNetwork()
        self._numbers = itertools.count(1)

    @property
    def network(self) -> MemoryNetwork:
        """The network that all are on."""
        return self._network

    def close(self) -> None:
        """Close all channels and servers, and assert that they have given back everything.

        Five virtual seconds pass. Nobody may have left a call in the network's clock: a handler or
        a client, for example, by a ``LoopingCall`` that nobody stops.

        :raises AssertionError: if something is left, as :func:`assert_all_given_back` has it.
        """
        ends, network = self.ends, self.network
        self._close_channels()
        stopped = [server.stop(0) for server in self.servers]
        network.advance(_STOPPED)
        assert all(each.called for each in stopped), "a server has not stopped"
        if ends:
            assert_all_given_back(*ends)
        left = list(_foreign_calls(network))
        if left:
            shown = "\n".join(f"- {each}" for each in left[:_SHOWN])
            raise AssertionError(
                f"calls are left in the network's clock; whoever has made them by callLater() has "
                f"to cancel them, and to stop a LoopingCall:\n{shown}"
            )
        self.ends = []

    def _new_address(self) -> str:
        return f"inproc://served-{next(self._numbers)}"


def _foreign_calls(network: MemoryNetwork) -> Iterator[str]:
    """What is to be called in the network's clock, and is not txzmq's."""
    # The items are typed with a zope interface, which hides what they have.
    for call in cast("list[Any]", network.clock.getDelayedCalls()):
        function = _innermost(call.func)
        module: str = getattr(function, "__module__", None) or ""
        if not f"{module}.".startswith("txzmq."):
            name: str = getattr(function, "__qualname__", None) or repr(function)
            yield f"{module}.{name}, in {call.getTime() - network.clock.seconds():g} s"


def _innermost(function: Any) -> Any:
    """What is called in the end, where there are partials around it."""
    while isinstance(function, partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # of anything
    return function  # pyright: ignore[reportUnknownVariableType]  # as above


class ServeBySockets(_Serve[ZmqFactory]):
    """Serves services at sockets of this machine, for one test. ::

        async with ServeBySockets(factory) as serve:
            client = GreeterClient(serve(Greeter()))
            reply = await client.say_hello(HelloRequest(name="x"))

    In ``async with``, or by :meth:`close`, all is closed; the factory is not.
    """

    def __init__(self, factory: ZmqFactory) -> None:
        """:param factory: owns the sockets; its reactor has to run."""
        _check.instance("factory", factory, ZmqFactory, "a ZmqFactory")
        super().__init__()
        self._network = factory

    @property
    def factory(self) -> ZmqFactory:
        """The factory that owns the sockets."""
        return self._network

    async def close(self, *, within: float = 5.0) -> None:
        """Close all channels and servers, and assert that they have given back everything.

        :param within: how many seconds to wait for that, once all is closed.
        :raises AssertionError: if something is left, as :func:`assert_all_given_back` has it.
        """
        ends, servers = self.ends, self.servers
        self._close_channels()
        for stopped in [server.stop(0) for server in servers]:
            await stopped
        if ends:
            await all_given_back(*ends, within=within, clock=self.factory.reactor)
        self.ends = []

    async def __aenter__(self) -> ServeBySockets:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _new_address(self) -> str:
        return "tcp://127.0.0.1:*"
