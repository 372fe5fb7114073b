"""What a handler knows about the call that it serves, and what its own calls inherit."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from twisted.internet.defer import CancelledError, Deferred

from txzmq._identity import Identity
from txzmq._reactor import Clock
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc.metadata import Metadata, MetadataInput, normalise
from txzmq.rpc.records import NOT_ASKED, CallEnd, CallRecord

__all__ = ["Context", "current_context", "detached", "get_current", "set_current"]


class Context:
    """The call that a handler serves, as gRPC's ``ServicerContext`` has it.

    :ivar method: ``/package.Service/Method``.
    :ivar metadata: of the request, as pairs.
    :ivar first_item: the number of the first item of a stream of responses, counted from 1; it is
        not 1 where the stream goes on after another server was lost, see the guide on streams.
    :ivar peer: where the client connected from, for logs: an address, or nothing. It proves
        nothing about who the client is.
    :ivar identity: who calls; None where nobody has authenticated. On a server with
        ``authenticate=`` it is what that has found, such as the user that a token names.
    :ivar peer_identity: whose the connection is, by its key; None on a server without
        ``credentials``. Mostly the same as *identity*: they differ on a server with
        ``authenticate=``.
    """

    __slots__ = (
        "_calls",
        "_cancelled",
        "_clock",
        "_deadline",
        "_ended",
        "arrived",
        "end",
        "first_item",
        "identity",
        "initial_metadata",
        "metadata",
        "method",
        "peer",
        "peer_identity",
        "trailing_metadata",
    )

    def __init__(
        self,
        method: str,
        metadata: Metadata = (),
        peer: str = "",
        *,
        clock: Clock,
        deadline: float | None = None,
        first_item: int = 1,
        arrived: float = 0.0,
        identity: Identity | None = None,
    ) -> None:
        """
        :param clock: tells the time.
        :param deadline: when the call's time is up, in the clock's seconds; None for never.
        :param first_item: the number of the first item of a stream of responses.
        :param arrived: when the request arrived, in the clock's seconds.
        :param identity: who calls, and whose the connection is; None where nobody has
            authenticated.
        """
        self.method = method
        self.metadata = metadata
        self.peer = peer
        self.first_item = first_item
        self.arrived = arrived
        self.identity = self.peer_identity = identity
        # Where the end of the call is told; None as long as nobody has asked.
        self.end: CallEnd | None = None
        #: What goes back with the response, before it and after it.
        self.initial_metadata: Metadata = ()
        self.trailing_metadata: Metadata = ()
        self._clock = clock
        self._deadline = deadline
        self._cancelled: Deferred[str] | None = None
        self._ended: str | None = None
        # The calls that the handler made and that have not ended; made for the first.
        self._calls: dict[Deferred[object], None] | None = None

    def identify(self, identity: Identity | None, peer: Identity | None) -> None:
        """It is known who calls, and whose the connection is; txzmq calls this."""
        self.identity, self.peer_identity = identity, peer

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline, 0.0 when it has passed; None without a deadline."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._clock.seconds())

    def send_initial_metadata(self, metadata: MetadataInput) -> None:
        """Set the metadata that goes in front of the response.

        :raises ValueError: for a key or value that is not allowed, and so TypeError.
        """
        self.initial_metadata = normalise(metadata)

    def set_trailing_metadata(self, metadata: MetadataInput) -> None:
        """Set the metadata that goes behind the response, or with the error.

        :raises ValueError: for a key or value that is not allowed, and so TypeError.
        """
        self.trailing_metadata = normalise(metadata)

    @property
    def cancelled(self) -> Deferred[str]:
        """Fires when nobody wants the result any more: cancelled, too late, or the client gone.

        With the reason in words. It never fires for a call that ends by itself. One Deferred for
        all who ask.
        """
        if self._cancelled is None:
            self._cancelled = TaskDeferred()
            if self._ended is not None:
                self._cancelled.callback(self._ended)
        return self._cancelled

    def ended(self) -> Deferred[CallRecord]:
        """Fires when the call has truly ended, with how it did: status, seconds, items.

        For calls of all four kinds: a stream of responses ends when its last item was given, its
        deadline has passed or nobody wants it any more, long after the handler was called. Never
        fails. Each call returns a Deferred of its own; to cancel it has no effect on the call. Ask
        while the call is served, in an interceptor before it goes on.

        :raises RuntimeError: if the call ended when nobody had asked.
        """
        if self.end is None:
            self.end = CallEnd()
        return self.end.wait()

    def watch_end(self, end: CallEnd) -> None:
        """Somebody waits for the end of the call from its beginning; nobody has asked before."""
        self.end = end

    def end_unasked(self) -> None:
        """The call has ended when nobody had asked for its end."""
        self.end = NOT_ASKED

    def check(self) -> None:
        """Refuse a call that the handler makes: ``CancelledError``, if nobody wants its result."""
        if self._ended is not None:
            raise CancelledError(f"a handler made a call when its own was over: {self._ended}")

    def adopt(self, call: Deferred[object]) -> None:
        """End *call* with this one, at once if this has ended; it is one that the handler made."""
        if self._ended is not None:
            call.cancel()
        elif self._calls is None:
            self._calls = {call: None}
        else:
            self._calls[call] = None

    def release(self, call: Deferred[object]) -> None:
        """A call that the handler made has ended."""
        if self._calls is not None:
            self._calls.pop(call, None)

    def cancel(self, reason: str) -> None:
        """Tell the handler that nobody wants the result, and end the calls that it made."""
        if self._ended is not None:
            return
        self._ended = reason
        calls, self._calls = self._calls, None
        for call in calls or ():
            call.cancel()
        if self._cancelled is not None:
            self._cancelled.callback(reason)


_current: ContextVar[Context | None] = ContextVar("txzmq.rpc.context", default=None)


def current_context() -> Context | None:
    """The call that is being served here; None outside of handlers.

    It is known in a handler, in coroutines and inlineCallbacks that it starts, not in callbacks of
    Deferreds.
    """
    return _current.get()


#: As :func:`current_context`, without a frame of its own: each call that is made asks.
get_current = _current.get


def set_current(context: Context | None) -> None:
    """Say which call is being served in the current :class:`contextvars.Context`."""
    _current.set(context)


@contextmanager
def detached() -> Generator[None]:
    """Make calls that have nothing to do with the one being served.

    Calls made within take neither its deadline nor its end::

        with detached():
            client.record(event, timeout=60)
    """
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)
