"""Calls with one response that a policy repeats: each is made of calls, its attempts."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred

from txzmq._ordered_set import OrderedSet
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc._client.attempts import Attempts, attempt_head
from txzmq.rpc._client.call import Call, CallRegistry, SubchannelPort, outcome_of
from txzmq.rpc._client.request_stream import Requests
from txzmq.rpc._client.retry_policy import Progress, is_repeatable
from txzmq.rpc._wire.headers import REQUEST_KEY_SIZE, OpenStream, RequestHead, ResponseHead
from txzmq.rpc.client import CallSpec, ResponseMetadata
from txzmq.rpc.errors import Code, RpcError
from txzmq.rpc.records import Tally
from txzmq.rpc.service_config import HedgingPolicy, RetryPolicy

__all__ = ["Attempt", "RetriedCall"]


class Attempt(Call):
    """One attempt of a logical call, which alone decides whether there is another."""

    __slots__ = (
        "_not_executed",
        "answered",
        "number",
        "requests",
        "response_bytes",
        "succeeded",
    )

    def __init__(
        self,
        registry: CallRegistry,
        spec: CallSpec,
        head: RequestHead,
        body: bytes,
        response_size: int,
        used: Collection[Any],
        number: int,
        requests: Requests | None,
    ) -> None:
        """
        :param number: which of the call's attempts it is, from 1.
        :param requests: what the caller streams; None where there is one request.
        """
        super().__init__(registry, spec, head, body, response_size, used)
        self.number = number
        self.requests = requests
        #: Whether a server has said why it failed, or that it did not.
        self.answered = False
        self.succeeded = False
        #: Bytes of the response that has arrived.
        self.response_bytes = 0
        self._not_executed = False

    def picked(self, subchannel: SubchannelPort) -> None:
        """A connection has it: the requests go there, too."""
        super().picked(subchannel)
        if self.requests is not None:
            self.requests.carried(subchannel.stream_control)

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        self.succeeded = head.code is Code.OK
        self.response_bytes = len(body)
        super().finish(head, body)

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        """The reply is an error."""
        self.answered = True
        self._not_executed = head.not_executed
        self.fail(error)

    @property
    def progress(self) -> Progress:
        """How far it has come, as far as the client knows."""
        return Progress.NOT_EXECUTED if self._not_executed else super().progress


class RetriedCall:
    """What the caller waits for, however many attempts it takes (a LogicalCall, and Attempted)."""

    __slots__ = (
        "_attempts",
        "_body",
        "_has_begun",
        "_head",
        "_key",
        "_live",
        "_peer",
        "_registry",
        "_request_id",
        "_response_bytes",
        "_response_size",
        "_sent",
        "_spec",
        "deferred",
        "over",
        "requests",
    )

    def __init__(
        self,
        registry: CallRegistry,
        policy: RetryPolicy | HedgingPolicy,
        spec: CallSpec,
        head: RequestHead,
        body: bytes,
        response_size: int,
        requests: Requests | None = None,
    ) -> None:
        """:param requests: what the caller streams, kept for another attempt."""
        self._registry = registry
        self._spec = spec
        self._head = head
        self._body = body
        self._response_size = response_size
        self.requests = requests
        self._attempts = Attempts(registry, spec.method, policy, self)
        # Whether an attempt was made, so that less time is left for the next one.
        self._has_begun = False
        # The attempts that are on their way.
        self._live: OrderedSet[Attempt] = OrderedSet()
        # By which a server tells that an attempt is another one of a call that it knows.
        self._key = b""
        # How many attempts were sent, where the last one went, with which id, and bytes of the
        # response.
        self._sent = 0
        self._peer = ""
        self._request_id = b""
        self._response_bytes = 0
        self.over = False
        self.deferred: Deferred[Any] = TaskDeferred(self._cancelled)

    @property
    def deadline(self) -> float | None:
        """When its time is up."""
        return self._spec.deadline

    def start(self) -> None:
        """Make the first attempt, and what the policy wants besides."""
        self._new_key()
        self._attempts.start()

    def _new_key(self) -> None:
        if self.requests is None and is_repeatable(self._spec.method.idempotency_level):
            self._key = os.urandom(REQUEST_KEY_SIZE)

    def attempt(self, number: int, used: Collection[Any]) -> None:
        """Make an attempt."""
        registry, spec, requests = self._registry, self._spec, self.requests
        head = attempt_head(self._head._replace(request_key=self._key), spec.metadata, number)
        if requests is not None:
            head = head._replace(open_stream=OpenStream(requests=requests.id))
        on_their_way = [call.route for call in self._live if call.route is not None]
        wanted = None if spec.response_metadata is None else ResponseMetadata()
        attempt = Attempt(
            registry,
            spec.replace(parent=None, response_metadata=wanted),
            head,
            self._body,
            self._response_size,
            [*used, *on_their_way],
            number,
            requests,
        )
        if self._has_begun:
            attempt.has_waited(registry.clock.seconds())
        self._has_begun = True
        self._live.add(attempt)
        registry.begun(attempt)
        attempt.deferred.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,)
        )
        registry.start(attempt)

    def _succeeded(self, response: object, attempt: Attempt) -> None:
        self._attempts.succeeded()
        self._keep_metadata(attempt)
        self._response_bytes = attempt.response_bytes
        if self._end(attempt):
            self.deferred.callback(response)

    # Any: pyright knows a Failure in parts only.
    def _failed(self, failure: Any, attempt: Attempt) -> None:
        self._live.discard(attempt)
        if self.over:
            return
        self._note(attempt)
        error: BaseException = failure.value
        self._keep_metadata(attempt)
        if not isinstance(error, RpcError) or not self._may_be_made_again(attempt):
            if self._end():
                self.deferred.errback(failure)
            return
        if attempt.answered:
            # So that a server which keeps replies does not give this one to the next attempt.
            self._new_key()
        self._attempts.failed(
            error, attempt.progress, attempt.route, self._spec.deadline, attempt.number
        )

    def _may_be_made_again(self, attempt: Attempt) -> bool:
        """Whether the requests of the attempt that has failed can be sent again.

        Not after a response that only this client has refused: the server has had them all.
        """
        requests = self.requests
        if requests is None:
            return True
        if attempt.succeeded:
            self._attempts.succeeded()
            return False
        if not requests.are_held:
            return False
        requests.rewind()
        return True

    def _keep_metadata(self, attempt: Attempt) -> None:
        mine, its = self._spec.response_metadata, attempt.spec.response_metadata
        if mine is not None and its is not None:
            mine.received(its.initial, its.trailing)

    def attempts_ended(self, error: Exception) -> None:
        """No attempt is made any more."""
        self.give_up(error)

    def _note(self, attempt: Attempt) -> None:
        """An attempt has ended, or is ended: keep what is told of it."""
        tally = attempt.tally()
        if tally.attempts:
            self._sent += tally.attempts
            self._peer = tally.peer
            self._request_id = tally.request_id

    def tally(self) -> Tally:
        """What its attempts have sent, and what has arrived."""
        requests = self.requests
        attempts, peer, request_id = self._sent, self._peer, self._request_id
        for attempt in self._live:
            under_way = attempt.tally()
            attempts += under_way.attempts
            if under_way.attempts:
                peer, request_id = under_way.peer, under_way.request_id
        return Tally(
            attempts,
            peer,
            1 if requests is None else requests.count,
            len(self._body) if requests is None else requests.size,
            self._response_bytes,
            request_id,
        )

    # -- ends that come from outside ---------------------------------------------------------

    def requests_failed(self, error: BaseException) -> None:
        """The caller has no more items, because of an error."""
        self.give_up(outcome_of(error, self._spec.method))

    def give_up(self, error: BaseException) -> None:
        """End it whatever the attempts do; they are cancelled."""
        if self._end():
            self.deferred.errback(error)

    def too_late(self) -> None:
        """Its time is up, which its attempts have noticed before."""

    def _cancelled(self, _: object) -> None:
        self._registry.guard.check()
        self._end()  # Twisted fires the Deferred

    def _end(self, winner: Attempt | None = None) -> bool:
        """Leave nothing behind; whether there was something to end."""
        if self.over:
            return False
        self.over = True
        self._attempts.stop()
        self._registry.logical_ended(self)
        parent = self._spec.parent
        if parent is not None:
            parent.release(self.deferred)
        if self.requests is not None:
            self.requests.stop()
        live = list(self._live)
        for attempt in live:
            if attempt is not winner:
                self._note(attempt)
        if winner is not None:
            self._note(winner)  # last: the response is its server's
        for attempt in live:
            if attempt is not winner:
                attempt.deferred.cancel()
        self._live.clear()
        return True
