"""Servers and channels as services of a Twisted application.

They go under a ``MultiService``, such as an application of ``twistd``::

    application = service.Application("greeter")
    ServerService([Greeter()], "tcp://127.0.0.1:5000").setServiceParent(application)

Every socket, and the ZeroMQ context of those that are given no factory, is made in
``startService``: after ``twistd`` has forked, and has shed its privileges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack, cast

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger

from txzmq import _check
from txzmq._task_deferred import TaskDeferred
from txzmq.auth import CurveClientCredentials, CurveServerCredentials
from txzmq.factory import ZmqFactory
from txzmq.rpc._core.transport import Network
from txzmq.rpc._net.endpoints import checked_target
from txzmq.rpc._net.given import network_for
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc._net.publishers import Publishers
from txzmq.rpc.authentication import Authenticate, BearerCredentials
from txzmq.rpc.authorization import Authorize
from txzmq.rpc.balancing import BalancingPolicy
from txzmq.rpc.channel import Channel
from txzmq.rpc.interceptors import ClientInterceptor, ServerInterceptor
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.raw import Fallback
from txzmq.rpc.resolvers import Resolver
from txzmq.rpc.server import Server
from txzmq.rpc.service_config import ServiceConfig
from txzmq.rpc.socket_options import SocketOptions
from txzmq.rpc.watching import Observer

__all__ = [
    "ChannelOptions",
    "ChannelService",
    "OrderedMultiService",
    "ServerOptions",
    "ServerService",
]

_log = Logger()
T = TypeVar("T")


class _ListenOptions(TypedDict, total=False):
    """The keyword arguments of :meth:`~txzmq.rpc.Server.listen`."""

    insecure: bool
    publisher: str | None
    advertise: str | None
    multicast: str | None
    fd: int | None
    publisher_fd: int | None


class _ServerOptions(TypedDict, total=False):
    """The keyword arguments of :class:`~txzmq.rpc.Server`."""

    interceptors: Sequence[ServerInterceptor]
    limits: ServerLimits | None
    debug: bool
    batching: bool
    observer: Observer | None
    socket_options: SocketOptions | None
    credentials: CurveServerCredentials | None
    authorize: Authorize | None
    authenticate: Authenticate | None
    fallback: Fallback | None
    handlers: Literal["twisted", "asyncio"]


class ServerOptions(_ServerOptions, _ListenOptions, total=False):
    """All keyword arguments of :class:`~txzmq.rpc.Server` and its ``listen``.

    For subclasses of :class:`ServerService` that pass them on: ``**options:
    Unpack[ServerOptions]``.
    """


class ChannelOptions(TypedDict, total=False):
    """All keyword arguments of :class:`~txzmq.rpc.Channel`.

    For subclasses of :class:`ChannelService` that pass them on: ``**options:
    Unpack[ChannelOptions]``.
    """

    policy: BalancingPolicy | None
    # Any: JSON.
    service_config: ServiceConfig | str | Mapping[str, Any] | None
    liveness: Liveness | None
    timeout: float | None
    max_timeout: float | None
    wait_for_ready: bool
    interceptors: Sequence[ClientInterceptor]
    message_size: int
    metadata_size: int
    batching: bool
    observer: Observer | None
    stream_window: int
    stream_window_bytes: int
    backlog: int
    socket_options: SocketOptions | None
    publishers: Publishers
    credentials: CurveClientCredentials | None
    call_credentials: BearerCredentials | None


_LISTEN: Final = tuple(_ListenOptions.__annotations__)
#: Options of ``listen`` that are about one address.
_OF_ONE_ADDRESS: Final = ("publisher", "advertise", "multicast", "fd", "publisher_fd")


class _TypedService(Service):
    """Twisted's ``Service`` with types: it has none, and strict checkers refuse calls of it."""

    #: By which its parent finds it; None for no name.
    name: str | None
    #: Whether it runs, as a number.
    running: int
    # Any: Twisted types services with zope interfaces.
    #: The ``IServiceCollection`` that it is under, or None.
    parent: Any

    def setName(self, name: str) -> None:
        """Give the service a name, by which its parent finds it.

        :raises RuntimeError: if it has a parent.
        """
        super().setName(name)  # type: ignore[no-untyped-call]  # Twisted's

    # object: an application is a Componentized, which is adapted.
    def setServiceParent(self, parent: object) -> None:
        """Put the service under *parent*, and start it if that runs.

        :param parent: an application, a ``MultiService`` or another ``IServiceCollection``.
        :raises RuntimeError: if the parent has a service of this name.
        """
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]  # Twisted's

    def disownServiceParent(self) -> Deferred[None] | None:
        """Take the service from its parent, and stop it if that runs.

        The parent does not wait for it any more when it stops itself.

        :return: fires when it has stopped; None if the parent does not run.
        """
        # Any: Twisted's, as above.
        done: Any = super().disownServiceParent()  # type: ignore[no-untyped-call]
        return cast("Deferred[None] | None", done)


class _NetworkService(_TypedService):
    """A service with a factory: one that is given, or its own."""

    def __init__(self, factory: ZmqFactory | Network | None) -> None:
        """:raises TypeError: if *factory* is neither a factory nor a network."""
        if factory is not None:
            network_for(factory, None, None, CurveServerCredentials)
        self._given_factory = factory
        self._own_factory: ZmqFactory | None = None

    def _open_factory(self) -> ZmqFactory | Network:
        if self._given_factory is not None:
            return self._given_factory
        self._own_factory = ZmqFactory()
        self._own_factory.registerForShutdown()  # for those who never stop the service
        return self._own_factory

    def _close_factory(self) -> None:
        """Close the factory if it is the service's own: then its ports are free."""
        factory, self._own_factory = self._own_factory, None
        if factory is not None:
            factory.shutdown()

    def privilegedStartService(self) -> None:
        """Do nothing: libzmq's threads are to run as the user that ``twistd --uid`` names."""

    def _started(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's

    def _stopped(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's


class ServerService(_NetworkService):
    """A server that listens while the service runs (an ``IService``).

    A subclass may have arguments of its own::

        class GreeterService(ServerService):
            def __init__(self, database: Database, address: str) -> None:
                super().__init__([Greeter(database)], address, grace=30)
    """

    def __init__(
        self,
        services: Sequence[ServiceHandler] | Callable[[], Sequence[ServiceHandler]],
        addresses: str | Iterable[str],
        *,
        factory: ZmqFactory | Network | None = None,
        grace: float = 10.0,
        **options: Unpack[ServerOptions],
    ) -> None:
        """Open nothing yet.

        :param services: as of :class:`~txzmq.rpc.Server`; or a function without parameters that
            returns them, which each ``startService`` calls: for those that open files, connections
            or threads, none of which may be made before ``twistd`` forks.
        :param addresses: where to listen; one address or several, such as
            ``tcp://127.0.0.1:5000``.
        :param factory: owns the sockets, and is never shut down by the service; None for one of
            the service's own, with a ZeroMQ context and its two threads. It is made when the
            service starts, and shut down when it has stopped.
        :param grace: seconds that running calls have to end when the service stops; see
            :meth:`~txzmq.rpc.Server.stop`.
        :param options: any keyword argument of :class:`~txzmq.rpc.Server` and of its
            :meth:`~txzmq.rpc.Server.listen`. The server looks at their values when it starts.
            *publisher*, *advertise*, *multicast*, *fd* and *publisher_fd* are for one address. A
            descriptor stays the caller's, so keep it open where the service may start again.
        :raises ValueError: if there is no address, or one is malformed; if *grace* is below 0; or
            if an option of one address is given for several.
        :raises TypeError: for an option that there is none, or a value of a wrong type.
        :raises zmq.ZMQError: if the factory that is given was shut down.
        """
        super().__init__(factory)
        _check_services(services)
        self._services = services
        is_foreign = factory is not None and not isinstance(factory, ZmqFactory)
        self._addresses = _addresses(addresses, is_foreign=is_foreign)
        _check.number("grace", grace)
        self.grace = grace
        _check_options(type(self), options, ServerOptions)
        given = options.items()
        self._listen_options = cast("_ListenOptions", {k: v for k, v in given if k in _LISTEN})
        self._server_options = cast("_ServerOptions", {k: v for k, v in given if k not in _LISTEN})
        for name, value in given:
            if name in _OF_ONE_ADDRESS and value is not None and len(self._addresses) > 1:
                count = len(self._addresses)
                raise ValueError(f"{name} is for one address, and there are {count}")
        self._server: Server | None = None
        self._endpoints: list[str] = []
        self._is_wanted = False

    @property
    def server(self) -> Server:
        """The server, from its start until it has stopped.

        :raises RuntimeError: before and after.
        """
        return _running(self._server, "server")

    @property
    def endpoints(self) -> list[str]:
        """Where it really listens, in the order of the addresses; empty while it does not."""
        return list(self._endpoints)

    def startService(self) -> None:
        """Make the server, and listen at all addresses.

        :raises twisted.internet.error.CannotListenError: if an address is in use, or cannot be
            listened at. Whatever this raises, nothing stays open: with a factory that was given,
            the addresses before it are closed in the next turn of the reactor.
        :raises RuntimeError: if the service runs, or still stops. And what else
            :class:`~txzmq.rpc.Server` and its ``listen`` raise.
        """
        _check_stopped(self._server, is_running=self.running)
        self._is_wanted = True
        services = self._services() if callable(self._services) else self._services
        if not self._is_wanted:  # that function has stopped the service
            return
        try:
            server = Server(self._open_factory(), services, **self._server_options)
            self._server = server
            endpoints = [server.listen(each, **self._listen_options) for each in self._addresses]
        except BaseException:
            self._is_wanted = False
            server_or_none, self._server = self._server, None
            if server_or_none is not None:
                server_or_none.stop(0)
            self._close_factory()
            raise
        self._endpoints = endpoints
        self._started()

    # Twisted's own returns None or a Deferred, of which pyright infers the first.
    def stopService(self) -> Deferred[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take no more calls, let those that run finish, then close.

        May be called at any time, and again.

        :return: fires when the server has stopped, ``grace`` seconds from the first call at most.
            Ports of the service's own factory are free then; those of a factory that was given,
            a moment later.
        """
        self._is_wanted = False
        if self.running:
            self._stopped()
        server = self._server
        if server is None:
            return succeed(None)
        return server.stop(self.grace).addCallback(lambda _: self._closed(server))

    def _closed(self, server: Server) -> None:
        if self._server is server:
            self._server, self._endpoints = None, []
            self._close_factory()


class ChannelService(_NetworkService):
    """A channel that is open while the service runs (an ``IService``)."""

    def __init__(
        self,
        target: str | Iterable[str] | Resolver | Callable[[], Resolver],
        *,
        factory: ZmqFactory | Network | None = None,
        **options: Unpack[ChannelOptions],
    ) -> None:
        """Open nothing yet.

        :param target: what the channel connects to, as of :class:`~txzmq.rpc.Channel`; or a
            function without parameters that returns a resolver, which each ``startService`` calls,
            since a resolver serves one channel.
        :param factory: as of :class:`ServerService`.
        :param options: any keyword argument of :class:`~txzmq.rpc.Channel`, which looks at their
            values when it starts.
        :raises TypeError: for an option that there is none, or a target of a wrong type.
        :raises ValueError: if there is no address, or one is malformed.
        :raises zmq.ZMQError: if the factory that is given was shut down.
        """
        super().__init__(factory)
        # Any: what the check has found right.
        self._target: Any = target if _is_function(target) else checked_target(target, "target")
        _check_options(type(self), options, ChannelOptions)
        self._options = options
        self._channel: Channel | None = None

    @property
    def channel(self) -> Channel:
        """The channel, while the service runs; for a client, ``GreeterClient(service.channel)``.

        Ask for it when it is needed: each start makes another.

        :raises RuntimeError: while the service does not run.
        """
        return _running(self._channel, "channel")

    def startService(self) -> None:
        """Make the channel, which begins to connect.

        :raises RuntimeError: if the service runs. And what :class:`~txzmq.rpc.Channel` raises;
            then nothing stays open.
        """
        _check_stopped(self._channel, is_running=self.running)
        try:
            target = self._target() if _is_function(self._target) else self._target
            self._channel = Channel(self._open_factory(), target, **self._options)
        except BaseException:
            self._close_factory()
            raise
        self._started()

    # Twisted's own returns None or a Deferred, of which pyright infers the first.
    def stopService(self) -> Deferred[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Close the channel: calls in flight end with ``CancelledError``, at once.

        A service whose handlers call through the channel has to stop before it:
        :class:`OrderedMultiService` sees to that. May be called at any time, and again.

        :return: a Deferred that has fired.
        """
        channel, self._channel = self._channel, None
        if self.running:
            self._stopped()
        if channel is not None:
            channel.close()
            self._close_factory()
        return succeed(None)


class OrderedMultiService(_TypedService, MultiService):
    """Services that start in their order, and stop in the reverse one, each after the last is done.

    Twisted's ``MultiService`` stops all at once. Where handlers call through a
    :class:`ChannelService`, or use a pool of database connections, that takes it from those which
    still run; here, the server that was added after it has drained before it stops.
    """

    def __init__(self) -> None:
        """Make an empty one; ``setServiceParent`` of the others fills it."""
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._stopping: Deferred[None] | None = None

    def startService(self) -> None:
        """Start all services.

        What one of them raises is raised here, after those before it were told to stop, which
        MultiService leaves running. If one of them stops this meanwhile, the others do not start.

        :raises RuntimeError: if it still stops.
        """
        if self._stopping is not None:
            raise RuntimeError(_STOPPING)
        Service.startService(self)  # type: ignore[no-untyped-call]  # Twisted's
        try:
            for service in self._in_order():
                if not self.running:
                    return
                service.startService()
        except BaseException:
            self.stopService()
            raise

    # Twisted's own returns None or a Deferred, of which pyright infers the first.
    def stopService(self) -> Deferred[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Stop those services that run, the last one first; may be called again.

        What stopping one of them raises is logged, and the others are stopped all the same.

        :return: fires when all have stopped.
        """
        Service.stopService(self)  # type: ignore[no-untyped-call]  # Twisted's
        if self._stopping is None:
            stopping = Deferred.fromCoroutine(self._stop_each())
            if stopping.called:
                return stopping
            self._stopping = stopping
        waiting: Deferred[None] = TaskDeferred()
        self._stopping.addCallback(lambda _: waiting.callback(None))
        return waiting

    async def _stop_each(self) -> None:
        for service in reversed(self._in_order()):
            if service.running:
                try:
                    await maybeDeferred(service.stopService)
                except Exception:  # noqa: BLE001 - the others must be stopped too
                    _log.failure("{service} failed to stop", service=service)
        self._stopping = None

    # Any: Twisted types services with zope interfaces.
    def _in_order(self) -> list[Any]:
        return list(self)


_STOPPING: Final = "the service still stops: start it when the Deferred of stopService() has fired"


def _check_stopped(opened: object, *, is_running: object) -> None:
    """:raises RuntimeError: if a service cannot be started."""
    if opened is not None:
        raise RuntimeError("the service runs already" if is_running else _STOPPING)


def _running(value: T | None, what: str) -> T:
    if value is None:
        raise RuntimeError(
            f"the service does not run, and has no {what}: ask for it after startService(), and "
            "before the service has stopped"
        )
    return value


def _check_services(services: object) -> None:
    """:raises TypeError: for what is neither a sequence, nor a function without parameters."""
    what = "a sequence of services, or a function that returns one"
    if hasattr(services, "__txzmq_service__"):
        raise _check.wrong_type("services", services, what, "; put the instance in a list")
    if callable(services):
        _check.function("services", services, ())
    elif isinstance(services, str | bytes) or not isinstance(services, Sequence):
        raise _check.wrong_type("services", services, what)


def _is_function(target: object) -> bool:
    """Whether a target is a function that returns one; a resolver may be callable, too."""
    return callable(target) and not hasattr(target, "resolve_now")


def _addresses(given: object, *, is_foreign: bool) -> tuple[str, ...]:
    """The addresses of a server: one, or several."""
    if isinstance(given, bytes) or not isinstance(given, str | Iterable):
        raise _check.wrong_type("addresses", given, "an address or a sequence of addresses")
    # The cast is for pyright, which knows an iterable of what as little as the caller may.
    addresses = (given,) if isinstance(given, str) else tuple(cast("Iterable[str]", given))
    if not addresses:
        raise ValueError("addresses is empty: a server needs one, such as tcp://127.0.0.1:5000")
    for address in addresses:
        parse_address(address, Use.LISTEN, "addresses", foreign=is_foreign)
    return addresses


def _check_options(owner: type, given: Mapping[str, object], allowed: type) -> None:
    """:raises TypeError: if there is no such option."""
    known = allowed.__annotations__
    for name in given:
        if name not in known:
            hint = _check.near(name, known)
            raise TypeError(f"{owner.__name__}() has no argument {name}{hint}")
