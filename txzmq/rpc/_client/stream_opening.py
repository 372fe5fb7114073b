"""Opening a stream of responses: the calls that do it, for the first time and again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from txzmq.rpc._client.attempts import attempt_head
from txzmq.rpc._client.call import Call, CallRegistry, SubchannelPort
from txzmq.rpc._client.request_stream import Requests
from txzmq.rpc._client.retried_call import Attempt
from txzmq.rpc._client.stream_control import StreamControl
from txzmq.rpc._wire.headers import RequestHead, ResponseHead, to_us
from txzmq.rpc.client import CallSpec
from txzmq.rpc.errors import Code, Internal, RpcError, Unavailable
from txzmq.rpc.service_config import RetryPolicy

__all__ = ["OpeningCall", "StreamOpener"]


class OpeningCall(Attempt):
    """A call that opens a stream."""

    __slots__ = ("_repeated", "_stream_deadline", "control")

    def __init__(self, stream_deadline: float | None, repeated: bool, *arguments: Any) -> None:
        """
        :param stream_deadline: when the time of the stream is up; that of this call may be before.
        :param repeated: whether the stream has a policy, which decides what follows a refusal.
        :param arguments: as an :class:`Attempt`'s.
        """
        super().__init__(*arguments)
        self._stream_deadline = stream_deadline
        self._repeated = repeated
        #: Of the connection that has it; None before there is one.
        self.control: StreamControl | None = None

    def picked(self, subchannel: SubchannelPort) -> None:
        """A connection has it: the stream will be there."""
        self.control = subchannel.stream_control
        super().picked(subchannel)

    def finish(self, head: ResponseHead, body: bytes) -> None:
        """The reply has arrived."""
        if self.deferred.called:
            return
        path = self.spec.method.path
        if head.code is not Code.OK:
            super().finish(head, body)
        elif head.stream is None:
            self.fail(Internal(f"{path} streams, and the server answered without a stream"))
        else:
            self._end()
            self.deferred.callback(head)

    def refused(self, head: ResponseHead, error: RpcError) -> None:
        """The reply is an error."""
        if self._repeated:
            super().refused(head, error)
        else:
            self.answered = not head.draining
            Call.refused(self, head, error)

    @property
    def is_to_be_resumed(self) -> bool:
        """Whether it was to go on with a stream, and the server was lost to which it was sent."""
        assert self.head.open_stream is not None, "it opens a stream"
        return bool(self.head.open_stream.sequence and self.counter) and not self.answered

    def too_late(self) -> None:
        """Its time is up; the server is told, or it might keep what it opens."""
        super().too_late()
        if self.route is not None:
            self.route.cancel(self)

    def has_waited(self, now: float) -> None:
        """Tell the server no more than what is left of the stream's time."""
        if self._stream_deadline is not None:
            left = max(1, to_us(self._stream_deadline - now))
            self.head = self.head._replace(timeout_us=left)


class StreamOpener:
    """Makes the calls that open one stream: the first one, and others where that is lost.

    It is kept for as long as the stream may have to be opened again.
    """

    __slots__ = (
        "_body",
        "_head",
        "_opening_time",
        "_registry",
        "_response_size",
        "_spec",
        "policy",
        "requests",
        "resumable",
    )

    def __init__(
        self,
        registry: CallRegistry,
        spec: CallSpec,
        head: RequestHead,
        body: bytes,
        response_size: int,
        *,
        requests: Requests | None,
        policy: RetryPolicy | None,
        opening_time: Callable[[float | None], float | None],
    ) -> None:
        """
        :param head: of the first call, without the id of the requests.
        :param requests: what the caller streams; None where there is one request.
        :param policy: by which the stream is opened again before anything of it has arrived.
        :param opening_time: seconds for a call that opens the stream, by those left of the stream.
        """
        options = spec.method.stream
        self._registry = registry
        self._spec = spec
        self._head = head
        self._body = body
        self._response_size = response_size
        self._opening_time = opening_time
        self.requests = requests
        self.policy = policy
        #: Whether another server may go on where one was lost.
        self.resumable = requests is None and options is not None and options.resumable

    @property
    def size(self) -> int:
        """Bytes of the request; 0 where they stream."""
        return len(self._body)

    def call(
        self,
        *,
        number: int = 1,
        used: Collection[Any] = (),
        repeated: bool = False,
        opened_by: float | None = None,
    ) -> OpeningCall:
        """A call that opens the stream from its beginning.

        :param opened_by: when it has to have been answered; None for the channel's timeout.
        """
        head = attempt_head(self._head, self._spec.metadata, number)
        if self.requests is not None:
            assert head.open_stream is not None, "it opens a stream"
            open_stream = head.open_stream._replace(requests=self.requests.id)
            head = head._replace(open_stream=open_stream)
        own = self._spec.replace(deadline=opened_by, response_metadata=None, parent=None)
        return self._make(own, head, repeated, used, number, self.requests)

    def resume(self, sequence: int, *, repeated: bool) -> OpeningCall:
        """A call that opens the stream from an item on, as soon as a server can be reached.

        :raises Unavailable: if the channel is closed.
        """
        if self._registry.is_closing:
            raise Unavailable("the channel is closed")
        self._registry.count("stream resumed")
        head = self._head
        assert head.open_stream is not None, "it opens a stream"
        head = head._replace(open_stream=head.open_stream._replace(sequence=sequence))
        own = self._spec.replace(
            deadline=None, wait_for_ready=True, response_metadata=None, parent=None
        )
        return self._make(own, head, repeated)

    def _make(
        self,
        own: CallSpec,
        head: RequestHead,
        repeated: bool,
        used: Collection[Any] = (),
        number: int = 1,
        requests: Requests | None = None,
    ) -> OpeningCall:
        """:param own: of the call; its deadline, where it has none, is set by the channel."""
        registry = self._registry
        now = registry.clock.seconds()
        deadline = self._spec.deadline
        left = None if deadline is None else max(0.0, deadline - now)
        seconds = self._opening_time(left)
        if own.deadline is None and seconds is not None:
            own = own.replace(deadline=now + seconds)
        head = head._replace(timeout_us=None if left is None else max(1, to_us(left)))
        size = self._response_size
        call = OpeningCall(
            deadline, repeated, registry, own, head, self._body, size, used, number, requests
        )
        registry.begun(call)
        return call
