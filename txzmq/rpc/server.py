"""Serves services at endpoints, until it is stopped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txzmq import _check
from txzmq._asyncio_loop import loop_of
from txzmq._task_deferred import TaskDeferred
from txzmq._timer import ResettableTimer
from txzmq._zap import Decision
from txzmq.auth import CurveClientCredentials, CurveServerCredentials
from txzmq.factory import ZmqFactory
from txzmq.rpc._core.handler_style import TWISTED
from txzmq.rpc._core.hosting import Hosted
from txzmq.rpc._core.inspection import Inspecting
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._core.transport import Network
from txzmq.rpc._net.addresses import (
    ANY_IPC,
    SUFFIX,
    announced,
    beside,
    is_multicast,
    split_scheme,
)
from txzmq.rpc._net.given import check_observer, network_for
from txzmq.rpc._net.given_sockets import endpoint_of
from txzmq.rpc._net.parsing import Use, parse_address, parse_group
from txzmq.rpc._net.secure_bind import check_endpoint, is_local
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc._server.ages import KeyCheck
from txzmq.rpc._server.dispatcher import Dispatcher
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import served_methods, services_of
from txzmq.rpc._server.publisher import Publisher
from txzmq.rpc._server.worker import Worker
from txzmq.rpc.authentication import Authenticate
from txzmq.rpc.authorization import Authorize
from txzmq.rpc.interceptors import ServerInterceptor
from txzmq.rpc.limits import MESSAGE_SIZE, ServerLimits
from txzmq.rpc.method import ServiceHandler
from txzmq.rpc.raw import Fallback
from txzmq.rpc.socket_options import SocketOptions
from txzmq.rpc.streams import StreamResult
from txzmq.rpc.watching import Authentication, Observer, Refusal, ServerStats

__all__ = ["Server", "ServiceHandler", "StreamResult"]

_log = Logger()
#: Seconds that clients have to say that they have had their last reply. A round trip is enough;
#: clients that do not know this part of the protocol say nothing.
_LEAVING: Final = 2.0
#: Seconds after a server has begun to hand over in which clients may send their first call that
#: have just connected to it. Nothing is known of them until then.
_NEWCOMERS: Final = 1.0


class Server:
    """Serves services at any number of endpoints.

    Handlers run in the reactor's thread, which alone may use a server once the reactor runs:
    elsewhere, :meth:`listen` and :meth:`stop` raise :class:`~txzmq.WrongThreadError`, or in a
    forked child :class:`~txzmq.ForkedError`. A handler whose Deferred is fired in another thread
    has failed.
    """

    def __init__(
        self,
        factory: ZmqFactory | Network,
        services: Sequence[ServiceHandler],
        *,
        interceptors: Sequence[ServerInterceptor] = (),
        limits: ServerLimits | None = None,
        debug: bool = False,
        batching: bool = True,
        observer: Observer | None = None,
        socket_options: SocketOptions | None = None,
        credentials: CurveServerCredentials | None = None,
        authorize: Authorize | None = None,
        authenticate: Authenticate | None = None,
        fallback: Fallback | None = None,
        handlers: Literal["twisted", "asyncio"] = "twisted",
    ) -> None:
        """
        :param factory: owns the sockets and knows the reactor.
        :param services: instances of subclasses of generated ``<Service>Base`` classes. It may be
            empty, with a *fallback* for instance.
        :param interceptors: go around every handler, the first one outermost; see
            :mod:`txzmq.rpc.interceptors`. What the server refuses by itself does not reach them.
        :param limits: None for the defaults.
        :param debug: send clients the text of unexpected exceptions, not only the id under which
            they were logged. Not for production: the text may hold secrets.
        :param batching: whether replies of one turn of the reactor may travel to a client as one
            message, if it understands that.
        :param observer: told of what happens to clients; see :mod:`txzmq.rpc.watching`.
        :param socket_options: None for the defaults; they are for a factory's sockets only.
        :param credentials: the server's key, and who may connect; None for no security, as on
            loopback. See :mod:`txzmq.auth`.
        :param authorize: says who may call what; see :mod:`txzmq.rpc.authorization`. None for
            everybody who can connect, where no method requires anything.
        :param authenticate: finds out who calls by the metadata of each call, such as
            :class:`txzmq.rpc.tokens.BearerTokens`; see :mod:`txzmq.rpc.authentication`. None for
            whose the connection is. Streams, and limits of each client, go by the connection all
            the same.
        :param fallback: given the path of a method that no service has, says what serves it; see
            :mod:`txzmq.rpc.raw`. None if nothing does: such calls end with UNIMPLEMENTED.
        :param handlers: as what the coroutines of handlers run: ``"twisted"``, where they await
            Deferreds; or ``"asyncio"``, as Tasks, where they may await asyncio's, too. Tasks
            need Twisted's asyncio reactor. Then the coroutines of *interceptors*, *authenticate*
            and *fallback* run as Tasks, too.
        :raises ValueError: if two of them implement one service, or one is about another
            server; if a method requires a word by its proto, and there is no *authorize*, or it
            is a table without that word.
        :raises RuntimeError: for ``handlers="asyncio"``, if Twisted's reactor does not run on
            asyncio's loop.
        :raises TypeError: for a value of a wrong type; if a service is none, such as the class in
            place of an instance; or if a handler does not take a request and a context.
        :raises zmq.ZMQError: if the factory was shut down.
        """
        self._network = network_for(factory, socket_options, credentials, CurveServerCredentials)
        self._socket_options, self._factory = socket_options, factory
        self._credentials = credentials
        # Whether addresses may have other schemes, and no ports.
        self._is_foreign = not isinstance(self._network, ZmqNetwork)
        _check.functions("interceptors", interceptors, ("request", "context", "proceed"))
        if limits is not None:
            _check.instance("limits", limits, ServerLimits, "a ServerLimits or None")
        _check.boolean("debug", debug)
        _check.boolean("batching", batching)
        check_observer(observer)
        self._clock = self._network.clock
        self._guard = self._network.guard
        self.limits = limits or ServerLimits()
        _check.choice("handlers", handlers, ("twisted", "asyncio"))
        style = TWISTED
        if handlers == "asyncio":
            from txzmq.rpc._core.task_handlers import ASYNCIO  # its module says why here

            style = ASYNCIO
            if isinstance(factory, ZmqFactory):
                loop_of(factory.reactor, 'handlers="asyncio"')
        interceptors = [style.wrap(interceptor) for interceptor in interceptors]
        methods = served_methods(services, interceptors, style)
        if fallback is None:
            _warn_of_limits(self.limits, methods)
        else:
            _check.function("fallback", fallback, ("path",))
        streams = any(method.response_streaming for method in methods.values())
        self._publishes = streams or fallback is not None
        if authorize is not None:
            parameters = ("identity", "method", "metadata")
            _check.function("authorize", authorize, parameters, awaited=False)
        if authenticate is not None:
            _check.function("authenticate", authenticate, ("identity", "method", "metadata"))
        self._reads_secrets = authenticate is not None
        self._hosted = [service for service in services if isinstance(service, Hosted)]
        served = [one for service in services for one in services_of(service).values()]
        # One at most: two would implement the same methods.
        inspecting = next((each for each in services if isinstance(each, Inspecting)), None)
        self._watch = Notifier(
            self._clock, observer, None if inspecting is None else inspecting.__txzmq_observer__
        )
        for hosted in self._hosted:
            hosted.__txzmq_served__(served, self.limits)
        self._dispatcher = Dispatcher(
            self._clock,
            self._guard,
            methods,
            self.limits,
            debug=debug,
            batching=batching,
            settled=self._stop_if_idle,
            closed=self._closed,
            watch=self._watch,
            authorize=authorize,
            authenticate=authenticate and style.wrap(authenticate),
            fallback=fallback and style.wrap(fallback),
            interceptors=interceptors,
            style=style,
            random=self._network.random,
            check=None
            if credentials is None
            else KeyCheck(credentials.clients.look_again, credentials.policy_timeout),
            inspected=() if inspecting is None else _paths_of(inspecting),
        )
        if inspecting is not None:
            inspecting.__txzmq_inspects__(self._dispatcher.inspector())
        self._forget_keys: Callable[[], None] | None = None
        # Set once it listens: there is nobody to decide about before.
        self._forget_clients: Callable[[], None] | None = None
        if credentials is not None:
            self._forget_keys = credentials.clients.when_revoked(self._revoked)
        self._listeners: list[Listener] = []
        # Fires when it has closed; None until somebody wants to know.
        self._stopped: Deferred[None] | None = None
        self._is_stopping = False
        self._stop_timer = ResettableTimer(self._clock, self._stop_now)
        self._stop_at = 0.0
        self._is_stopped = False
        # Runs while clients have time to leave; afterwards they are not waited for.
        self._leaving = ResettableTimer(self._clock, self._wait_no_more)
        self._waited = False
        # Runs while another process takes the clients over.
        self._handing_over = ResettableTimer(self._clock, self._handed_over)
        self._hand_over_until = 0.0
        # Until when clients may be connected that have sent nothing yet.
        self._newcomers_until = 0.0
        self._watch.start(self)

    def listen(
        self,
        address: str,
        *,
        insecure: bool = False,
        publisher: str | None = None,
        advertise: str | None = None,
        multicast: str | None = None,
        fd: int | None = None,
        publisher_fd: int | None = None,
    ) -> str:
        """Serve at *address*; may be called for more addresses.

        A server that has methods with streams of responses, or a fallback, publishes these at an
        address of their own, which the clients are told when they open a stream.

        :param address: such as ``tcp://127.0.0.1:*`` (any free port), ``ipc:///run/user/1/greeter``.
        :param insecure: listen even where strangers can reach it; and for a server with
            ``authenticate=``, also at loopback, where others can read the calls' tokens if they
            listen there before it does.
        :param publisher: where to publish streams; None for the same host and any free port, or for
            another name beside that of *address*.
        :param advertise: the address that clients are told for it, where it is another: behind a
            translation of addresses, for instance. In place of a wildcard (``0.0.0.0``) clients use
            the host that they are connected to.
        :param multicast: a multicast group to which shared streams are sent, once for all clients,
            such as ``epgm://eth0;239.192.1.1:5555``: what is before the semicolon is the interface,
            or an address of it. All who are in that network can read them, and forge them: nothing
            there is encrypted or authenticated. Streams that are not shared never go there.
        :param fd: the descriptor of a socket that listens at *address* already, of tcp or ipc: one
            that a supervisor or systemd has given to the process, for instance. It stays the
            caller's, who may close it. Other processes may have the same socket; each accepts some
            of the connections. See :meth:`hand_over`.
        :param publisher_fd: the same for *publisher*; no other process may publish by it, since a
            client must come to that which has its streams.
        :return: the endpoint really bound, to connect to.
        :raises ValueError: if an address is malformed, or a range of ports, which is for clients;
            if the path of ipc is too long, with what the publisher has behind it; if *multicast*
            is no address of a group, or *publisher* is one; if *fd* is no socket that listens at
            *address*, or *publisher_fd* at *publisher*.
        :raises TypeError: for a value of a wrong type.
        :raises InsecureBindError: if strangers can reach *address*, or others can lead the path of
            ipc elsewhere, by a link. (It is a ValueError.)
        :raises twisted.internet.error.CannotListenError: if it is in use, or cannot be listened at;
            the message says why. (It is a ``zmq.ZMQError``, too.)
        :raises RuntimeError: after :meth:`stop`, or if libzmq cannot multicast.
        """
        self._guard.check_server()
        _check.boolean("insecure", insecure)
        if self._is_leaving:
            raise RuntimeError("the server is stopped")
        self._check(address, publisher, advertise, multicast)
        if fd is not None:
            address = self._given("fd", fd, address)
        if publisher_fd is not None:
            if publisher is None:
                raise ValueError(
                    f"publisher_fd={publisher_fd}: pass its address as publisher=, too"
                )
            publisher = self._given("publisher_fd", publisher_fd, publisher)
        if self._credentials is not None:
            _check_secure(address, publisher)
        elif not insecure:
            check_endpoint(address, foreign=self._is_foreign, secrets=self._reads_secrets)
            if publisher is not None:
                check_endpoint(publisher, foreign=self._is_foreign)
        if multicast is not None and not insecure:
            check_endpoint(multicast)
        listener = Listener(self._dispatcher)
        options = {**self._options, **_use_fd(fd)}
        transport = self._network.listen(address, listener, options)
        listener.opened(transport, is_local=is_local(transport.endpoint), is_given=fd is not None)
        if self._publishes:
            try:
                # Whoever has the same socket publishes by another one.
                own = "" if fd is None else f".{os.getpid()}"
                place = publisher or beside(transport.endpoint, own)
                self._publish(listener, place, advertise or "", _use_fd(publisher_fd))
                scheme, path = split_scheme(place)
                if publisher is None and scheme == "ipc" and (address == ANY_IPC or own):
                    listener.remove_when_closed(path, folder=address == ANY_IPC)
                if multicast is not None:
                    self._publish(listener, multicast, announced(multicast), multicast=True)
            except BaseException:
                listener.close()
                raise
        self._listeners.append(listener)
        self._dispatcher.watch(listener)
        self._watch_clients()
        streams = "" if listener.publisher is None else listener.publisher.endpoint
        _log.info(
            "the server listens at {endpoint}{streams}",
            endpoint=transport.endpoint,
            streams=streams and f", its streams are at {streams}",
        )
        return transport.endpoint

    def _check(
        self, address: object, publisher: object, advertise: object, multicast: object
    ) -> None:
        """Refuse what is no address, before anything is made.

        :raises ValueError: if one is malformed.
        :raises TypeError: if one is no str.
        """
        room = len(SUFFIX) if self._publishes and publisher is None else 0
        parse_address(address, Use.LISTEN, "address", foreign=self._is_foreign, room=room)
        if multicast is not None:
            parse_group(multicast, "multicast")
        if publisher is not None:
            if isinstance(publisher, str) and is_multicast(publisher):
                raise ValueError(
                    f"publisher={publisher!r}: streams of one client do not go to a group; pass it "
                    "as multicast="
                )
            parse_address(publisher, Use.LISTEN, "publisher", foreign=self._is_foreign)
        if advertise is not None:
            parse_address(advertise, Use.ADVERTISE, "advertise", foreign=self._is_foreign)

    def _given(self, name: str, fd: object, address: str) -> str:
        """The endpoint of a socket that the server was given.

        :raises ValueError: if it does not listen, or at another address; TypeError if *fd* is no
            int.
        """
        _check.integer(name, fd)
        assert isinstance(fd, int), "it was checked"
        return address if self._is_foreign else endpoint_of(fd, address, name)

    def _publish(
        self,
        listener: Listener,
        address: str,
        advertised: str,
        options: Mapping[str, int] = MappingProxyType({}),
        *,
        multicast: bool = False,
    ) -> None:
        publisher = Publisher(
            self._dispatcher.clock,
            self._dispatcher.streams,
            listener.flush_soon,
            self.limits,
            self._dispatcher.count,
            advertised,
            multicast=multicast,
            ages=self._dispatcher.ages,
        )
        publisher.opened(self._network.publish(address, publisher, options))
        listener.publish_by(publisher)

    def connect(
        self,
        address: str,
        *,
        insecure: bool = False,
        credentials: CurveClientCredentials | None = None,
    ) -> None:
        """Serve the requests that a proxy at *address* passes on; may be called for more addresses.

        The proxy has a ROUTER for clients and a DEALER for servers, as ``zmq_proxy()`` makes one.
        It gives each request to one of the servers that are connected to it, in turn, and does not
        tell them which clients there are and which have gone: see the guide's page on proxies for
        what that means. When the connection is lost, its calls end, and another one is made. Only
        unary calls are served.

        :param address: such as ``tcp://127.0.0.1:5001``. The proxy may start later.
        :param insecure: connect even where strangers could be.
        :param credentials: this server's key, and the proxy's: to the proxy, it is a client. All
            calls then have no identity of their own, since the proxy knows who calls.
        :raises ValueError: if it is malformed.
        :raises TypeError: if it is no str.
        :raises InsecureBindError: if strangers can reach *address*.
        :raises RuntimeError: after :meth:`stop`.
        """
        self._guard.check_server()
        _check.boolean("insecure", insecure)
        if self._is_leaving:
            raise RuntimeError("the server is stopped")
        parse_address(address, Use.CONNECT, "address", foreign=self._is_foreign)
        if not insecure and credentials is None:
            check_endpoint(address, listens=False, secrets=self._reads_secrets)
        network = self._network
        if credentials is not None or self._credentials is not None:
            network = network_for(
                self._factory, self._socket_options, credentials, CurveClientCredentials
            )
        worker = Worker(self._dispatcher, network, address, self._options)
        self._listeners.append(worker)
        self._dispatcher.watch(worker)
        _log.info("the server serves the proxy at {address}", address=address)

    def _watch_clients(self) -> None:
        """Be told of the clients that are let in and refused, for the observer."""
        if self._forget_clients is None and self._credentials is not None:
            assert isinstance(self._factory, ZmqFactory), "there are credentials"
            self._forget_clients = self._factory.watchClients(self._credentials, self._decided)

    def _decided(self, decision: Decision) -> None:
        identity, public_key, address, mechanism, reason = decision
        if identity is None:
            self._watch.refused(
                Refusal(public_key=public_key, address=address, mechanism=mechanism, reason=reason)
            )
        else:
            if self._dispatcher.ages is not None:
                self._dispatcher.ages.looked_at(public_key)
            self._watch.authenticated(
                Authentication(
                    user=identity.name, public_key=public_key, address=address, mechanism=mechanism
                )
            )

    def _revoked(self, keys: Collection[str]) -> None:
        self._dispatcher.revoke(keys, "the client's key was revoked")

    @property
    def _options(self) -> dict[str, int]:
        # The largest message with its header; a larger one ends the connection.
        return {"MAXMSGSIZE": max(self.limits.message_size, MESSAGE_SIZE) + 65_536}

    @property
    def counters(self) -> Counter[str]:
        """How many requests, replies and streams were refused or dropped, over all endpoints.

        By reason: :class:`~txzmq.rpc.Count` has the names and what they mean.
        """
        dropped = (listener.wire.dropped for listener in self._listeners)
        return sum(dropped, +self._dispatcher.counters)

    @property
    def stats(self) -> ServerStats:
        """What it has at this moment, for metrics."""
        clients = sum(len(listener.wire.peers) for listener in self._listeners)
        return self._dispatcher.stats(clients, is_draining=self._is_leaving)

    @property
    def running(self) -> int:
        """How many handlers have started and not ended."""
        return self._dispatcher.running

    @property
    def queued(self) -> int:
        """How many calls wait for a place."""
        return self._dispatcher.queued

    def stop(self, grace: float = 10.0) -> Deferred[None]:
        """Take no more calls, let those that run finish, then close.

        Clients are told, and make their calls elsewhere; a call that was on its way is refused, and
        the refusal says that it was not executed, so that the client's channel makes it elsewhere,
        too. With a Twisted service or a plain program, have it done before the reactor stops, which
        it does on SIGTERM and SIGINT::

            reactor.addSystemEventTrigger("before", "shutdown", server.stop)

        May be called again, and in a handler. A later call can shorten the grace, and not lengthen
        it.

        :param grace: seconds until calls that still run are cancelled and answered UNAVAILABLE.
        :return: fires when everything is closed. libzmq's own thread frees the ports a moment
            later: who listens there again in the same process tries until that succeeds.
        :raises ValueError: if *grace* is below 0, or no number.
        """
        self._guard.check()
        _check.number("grace", grace)
        if not self._is_stopping:
            self._is_stopping = True
            if self._handing_over.is_running:
                self._handing_over.stop()
                grace = min(grace, max(0.0, self._hand_over_until - self._clock.seconds()))
            _log.info(
                "the server drains: {running} calls run and {queued} wait, for {grace:g} s at most",
                running=self.running,
                queued=self.queued,
                grace=grace,
            )
            for hosted in self._hosted:  # first: those who watch are told what comes
                hosted.__txzmq_stopping__()
            self._dispatcher.drain()
            self._stop_in(grace)
            for listener in self._listeners:
                listener.drain()
            self._stop_if_idle()
        elif not self._is_stopped and grace < self._stop_at - self._clock.seconds():
            self._stop_in(grace)
        return self._when_stopped()

    def hand_over(self, grace: float = 10.0) -> Deferred[None]:
        """Let another process take over that has the same listening sockets, then close.

        Its server must be ready. This one accepts no further connections, and tells its clients to
        connect anew; it serves them until they have, so that no call is refused. What runs then may
        finish, as with :meth:`stop`, which ends it at once where there is a hurry. A stream goes on
        here as long as the grace allows; then a client whose method can be resumed opens it at the
        other server.

        Connections can be left to another process on Linux, where :meth:`listen` was given the
        socket by ``fd=``. Otherwise this server accepts some of them until it stops, and tells them
        to connect anew, too.

        May be called again; a later call can shorten the grace, and not lengthen it.

        :param grace: seconds until calls that still run are cancelled and answered UNAVAILABLE.
        :return: fires when everything is closed.
        :raises ValueError: if *grace* is below 0, or no number.
        """
        self._guard.check()
        _check.number("grace", grace)
        now = self._clock.seconds()
        if not self._is_leaving:
            _log.info("the server hands its clients over to another process")
            if any(listener.may_have_newcomers for listener in self._listeners):
                self._newcomers_until = now + _NEWCOMERS
            self._hand_over_until = now + grace
            self._handing_over.start(grace)
            self._dispatcher.hand_over()
            self._stop_if_idle()
        elif self._handing_over.is_running and now + grace < self._hand_over_until:
            self._hand_over_until = now + grace
            self._handing_over.start(grace)
            self._stop_if_idle()
        return self._when_stopped()

    @property
    def _is_leaving(self) -> bool:
        """Whether it is to take no more clients."""
        return self._is_stopping or self._handing_over.is_running

    def _handed_over(self) -> None:
        """The clients have gone, or have had the time to: stop."""
        left = self._hand_over_until - self._clock.seconds()
        if left > 0 and not self._is_left:
            self._handing_over.start(left)  # one has come that was not known
        else:
            self.stop(max(0.0, left))

    @property
    def _is_left(self) -> bool:
        """Whether no client that is known may call."""
        # A proxy's clients do not leave it for another worker.
        return all(listener.is_left or listener.for_proxy for listener in self._listeners)

    def _when_stopped(self) -> Deferred[None]:
        """A Deferred of the caller's own that fires when everything is closed."""
        waiting: Deferred[None] = TaskDeferred()
        if self._stopped is None:
            self._stopped = Deferred()
        self._stopped.addCallback(lambda _: waiting.callback(None))
        return waiting

    def _stop_in(self, seconds: float) -> None:
        self._stop_at = self._clock.seconds() + seconds
        self._stop_timer.start(seconds)

    def _closed(self) -> None:
        """The factory has closed a socket: stop at once."""
        self.stop(0)
        self._stop_now()

    def _wait_no_more(self) -> None:
        """Clients have had the time to leave."""
        self._waited = True
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        """Stop, if that is asked for, when nothing runs and the clients have left."""
        if self._handing_over.is_running:
            if self._is_left:
                end = min(self._newcomers_until, self._hand_over_until)
                self._handing_over.start(max(0.0, end - self._clock.seconds()))
            return
        if (
            not self._is_stopping
            or self._is_stopped
            or self.running
            or self.queued
            or len(self._dispatcher.streams)
            or not all(listener.is_flushed for listener in self._listeners)
        ):
            return
        if self._waited or all(listener.is_left for listener in self._listeners):
            # In a turn of its own: what ended last may be in the middle of its work.
            self._stop_in(0)
        elif not self._leaving.is_running:
            # A client's socket forgets replies that it has received and not handed out when the
            # connection ends.
            self._leaving.start(_LEAVING)

    def _stop_now(self) -> None:
        if not self._is_stopping or self._is_stopped:
            return
        self._is_stopped = True
        self._stop_timer.stop()
        self._leaving.stop()
        self._dispatcher.end(self._listeners)
        for listener in self._listeners:
            listener.close()
        self._dispatcher.close()
        self._watch.stop()
        for forget in (self._forget_keys, self._forget_clients):
            if forget is not None:
                forget()
        _log.info("the server has stopped")
        if self._stopped is not None:
            self._stopped.callback(None)


def _use_fd(fd: int | None) -> dict[str, int]:
    """The option of a socket that listens by what it was given."""
    return {} if fd is None else {"USE_FD": fd}


def _paths_of(service: ServiceHandler) -> list[str]:
    """The paths of an object's methods."""
    return [method.path for one in services_of(service).values() for method in one.methods]


def _check_secure(address: str, publisher: str | None) -> None:
    """Check that an address can have keys.

    :raises ValueError: for inproc, which has none.
    """
    for each in (address, publisher or ""):
        if each.startswith("inproc:"):
            raise ValueError(
                f"{each!r}: inproc knows no keys, and a server with credentials takes no client "
                "without; use another server for inproc"
            )


def _warn_of_limits(limits: ServerLimits, methods: Collection[str]) -> None:
    """Warn of limits of methods that are not served: no error, since servers may share limits."""
    for name in ("running_per_method", "queued_per_method"):
        for path in getattr(limits, name):
            if path not in methods:
                _log.warn(
                    "{name} limits {path}, which the server does not serve{near}",
                    name=name,
                    path=path,
                    near=_check.near(path, methods),
                )
