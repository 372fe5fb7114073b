"""One stream of responses on the server: its state, and everything that changes it.

A stream lives from the answer to its opening call until its client has had its end. Its handler is
asked for items when the client has subscribed, and while the window has room. What is published is
kept until the client acknowledges it, the end like any item. docs/inside.md has its states.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Iterator
from types import GeneratorType
from typing import Any, Final, Protocol

from google.protobuf.message import EncodeError, Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._ordered_set import OrderedSet
from txzmq._reactor import Clock
from txzmq.rpc._core.coroutines import close_source
from txzmq.rpc._core.deadlines import TICK, Deadlines
from txzmq.rpc._core.handler_style import Runner
from txzmq.rpc._core.interceptors import start
from txzmq.rpc._core.stream_state import ENDED, ENDING, OPEN, OPENING, StreamLife
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc._server.bundle import Bundle
from txzmq.rpc._server.request_stream import ReceivedRequests
from txzmq.rpc._server.shared import SharedKey, SharedRequest, SharedRuns
from txzmq.rpc._server.status import (
    HandlerLog,
    WrongResult,
    encode_reply,
    is_source,
    tell_end,
    too_much_metadata,
)
from txzmq.rpc._wire.headers import OK, ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc._wire.streams import Publication, Sender, new_topic
from txzmq.rpc.context import Context, set_current
from txzmq.rpc.errors import Code, ResourceExhausted
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.metadata import check_size
from txzmq.rpc.method import Kind, Method

__all__ = ["KeptBytes", "ServedStream", "StreamOwner", "StreamPublisher"]

_NO_SURROUNDINGS: Final = contextvars.Context()
#: Seconds. Not 0: virtual time would stand still while a handler gives items without end.
_NEXT_TURN: Final = 1e-6
#: The pauses between heartbeats double up to so many of the first.
_MAX_PAUSE: Final = 8


class KeptBytes:
    """Bytes of items that are not acknowledged, over all streams; they have a limit.

    Past it, no handler is asked for an item until there are fewer.
    """

    __slots__ = ("_waiting", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._waiting: OrderedSet[ServedStream] = OrderedSet()

    def release(self, size: int) -> None:
        """So many bytes are not kept any more."""
        self.size -= size
        if self._waiting and self.size < self.limit:
            for stream in list(self._waiting):
                stream.make_room()

    def wait(self, stream: ServedStream) -> None:
        """Have a stream go on when there are fewer bytes."""
        self._waiting.add(stream)

    def forget(self, stream: ServedStream) -> None:
        """A stream does not wait any more."""
        self._waiting.discard(stream)


class StreamPublisher(Protocol):
    """Where a stream is published."""

    @property
    def multicast(self) -> bool:
        """Whether it reaches all at once, and is not told of subscriptions."""
        ...

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it has a socket."""
        ...

    def publish_soon(self, stream: ServedStream) -> None:
        """Publish what a stream has when the turn ends, or before."""
        ...

    def publish(self, stream: ServedStream) -> None:
        """Publish what a stream has now."""
        ...

    def heartbeat(self, stream: ServedStream) -> None:
        """Tell the client how much has been published."""
        ...

    def bundle(self, client: CallKey, user: str) -> Bundle:
        """Have one more stream of a client published together with its others."""
        ...

    def unbundle(self, bundle: Bundle) -> None:
        """A stream of a bundle has ended."""
        ...


class StreamOwner(Protocol):
    """What a stream needs of the server, the same for all streams."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def guard(self) -> Guard:
        """The thread in which streams change."""
        ...

    @property
    def limits(self) -> ServerLimits:
        """The limits of the server."""
        ...

    @property
    def log(self) -> HandlerLog:
        """How handlers have failed."""
        ...

    @property
    def runner(self) -> Callable[..., Runner]:
        """Makes what runs the coroutine that asks a handler for items."""
        ...

    @property
    def kept(self) -> KeptBytes:
        """The bytes that are not acknowledged."""
        ...

    @property
    def deadlines(self) -> Deadlines[ServedStream]:
        """When streams have to end: :meth:`ServedStream.time_is_up`."""
        ...

    @property
    def graces(self) -> Deadlines[ServedStream]:
        """How long streams wait for a subscriber: :meth:`ServedStream.grace_is_over`."""
        ...

    @property
    def returns(self) -> Deadlines[ServedStream]:
        """How long lost clients may come back to: :meth:`ServedStream.return_is_over`."""
        ...

    @property
    def shared(self) -> SharedRuns[ServedStream]:
        """The streams that calls share."""
        ...

    @property
    def unacknowledged(self) -> OrderedSet[ServedStream]:
        """Streams of which something that was published is not acknowledged."""
        ...

    def count(self, reason: str, /) -> None:
        """Count something that was refused or dropped."""
        ...

    def claimed(self, key: CallKey) -> None:
        """The client has subscribed to the stream of this opening call."""
        ...

    def greet(self, stream: ServedStream) -> None:
        """Somebody may be new to a stream: send a heartbeat, which those who have it answer."""
        ...

    def published(self, stream: ServedStream) -> None:
        """Something of a stream is published: send heartbeats until it is acknowledged."""
        ...

    def handler_ended(self, stream: ServedStream) -> None:
        """The handler of a stream has ended."""
        ...

    def removed(self, stream: ServedStream) -> None:
        """A stream has come to its end on both sides, or was cancelled."""
        ...

    def settled(self) -> None:
        """A handler has ended or a stream was removed: a server that stops may be done."""
        ...


class ServedStream(StreamLife):
    """A stream of responses, from the opening call until the client has had its end.

    It is opening from :meth:`open` on; open from :meth:`start`, with the first sign of a
    subscriber; ending from :meth:`finish`, when the handler ends or must end; ended from
    :meth:`remove`, when the client has acknowledged the end. :meth:`cancel` ends it at any time for
    good. A shared stream is kept for a while when it is ending: nobody acknowledges it. A handler
    that goes on while its stream is ending or ended is :attr:`running`.
    """

    __slots__ = (
        "_begun",
        "_deadline_tick",
        "_grace_tick",
        "_item_type",
        "_owner",
        "_pause",
        "_quiet",
        "_request_bytes",
        "_requests",
        "_return_tick",
        "_room",
        "_runner",
        "_source",
        "_surroundings",
        "bundle",
        "context",
        "heard",
        "key",
        "number",
        "opener",
        "peer",
        "publisher",
        "running",
        "sender",
        "shared",
        "topic",
    )

    def __init__(
        self,
        owner: StreamOwner,
        publisher: StreamPublisher,
        # Any: a server has methods of any messages.
        method: Method[Any, Any],
        context: Context,
        source: object,
        sender: Sender,
        surroundings: contextvars.Context,
        *,
        key: CallKey = (),
        opener: bytes = b"",
        requests: ReceivedRequests | None = None,
        bundle: Bundle | None = None,
        shared: SharedKey | None = None,
        request_bytes: int = 0,
        number: int = 0,
    ) -> None:
        """
        :param source: what the handler returned.
        :param sender: the window, and what is not acknowledged.
        :param surroundings: what the handler runs in.
        :param key: of the opening call; empty if the stream is shared.
        :param opener: in whose name it counts; empty if it is shared.
        :param requests: what the client streams.
        :param bundle: the streams of the client with which it may be published.
        :param shared: what calls with the same request have in common; None of a private stream.
        :param request_bytes: of the request, if there is one.
        :param number: which one it is, among all of the server.
        """
        super().__init__()
        self._owner = owner
        self.publisher = publisher
        # Any: of the method's responses. None when no item is taken any more: it is over.
        self._item_type: type[Any] | None = method.response_type
        self.context = context
        self.number = number
        #: Given up when the handler is asked for items, and so are its surroundings.
        self._source: Any = source
        self._surroundings = surroundings
        self.topic = new_topic()
        self.sender = sender
        #: Of the opening call, until its client has subscribed.
        self.key = key
        #: In whose name it counts; and the routing id of the connection that opened it or has
        #: acknowledged last. Both are empty if it is shared.
        self.opener = opener
        self.peer = key[0] if key else b""
        self._requests = requests
        self._request_bytes = request_bytes
        self.bundle = bundle
        self.shared = shared
        #: Whether the handler has not ended; also before it is asked for the first item.
        self.running = True
        # Whether anything was published.
        self._begun = False
        # Runs the coroutine that asks the handler for items, while it runs.
        self._runner: Runner | None = None
        # Fires when another item may come; None while the handler does not wait.
        self._room: Deferred[None] | None = None
        # What removes the stream from its owner's deadlines, graces and returns; 0 while it is not
        # there.
        self._deadline_tick = 0
        self._grace_tick = 0
        self._return_tick = 0
        #: When the client gave a sign of life last, while one is waited for.
        self.heard = 0.0
        # Ticks since the last heartbeat or publication, and with how many the next one is due.
        self._quiet = 0
        self._pause = 1

    @property
    def waits_for_room(self) -> bool:
        """Whether its handler is not asked for an item: its client, or others, have to read."""
        return self._room is not None

    @property
    def is_kept(self) -> bool:
        """Whether it is a shared stream with its end, which nobody acknowledges."""
        return self.shared is not None and self.state is ENDING

    # -- opening, and who subscribes ---------------------------------------------------------

    def open(self, deadline: float | None) -> None:
        """The opening call is answered: wait for the first subscriber.

        :param deadline: when the stream has to end, by the clock; None for never.
        """
        if deadline is not None:
            self._deadline_tick = self._owner.deadlines.set(self, deadline)
        self._wait_for_subscriber()

    def _wait_for_subscriber(self) -> None:
        self.wait_on(self._owner.limits.stream_grace)

    def wait_on(self, seconds: float) -> None:
        """Wait for a sign of a client, so long from now."""
        owner = self._owner
        self._grace_tick = owner.graces.set(self, owner.clock.seconds() + seconds)

    @property
    def waits_until(self) -> float:
        """When the time for a sign of a client is up, by the clock; it waits for one."""
        return self._grace_tick * TICK

    def subscribed(self) -> None:
        """Somebody has subscribed: a sign that what is published will arrive.

        Nothing but speed hangs on it: libzmq may lose it, and a stranger may send one.
        """
        self._stop_waiting()
        if self.state is OPENING:
            self.start()
        # So that the client hears that its subscription has arrived, and what it has missed.
        self._owner.greet(self)

    def unsubscribed(self) -> None:
        """Somebody does not subscribe any more: perhaps a client that has gone, perhaps a stranger.

        Whoever still has the stream answers the heartbeat.
        """
        if not self.is_kept and not self._grace_tick:
            self._wait_for_subscriber()
            self._owner.greet(self)

    def _stop_waiting(self) -> None:
        """There is a sign of a client that has the stream."""
        if self._grace_tick and not self.is_kept:
            self._owner.graces.remove(self, self._grace_tick)
            self._grace_tick = 0

    def wait_for_return(self) -> None:
        """The connection of a client that shares the stream is lost: it may come back in time."""
        owner = self._owner
        owner.returns.remove(self, self._return_tick)
        until = owner.clock.seconds() + owner.limits.stream_grace
        self._return_tick = owner.returns.set(self, until)

    def return_is_over(self) -> None:
        """Clients that were lost have had the time to come back."""
        self._return_tick = 0
        self._owner.shared.return_is_over(self)

    def grace_is_over(self) -> None:
        """No client has given a sign that it has the stream; or the end was kept long enough."""
        owner = self._owner
        self._grace_tick = 0
        if self.is_kept:
            self.remove()
            owner.settled()
            return
        if self.shared is not None and owner.shared.is_used(self):
            return  # those who share it are asked by themselves
        owner.count("stream without subscriber")
        self.cancel("nobody subscribes to it")

    # -- items -------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask the handler for items from now on."""
        self._enter(OPEN)
        self._owner.claimed(self.key)
        self.key = ()
        source, self._source = self._source, None
        surroundings, self._surroundings = self._surroundings, _NO_SURROUNDINGS
        if self.shared is not None:
            surroundings.run(set_current, self.context)
        self._runner = self._owner.runner(self._run(source), surroundings, _handler_ended, self)
        self._runner.start()

    # Any: whatever a handler returned.
    async def _run(self, source: Any) -> None:
        """Ask the handler for items, as long as there is room for them."""
        if isinstance(source, SharedRequest):
            source = await start(source.handler, self.context, source.request)
            if not is_source(source):
                due = self._item_type or Message  # it is over
                raise WrongResult.returned(source, due, streams=True)
        try:
            if isinstance(source, AsyncIterable):
                items: AsyncIterable[Any] = source  # pyright: ignore[reportUnknownVariableType]  # a user's
                async for item in items:
                    full = self._add(item)
                    del item  # or it is kept until there is another
                    if full:
                        await self._wait_for_room()
            else:
                await self._run_iterable(source)
        except GeneratorExit:
            raise  # the process ends, and nothing can be waited for
        except BaseException:
            await close_source(source)
            raise
        await close_source(source)

    # Any: of items, or of Deferreds of them.
    async def _run_iterable(self, source: Iterable[Any]) -> None:
        if isinstance(source, GeneratorType):
            source = _to_the_end(source)  # pyright: ignore[reportUnknownArgumentType]  # a user's
        for item in source:
            if isinstance(item, Deferred):
                waited: Deferred[Any] = item  # pyright: ignore[reportUnknownVariableType]  # a user's
                full = self._add(await waited)
                del waited
            else:
                full = self._add(item)
            del item  # or it is kept until there is another
            if full:
                await self._wait_for_room()

    def _add(self, item: Message | RawMessage) -> bool:
        """Take an item of the handler; whether the next one has to wait."""
        expected = self._item_type
        if type(item) is not expected:
            if expected is None:
                raise CancelledError("the stream has ended")
            raise WrongResult.item(item, expected.__qualname__)
        try:
            data = item.SerializeToString()
        except EncodeError as error:
            raise WrongResult.incomplete(item) or error from None
        size = len(data)
        owner = self._owner
        if size > owner.limits.message_size:
            raise ResourceExhausted(
                f"an item of the stream has {size} bytes, over the server's limit of "
                f"{owner.limits.message_size} (ServerLimits.message_size)"
            )
        kept, sender = owner.kept, self.sender
        kept.size += size
        if sender.add(data):
            self.publisher.publish(self)
            if self.shared is not None:
                return True  # no client makes it wait, but others are to be served in between
        else:
            self.publisher.publish_soon(self)
        return sender.is_full or kept.size >= kept.limit

    def _wait_for_room(self) -> Deferred[None]:
        """Fires when another item may come."""
        owner = self._owner
        self._room = Deferred()
        if self.shared is not None and owner.kept.size < owner.kept.limit:
            owner.clock.callLater(_NEXT_TURN, self.make_room)
        elif not self.sender.is_full:
            owner.kept.wait(self)
        return self._room

    def make_room(self) -> None:
        """Let the handler go on if it waits and there is room for another item."""
        room = self._room
        if room is None or self.sender.is_full:
            return
        kept = self._owner.kept
        if kept.size >= kept.limit:
            kept.wait(self)
            return
        self._room = None
        kept.forget(self)
        room.callback(None)

    def take(self) -> Publication | None:
        """What is to be published now; None if there is nothing new."""
        if not self._begun:
            self._begin()
        self._quiet = 0
        self._pause = 1
        owner = self._owner
        if self not in owner.unacknowledged:
            self.heard = owner.clock.seconds()
            owner.published(self)
        return self.sender.take()

    def _begin(self) -> None:
        """The initial metadata goes out with the first item."""
        self._begun = True
        initial = self.context.initial_metadata
        if initial and check_size(initial, self._owner.limits.metadata_size):
            self.sender.start(encode_reply(ResponseHead(initial=initial))[0])

    def released(self, size: int) -> None:
        """So many bytes of it are not kept any more."""
        self._owner.kept.release(size)

    # -- what its clients say ----------------------------------------------------------------

    def acknowledge(self, sequence: int, peer: bytes) -> None:
        """A client has everything before an item."""
        owner, sender = self._owner, self.sender
        if self.state is not OPENING:  # else nobody can have heard anything of it
            self._stop_waiting()
        if self.shared is None:
            self.peer = peer
        self.heard = owner.clock.seconds()
        size = sender.size
        if not sender.acknowledge(sequence):
            return
        owner.kept.release(size - sender.size)
        if not len(sender):
            owner.unacknowledged.discard(self)
            self.heard = 0.0
        if sender.is_done:
            self.remove()
            owner.settled()
        else:
            self.make_room()

    def replay(self, sequence: int) -> Publication:
        """What a client asks for again, from an item on."""
        self._stop_waiting()
        if self.state is OPENING:
            self.start()  # the subscription is late or lost, or a group does not tell of it
        self.publisher.publish(self)
        self._owner.greet(self)  # whoever hears it has subscribed, and asks no more
        self.heard = self._owner.clock.seconds()
        self._owner.count("replay")
        return self.sender.replay(sequence)

    def hear(self, now: float) -> None:
        """Count a moment as a sign of life of the client."""
        self.heard = now

    def tick(self) -> None:
        """Another second without acknowledgement has passed: send a heartbeat if one is due."""
        self._quiet += 1
        if self._quiet >= self._pause:
            self._quiet = 0
            self._pause = min(2 * self._pause, _MAX_PAUSE)
            self.publisher.heartbeat(self)

    # -- the end -----------------------------------------------------------------------------

    def handler_ended(self, result: object) -> None:
        """The handler has ended, by itself or because it was interrupted.

        :param result: a Failure, or anything else for success.
        """
        owner = self._owner
        if owner.guard.report_wrong_thread(self.handler_ended):
            return
        self._runner = None
        self._room = None
        self._close_requests()
        self.running = False
        owner.kept.forget(self)
        owner.handler_ended(self)
        if self.is_over:
            if isinstance(result, Failure):
                owner.log.log_late(result, self.context)
        elif isinstance(result, Failure):
            self.finish(owner.log.status_of(result, self.context))
        else:
            self.finish(OK)
        owner.settled()

    def _close_requests(self) -> None:
        if self._requests is not None:
            self._requests.close()

    def finish(self, head: ResponseHead) -> None:
        """Publish the end; the stream is kept until the client has it."""
        owner, context = self._owner, self.context
        head = head._replace(trailing=(*context.trailing_metadata, *head.trailing))
        limit = owner.limits.metadata_size
        if not check_size((*head.trailing, *head.initial), limit):
            head = too_much_metadata("response", limit)
        header = encode_reply(head)[0]
        self._enter(ENDING)
        self.sender.end(header)
        self._item_type = None
        owner.deadlines.remove(self, self._deadline_tick)
        if self.shared is not None:
            # Nobody acknowledges it, so it is kept for a while.
            owner.shared.end(self.publisher, self.shared, self, head)
            owner.graces.remove(self, self._grace_tick)
            self._wait_for_subscriber()
        self.publisher.publish_soon(self)
        self._tell_end(head)

    def _tell_end(self, head: ResponseHead) -> None:
        """Its end is known on this side: tell those who asked."""
        requests, sender = self._requests, self.sender
        if requests is None:
            kind, taken, size = Kind.UNARY_STREAM, 1, self._request_bytes
        else:
            kind, taken, size = Kind.STREAM_STREAM, requests.taken, requests.taken_bytes
        now = self._owner.clock.seconds()
        tell_end(self.context, kind, head, now, taken, sender.count, size, sender.given_bytes)
        if self.shared is not None:
            self._owner.shared.tell()

    def time_is_up(self) -> None:
        """Its deadline has passed."""
        if self.is_over:
            return
        status = ResponseHead(
            Code.DEADLINE_EXCEEDED, "the stream's time was up on the server; it was cut short"
        )
        self.finish(status)
        self._interrupt("its deadline has passed")

    def shut_down(self) -> None:
        """The server shuts down."""
        if not self.is_over:
            self.finish(ResponseHead(Code.UNAVAILABLE, "the server shut down", draining=True))
        self._interrupt("the server shuts down")

    def cancel(self, reason: str) -> None:
        """Nobody wants the stream any more."""
        if self.state is ENDED:
            return
        self.remove()
        self._interrupt(reason)
        self._owner.settled()
        self._tell_end(ResponseHead(Code.CANCELLED, reason))

    def caller_gave_no_sign(self, peer: bytes) -> None:
        """A client that shares the stream has been silent for too long."""
        self._owner.count("silent subscriber")
        self._owner.shared.give_up(self, peer)

    def give_up(self) -> None:
        """The client has been silent for too long."""
        self._owner.count("silent subscriber")
        self.cancel("the client has stopped answering")

    def _interrupt(self, reason: str) -> None:
        """Have the handler end."""
        self.context.cancel(reason)
        self._close_requests()
        if self._runner is not None:
            self._runner.cancel()
        elif self._source is not None:  # nobody has subscribed
            source, self._source = self._source, None
            context = contextvars.copy_context()
            self._owner.runner(close_source(source), context, _handler_ended, self).start()

    def remove(self) -> None:
        """The client has had the end, or nobody wants it: nothing is kept or published any more."""
        if self.state is ENDED:
            return
        self._enter(ENDED)
        self._item_type = None
        owner = self._owner
        owner.removed(self)
        if self.shared is not None:
            owner.shared.end(self.publisher, self.shared, self)
        bundle, self.bundle = self.bundle, None
        if bundle is not None:
            self.publisher.unbundle(bundle)
        owner.deadlines.remove(self, self._deadline_tick)
        owner.graces.remove(self, self._grace_tick)
        owner.returns.remove(self, self._return_tick)
        owner.kept.forget(self)
        owner.kept.release(self.sender.size)


# One function for all streams, in place of a bound method for each.
# Any: of items, or of Deferreds of them.
def _to_the_end(items: Generator[Any, None, object]) -> Iterator[Any]:
    """The items of a generator, which may not return anything: nobody would get it."""
    last = yield from items
    if last is not None:
        raise WrongResult.last(last)


def _handler_ended(result: Failure | None, stream: ServedStream) -> None:
    stream.handler_ended(result)
