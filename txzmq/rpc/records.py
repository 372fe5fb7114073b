"""Calls as they begin and how they ended: the same on both sides and for all four kinds."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, final

from twisted.internet.defer import CancelledError, Deferred

from txzmq._escape import text_of
from txzmq._identity import Identity
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc.errors import Code, RpcError, to_code
from txzmq.rpc.metadata import PREVIOUS_ATTEMPTS, Metadata, MetadataInput, normalise
from txzmq.rpc.method import Kind

__all__ = [
    "NOT_ASKED",
    "CallEnd",
    "CallRecord",
    "Side",
    "StartedCall",
    "Tallied",
    "Tally",
    "status_of_end",
]

#: Digits of a number of attempts that is believed: nobody makes more.
_MOST_DIGITS: Final = 6


class Side(enum.StrEnum):
    """On which side of a call something is seen."""

    CLIENT = "client"
    SERVER = "server"


_CLIENT: Final = Side.CLIENT
_SERVER: Final = Side.SERVER


class StartedCall:
    """A call that has begun, as one side sees it.

    The object that :meth:`Observer.call_ended <txzmq.rpc.Observer.call_ended>` gets for this call
    is the same one, so that it can be a key: ``self.spans[call] = span``.

    :ivar side: which side it is.
    :ivar method: ``/package.Service/Method``, as the client wrote it; empty where the header of the
        request cannot be read.
    :ivar known: whether a service of the server has the method, or a fallback that says so of it
        (``MethodHandler.known``); always True on the client. Where it is False, *method* is
        whatever a peer has sent: do not make a label of it.
    :ivar kind: which of requests and responses stream; of an unknown method, as the request looks.
    :ivar peer: on the server, where the client connected from, or nothing. On the client empty at
        first, and at the end the address of the server to which the request went last.
    :ivar identity: on the server, who calls; None where nobody has authenticated, and on the
        client.
    :ivar metadata: of the request, as pairs.
    :ivar began: when it began, in the reactor's seconds: on the server when the request arrived.
    :ivar request_id: of the request on the wire, 16 bytes, by which the records of both sides are
        found. On the client empty at first, and at the end that of the request which went last, if
        one did. On the server empty where only :meth:`Context.ended() <txzmq.rpc.Context.ended>`
        has asked for the record. A client chooses it, so that it proves nothing.
    """

    __slots__ = (
        "began",
        "identity",
        "kind",
        "known",
        "metadata",
        "method",
        "peer",
        "request_id",
        "side",
    )

    # By position, and no frozen dataclass, which takes three times as long: each call that is
    # observed has one.
    def __init__(
        self,
        side: Side,
        method: str,
        kind: Kind,
        began: float,
        metadata: Metadata = (),
        peer: str = "",
        identity: Identity | None = None,
        known: bool = True,  # as above
        request_id: bytes = b"",
    ) -> None:
        self.side = side
        self.method = method
        self.kind = kind
        self.began = began
        self.metadata = metadata
        self.peer = peer
        self.identity = identity
        self.known = known
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.side} {self.method}>"

    def add_metadata(self, metadata: MetadataInput, *, replace: bool = False) -> None:
        """Send more metadata with the request: the context of a trace, for instance.

        For a client's :meth:`Observer.call_started <txzmq.rpc.Observer.call_started>`; later it
        changes nothing. All attempts and all interceptors see it.

        :param replace: send it in place of what the caller has under the same keys, not behind it.
        :raises RuntimeError: on the server, where the request has arrived.
        :raises ValueError: for a key or value that is not allowed, and so TypeError.
        """
        if self.side is not _CLIENT:
            raise RuntimeError("metadata is added where a call is made, not where it is served")
        added, own = normalise(metadata), self.metadata
        if replace and own:
            keys = {key for key, _ in added}
            own = tuple(pair for pair in own if pair[0] not in keys)
        self.metadata = (*own, *added)


@final
class CallRecord(StartedCall):
    """How a call ended; besides what :class:`StartedCall` says.

    :ivar code: how it ended. On the server, what it says to the client; CANCELLED where nobody
        waits any more. On the client, what its caller gets; UNKNOWN where that is no
        :class:`~txzmq.rpc.RpcError`.
    :ivar message: the message of the error; empty where the code is OK.
    :ivar seconds: from its beginning to its end, by a clock that nobody sets: on the server from
        the request's arrival, on the client from when it was made, or an interceptor asked.
    :ivar requests: 1 where the method takes one. Of a stream: on the client, how many its caller
        has given; on the server, how many the handler was given.
    :ivar responses: on the server, how many the handler gave; on the client, how many arrived.
    :ivar request_bytes: of these requests, serialised, once however many attempts there were.
    :ivar response_bytes: of these responses, serialised.
    :ivar sent: how often a client has sent the request; 0 for a call that never left it. On the
        server 1.
    """

    __slots__ = (
        "code",
        "message",
        "request_bytes",
        "requests",
        "response_bytes",
        "responses",
        "seconds",
        "sent",
    )

    code: Code
    message: str
    seconds: float
    requests: int
    responses: int
    request_bytes: int
    response_bytes: int
    sent: int

    def complete(
        self,
        code: Code,
        message: str,
        now: float,
        requests: int,
        responses: int,
        request_bytes: int,
        response_bytes: int,
        sent: int = 1,
        peer: str | None = None,
        request_id: bytes = b"",
    ) -> None:
        """The call has ended; txzmq calls this once.

        :param now: in the reactor's seconds.
        :param sent: by a client, how often.
        :param peer: the server to which a client has sent it; None on the server.
        :param request_id: of the request that a client has sent last.
        """
        self.code = code
        # As it is on the wire: half of a character cannot be encoded by who exports it. A user may
        # have put anything into an error.
        self.message = f"{message}".encode("utf-8", "replace").decode() if message else ""
        self.seconds = now - self.began
        self.requests = requests
        self.responses = responses
        self.request_bytes = request_bytes
        self.response_bytes = response_bytes
        self.sent = sent
        if peer is not None:
            self.peer = peer
            self.request_id = request_id

    @property
    def attempts(self) -> int:
        """On the client as :attr:`sent`; on the server, which attempt of its call this one is.

        From 1, as its client says.
        """
        if self.side is _CLIENT:
            return self.sent
        for key, value in self.metadata:
            if key == PREVIOUS_ATTEMPTS and isinstance(value, str) and len(value) <= _MOST_DIGITS:
                return 1 + int(value) if value.isascii() and value.isdigit() else 1
        return 1

    def __repr__(self) -> str:
        code = getattr(self, "code", None)
        if code is None:
            return f"<CallRecord {self.side} {self.method}, not ended>"
        return (
            f"<CallRecord {self.side} {self.method} {code.name} {self.seconds:.6f} s, "
            f"{self.requests} requests, {self.responses} responses>"
        )


class Tally(NamedTuple):
    """What a client's call has sent and received.

    :ivar attempts: how often its request was sent.
    :ivar peer: where it was sent last; empty if it was not.
    :ivar requests: that its caller gave.
    :ivar request_bytes: of these.
    :ivar response_bytes: of the responses that have arrived.
    :ivar request_id: of the request that was sent last; empty if none was.
    """

    attempts: int
    peer: str
    requests: int
    request_bytes: int
    response_bytes: int
    request_id: bytes = b""


class Tallied(Protocol):
    """A call that knows what it has sent and received."""

    def tally(self) -> Tally:
        """What it has until now."""
        ...


class CallEnd:
    """The end of a call that somebody waits for; made when the first one asks.

    :ivar begun: from when its seconds count, by the clock.
    :ivar is_over: whether the call has ended.
    :ivar record: the call's; None as long as nothing is known of it but that somebody asks.
    """

    __slots__ = ("_first", "_others", "begun", "is_over", "record")

    def __init__(
        self,
        begun: float = 0.0,
        record: CallRecord | None = None,
        told: Callable[[CallRecord], object] | None = None,
        is_over: bool = False,  # by position, as with StartedCall
    ) -> None:
        """
        :param begun: from when its seconds count, by the clock.
        :param record: of a call that an observer knows of.
        :param told: called with the record, before all others.
        :param is_over: for a call that ended when nobody had asked: there is no record of it.
        """
        self.begun = begun
        self.is_over = is_over
        self.record = record
        self._first = told
        # Most calls have none, and no list for them.
        self._others: list[Callable[[CallRecord], object]] | None = None

    def tell(self, told: Callable[[CallRecord], object]) -> None:
        """Call *told* with the record, once; at once if the call has ended.

        :raises RuntimeError: if the call ended when nobody had asked.
        """
        if not self.is_over:
            if self._others is None:
                self._others = []
            self._others.append(told)
        elif self.record is not None:
            told(self.record)
        else:
            raise RuntimeError(
                "the call has ended, and no record was made of it: ask for its end before going on"
            )

    def wait(self) -> Deferred[CallRecord]:
        """Fires with the record, and never fails. To cancel it has no effect on others.

        :raises RuntimeError: as :meth:`tell`.
        """
        waiting: Deferred[CallRecord] = TaskDeferred()

        def told(record: CallRecord) -> None:
            if not waiting.called:  # or cancelled
                waiting.callback(record)

        self.tell(told)
        return waiting

    def reach(self, record: CallRecord) -> None:
        """The call has ended; does nothing if that is known."""
        if self.is_over:
            return
        self.is_over = True
        self.record = record
        first, others = self._first, self._others
        self._first = self._others = None
        if first is not None:
            first(record)
        if others is not None:
            for told in others:
                told(record)


#: Of a call that has ended when nobody had asked.
NOT_ASKED: Final = CallEnd(is_over=True)


# Any: an error of whatever kind.
def status_of_end(outcome: Any) -> tuple[Code, str]:
    """Code and message of what a call ended with: an error, or anything else for success."""
    if not isinstance(outcome, BaseException) or isinstance(outcome, StopAsyncIteration):
        return Code.OK, ""
    if isinstance(outcome, RpcError):
        return to_code(outcome.code), outcome.message
    if isinstance(outcome, (CancelledError, asyncio.CancelledError)):
        try:
            return Code.CANCELLED, str(outcome) or "the caller cancelled it"
        except Exception:  # noqa: BLE001 - one of the caller's own that cannot say what it is
            return Code.CANCELLED, "the caller cancelled it"
    return Code.UNKNOWN, text_of(outcome)
