"""A network in memory, in virtual time, with random faults; public through txzmq.testing."""

from __future__ import annotations

import errno
import inspect
import itertools
import random
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._guard import Guard
from txzmq.rpc._core.transport import (
    ClientHandler,
    PublisherHandler,
    ServerHandler,
    SubscriberHandler,
    WorkerHandler,
)
from txzmq.rpc._net.addresses import announced, is_multicast, split_tcp
from txzmq.testing._faults import Faults, MessageKind, Script
from txzmq.testing._publication_sockets import MemoryPublisher, MemorySubscriber
from txzmq.testing._request_sockets import MemoryClient, MemoryListener

__all__ = ["MemoryNetwork"]

T = TypeVar("T")


def _in_use(address: str) -> CannotListenError:
    error = OSError(errno.EADDRINUSE, "it is in use")
    return CannotListenError(address, 0, error)  # type: ignore[no-untyped-call]  # Twisted leaves it untyped


def _not_fired(coroutine: Coroutine[Any, Any, Any] | None, within: float) -> str:
    """That something has not ended, where it waits, and what to do."""
    what, place = "Deferred has not fired", ""
    if coroutine is not None:
        what = "coroutine has not ended"
        frame = _deepest_frame(coroutine)
        if frame is not None:
            name, file = frame.f_code.co_qualname, frame.f_code.co_filename
            place = f"; it waits in {name} ({file}:{frame.f_lineno})"
    passed = f" within {within:g} virtual seconds" if within else ""
    return (
        f"the {what}{passed}{place}. If time has to pass, call network.advance(seconds) before, or "
        "pass a larger within="
    )


def _deepest_frame(coroutine: Any) -> FrameType | None:
    """Where a coroutine waits, by those that it awaits."""
    frame: FrameType | None = None
    while inspect.iscoroutine(coroutine):
        frame = coroutine.cr_frame or frame
        coroutine = coroutine.cr_await
    return frame


class MemoryNetwork:
    """Takes the place of a :class:`~txzmq.ZmqFactory`; channels and servers on it meet in memory.

    Messages arrive only within :meth:`run`, and time passes only within :meth:`advance`. ::

        network = MemoryNetwork()
        server = Server(network, [Greeter()])
        client = GreeterClient(Channel(network, server.listen("inproc://greeter")))
        reply = network.result(client.say_hello(HelloRequest(name="x")))

    It does what ZeroMQ was seen to do: every SUBSCRIBE is passed on, but one UNSUBSCRIBE for all of
    one tag; a broken connection is an UNSUBSCRIBE of each of its tags; messages for a subscription
    that has not arrived are lost. One test of the contract runs over this network and over
    ZeroMQ's.

    :ivar clock: the virtual time.
    :ivar tells_of_loss: whether servers are told of lost connections.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        script: Script | None = None,
        tells_of_loss: bool = True,
    ) -> None:
        """
        :param faults: what happens to messages; None if all arrive at once and in order.
        :param script: what happens to single messages; None for nothing. Then :attr:`Faults.loss`,
            :attr:`Faults.duplication`, :attr:`Faults.delay` and those of subscriptions have no
            effect.
        :param tells_of_loss: False for what inproc does: a client is connected at once to who
            listens, a server is not told that a client has gone, and :meth:`cut` does nothing.
        :raises TypeError: for a value of a wrong type.
        """
        if faults is not None:
            _check.instance("faults", faults, Faults, "a Faults or None")
        if script is not None:
            _check.instance("script", script, Script, "a Script or None")
        _check.boolean("tells_of_loss", tells_of_loss)
        self.clock = Clock()
        self.tells_of_loss = tells_of_loss
        self.guard = Guard()
        self._faults = faults or Faults()
        self.random = random.Random(self._faults.seed)
        self._random = random.Random(self._faults.seed)
        self._listeners: dict[str, MemoryListener] = {}
        # By address, those that share it with the one above.
        self._sharing: dict[str, list[MemoryListener]] = {}
        self._publishers: dict[str, MemoryPublisher] = {}
        self._peers = itertools.count(1)
        self._ports = itertools.count(49_152)
        self._script = script

    @property
    def faults(self) -> Faults:
        """What happens to messages from now on; a test may set others while it runs.

        The random numbers go on: those of the first faults' seed.
        """
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        _check.instance("faults", faults, Faults, "a Faults")
        self._faults = faults

    # -- for tests ---------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, and make all calls that are due meanwhile, in order.

        :raises ValueError: if *seconds* are below 0, or no number.
        """
        _check.number("seconds", seconds)
        self._advance(seconds)

    def _advance(self, seconds: float, until: Collection[object] = ()) -> None:
        """:param until: no more time passes when there is something in it."""
        end = self.clock.seconds() + seconds
        while not until:
            # The items are typed with a zope interface, which hides their methods.
            calls = cast("list[Any]", self.clock.getDelayedCalls())
            due: list[float] = [call.getTime() for call in calls]
            if not due or min(due) > end:
                break
            self.clock.advance(max(0.0, min(due) - self.clock.seconds()))
        if not until:
            self.clock.advance(max(0.0, end - self.clock.seconds()))

    def run(self) -> None:
        """Make all calls that are due now."""
        self._advance(0)

    def result(
        self, awaitable: Deferred[T] | Coroutine[Deferred[Any], Any, T], *, within: float = 0.0
    ) -> T:
        """Make all calls that are due now, and return the result of a Deferred or coroutine. ::

            reply = network.result(client.say_hello(request))
            ticks = network.result(read_some(client.watch(request)), within=10)

        :param awaitable: what a client has returned, or a coroutine, which is begun here.
        :param within: how many virtual seconds may pass meanwhile. No more pass than it takes.
        :raises Exception: the exception that it fails with.
        :raises AssertionError: if it has not fired by then. The message says where a coroutine
            waits. It goes on waiting, and may be cancelled.
        :raises TypeError: for a value of a wrong type: a stream, for example, is to be read by a
            coroutine. ValueError if *within* is below 0, or no number.
        """
        _check.instance("awaitable", awaitable, (Deferred, Coroutine), "a Deferred or a coroutine")
        _check.number("within", within)
        coroutine, deferred = None, awaitable
        if not isinstance(deferred, Deferred):
            coroutine, deferred = deferred, Deferred.fromCoroutine(deferred)
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.run()
        if within and not results:
            self._advance(within, until=results)
            self.run()
        if not results:
            raise AssertionError(_not_fired(coroutine, within))
        result: T | Failure = results[0]
        if isinstance(result, Failure):
            result.raiseException()
            raise AssertionError("raiseException() raises")
        return result

    def cut(self, address: str) -> None:
        """Break every connection to *address*; clients try to connect again.

        The streams of a server at ``inproc://x`` come from ``inproc://x.streams``.

        :raises TypeError: if *address* is no str.
        """
        _check.text("address", address)
        if not self.tells_of_loss:
            return
        for socket in (self._listeners.get(address), self._publishers.get(address)):
            if socket is not None:
                socket.cut()

    def unsubscribe_as_stranger(self, address: str, tag: bytes) -> None:
        """Have the publisher at *address* get an UNSUBSCRIBE of who never subscribed to *tag*.

        :raises ValueError: if there is no publisher; TypeError for a value of a wrong type.
        """
        _check.text("address", address)
        _check.instance("tag", tag, bytes, "bytes")
        publisher = self._publishers.get(address)
        if publisher is None:
            raise ValueError(f"address={address!r}: no publisher is there")
        self.clock.callLater(0, publisher.take_from_stranger, tag)

    # -- what Network asks for ---------------------------------------------------------------

    def connect(
        self, address: str, handler: ClientHandler, options: Mapping[str, int]
    ) -> MemoryClient:
        """As :meth:`txzmq.rpc.transport.Network.connect`."""
        client = MemoryClient(self, address, handler)
        client.begin()
        return client

    def listen(
        self, address: str, handler: ServerHandler, options: Mapping[str, int]
    ) -> MemoryListener:
        """As :meth:`txzmq.rpc.transport.Network.listen`.

        A wildcard port becomes a number.

        :param options: with ``USE_FD``, it shares the address with who listens there: either may
            get a connection.
        :raises CannotListenError: if the address is in use.
        """
        address = self._place(address)
        before = self._listeners.get(address)
        if before is not None:
            if "USE_FD" not in options:
                raise _in_use(address)
            self._sharing.setdefault(address, []).append(before)
        listener = self._listeners[address] = MemoryListener(self, address, handler)
        return listener

    def _place(self, address: str) -> str:
        """Where a socket really listens that is to listen at *address*."""
        tcp = split_tcp(address)
        if tcp is None or tcp[1] not in ("*", "0"):
            return address
        host = "0.0.0.0" if tcp[0] == "*" else tcp[0]  # noqa: S104 - in memory
        return f"tcp://{host}:{next(self._ports)}"

    def dial_out(
        self, address: str, handler: WorkerHandler, options: Mapping[str, int]
    ) -> MemoryListener:
        """As :meth:`txzmq.rpc.transport.Network.dial_out`; there are no proxies here."""
        raise NotImplementedError("there are no proxies in memory")

    def publish(
        self, address: str, handler: PublisherHandler, options: Mapping[str, int]
    ) -> MemoryPublisher:
        """As :meth:`txzmq.rpc.transport.Network.publish`; a group has one publisher here.

        A wildcard port becomes a number.

        :raises CannotListenError: if the address is in use.
        """
        knows_subscribers = not is_multicast(address)
        address = self._place(announced(address))
        if address in self._publishers:
            raise _in_use(address)
        publisher = self._publishers[address] = MemoryPublisher(
            self, address, handler, knows_subscribers=knows_subscribers
        )
        return publisher

    def subscribe(
        self, address: str, handler: SubscriberHandler, options: Mapping[str, int]
    ) -> MemorySubscriber:
        """As :meth:`txzmq.rpc.transport.Network.subscribe`."""
        subscriber = MemorySubscriber(self, announced(address), handler)
        subscriber.begin()
        return subscriber

    def when_closed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """As :meth:`txzmq.rpc.transport.Network.when_closed`; this one is never closed."""
        return lambda: None

    # -- for its sockets ---------------------------------------------------------------------

    def publisher(self, address: str) -> MemoryPublisher | None:
        """The publisher at *address*."""
        return self._publishers.get(address)

    def forget_publisher(self, publisher: MemoryPublisher) -> None:
        """Remove a publisher that is closed."""
        if self._publishers.get(publisher.endpoint) is publisher:
            del self._publishers[publisher.endpoint]

    def listener(self, address: str) -> MemoryListener | None:
        """The server's socket that accepts a connection to *address*; of several, any."""
        listener, others = self._listeners.get(address), self._sharing.get(address)
        if listener is not None and others:
            return self._random.choice([listener, *others])
        return listener

    def forget(self, listener: MemoryListener) -> None:
        """Remove a server's socket that is closed."""
        address = listener.endpoint
        others = self._sharing.get(address, [])
        if listener in others:
            others.remove(listener)
        elif self._listeners.get(address) is listener:
            del self._listeners[address]
            if others:
                self._listeners[address] = others.pop()
        if not others:
            self._sharing.pop(address, None)

    def new_peer(self) -> bytes:
        """A routing id as libzmq generates them."""
        return b"\0" + next(self._peers).to_bytes(4, "big")

    def is_full(self) -> bool:
        """Whether a sender's queue is full, as the faults have it."""
        return bool(self._faults.blocked) and self._random.random() < self._faults.blocked

    def has_strangers(self) -> bool:
        """Whether a stranger unsubscribes from what was just subscribed to."""
        return bool(self._faults.strangers) and self._random.random() < self._faults.strangers

    def loses_at_close(self) -> bool:
        """Whether clients lose what was sent just before a socket is closed."""
        probability = self._faults.loss_at_close
        return bool(probability) and self._random.random() < probability

    def tell_of_loss(self, server: MemoryListener, peer: bytes) -> None:
        """Tell a server that a client's connection was lost: now, later, or not at all."""
        faults, chance = self._faults, self._random.random
        unreported = bool(faults.unreported_loss) and chance() < faults.unreported_loss
        if unreported or not self.tells_of_loss:
            server.disconnected(peer, tell=False)
        elif faults.late_loss:
            self.clock.callLater(
                faults.late_loss * chance(), partial(server.disconnected, peer, tell=True)
            )
        else:
            server.disconnected(peer, tell=True)

    def carry(self, arrive: Callable[[], None], kind: MessageKind, parts: Sequence[bytes]) -> None:
        """Call *arrive* later for a message: once, twice or never, as the faults have it."""
        if self._script is not None:
            self._carry_by_script(self._script.arrivals(kind, parts), arrive)
            return
        faults, chance = self._faults, self._random.random
        if faults.loss and chance() < faults.loss:
            return
        copies = 2 if faults.duplication and chance() < faults.duplication else 1
        for _ in range(copies):
            self.clock.callLater(faults.delay * chance() if faults.delay else 0, arrive)

    def carry_subscription(self, arrive: Callable[[], None], kind: MessageKind, tag: bytes) -> None:
        """As :meth:`carry`, for a SUBSCRIBE or UNSUBSCRIBE."""
        if self._script is not None:
            self._carry_by_script(self._script.arrivals(kind, (tag,)), arrive)
            return
        faults, chance = self._faults, self._random.random
        if faults.subscription_loss and chance() < faults.subscription_loss:
            return
        doubled = faults.subscription_duplication
        for _ in range(2 if doubled and chance() < doubled else 1):
            delay = faults.subscription_delay
            self.clock.callLater(delay * chance() if delay else 0, arrive)

    def _carry_by_script(self, arrivals: Sequence[float], arrive: Callable[[], None]) -> None:
        for seconds in arrivals:
            self.clock.callLater(seconds, arrive)
