"""From a request to a call: control calls, rules, limits, refusals."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import Final

from txzmq._guard import Guard
from txzmq._identity import Identity, key_of, user_of
from txzmq._reactor import Clock
from txzmq.rpc._core.handler_style import HandlerStyle
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._server.access import Access
from txzmq.rpc._server.admission import Admission, RequestBytes
from txzmq.rpc._server.ages import ConnectionAges, KeyCheck
from txzmq.rpc._server.authentication import Authentication, Identified
from txzmq.rpc._server.backlogs import BacklogBytes
from txzmq.rpc._server.call import ServedCall, StreamCall, counted_as
from txzmq.rpc._server.control import ControlServices
from txzmq.rpc._server.execution import MAY_BE_LATE, Execution, too_large
from txzmq.rpc._server.fallback import FallbackMethods
from txzmq.rpc._server.inspector import ServerInspector, ServerTables
from txzmq.rpc._server.listener import Listener
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.status import (
    HandlerLog,
    too_much_metadata,
    unknown_method,
)
from txzmq.rpc._server.streams import StreamRegistry
from txzmq.rpc._server.waiting import WaitingCalls
from txzmq.rpc._server.watched_calls import WatchedCalls
from txzmq.rpc._wire.control import CONTROL_PATHS
from txzmq.rpc._wire.headers import (
    OpenStream,
    ResponseHead,
    from_us,
)
from txzmq.rpc._wire.server import Refusal, Request
from txzmq.rpc.authentication import Authenticate
from txzmq.rpc.authorization import Authorize, has_rule
from txzmq.rpc.context import Context
from txzmq.rpc.errors import Code
from txzmq.rpc.interceptors import ServerInterceptor
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.metadata import check_size
from txzmq.rpc.raw import Fallback
from txzmq.rpc.records import CallEnd
from txzmq.rpc.watching import Denial, ServerStats

__all__ = ["Dispatcher"]

#: Seconds that connections may last which come while another process takes over, where there is no
#: limit: no matter how many.
_LONG: Final = 86_400.0
#: The proxy may give what follows the call to another worker.
_NOT_THROUGH_A_PROXY: Final = ResponseHead(
    Code.UNIMPLEMENTED, "streams do not go through a proxy that has workers", not_executed=True
)


class Dispatcher:
    """Takes the requests of all listeners of a server on (a :class:`ListenerOwner`)."""

    # Each call reads a dozen; a dictionary of so many would be slower.
    __slots__ = (
        "_access",
        "_admission",
        "_authentication",
        "_by_path",
        "_closed",
        "_control",
        "_draining",
        "_execution",
        "_fallback",
        "_inspected",
        "_keeps_replies",
        "_listeners",
        "_make_ages",
        "_new_call",
        "_replies",
        "_request_bytes",
        "_run",
        "_settled",
        "_waiting",
        "_watch",
        "_watched",
        "ages",
        "backlog",
        "batching",
        "clock",
        "counters",
        "is_guarded",
        "limits",
        "local_only",
        "peer_numbers",
        "streams",
        "watchdog",
    )

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        methods: Mapping[str, ServedMethod],
        limits: ServerLimits,
        *,
        debug: bool,
        batching: bool,
        settled: Callable[[], None],
        closed: Callable[[], None],
        watch: Notifier,
        authorize: Authorize | None,
        authenticate: Authenticate | None,
        fallback: Fallback | None,
        interceptors: Sequence[ServerInterceptor],
        style: HandlerStyle,
        random: Random,
        check: KeyCheck | None,
        inspected: Collection[str] = (),
    ) -> None:
        """
        :param settled: called when a call has ended, or a listener has sent what it had.
        :param closed: called when a listener's socket was closed by somebody else.
        :param authorize: says who may call what; None for everybody.
        :param authenticate: says who calls; None for whose the connection is.
        :param fallback: says what serves the methods that are not among *methods*; None if nothing
            does.
        :param interceptors: go around the handlers that it gives.
        :param style: how handlers run; interceptors, *authenticate* and *fallback* do already.
        :param random: for the ages of connections.
        :param check: looks at clients' keys again; None where they have none.
        :param inspected: the methods, by their paths, that tell what this has; they are only for
            callers on this machine, and those whom *authorize* lets call them and who are known.
            Their calls wait for no place: they are to tell why others do.
        :raises ValueError: if *authorize* does not know what the methods require.
        """
        self.clock = clock
        self.limits = limits
        self.batching = batching
        self._draining = False
        self._settled = settled
        self._closed = closed
        self.counters: Counter[str] = Counter()
        self._watch = watch
        # What a request becomes.
        self._new_call: Callable[..., ServedCall] = ServedCall
        self._watched: WatchedCalls | None = None
        if watch.calls is not None:
            self._watched = WatchedCalls(watch.calls, clock, methods)
            self._new_call = self._watched.call
        self._by_path = methods
        #: Of the connections that are remembered; None where none are.
        self.peer_numbers = count(1) if inspected else None
        self._inspected = frozenset(inspected)
        knows_who_calls = check is not None or authenticate is not None
        #: The methods that only callers on this machine may call.
        self.local_only = frozenset(
            path for path in inspected if not (knows_who_calls and has_rule(authorize, path))
        )
        self._access = Access(
            authorize,
            [served.method for served in methods.values()],
            self.count,
            clock,
            limits.metadata_size,
        )
        self.is_guarded = authorize is not None or authenticate is not None
        self.backlog = BacklogBytes(limits)
        age, grace = limits.connection_age, limits.connection_age_grace
        #: Counts the time of connections; None where they may last for any time.
        self.ages = None
        self._make_ages = partial(ConnectionAges, clock, random, count=self.count, check=check)
        if age is not None:
            self.ages = self._make_ages(age=age, grace=grace)
        self._request_bytes = RequestBytes(limits)
        log = HandlerLog(clock, methods, debug=debug)
        self.streams = StreamRegistry(
            clock,
            guard,
            limits,
            self._request_bytes,
            log=log,
            runner=style.runner,
            count=self.count,
            settled=settled,
        )
        self._admission: Admission[ServedCall] = Admission(limits)
        self._execution = Execution(
            clock,
            guard,
            limits,
            self._admission,
            self.streams,
            self._request_bytes,
            log=log,
            watch=watch,
            count=self.count,
            settled=settled,
            has_input=self._has_input,
            caught_up=self._caught_up,
        )
        #: Notices that the reactor stood still.
        self.watchdog = self._execution.watchdog
        self._run = self._execution.run
        self._waiting = WaitingCalls(self, guard, self._execution.open_calls)
        self._authentication: Authentication | None = None
        if authenticate is not None:
            authorizes = authorize is not None
            self._authentication = Authentication(
                authenticate, self, self._waiting, authorizes=authorizes
            )
        self._fallback: FallbackMethods | None = None
        if fallback is not None:
            self._fallback = FallbackMethods(fallback, interceptors, style, self, self._waiting)
        self._listeners: list[Listener] = []
        self._control = ControlServices(self, self.streams)
        self._replies = self._execution.replies
        self._keeps_replies = limits.reply_cache is not None

    def awaits(self, requests: bytes) -> bool:
        """Whether a stream of requests is that of a call of which something is not known yet."""
        return self._waiting.awaits(requests)

    def settled(self) -> None:
        """A call has ended, or a listener has sent what it had."""
        self._settled()

    def closed(self) -> None:
        """A listener's socket was closed by somebody else."""
        self._closed()

    def count(self, reason: str) -> None:
        """Count something that was refused or dropped."""
        self.counters[reason] += 1
        self._watch.counted(reason)

    def client_lost(self, address: str, calls: int) -> None:
        """A client has gone, and with it so many calls."""
        self._watch.client_lost(address, calls)

    def peer_lost(self, peer: bytes) -> None:
        """A client's connection is gone."""
        self.streams.peer_lost(peer)

    @property
    def running(self) -> int:
        """How many handlers have started and not ended."""
        return self._admission.running + self.streams.running

    @property
    def queued(self) -> int:
        """How many calls wait for a place, or until it is known who makes or serves them."""
        return self._admission.queued + self._waiting.count

    def inspector(self) -> ServerInspector:
        """What tells what there is."""
        return ServerInspector(
            ServerTables(
                self.clock,
                self.limits,
                self._by_path,
                self._listeners,
                self._admission,
                self.streams,
                self._request_bytes,
                self.backlog,
                self._replies,
            )
        )

    def stats(self, clients: int, *, is_draining: bool) -> ServerStats:
        """What there is at this moment."""
        streams = self.streams
        return ServerStats(
            running=self.running,
            running_calls=self._admission.running,
            queued=self.queued,
            streams=len(streams),
            subscribers=len(streams.shared),
            clients=clients,
            request_bytes=self._request_bytes.size,
            unacknowledged_bytes=streams.kept.size,
            backlog_bytes=self.backlog.size,
            kept_replies=len(self._replies),
            is_draining=is_draining,
            limits=self.limits,
        )

    # -- requests: taken on or refused -------------------------------------------------------

    def accept(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        caller: Identified | None = None,
        method: ServedMethod | None = None,
    ) -> None:
        """Take a request on that arrived at a time by the clock, or refuse it.

        :param caller: who has sent it, where :class:`Authentication` has found that out.
        :param method: what serves it, where a fallback has said that; *caller* may call it then.
        """
        key, head, body = request
        identity = peer = listener.identity
        if listener.is_guarded:
            if caller is not None:
                _, identity, peer = caller
            elif self._authentication is not None and head.path not in CONTROL_PATHS:
                self._authentication.begin(listener, request, arrived)
                return
            if method is None:
                denied = self._access.refusal(caller or listener, head)
                if denied is not None:
                    self.deny(listener, request, arrived, identity, peer, denied)
                    return
        if method is None:
            method = self._by_path.get(head.path)
            if method is None:
                self._execution.handles_none()
                if self._control.serve(listener, key, head.path, body):
                    return
        cache_key: tuple[object, ...] | None = None
        if head.request_key and self._keeps_replies and head.open_stream is None:
            cache_key = (head.path, head.request_key)
            if identity is not None or peer is not None:
                # Who guesses another one's key gets nothing. Users of one name may be known by
                # their keys, and others by what their calls carry, or be nobody who is known.
                user = "" if identity is peer else (None if identity is None else identity.name)
                cache_key = (user_of(peer), user, *cache_key, hashlib.sha256(body).digest())
            self._replies.expire(self.clock.seconds())
        # A repeated request is not refused: its refusal would say that it was not executed.
        is_repeat = cache_key is not None and cache_key in self._replies
        refusal = None if is_repeat else self._refusal(method, request, arrived, peer)
        if method is None or refusal is not None:
            if method is None and self._fallback is not None and not self._draining:
                self._fallback.begin(
                    listener, request, arrived, identity, peer, is_repeat=is_repeat
                )
                return
            status = (refusal or unknown_method(head.path))._replace(not_executed=True)
            if refusal is MAY_BE_LATE:
                listener.hold(key, MAY_BE_LATE)
            else:
                listener.answer(key, status)
            self._tell_refusal(listener, request, status, arrived, identity, method)
            return
        if head.open_stream is not None:
            self._accept_stream(
                listener, request, method, head.open_stream, arrived, identity, peer
            )
            return
        deadline = self._deadline(head.timeout_us, arrived)
        address = listener.peer_address(key[0])
        context = Context(
            head.path,
            head.metadata,
            address,
            clock=self.clock,
            deadline=deadline,
            arrived=arrived,
        )
        if listener.is_guarded:
            context.identify(identity, peer)
        call = self._new_call(listener, key, method, context, deadline, body, cache_key)
        if cache_key is not None and not self._execution.is_first(call):
            return
        if self._admission.may_run(call.place) or head.path in self._inspected:
            self._run(call)
        else:
            self._execution.queue(call, head.timeout_us, arrived)

    def refuse(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        status: ResponseHead,
    ) -> None:
        """Answer a request that is not taken on, before anything was done for it."""
        listener.answer(request.key, status)
        if request.head.path not in CONTROL_PATHS:
            self._tell_refusal(listener, request, status, arrived, identity)

    def deny(
        self,
        listener: Listener,
        request: Request,
        arrived: float,
        identity: Identity | None,
        peer: Identity | None,
        status: ResponseHead,
    ) -> None:
        """Answer a call that may not be made, and tell of it."""
        self.refuse(listener, request, arrived, identity, status)
        key, head, _ = request
        denial = Denial(
            user=user_of(identity),
            public_key=key_of(identity) or key_of(peer),
            address=listener.peer_address(key[0]),
            method=head.path,
            code=status.code,
            reason=status.message,
        )
        self._watch.denied(denial, is_served=head.path in self._by_path)

    def deny_from_afar(self, listener: Listener, request: Request, arrived: float) -> None:
        """Refuse a call of a method that only callers on this machine may call."""
        self.count("request denied")
        identity, path = listener.identity, request.head.path
        status = ResponseHead(
            Code.PERMISSION_DENIED,
            f"{path} is for callers on the server's own machine, or for users whom its authorize= "
            "names for it; the call was not executed",
            not_executed=True,
        )
        self.deny(listener, request, arrived, identity, identity, status)

    def _accept_stream(
        self,
        listener: Listener,
        request: Request,
        method: ServedMethod,
        open_stream: OpenStream,
        arrived: float,
        identity: Identity | None,
        peer: Identity | None,
    ) -> None:
        """Take a call on in which requests or responses stream."""
        key, head, body = request
        if listener.for_proxy:
            listener.answer(key, _NOT_THROUGH_A_PROXY)
            status = _NOT_THROUGH_A_PROXY
            self._tell_refusal(listener, request, status, arrived, identity, method)
            return
        if method.response_streaming:
            deadline = self._stream_deadline(head.timeout_us, arrived)
        else:
            deadline = self._deadline(head.timeout_us, arrived)
        context = Context(
            head.path,
            head.metadata,
            listener.peer_address(key[0]),
            clock=self.clock,
            deadline=deadline,
            first_item=open_stream.sequence or 1,
            arrived=arrived,
        )
        if listener.is_guarded:
            context.identify(identity, peer)
        requests = None
        if method.request_streaming:
            requests = self.streams.receive(method, open_stream.requests, user_of(peer))
        new_call = StreamCall if self._watched is None else self._watched.stream_call
        call = new_call(listener, key, method, context, deadline, body, open_stream, requests)
        if requests is not None:
            requests.count_by(self._request_bytes, call.place[0])
        if self._admission.may_run(call.place):
            self._run(call)
        else:
            self._execution.queue(call, head.timeout_us, arrived)

    def _tell_refusal(
        self,
        listener: Listener,
        request: Request,
        status: ResponseHead,
        arrived: float,
        identity: Identity | None,
        method: ServedMethod | None = None,
    ) -> None:
        """Tell the observer of a request that was not taken on."""
        if self._watched is not None:
            self._watched.tell_refusal(listener, request, status, arrived, identity, method)

    def end_of_waiting(
        self, listener: Listener, request: Request, arrived: float, peer: Identity | None
    ) -> CallEnd | None:
        """Where the end is told of a call that ends before it is known who makes or serves it."""
        if self._watched is None:
            return None
        return self._watched.end_of_waiting(listener, request, arrived, peer)

    def turned_away(self, listener: Listener, refusal: Refusal, arrived: float) -> None:
        """Tell the observer of a request that cannot be read."""
        if self._watched is not None:
            self._watched.tell_unreadable(listener, refusal, arrived)

    def _refusal(
        self,
        method: ServedMethod | None,
        request: Request,
        arrived: float,
        peer: Identity | None,
    ) -> ResponseHead | None:
        """Why a request is not taken on; None if it is."""
        head = request.head
        if self._draining:
            return ResponseHead(
                Code.UNAVAILABLE, "the server is shutting down; the call was not executed"
            )
        if method is None:
            return unknown_method(head.path)
        if method.unary is not (head.open_stream is None):
            what = "does not stream" if method.unary else "streams"
            return ResponseHead(Code.UNIMPLEMENTED, f"{head.path} {what} on this server")
        if head.timeout_us is not None and head.timeout_us <= self.watchdog.lain_us:
            late = self._late(head.timeout_us, arrived)
            if late is not None:
                return late
        if len(request.body) > self._request_bytes.room:
            who = counted_as(user_of(peer), request.key[0])
            too_much = self.too_much(who, len(request.body))
            if too_much is not None:
                return too_much
        if head.metadata and not check_size(head.metadata, self.limits.metadata_size):
            return too_much_metadata("request", self.limits.metadata_size)
        stream = head.open_stream
        if stream is not None:
            if method.request_streaming is not bool(stream.requests):
                what = "streams" if method.request_streaming else "does not stream"
                return ResponseHead(
                    Code.UNIMPLEMENTED, f"{head.path} {what} requests on this server"
                )
            return self.streams.may_open(head, method)
        return None

    def _late(self, timeout_us: int, arrived: float) -> ResponseHead | None:
        """Count a request that has no time left, or none for sure; its answer."""
        if not timeout_us:
            self.count("late request")
            return ResponseHead(
                Code.DEADLINE_EXCEEDED, "the request came too late; the call was not executed"
            )
        if timeout_us > self.watchdog.lain(arrived):
            return None  # another one of its batch has blocked the reactor
        self.count("request that may be late")
        return MAY_BE_LATE

    def too_much(self, peer: bytes, size: int) -> ResponseHead | None:
        """Why a request of so many bytes is not taken on; None if it is."""
        if size > self.limits.message_size:
            return too_large("request", size, self.limits.message_size)
        reason = self._request_bytes.why_not(peer, size)
        return None if reason is None else self._execution.shed(reason)

    def _deadline(self, timeout_us: int | None, arrived: float) -> float | None:
        limits = self.limits
        timeout = limits.default_timeout if timeout_us is None else from_us(timeout_us)
        longest = limits.max_timeout
        if longest is not None and (timeout is None or timeout > longest):
            timeout = longest
        return None if timeout is None else arrived + timeout

    def _stream_deadline(self, timeout_us: int | None, arrived: float) -> float | None:
        timeout = None if timeout_us is None else from_us(timeout_us)
        longest = self.limits.stream_timeout
        if longest is not None and (timeout is None or timeout > longest):
            timeout = longest
        return None if timeout is None else arrived + timeout

    def revoke(self, keys: Collection[str], reason: str) -> None:
        """End what belongs to these keys, and let who has them receive nothing any more."""
        status = ResponseHead(Code.UNAUTHENTICATED, reason)
        for listener in self._listeners:
            calls = listener.wire.calls()
            theirs = [call for call in calls if key_of(call.context.peer_identity) in keys]
            self._execution.end(theirs, status, reason)
            for publisher in (listener.publisher, listener.multicast):
                if publisher is not None:
                    publisher.end_connections(keys)
        self.streams.revoke(keys, reason)

    # -- ends that come from outside ---------------------------------------------------------

    # -- a reactor that stood still ----------------------------------------------------------

    def watch(self, listener: Listener) -> None:
        """Watch the reactor from now on, for what lies in a listener's socket."""
        self._listeners.append(listener)
        self.watchdog.start()

    def stood_still(self, now: float) -> None:
        """The watchdog's time is past since a message was read."""
        self._execution.stood_still(now)

    def was_blocked(self, now: float) -> None:
        """The watchdog's time is past, and it is not known by what."""
        self._execution.was_blocked(now)

    def _has_input(self) -> bool:
        return any(listener.has_input for listener in self._listeners)

    def _caught_up(self) -> None:
        for listener in self._listeners:
            listener.release()

    # -- the end -----------------------------------------------------------------------------

    def abandon(self, calls: Iterable[ServedCall], reason: str) -> None:
        """End calls whose result nobody wants; a place is free when its handler has ended."""
        self._execution.abandon(calls, reason)

    def end_calls(self, calls: Iterable[ServedCall], reason: str) -> None:
        """Answer calls with UNAVAILABLE, and cancel their handlers."""
        self._execution.end_calls(calls, reason)

    def hand_over(self) -> None:
        """Have another process take the connections of the clients, which are served until then."""
        if self.ages is not None:
            self.ages.close()
        self.ages = self._make_ages(age=self.limits.connection_age or _LONG, grace=None)
        for listener in self._listeners:
            listener.hand_over(self.ages)

    def drain(self) -> None:
        """Take no more requests on."""
        self._draining = True
        self.watchdog.catch_up_now()
        if self.ages is not None:
            self.ages.close()

    def end(self, listeners: Sequence[Listener]) -> None:
        """Answer all calls with UNAVAILABLE, and cancel their handlers."""
        calls = [call for listener in listeners for call in listener.wire.calls()]
        self._execution.end_all(calls)
        self.streams.end()

    def close(self) -> None:
        """Leave nothing behind, in the reactor or here."""
        self._execution.close()
        if self.ages is not None:
            self.ages.close()
        self._listeners.clear()
        self._control.close()
        self.streams.close()
