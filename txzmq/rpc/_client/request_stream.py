"""The client's end of a stream of requests: asks the caller for items, sends them, keeps them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txzmq.rpc._client.attempts import StreamAttempts, fate_of
from txzmq.rpc._client.call import Call, too_large
from txzmq.rpc._core.coroutines import close_source
from txzmq.rpc._wire.headers import (
    TOPIC_SIZE,
    OpenStream,
    RequestHead,
    ResponseHead,
    encode_request,
)
from txzmq.rpc._wire.streams import Publication, Sender
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.limits import REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES
from txzmq.rpc.method import Method
from txzmq.rpc.v1 import streams_pb2

if TYPE_CHECKING:
    from txzmq.rpc._client.call import Carrier
    from txzmq.rpc._client.stream_control import Hub

__all__ = ["SEND", "Requests", "RequestsCall"]

SEND: Final = encode_request(RequestHead("/txzmq.rpc.v1.Streams/Send", 30_000_000, ()))


class Requests:
    """The requests of one call.

    The caller's items are asked for when the opening call has a connection, and not beyond the
    window.
    """

    __slots__ = (
        "_ask_next",
        "_asked",
        "_ended",
        "_failed",
        "_held",
        "_held_bytes",
        "_hub",
        "_method",
        "_over",
        "_pump",
        "_room",
        "_sender",
        "_size",
        "_source",
        "_unasked",
        "_unasked_bytes",
        "id",
    )

    def __init__(
        self,
        # Any: the caller's signature types the items.
        method: Method[Any, Any],
        source: Any,
        size: int,
        failed: Callable[[Exception], None],
    ) -> None:
        """
        :param source: what the caller gave: an iterable, or an asynchronous one.
        :param size: bytes that an item may have.
        :param failed: called with what asking for an item raised; the call is of no use then.
        """
        self.id = os.urandom(TOPIC_SIZE)
        self._method = method
        self._source: Any = source
        self._size = size
        self._failed = failed
        self._sender = Sender(REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES)
        # All items, for the case that the call is made again; None if it cannot be, any more.
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        # None where it has no connection yet, or between two attempts.
        self._hub: Hub | None = None
        # Whether the call has ended.
        self._over = False
        self._pump: Deferred[None] | None = None
        self._room: Deferred[None] | None = None
        # Whether the end was sent.
        self._ended = False
        # Acknowledgements that are waited for, and whether to ask for another one; what was sent
        # since the last one was asked for.
        self._asked = 0
        self._ask_next = False
        self._unasked = 0
        self._unasked_bytes = 0

    def carried(self, carrier: Carrier) -> None:
        """The opening call is with a connection, which sends it before anything else of the call.

        Or it waits for one, and this is told again.
        """
        hub: Hub | None = getattr(carrier, "hub", None)
        if hub is None:
            return
        if self._hub is not None:
            self._hub.requests_ended(self)
        self._hub = hub
        hub.requests_begun(self)
        if self._source is not None:
            source, self._source = self._source, None
            pump = Deferred.fromCoroutine(self._ask(source))
            if not pump.called:
                self._pump = pump
            pump.addErrback(self._asking_failed)
        else:
            self._send_all_again()

    async def _ask(self, source: Any) -> None:
        """Ask the caller for items, as long as there is room for them."""
        try:
            if isinstance(source, AsyncIterable):
                items: AsyncIterable[Any] = source  # pyright: ignore[reportUnknownVariableType]  # the caller's
                async for item in items:
                    if self._add(item):
                        await self._wait()
            else:
                one_by_one: Iterable[Any] = source
                for item in one_by_one:
                    if self._add(item):
                        await self._wait()
            self._sender.end(b"")
            if self._hub is not None:
                self._hub.send_requests_soon(self)
        except GeneratorExit:
            raise  # the process ends, and nothing can be waited for
        except BaseException:
            self._pump = None
            await close_source(source)
            raise
        self._pump = None
        await close_source(source)

    def _add(self, item: Any) -> bool:
        expected = self._method.request_type
        if type(item) is not expected:
            raise TypeError(
                f"{self._method.path} takes {expected.__name__}, not {type(item).__name__}"
            )
        data = item.SerializeToString()
        if len(data) > self._size:
            raise too_large("item of the stream", len(data), self._size)
        sender, hub = self._sender, self._hub
        if self._over:
            raise CancelledError("the call has ended")
        if self._held is not None:
            self._hold(self._held, data)
        enough = sender.add(data)
        if hub is None:
            pass  # the next attempt sends it
        elif enough:
            hub.send_requests(self)
        else:
            hub.send_requests_soon(self)
        return sender.is_full

    def _wait(self) -> Deferred[None]:
        self._room = Deferred()
        return self._room

    def _asking_failed(self, failure: Failure) -> None:
        error = failure.value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # Twisted's
        if not self._over and isinstance(error, Exception):
            self._failed(error)

    @property
    def is_unacknowledged(self) -> bool:
        """Whether something was sent and not acknowledged."""
        return len(self._sender) > 0

    def ask(self) -> None:
        """Ask for an acknowledgement with what is sent next, if none is on its way."""
        self._ask_next = not self._asked

    def _send(self, call: Callable[..., bool], publication: Publication) -> bool:
        sequence, items, end, _ = publication
        self._unasked += len(items)
        self._unasked_bytes += sum(map(len, items))
        ask = (
            self._ask_next
            or end is not None
            or self._unasked >= REQUESTS_WINDOW // 2
            or self._unasked_bytes >= REQUESTS_WINDOW_BYTES // 2
        )
        body = streams_pb2.SendRequest(
            requests=self.id,
            sequence=sequence,
            items=items,
            end=end is not None,
            acknowledge=ask,
        ).SerializeToString()
        if not ask:
            return call(SEND, body, None)
        if not call(SEND, body, partial(self._answered, self.id)):
            return False
        self._asked += 1
        self._ask_next = False
        self._unasked = self._unasked_bytes = 0
        return True

    def send(self, call: Callable[..., bool]) -> bool:
        """Send what is new, if there is room; whether there was.

        :param call: makes a control call.
        """
        publication = None if self._ended else self._sender.take()
        if publication is None:
            if not self._ask_next:
                return True
            publication = self._sender.heartbeat
        self._ended = self._ended or publication.end is not None
        # What could not be sent is sent later, with all that is not acknowledged.
        return self._send(call, publication)

    def _answered(self, id: bytes, head: ResponseHead | None, body: bytes) -> None:
        if id != self.id:
            return  # of an attempt that has come to nothing
        self._asked -= 1
        hub = self._hub
        if hub is None:
            return
        if head is None or head.code is Code.OUT_OF_RANGE:
            hub.send_requests_again(self)
            return
        if head.code is not Code.OK:
            return  # the call has ended, and its own reply says how
        try:
            response = streams_pb2.SendResponse.FromString(body)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            return
        sender = self._sender
        # The end is the last of what is acknowledged, and of no interest then.
        if sender.acknowledge(min(response.taken + 1, sender.sequence)) and not sender.is_full:
            room, self._room = self._room, None
            if room is not None:
                room.callback(None)

    def _send_all_again(self) -> None:
        if self._hub is not None:
            self._hub.send_requests_again(self)

    def again(self, call: Callable[..., bool]) -> bool:
        """Send all that is not acknowledged once more, if there is room; whether there was."""
        sender = self._sender
        if not self._ended:
            sender.take()
        self._ended = sender.ended
        sequence = sender.acknowledged
        while sequence < sender.sequence:
            publication = sender.replay(sequence)
            if not self._send(call, publication):
                return False
            sequence += len(publication.items) + (publication.end is not None)
        return True

    def hold(self) -> None:
        """Keep all items from the first one on, as long as they are no more than a window."""
        self._held = []

    def _hold(self, held: list[bytes], item: bytes) -> None:
        held.append(item)
        self._held_bytes += len(item)
        if len(held) > REQUESTS_WINDOW or self._held_bytes > REQUESTS_WINDOW_BYTES:
            self.let_go()

    def let_go(self) -> None:
        """The call will not be made again."""
        self._held = None

    @property
    def are_held(self) -> bool:
        """Whether all that was sent can be sent to another server."""
        return self._held is not None

    def rewind(self) -> None:
        """The attempt has failed; the next one gets all from the beginning, under another id."""
        assert self._held is not None, "somebody has looked"
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.requests_ended(self)
        self.id = os.urandom(TOPIC_SIZE)
        sender = Sender(REQUESTS_WINDOW, REQUESTS_WINDOW_BYTES)
        for item in self._held:
            sender.add(item)
        if self._sender.ended:
            sender.end(b"")
        self._sender = sender
        self._ended = False
        self._asked = self._unasked = self._unasked_bytes = 0
        self._ask_next = False

    def stop(self) -> None:
        """The call has ended: ask the caller for no more."""
        self._over = True
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.requests_ended(self)
        self._source = None
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()


class RequestsCall(Call):
    """A call with a stream of requests and one response."""

    __slots__ = ("_carrier", "_unexecuted", "attempts", "requests")

    #: Set when it is made.
    requests: Requests

    def __init__(self, *arguments: Any):
        """:param arguments: as a :class:`Call`'s."""
        super().__init__(*arguments)
        #: By what policy it is repeated; None for none, and when it has ended.
        self.attempts: StreamAttempts | None = None
        # Whether a server says that it had not begun with it.
        self._unexecuted = False

    # A property in place of the attribute: to learn which connection has it.
    @property
    def carrier(self) -> Carrier | None:
        """Where it waits to be sent, or was sent."""
        return self._carrier

    @carrier.setter
    def carrier(  # pyright: ignore[reportIncompatibleVariableOverride]  # a property for an attribute
        self, carrier: Carrier | None
    ) -> None:
        self._carrier = carrier
        if carrier is not None:
            self.requests.carried(carrier)

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply is there."""
        if head.code is Code.OK and self.attempts is not None and not self.deferred.called:
            self.attempts.succeeded()
            self.attempts = None
        super().finish(head, body)

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        """The reply is an error."""
        if self.attempts is None:
            super().refused(head, error)
        else:
            self._unexecuted = head.not_executed
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """There will be no reply to this attempt."""
        if not self._is_repeated(error):
            super().fail(error)

    def _is_repeated(self, error: Exception) -> bool:
        attempts = self.attempts
        if (
            attempts is None
            or self.deferred.called
            or not isinstance(error, RpcError)
            or not self.requests.are_held
        ):
            return False
        fate = fate_of(self, unexecuted=self._unexecuted)
        carrier, self._carrier = self._carrier, None
        self.counter = 0
        self._unexecuted = False
        self.requests.rewind()
        self.book.rests(self)
        return attempts.failed(error, fate, carrier, self.deadline)

    def again(self) -> None:
        """Make another attempt."""
        attempts = self.attempts
        assert attempts is not None, "it is repeated"
        self.book.goes_on(self)
        open_stream = OpenStream(requests=self.requests.id)
        self.head = attempts.head(self.head)._replace(open_stream=open_stream)
        self.has_waited(self.book.clock.seconds())
        self.used = attempts.used
        attempts.start(self)

    def _end(self) -> None:
        super()._end()
        self.requests.stop()
        attempts, self.attempts = self.attempts, None
        if attempts is not None:
            attempts.stop()
            self.book.goes_on(self)

    def requests_failed(self, error: Exception) -> None:
        """The caller's items came to a bad end."""
        if self.carrier is not None:
            self.carrier.cancel(self)
        super().fail(error)
