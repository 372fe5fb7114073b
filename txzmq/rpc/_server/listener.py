"""One listening socket of a server: requests in, replies out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from typing import Final, Protocol

from twisted.logger import Logger

from txzmq._identity import Identity, key_of, user_of
from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.transport import SendResult, ServerTransport
from txzmq.rpc._server.ages import ConnectionAges, PeerAge
from txzmq.rpc._server.backlogs import Backlog, BacklogBytes
from txzmq.rpc._server.call import ServedCall
from txzmq.rpc._server.peers import PeerRecords
from txzmq.rpc._server.publisher import Publisher
from txzmq.rpc._server.status import encode_reply
from txzmq.rpc._server.watchdog import Watchdog
from txzmq.rpc._wire.batches import EARLY_BATCH, MAX_BATCH, MAX_BATCH_SIZE, MAX_BATCHED_SIZE
from txzmq.rpc._wire.control import CONTROL_PATHS
from txzmq.rpc._wire.headers import OK, ResponseHead, encode_response
from txzmq.rpc._wire.server import CallKey, Refusal, Request, ServerWire
from txzmq.rpc.errors import Code
from txzmq.rpc.limits import ServerLimits

__all__ = ["Listener", "ListenerOwner"]

_log = Logger()
#: Seconds after which a reply is tried again that a slow peer had no room for.
_RETRY: Final = 0.02
#: The parts of the key of a call that came through no proxy.
_DIRECT: Final = 2
#: The parts of a batch, with its peer's routing id; a reply by itself has more.
_BATCH_PARTS: Final = 4
#: To a request that comes when the grace of an aged connection is over.
_TOO_OLD: Final = ResponseHead(
    Code.UNAVAILABLE,
    "the connection has lasted for its age and grace (ServerLimits.connection_age), and the server "
    "takes no more calls on it; the call was not executed",
    not_executed=True,
)


class ListenerOwner(Protocol):
    """What a listener hands its requests to."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def limits(self) -> ServerLimits:
        """The limits of the server."""
        ...

    @property
    def is_guarded(self) -> bool:
        """Whether there are rules who may call what."""
        ...

    @property
    def backlog(self) -> BacklogBytes:
        """What waits for slow clients, over all listeners."""
        ...

    @property
    def batching(self) -> bool:
        """Whether several replies may travel as one message to clients that understand it."""
        ...

    @property
    def watchdog(self) -> Watchdog:
        """Notices that the reactor stood still."""
        ...

    @property
    def ages(self) -> ConnectionAges | None:
        """Counts the time of connections; None where they may last for any time."""
        ...

    @property
    def peer_numbers(self) -> count[int] | None:
        """Of the connections that are remembered; None where none are."""
        ...

    @property
    def local_only(self) -> frozenset[str]:
        """The methods that only callers on this machine may call, by their paths."""
        ...

    def accept(self, listener: Listener, request: Request, arrived: float) -> None:
        """Take a request on that arrived at a time by the clock, or refuse it."""
        ...

    def deny_from_afar(self, listener: Listener, request: Request, arrived: float) -> None:
        """Refuse a call of a method that only callers on this machine may call."""
        ...

    def stood_still(self, now: float) -> None:
        """The watchdog's time is past since a message was read."""
        ...

    def was_blocked(self, now: float) -> None:
        """The watchdog's time is past, between two messages."""
        ...

    def turned_away(self, listener: Listener, refusal: Refusal, arrived: float) -> None:
        """A request was refused that cannot be read."""
        ...

    def abandon(self, calls: Iterable[ServedCall], reason: str) -> None:
        """End calls whose result nobody wants."""
        ...

    def end_calls(self, calls: Iterable[ServedCall], reason: str) -> None:
        """Answer calls with UNAVAILABLE, and cancel their handlers."""
        ...

    def count(self, reason: str) -> None:
        """Count a message that was dropped."""
        ...

    def peer_lost(self, peer: bytes) -> None:
        """A client's connection is gone."""
        ...

    def client_lost(self, address: str, calls: int) -> None:
        """A client has gone, and with it so many calls."""
        ...

    def settled(self) -> None:
        """A listener has sent what it had."""
        ...

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        ...


class Listener:
    """A socket, and the calls that came by it (a :class:`ServerHandler`).

    Replies are sent when the reactor's turn ends, or when there are enough for one client.
    """

    # Each call reads a dozen; a dictionary of so many would be slower.
    __slots__ = (
        "_accept",
        "_accept_usually",
        "_addresses",
        "_aged",
        "_ages",
        "_ages_peers",
        "_backlogs",
        "_companion",
        "_companion_folder",
        "_draining",
        "_expired",
        "_held",
        "_is_given",
        "_is_local",
        "_is_replaced",
        "_outgoing",
        "_retry",
        "_seconds",
        "_tells",
        "_watchdog",
        "authenticates",
        "for_proxy",
        "identity",
        "is_guarded",
        "multicast",
        "owner",
        "publisher",
        "records",
        "transport",
        "wire",
    )

    def __init__(self, owner: ListenerOwner, *, for_proxy: bool = False) -> None:
        """:param for_proxy: whether clients come through a proxy that this connects to."""
        self.owner = owner
        # Whether only this machine can reach it, or only this user.
        self._is_local = False
        self._is_given = False
        self.for_proxy = for_proxy
        self.wire: ServerWire[ServedCall] = ServerWire(owner.limits.metadata_size)
        # Whether clients are to be told to go elsewhere, or to connect anew.
        self._draining = self._is_replaced = False
        # The time of each client's connection; those that were told to connect anew, and those
        # whose grace is over.
        self._ages: dict[bytes, PeerAge] = {}
        self._aged: set[bytes] = set()
        self._expired: set[bytes] = set()
        # Whether replies may have to tell their clients to go elsewhere, or to connect anew.
        self._tells = False
        self._accept_usually = self._accept_local_only if owner.local_only else owner.accept
        self._accept = self._accept_usually
        #: What is remembered of its connections; None where nothing is.
        self.records: PeerRecords | None = None
        if owner.peer_numbers is not None:
            self.records = PeerRecords(owner.peer_numbers)
            self.wire.when_new(self._appeared)
            self.wire.when_introduced(self.records.introduced)
        # Whether the time of connections is counted.
        self._ages_peers = False
        self.transport: ServerTransport | None = None
        #: Publishes the streams that are opened here.
        self.publisher: Publisher | None = None
        # The publisher's socket, if nobody else removes it; and whether its folder is libzmq's.
        self._companion: str | None = None
        self._companion_folder = False
        #: Publishes those of them that are shared, to all clients at once; None if there is none.
        self.multicast: Publisher | None = None
        # Refusals that wait until their requests may come again, by peer.
        self._held: dict[bytes, list[tuple[CallKey, ResponseHead]]] = {}
        # Replies of this turn, by peer: key, header and body.
        self._outgoing: dict[bytes, list[tuple[CallKey, bytes, bytes]]] = {}
        self._backlogs: dict[bytes, Backlog] = {}
        self._retry = ResettableTimer(owner.clock, self._try_again)
        self._addresses: dict[bytes, str] = {}
        # At hand, since each message needs them.
        self._seconds = owner.clock.seconds
        self._watchdog = owner.watchdog
        #: Whether clients authenticate, and who has sent what is being received.
        self.authenticates = False
        #: Whether there are rules who may call what.
        self.is_guarded = owner.is_guarded
        self.identity: Identity | None = None

    def opened(
        self, transport: ServerTransport, *, is_local: bool = False, is_given: bool = False
    ) -> None:
        """It has a socket.

        :param is_local: whether only this machine can reach it, or only this user.
        :param is_given: whether somebody else has made it, who may give it to another process.
        """
        self.transport = transport
        self._is_local = is_local
        self._is_given = is_given
        self.authenticates = transport.authenticates
        self.is_guarded = self.authenticates or self.owner.is_guarded
        # A proxy gives requests of many clients, and inproc has no connections that end.
        if self.owner.ages is not None and transport.tells_of_loss and not self.for_proxy:
            self._ages_peers = True
            self.wire.when_new(self._appeared)

    def publish_by(self, publisher: Publisher) -> None:
        """Have a publisher publish the streams that are opened here; closed with the listener."""
        if publisher.multicast:
            self.multicast = publisher
        else:
            self.publisher = publisher

    # -- requests ----------------------------------------------------------------------------

    def received(self, message: list[bytes]) -> None:
        """Serve requests, or refuse them."""
        owner = self.owner
        if self.authenticates and self.transport is not None:
            self.identity = self.transport.sender()
        # One time for all requests of a batch: the handlers of the first use up time of the others.
        arrived = self._seconds()
        if arrived > self._watchdog.late_after:
            owner.was_blocked(arrived)
        if self._backlogs and self._takes_nothing(message):
            return
        if self.wire.is_batch(message):
            accept = self._accept
            for event in self.wire.receive_batch(message):
                if isinstance(event, Request):
                    accept(self, event, arrived)
                else:
                    self._refuse(event, arrived)
        else:
            single = self.wire.receive(message)
            if isinstance(single, Request):
                self._accept(self, single, arrived)
            elif single is not None:
                self._refuse(single, arrived)
        now = self._seconds()
        if now > self._watchdog.late_after:
            owner.stood_still(now)

    @property
    def endpoint(self) -> str:
        """Where it listens, or which proxy it connects to; empty while it has no socket."""
        return "" if self.transport is None else self.transport.endpoint

    def call_started(self, peer: bytes) -> None:
        """Count a call of a peer, where connections are remembered."""
        if self.records is not None:
            self.records.call_started(peer)

    @property
    def user(self) -> str:
        """Whose the message is that is being received; empty where nobody has authenticated."""
        return user_of(self.identity)

    def _takes_nothing(self, message: list[bytes]) -> bool:
        """Whether so much waits for the sender that its message is dropped.

        An answer would have to wait, too. What it has sent before is answered.
        """
        backlog = self._backlogs.get(message[0]) if message else None
        if backlog is None or not self.owner.backlog.is_full(backlog.size):
            return False
        self.owner.count("request of a client whose backlog is full")
        return True

    def _refuse(self, refusal: Refusal, arrived: float) -> None:
        status = ResponseHead(refusal.code, refusal.reason, not_executed=True)
        self.answer(refusal.key, status)
        self.owner.turned_away(self, refusal, arrived)

    def hold(self, key: CallKey, head: ResponseHead) -> None:
        """Refuse a request when :meth:`release` is called, so that it comes again after that.

        At once where so many of its peer's wait that more would take too much memory.
        """
        held = self._held.setdefault(key[0], [])
        if len(held) < self.owner.limits.queued_per_peer:
            held.append((key, head))
        else:
            self.answer(key, head)

    def release(self) -> None:
        """Answer what is held."""
        held, self._held = self._held, {}
        for refusals in held.values():
            for key, head in refusals:
                self.answer(key, head)

    @property
    def has_input(self) -> bool:
        """Whether messages have arrived that were not read yet."""
        return self.transport is not None and self.transport.has_input()

    def peer_address(self, peer: bytes) -> str:
        """Where a peer connected from; empty if that is not known."""
        address = self._addresses.get(peer)
        if address is None:
            address = "" if self.transport is None else self.transport.peer_address(peer)
            if len(self._addresses) >= 10_000:
                self._addresses.clear()  # of transports that never tell of a peer's end
            self._addresses[peer] = address
        return address

    def peer_lost(self, peer: bytes) -> None:
        """End the calls of a client that has gone."""
        address = self._addresses.pop(peer, "")
        if self.records is not None:
            self.records.lost(peer)
        self._held.pop(peer, None)
        self._outgoing.pop(peer, None)
        backlog = self._backlogs.pop(peer, None)
        if backlog is not None:
            backlog.drop()
        age = self._ages.pop(peer, None)
        if age is not None:
            age.stop()
            self._renewed(peer)
        calls = self.wire.lost(peer)
        self.owner.abandon(calls, "the client has gone")
        self.owner.peer_lost(peer)
        self.owner.client_lost(address, len(calls))
        if self._draining or self._is_replaced:
            self.owner.settled()

    # -- connections that have lasted long enough --------------------------------------------

    def _appeared(self, peer: bytes) -> None:
        """A client has sent its first message."""
        if self.records is not None:
            is_told = self.transport is not None and self.transport.tells_of_loss
            known = None if is_told else self._known_peers
            self.records.appeared(peer, self._seconds(), self.user, key_of(self.identity), known)
        if not self._ages_peers:
            return
        ages, transport = self.owner.ages, self.transport
        if ages is not None and transport is not None and peer not in self._ages:
            self._ages[peer] = ages.begin(
                self, peer, transport.connection_of(peer), key_of(self.identity)
            )

    def _known_peers(self) -> list[bytes]:
        return self.wire.peers

    def tell_to_reconnect(self, peer: bytes) -> bool:
        """Tell a client that it is to connect anew; False if it cannot be told: it is a proxy."""
        notices = self.wire.notices(peer)
        if notices:
            self._aged.add(peer)
            self._tells = True
        for key in notices:
            self.answer(key, OK)
        return bool(notices)

    def grace_is_over(self, peer: bytes) -> None:
        """End the calls of a client that was told, and refuse further ones."""
        self._expired.add(peer)
        self._accept = self._accept_unless_expired
        reason = "its connection has lasted for its age and grace (ServerLimits.connection_age)"
        self.owner.end_calls(self.wire.calls_of(peer), reason)

    def _accept_unless_expired(self, listener: Listener, request: Request, arrived: float) -> None:
        """Take a request on, unless its connection is about to be ended."""
        key, head = request.key, request.head
        # A request with a key may repeat one that was executed, and nobody may say that it was not.
        if key[0] in self._expired and head.path not in CONTROL_PATHS and not head.request_key:
            self.answer(key, _TOO_OLD)
        else:
            self._accept_usually(listener, request, arrived)

    def _accept_local_only(self, listener: Listener, request: Request, arrived: float) -> None:
        """Take a request on, unless only callers on this machine may make it, and this is none."""
        # Behind a proxy there may be anybody.
        is_local = self._is_local and len(request.key) == _DIRECT
        if request.head.path in self.owner.local_only and not is_local:
            self.owner.deny_from_afar(listener, request, arrived)
        else:
            self.owner.accept(listener, request, arrived)

    def left(self, key: CallKey) -> None:
        """A client sends no more calls on its connection."""
        self.wire.leave(key)
        age = self._ages.get(key[0])
        if age is not None and (self._is_replaced or key[0] in self._aged):
            age.left()

    def _renewed(self, peer: bytes) -> None:
        """A client that was told has gone."""
        self._aged.discard(peer)
        self._expired.discard(peer)
        self._tells = self._draining or self._is_replaced or bool(self._aged)
        if not self._expired:
            self._accept = self._accept_usually

    # -- replies -----------------------------------------------------------------------------

    def answer(self, key: CallKey, head: ResponseHead, body: bytes = b"") -> None:
        """Reply to a request, when the turn ends at the latest; later, if its peer has no room."""
        if self.wire.asks(key) and self.owner.batching:
            head = head._replace(accepts_batches=True)
        if self._tells and len(key) == 2:
            head = self._told(key[0], head)
        header = b""
        if head is not OK:
            header, body = encode_reply(head, body)
        if not self._outgoing and self.transport is not None:
            self.transport.flush_soon()
        replies = self._outgoing.get(key[0])
        if replies is None:
            self._outgoing[key[0]] = [(key, header, body)]
        else:
            replies.append((key, header, body))
            if len(replies) >= EARLY_BATCH:
                del self._outgoing[key[0]]
                self._send_or_keep(key[0], replies)

    def _told(self, peer: bytes, head: ResponseHead) -> ResponseHead:
        """The header of a reply that tells its client to send no more calls by this connection."""
        if self._draining:
            return head._replace(draining=True)
        if self._is_replaced or peer in self._aged:
            return head._replace(draining=True, reconnect=True)
        return head

    def flush_soon(self) -> None:
        """Have :meth:`flush` called when the turn ends."""
        if self.transport is not None:
            self.transport.flush_soon()

    def flush(self) -> None:
        """The reactor's turn ends: publish what streams have, and send the replies."""
        if self.publisher is not None:
            self.publisher.flush()
        if self.multicast is not None:
            self.multicast.flush()
        outgoing, self._outgoing = self._outgoing, {}
        for peer, replies in outgoing.items():
            self._send_or_keep(peer, replies)
        self.owner.settled()

    def _send_or_keep(self, peer: bytes, replies: list[tuple[CallKey, bytes, bytes]]) -> None:
        """Send replies to one peer; what it has no room for waits, and later replies behind it."""
        if peer in self._backlogs:
            self._keep(peer, [[*key, b"", header, body] for key, header, body in replies])
            return
        messages = self._messages(replies)
        for number, message in enumerate(messages):
            if self._send(message) is SendResult.BLOCKED:
                self._backlogs[peer] = Backlog(self.owner.backlog)
                self._keep(peer, messages[number:])
                self._retry_later()
                return

    def _messages(self, replies: list[tuple[CallKey, bytes, bytes]]) -> list[list[bytes]]:
        """The messages that carry replies to one peer, in order."""
        if len(replies) == 1:
            ((key, header, body),) = replies
            return [[*key, b"", header, body]]
        peer = replies[0][0][0]
        if not (self.owner.batching and self.wire.accepts_batches(peer)):
            return [[*key, b"", header, body] for key, header, body in replies]
        messages: list[list[bytes]] = []
        run: list[tuple[CallKey, bytes, bytes]] = []
        size = 0
        for reply in replies:
            key, header, body = reply
            length = len(header) + len(body)
            # A refusal may have a key that no batch can carry.
            alone = length > MAX_BATCHED_SIZE or not self.wire.fits(key)
            if run and (alone or len(run) == MAX_BATCH or size > MAX_BATCH_SIZE):
                messages += self.wire.batches(run)
                run, size = [], 0
            if alone:
                messages.append([*key, b"", header, body])
            else:
                run.append(reply)
                size += length
        if run:
            messages += self.wire.batches(run)
        return messages

    def _keep(self, peer: bytes, messages: list[list[bytes]]) -> None:
        """Have messages wait behind others; a reply over the limit becomes a short error."""
        backlog = self._backlogs[peer]
        for message in messages:
            # A batch has no more than small replies of one turn.
            reason = None
            if len(message) != _BATCH_PARTS:
                reason = self.owner.backlog.why_not(backlog.size, sum(map(len, message)))
            backlog.add(message if reason is None else self._shortened(message, reason))

    def _shortened(self, message: list[bytes], reason: str) -> list[bytes]:
        """The error that takes the place of a reply for which there is no room."""
        self.owner.count("reply over a slow client's backlog")
        status = ResponseHead(Code.RESOURCE_EXHAUSTED, f"{reason}; the call was executed")
        return [*message[:-2], encode_response(status), b""]

    def _send(self, message: list[bytes]) -> SendResult:
        if self.transport is None:
            return SendResult.UNREACHABLE
        result = self.transport.send_message(message)
        if result is SendResult.UNREACHABLE:
            self.owner.count("reply to a peer that has gone")
        return result

    def _retry_later(self) -> None:
        if not self._retry.is_running:
            self._retry.start(_RETRY)

    def _try_again(self) -> None:
        for peer, backlog in list(self._backlogs.items()):
            messages = backlog.messages
            while messages and self._send(messages[0]) is not SendResult.BLOCKED:
                backlog.sent()
            if not messages:
                del self._backlogs[peer]
        if self._backlogs:
            self._retry_later()
        else:
            self.owner.settled()

    @property
    def backlogs(self) -> dict[bytes, int]:
        """Bytes of the messages that wait for slow peers."""
        return {peer: backlog.size for peer, backlog in self._backlogs.items()}

    @property
    def is_flushed(self) -> bool:
        """Whether all replies are on their way."""
        return not self._backlogs and not self._outgoing and not self._held

    # -- the end -----------------------------------------------------------------------------

    def drain(self) -> None:
        """Tell the clients to send no more calls.

        Who connects from now on waits for the next process that has the socket, or until there is
        none. If it were let in, what it sends while this one closes might have been executed.
        """
        if self._is_given and self.transport is not None:
            self.transport.accept_no_more()
        self._draining = self._tells = True
        for key in self.wire.drain():
            self.answer(key, OK)

    def hand_over(self, ages: ConnectionAges) -> None:
        """Leave further connections to another process, and tell the clients to connect anew.

        :param ages: end the connections of the clients that have left.
        """
        transport = self.transport
        if transport is None or self.for_proxy:
            return  # a proxy has other servers
        if not transport.accept_no_more():
            _log.warn(
                "the server goes on accepting connections at {endpoint} until it stops: it was not "
                "given the socket by fd=, or the system is not Linux",
                endpoint=transport.endpoint,
            )
        self._is_replaced = self._tells = True
        for age in self._ages.values():
            age.stop()
        keys = self.wire.drain()
        for peer in {key[0] for key in keys}:
            self._ages[peer] = ages.leaving(self, peer, transport.connection_of(peer))
        for key in keys:
            self.answer(key, OK)

    @property
    def may_have_newcomers(self) -> bool:
        """Whether clients may have connected of which nothing has been heard."""
        transport = self.transport
        return transport is not None and transport.tells_of_loss and not self.for_proxy

    @property
    def is_left(self) -> bool:
        """Whether all clients have said that they send no more calls, or are gone."""
        # inproc does not tell of a client that has gone; none of its clients outlives the process.
        inproc = self.transport is not None and not self.transport.tells_of_loss
        # A proxy says nothing of its clients; it needs a moment to take what it has been sent.
        return inproc or (self.wire.all_left and not self.for_proxy)

    def remove_when_closed(self, path: str, *, folder: bool) -> None:
        """Have no socket of the publisher left at *path*.

        :param folder: whether it is in one that ``ipc://*`` has made. libzmq removes that with its
            own socket, if nothing else is in it.
        """
        self._companion = path
        self._companion_folder = folder

    def closed(self) -> None:
        """The socket was closed by somebody else."""
        self.transport = None
        self.owner.closed()

    def close(self) -> None:
        """Send what can be sent, and close the socket and those of the publishers."""
        self.flush()
        self._retry.stop()
        for backlog in self._backlogs.values():
            backlog.drop()
        self._backlogs.clear()
        self._ages.clear()
        for publisher in (self.publisher, self.multicast):
            if publisher is not None:
                publisher.close()
        if self._companion is not None:
            with suppress(OSError):
                os.unlink(self._companion)
                if self._companion_folder:
                    os.rmdir(os.path.dirname(self._companion))  # where libzmq has tried already
        if self.transport is not None:
            self.transport.close()
            self.transport = None
