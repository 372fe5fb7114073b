"""ZeroMQ's plain proxy: gives calls of clients to the workers that have connected to it, in turn.

A worker is a server that connects, :meth:`txzmq.rpc.Server.connect`. The proxy knows nothing of
calls: the guide's page on proxies says what follows from that, and when a
:class:`txzmq.rpc.relay.Relay` is better. ::

    proxy = Proxy(factory, "tcp://127.0.0.1:5000", "tcp://127.0.0.1:5001")
    ...
    await proxy.stop()
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txzmq import _check
from txzmq._arguments import require_open
from txzmq._proxy import Place, ProxyStatistics, ProxyThread
from txzmq._task_deferred import TaskDeferred
from txzmq.auth import CurveServerCredentials
from txzmq.factory import ZmqFactory
from txzmq.rpc._net.ipc import claim
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc._net.secure_bind import check_endpoint
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.socket_options import SocketOptions

__all__ = ["Proxy", "ProxyStatistics"]

_log = Logger()


class Proxy:
    """libzmq's own proxy, in a thread of its own, between clients and workers.

    It passes messages on without Python, and holds as many as the high-water marks of *options*
    allow: past that, clients wait. A reply to a client that does not read is dropped, as ZeroMQ's
    ROUTER does it. A worker that has as many as its high-water mark gets no more.

    For the reactor's thread only.

    :ivar clients: the endpoint for clients.
    :ivar workers: the endpoint for workers.
    """

    def __init__(
        self,
        factory: ZmqFactory,
        clients: str,
        workers: str,
        *,
        credentials: CurveServerCredentials | None = None,
        worker_credentials: CurveServerCredentials | None = None,
        insecure: bool = False,
        message_size: int = MESSAGE_SIZE,
        options: SocketOptions | None = None,
    ) -> None:
        """Listen at both addresses, and begin to pass messages on.

        :param clients: where clients connect, such as ``tcp://127.0.0.1:5000``.
        :param workers: where workers connect.
        :param credentials: the proxy's key, and which clients may connect.
        :param worker_credentials: its key for workers, and which of these may connect.
        :param insecure: listen without credentials even where strangers can connect: as a worker,
            a stranger gets clients' calls, and answers them.
        :param message_size: bytes that a message of a call may have; what is larger ends the
            connection.
        :param options: of both sockets; None for the defaults.
        :raises ValueError: if an address is malformed, or a value out of range.
        :raises TypeError: for a value of a wrong type.
        :raises InsecureBindError: if strangers can reach an address without credentials. (It is a
            ValueError.)
        :raises twisted.internet.error.CannotListenError: if an address is in use, or cannot be
            listened at.
        """
        _check.instance("factory", factory, ZmqFactory, "a ZmqFactory")
        factory.guard.check()
        require_open(factory.closed)
        _check.boolean("insecure", insecure)
        _check.integer("message_size", message_size, 1)
        if options is not None:
            _check.instance("options", options, SocketOptions, "a SocketOptions or None")
        common = _options(options or SocketOptions(), message_size)
        front = _place("clients", clients, credentials, common, insecure=insecure)
        back = _place("workers", workers, worker_credentials, common, insecure=insecure)
        self._factory = factory
        self._stopped: list[Deferred[None]] = []
        self._has_ended = False
        self._thread = ProxyThread(factory, front, back, claim, self._ended)
        self.clients, self.workers = self._thread.clients, self._thread.workers
        self._forget = [factory.callWhenClosed(self._closed)]
        for keys in {credentials, worker_credentials} - {None}:
            assert keys is not None, "there are no others"
            self._forget.append(keys.clients.when_revoked(self._revoked))
        self._thread.start()
        _log.info(
            "the proxy listens at {clients} for clients and at {workers} for workers",
            clients=self.clients,
            workers=self.workers,
        )

    @property
    def statistics(self) -> ProxyStatistics:
        """What has passed through it until now."""
        return self._thread.statistics

    def stop(self, grace: float = 10.0) -> Deferred[None]:
        """Take no more requests, pass on replies to those that workers have, then close.

        It ends when all requests have been answered that were passed on. A request whose worker
        has died is never answered, so that the grace is waited for then. Requests that come
        meanwhile are lost: neither clients nor workers can be told. Their calls end when the
        connection does, with UNAVAILABLE.

        May be called again; a later call can shorten the grace, and not lengthen it.

        :param grace: seconds until it ends in any case.
        :return: fires when everything is closed.
        :raises ValueError: if *grace* is below 0, or no number.
        """
        self._factory.guard.check()
        _check.number("grace", grace)
        stopped: Deferred[None] = TaskDeferred()
        if self._has_ended:
            stopped.callback(None)
            return stopped
        self._stopped.append(stopped)
        self._thread.stop(grace)
        return stopped

    def _revoked(self, keys: Collection[str]) -> None:
        """Libzmq asks for a key when somebody connects, and cannot end one connection alone."""
        _log.info("keys were revoked: clients and workers have to connect anew")
        self._thread.reconnect()

    def _closed(self) -> None:
        """The factory is shut down."""
        self._thread.stop(0)
        self._thread.join(1.0)

    def _ended(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        for forget in self._forget:
            forget()
        passed = self._thread.statistics
        _log.info(
            "the proxy has stopped: {request_frames} frames of requests ({request_bytes} bytes) "
            "and {reply_frames} of replies ({reply_bytes} bytes) have passed",
            **passed._asdict(),
        )
        waiting, self._stopped = self._stopped, []
        for stopped in waiting:
            stopped.callback(None)


def _options(options: SocketOptions, message_size: int) -> Mapping[str, int]:
    """Those of a server's socket; but what cannot be sent is dropped, or libzmq's proxy ends."""
    # As of a server: the largest message with its header.
    size = max(message_size, MESSAGE_SIZE) + 65_536
    found = {**options.for_server(), "MAXMSGSIZE": size}
    del found["ROUTER_MANDATORY"]
    return found


def _place(
    name: str,
    address: str,
    credentials: CurveServerCredentials | None,
    options: Mapping[str, int],
    *,
    insecure: bool,
) -> Place:
    """Where one side listens, once it is checked."""
    if parse_address(address, Use.LISTEN, name).scheme == "inproc":
        raise ValueError(f"{name}={address!r}: inproc is for one process; use ipc:///path")
    if credentials is not None:
        what = "a CurveServerCredentials or None"
        _check.instance("credentials", credentials, CurveServerCredentials, what)
    elif not insecure:
        check_endpoint(address)
    # With it, libzmq resolves names to IPv6 first.
    family = {"IPV6": 1} if address.startswith("tcp://[") else {}
    return Place(address, {**options, **family}, credentials)
