"""From request to answer: admission, handlers, deadlines, cancellation."""

from __future__ import annotations

import contextvars
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from random import Random
from types import CoroutineType
from typing import Any, Final

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq._guard import Guard
from txzmq._identity import Identity, key_of, user_of
from txzmq._reactor import Clock
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._server.access import Access
from txzmq.rpc._server.admission import Admission, RequestBytes
from txzmq.rpc._server.ages import ConnectionAges, KeyCheck
from txzmq.rpc._server.authentication import Authentication, Identified
from txzmq.rpc._server.call import OpenCalls, ServedCall, StreamCall, counted_as
from txzmq.rpc._server.control import ControlServices
from txzmq.rpc._server.fallback import FallbackMethods
from txzmq.rpc._server.inspector import ServerInspector, ServerTables
from txzmq.rpc._server.listener import BacklogBytes, Listener
from txzmq.rpc._server.methods import ServedMethod
from txzmq.rpc._server.reply_cache import Join, KeptReply, ReplyCache
from txzmq.rpc._server.status import (
    HandlerLog,
    WrongResult,
    encode_reply,
    tell_end,
    too_much_metadata,
    unknown_method,
)
from txzmq.rpc._server.streams import StreamRegistry
from txzmq.rpc._server.waiting import WaitingCalls
from txzmq.rpc._server.watchdog import Watchdog
from txzmq.rpc._server.watched_calls import WatchedCalls
from txzmq.rpc._wire.control import CONTROL_PATHS
from txzmq.rpc._wire.headers import (
    OK,
    OpenStream,
    ResponseHead,
    decode_response,
    from_us,
)
from txzmq.rpc._wire.server import CallKey, Refusal, Request
from txzmq.rpc.authentication import Authenticate
from txzmq.rpc.authorization import Authorize, has_rule
from txzmq.rpc.context import Context, set_current
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
_WAITED_TOO_LONG: Final = ResponseHead(
    Code.DEADLINE_EXCEEDED,
    "the call's time was up on the server; it was not executed",
    not_executed=True,
)
_TIME_IS_UP: Final = ResponseHead(
    Code.DEADLINE_EXCEEDED, "the call's time was up on the server; it may have been executed"
)
#: A client has it made again where time is left, which only the client knows.
_MAY_BE_LATE: Final = ResponseHead(
    Code.UNAVAILABLE,
    "the server stood still, and the request may have come too late; the call was not executed",
    not_executed=True,
)
#: The proxy may give what follows the call to another worker.
_NOT_THROUGH_A_PROXY: Final = ResponseHead(
    Code.UNIMPLEMENTED, "streams do not go through a proxy that has workers", not_executed=True
)
#: Answers that are kept for calls that come again. A client repeats a call that got another one in
#: the hope of a better one.
_KEPT: Final = frozenset(
    {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
    }
)


class Dispatcher:
    """Serves the requests of all listeners of a server (a :class:`ListenerOwner`)."""

    # Each call reads a dozen; a dictionary of so many would be slower.
    __slots__ = (
        "_access",
        "_admission",
        "_authentication",
        "_began",
        "_by_path",
        "_closed",
        "_control",
        "_draining",
        "_fallback",
        "_guard",
        "_handling",
        "_handling_key",
        "_inspected",
        "_keeps_replies",
        "_listeners",
        "_log",
        "_make_ages",
        "_new_call",
        "_open_calls",
        "_replies",
        "_request_bytes",
        "_serving",
        "_settled",
        "_surroundings",
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
        self._guard = guard
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
        self._log = HandlerLog(clock, methods, debug=debug)
        self.streams = StreamRegistry(
            clock,
            guard,
            limits,
            self._request_bytes,
            log=self._log,
            count=self.count,
            settled=settled,
        )
        self._open_calls = OpenCalls(Deadlines(clock, self._too_late), self._request_bytes)
        self._waiting = WaitingCalls(self, guard, self._open_calls)
        self._authentication: Authentication | None = None
        if authenticate is not None:
            authorizes = authorize is not None
            self._authentication = Authentication(
                authenticate, self, self._waiting, authorizes=authorizes
            )
        self._fallback: FallbackMethods | None = None
        if fallback is not None:
            self._fallback = FallbackMethods(fallback, interceptors, self, self._waiting)
        self._admission: Admission[ServedCall] = Admission(limits)
        self._serving = False
        self._surroundings = contextvars.copy_context()
        self._listeners: list[Listener] = []
        self.watchdog = Watchdog(
            clock, limits.blocked_after, self.was_blocked, self._has_input, self._caught_up
        )
        # The method whose handler was called last, for which call, and when.
        self._handling: ServedMethod | None = None
        self._handling_key: CallKey = ()
        self._began = 0.0
        self._control = ControlServices(self, self.streams)
        self._replies: ReplyCache[ServedCall] = ReplyCache(limits.reply_cache)
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

    # -- a call's life: accept, run, finish --------------------------------------------------

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
                self._handling = None
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
            if refusal is _MAY_BE_LATE:
                listener.hold(key, _MAY_BE_LATE)
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
        if cache_key is not None and not self._is_first(call):
            return
        if self._admission.may_run(call.place) or head.path in self._inspected:
            self._run(call)
        else:
            self._queue(call, head.timeout_us, arrived)

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
            self._queue(call, head.timeout_us, arrived)

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

    def _is_first(self, call: ServedCall) -> bool:
        """Whether to execute a request that has a key; if not, it gets the reply of another."""
        joined = self._replies.join(call.cache_key, call, self.clock.seconds())
        if joined is Join.RUN:
            return True
        self.count("repeated request")
        if joined is Join.WAIT:
            call.wait_for_reply(self._open_calls)
        elif joined is Join.REFUSE:
            status = ResponseHead(
                Code.RESOURCE_EXHAUSTED,
                f"{self._replies.limits.waiting} requests with one key wait on the server "
                "(ReplyCacheLimits.waiting)",
            )
            call.listener.answer(call.key, status)
            self._tell_end(call, status)
        else:
            head = decode_response(joined.header)
            call.listener.answer(call.key, head, joined.body)
            self._tell_end(call, head, len(joined.body))
        return False

    def _queue(self, call: ServedCall, timeout_us: int | None, arrived: float) -> None:
        reason = self._admission.why_not(call.place)
        if reason is not None:
            self._answer(call, self._shed(reason))
            return
        lain_us = self.watchdog.lain(arrived)
        if lain_us and timeout_us is not None:
            # Nobody may wait for it any more when there is a place.
            call.begin_before(arrived + from_us(timeout_us - lain_us))
        call.wait_in_queue(self._open_calls)
        self._admission.enqueue(call.place, call)

    def _shed(self, reason: str) -> ResponseHead:
        """Count a request for which there is no room; its answer."""
        self.count("shed request")
        return ResponseHead(
            Code.RESOURCE_EXHAUSTED, f"the call was not executed: {reason}", not_executed=True
        )

    def _serve_queue(self) -> None:
        """Start calls that wait: one that ran has ended."""
        if self._serving:
            return  # a handler that this has started has ended at once
        self._serving = True
        self._handling = None  # what the time until now was spent on is not known
        try:
            while (call := self._admission.next_call()) is not None:
                call.leave_queue()
                # Not where the other call has ended: that may be in the handler of any call.
                self._surroundings.copy().run(self._run, call)
        finally:
            self._serving = False

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
        return _MAY_BE_LATE

    def too_much(self, peer: bytes, size: int) -> ResponseHead | None:
        """Why a request of so many bytes is not taken on; None if it is."""
        if size > self.limits.message_size:
            return _too_large("request", size, self.limits.message_size)
        reason = self._request_bytes.why_not(peer, size)
        return None if reason is None else self._shed(reason)

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

    def _run(self, call: ServedCall) -> None:
        """Start the handler; most handlers are done before this returns."""
        now = self.clock.seconds()
        if now > self.watchdog.late_after:
            self.stood_still(now)
        if call.deadline is not None and call.deadline <= now:
            # Other handlers have kept the reactor from calling _too_late().
            self.count("late request")
            self._answer(call, _WAITED_TOO_LONG if call.end is None else _MAY_BE_LATE)
            if call.waited:
                self._admission.waited_in_vain()
            return
        if call.waited:
            call.begin(self._open_calls)
        self._handling = method = call.method
        self._handling_key = call.key
        self._began = now
        try:
            request = call.take_request()
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            self._answer(
                call,
                ResponseHead(
                    Code.INTERNAL,
                    f"the request to {method.path} cannot be parsed",
                    not_executed=True,
                ),
            )
            return
        try:
            # What a handler does to context variables is seen by nobody else.
            result = call.surroundings.run(_handle, method.handler, request, call.context)
        except KeyboardInterrupt as error:
            self._fail(call, Failure())  # type: ignore[no-untyped-call]  # Twisted's
            # It is for the process; but the other calls of a batch are served before.
            self.clock.callLater(0, _raise, error)
            return
        except BaseException:  # noqa: BLE001 - whatever a handler raises is the caller's answer
            self._fail(call, Failure())  # type: ignore[no-untyped-call]  # Twisted's
            return
        # The response itself first: Deferred is an abstract class, which costs ten times as much to
        # look for.
        if isinstance(result, method.response_type) or not isinstance(result, Deferred):
            self._succeed(call, result)
        elif result.called and not result.paused and not isinstance(result.result, Failure):
            # Of interceptors, or of a coroutine that had nothing to wait for.
            self._succeed(call, result.result)
        else:
            self._wait(call, result)  # pyright: ignore[reportUnknownArgumentType]  # a user's

    def _wait(self, call: ServedCall, result: Deferred[Any]) -> None:
        """Answer when the handler's result is there, unless the call is over before."""
        # One tuple for both, and no partials: they would be a third of a call's memory.
        arguments = (call,)
        result.addCallbacks(self._has_succeeded, self._has_failed, arguments, errbackArgs=arguments)
        if not call.ended:
            self._admission.started(call.place)
            call.wait_for(result, self._open_calls)

    def _has_succeeded(self, response: object, call: ServedCall) -> None:
        self._ended(call, self._succeed, response)

    def _has_failed(self, failure: Failure, call: ServedCall) -> None:
        self._ended(call, self._fail, failure)

    def _ended(
        self, call: ServedCall, finish: Callable[[ServedCall, Any], None], result: object
    ) -> None:
        """The handler has ended: answer, unless the call was settled, and free its place."""
        if self._guard.report_wrong_thread(self._ended, call, self._fail):
            return  # the handler's Deferred was fired in another thread
        if not call.handler_ended(self._open_calls):
            finish(call, result)  # it was there at once, and the call has no place
            return
        self._admission.ended(call.place)
        if not call.settled:
            finish(call, result)
        elif isinstance(result, Failure):
            self._log.log_late(result, call.context)
        self._serve_queue()
        self._settled()

    def _succeed(self, call: ServedCall, response: object) -> None:
        method = call.method
        if method.response_streaming and isinstance(call, StreamCall):
            wrong = method.wrong(response)
            if wrong is None:
                self._answer(call, self.streams.open(call, response))
            else:
                self._fail(call, Failure(wrong))  # type: ignore[no-untyped-call]  # Twisted's
            return
        if not isinstance(response, method.response_type):
            wrong = method.wrong(response)
            self._fail(call, Failure(wrong))  # type: ignore[no-untyped-call]  # Twisted's
            return
        try:
            body = response.SerializeToString()
        except Exception as error:  # noqa: BLE001 - or it is more than protobuf can
            cause = WrongResult.incomplete(response) or error
            self._fail(call, Failure(cause))  # type: ignore[no-untyped-call]  # Twisted's
            return
        limit = self.limits.message_size
        if len(body) > limit:
            self._answer(call, _too_large("response", len(body), limit))
            return
        self._answer(call, OK, body)

    def _fail(self, call: ServedCall, failure: Failure) -> None:
        self._answer(call, self._log.status_of(failure, call.context))

    def _answer(self, call: ServedCall, head: ResponseHead, body: bytes = b"") -> None:
        context = call.context
        if context.initial_metadata or context.trailing_metadata or head.trailing:
            head = head._replace(
                initial=context.initial_metadata,
                trailing=(*context.trailing_metadata, *head.trailing),
            )
            if not check_size((*head.initial, *head.trailing), self.limits.metadata_size):
                head, body = too_much_metadata("response", self.limits.metadata_size), b""
        call.settle(self._open_calls)
        if call.cache_key is None:
            call.listener.answer(call.key, head, body)
        else:
            self._answer_all(call, head, body)
        if head.stream is None:  # else it goes on as a stream
            if context.end is None:
                context.end_unasked()
            else:
                self._tell_end(call, head, len(body))

    def _tell_end(self, call: ServedCall, head: ResponseHead, size: int = 0) -> None:
        """A call that is no open stream has ended.

        :param size: bytes of the response.
        """
        responses = int(head.code is Code.OK)
        kind = call.method.method.kind
        now = self.clock.seconds()
        requests, bytes_taken = call.requests_taken, call.bytes_taken
        tell_end(call.context, kind, head, now, requests, responses, bytes_taken, size)

    def _answer_all(self, call: ServedCall, head: ResponseHead, body: bytes) -> None:
        """Answer a request that has a key, and those with the same key that wait."""
        if self._replies.runner(call.cache_key) is not call:
            call.listener.answer(call.key, head, body)  # it waited for another one's reply
            self._leave(call, "nobody waits for it any more")
            return
        keep = head.code in _KEPT and not head.not_executed
        reply = KeptReply(*encode_reply(head, body)) if keep else KeptReply(b"", b"")
        now = self.clock.seconds()
        for waiting in self._replies.finish(
            call.cache_key, call, reply, now, keep=keep, owner=call.user
        ):
            if waiting is not call:
                waiting.settle(self._open_calls)
            waiting.listener.answer(waiting.key, head, body)
            if waiting is not call:
                self._tell_end(waiting, head, len(body))

    def _leave(self, call: ServedCall, reason: str) -> None:
        """A request with a key does not wait any more; the last one ends the handler."""
        runner = self._replies.runner(call.cache_key)
        if self._replies.leave(call.cache_key, call):
            assert runner is not None, "the run had not ended"
            runner.settle(self._open_calls)
            self._interrupt(runner, reason)
        elif runner is call:
            call.detach()

    def revoke(self, keys: Collection[str], reason: str) -> None:
        """End what belongs to these keys, and let who has them receive nothing any more."""
        status = ResponseHead(Code.UNAUTHENTICATED, reason)
        for listener in self._listeners:
            for call in _waiting_first(listener.wire.calls()):
                if key_of(call.context.peer_identity) not in keys:
                    continue
                if not call.settled and not call.detached:
                    self._answer(call, status)
                    self._interrupt(call, reason)
            for publisher in (listener.publisher, listener.multicast):
                if publisher is not None:
                    publisher.end_connections(keys)
        self.streams.revoke(keys, reason)

    # -- ends that come from outside ---------------------------------------------------------

    def abandon(self, calls: Iterable[ServedCall], reason: str) -> None:
        """End calls whose result nobody wants; a place is free when its handler has ended."""
        for call in _waiting_first(calls):
            if call.settled or call.detached:
                continue
            if call.cache_key is None:
                call.settle(self._open_calls)
                self._interrupt(call, reason)
                continue
            if self._replies.runner(call.cache_key) is not call:
                call.settle(self._open_calls)
                self._tell_end(call, ResponseHead(Code.CANCELLED, reason))
            self._leave(call, reason)

    def end_calls(self, calls: Iterable[ServedCall], reason: str) -> None:
        """Answer calls with UNAVAILABLE, and cancel their handlers."""
        for call in _waiting_first(calls):
            if call.settled or call.detached:
                continue
            head = _cut_short(reason, executed=call.may_have_run)
            if call.cache_key is None:
                self._answer(call, head)
                self._interrupt(call, reason)
            else:  # others may wait for its reply, by other connections
                call.listener.answer(call.key, head._replace(not_executed=False))
                self.abandon([call], reason)

    def _interrupt(self, call: ServedCall, reason: str) -> None:
        """Have a call end that is settled."""
        if call.queued:
            call.leave_queue()
            self._admission.remove(call.place, call)
        call.interrupt(reason, self._open_calls)
        self._tell_end(call, ResponseHead(Code.CANCELLED, reason))

    def _too_late(self, call: ServedCall) -> None:
        if call.settled:
            return
        if call.may_have_run:
            status = _TIME_IS_UP
        else:
            status = _WAITED_TOO_LONG if call.end is None else _MAY_BE_LATE
        self._answer(call, status)
        self._interrupt(call, "its deadline has passed")
        if call.waited:
            self._admission.waited_in_vain()

    # -- a reactor that stood still ----------------------------------------------------------

    def watch(self, listener: Listener) -> None:
        """Watch the reactor from now on, for what lies in a listener's socket."""
        self._listeners.append(listener)
        self.watchdog.start()

    def stood_still(self, now: float) -> None:
        """The watchdog's time is past since a message was read, or a place became free."""
        seconds = self.watchdog.noticed(now)
        handling, since = self._handling, now - self._began
        if handling is not None and since <= seconds:  # it was called since the reactor was seen
            self._tell_of_block(since, handling)
        else:
            self._tell_of_block(seconds)

    def was_blocked(self, now: float) -> None:
        """The watchdog's time is past, and it is not known by what."""
        self._tell_of_block(self.watchdog.noticed(now))

    def _tell_of_block(self, seconds: float, handling: ServedMethod | None = None) -> None:
        self.count("reactor blocked")
        if handling is None:
            self._watch.stood_still(seconds)
        else:
            call_id = self._handling_key[-1].hex()
            self._watch.blocked(seconds, handling.path, handling.handler_name, call_id)

    def _has_input(self) -> bool:
        return any(listener.has_input for listener in self._listeners)

    def _caught_up(self) -> None:
        for listener in self._listeners:
            listener.release()

    # -- the end -----------------------------------------------------------------------------

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
        for call in _waiting_first(calls):
            if not call.settled:
                self._answer(call, _cut_short("the server shut down", executed=call.may_have_run))
            self._interrupt(call, "the server shuts down")
        self.streams.end()

    def close(self) -> None:
        """Leave nothing behind, in the reactor or here."""
        self._open_calls.deadlines.close()
        self.watchdog.stop()
        if self.ages is not None:
            self.ages.close()
        self._listeners.clear()
        self._control.close()
        self.streams.close()
        self._replies.clear()


def _raise(error: BaseException) -> None:
    raise error


def _handle(handler: Callable[[Any, Context], Any], request: Any, context: Context) -> Any:
    """Call a handler in its own surroundings; the result, or a Deferred of it."""
    set_current(context)
    result = handler(request, context)
    if isinstance(result, CoroutineType):
        # pyright knows nothing of what a handler awaits, and need not.
        return Deferred.fromCoroutine(result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return result


def _waiting_first(calls: Iterable[ServedCall]) -> list[ServedCall]:
    """Calls in the order in which to end them: the end of one that runs starts one that waits."""
    return sorted(calls, key=lambda call: not call.queued)


def _cut_short(reason: str, *, executed: bool) -> ResponseHead:
    what = "may have been" if executed else "was not"
    return ResponseHead(
        Code.UNAVAILABLE, f"{reason}; the call {what} executed", not_executed=not executed
    )


def _too_large(what: str, size: int, limit: int) -> ResponseHead:
    return ResponseHead(
        Code.RESOURCE_EXHAUSTED,
        f"the {what} has {size} bytes, over the server's limit of {limit} "
        "(ServerLimits.message_size)",
    )
