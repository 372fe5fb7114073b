"""The endpoints of a channel: which connection a call takes, and who waits for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from txzmq.rpc._calls import Call
from txzmq.rpc._subchannel import ConnectivityState, Subchannel
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.transport import Network

__all__ = ["Endpoints"]


class Endpoints:
    """The connections of one channel, and the calls that none of them has.

    :ivar message_size: bytes that a message may have.
    :ivar batching: whether several requests may travel as one message.
    """

    def __init__(
        self,
        network: Network,
        addresses: Sequence[str],
        *,
        message_size: int,
        batching: bool,
        closed: Callable[[], None],
    ) -> None:
        """Begin to connect.

        :param closed: called when the connections were closed with their factory.
        """
        self.message_size = message_size
        self.batching = batching
        self.closed = closed
        self._clock = network.clock
        # Calls that no connection has, oldest first. An ordered set.
        self._queue: dict[Call, None] = {}
        self._subchannels: list[Subchannel] = []
        self._next = 0
        try:
            for address in addresses:
                self._subchannels.append(Subchannel(self, network, address))
        except BaseException:
            self.close(Unavailable("the channel could not be made"))
            raise

    # -- from call to connection -------------------------------------------------------------

    def start(self, call: Call) -> None:
        """Give a call to a connection, or queue it, or fail it."""
        subchannel = self._pick()
        if subchannel is not None:
            subchannel.send(call)
        elif call.wait_for_ready or self._is_connecting():
            call.carrier = self
            self._queue[call] = None
        else:
            call.fail(self._unavailable())

    def _pick(self) -> Subchannel | None:
        """The next connection in turn that is ready."""
        count = len(self._subchannels)
        for _ in range(count):
            self._next = (self._next + 1) % count
            subchannel = self._subchannels[self._next]
            if subchannel.state is ConnectivityState.READY:
                return subchannel
        return None

    def _is_connecting(self) -> bool:
        return any(sub.state is ConnectivityState.CONNECTING for sub in self._subchannels)

    def _unavailable(self) -> Unavailable:
        reasons = "; ".join(sub.reason for sub in self._subchannels)
        return Unavailable(f"no server can be reached, the call was not sent ({reasons})")

    def withdraw(self, call: Call) -> None:
        """Take a call out of the queue; it is never sent."""
        self._queue.pop(call, None)

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`: no server knows of it."""
        self.withdraw(call)

    # -- what the connections tell -----------------------------------------------------------

    def ready(self) -> None:
        """A connection is usable: send what has been waiting."""
        queue, self._queue = self._queue, {}
        now = self._clock.seconds()
        for call in queue:
            call.has_waited(now)
            self.start(call)

    def not_ready(self) -> None:
        """A connection failed: if it was the last hope, say so to those who wait for it."""
        if self._pick() is not None or self._is_connecting():
            return
        for call in [call for call in self._queue if not call.wait_for_ready]:
            if call in self._queue:  # not ended by what the failures of the others led to
                del self._queue[call]
                call.fail(self._unavailable())

    def close(self, error: Exception) -> None:
        """End all calls with *error*, and all connections."""
        calls = list(self._queue)
        self._queue.clear()
        waiting = [call for sub in self._subchannels for call in sub.calls()]
        for subchannel in self._subchannels:
            subchannel.close()
        for call in (*waiting, *calls):
            call.fail(error)

    @property
    def dropped(self) -> Counter[str]:
        """What was dropped of incoming messages, by reason, over all connections."""
        return sum((sub.wire.dropped for sub in self._subchannels), Counter[str]())
