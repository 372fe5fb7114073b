"""Whether a gateway can pass calls on."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, succeed

from txzmq.rpc.watching import ConnectivityState

__all__ = ["GATEWAY", "Readiness"]

#: The gateway's own name for ``grpc.health.v1.Health``: all others are the servers'.
GATEWAY: Final = "txzmq.gateway"


class Readiness:
    """Whether a gateway can pass calls on: its channel has a server, and it does not stop."""

    def __init__(self, channel: object) -> None:
        """:param channel: to the servers. One that tells no state counts as ready."""
        self._channel = channel
        self._stops = False
        # How many servers take calls for it.
        self._listening = 0
        # With what each wants to hear the end of.
        self._waiting: dict[Deferred[bool], bool] = {}
        # Waits for the channel's next state, while somebody waits here.
        self._next: Deferred[ConnectivityState] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can at this moment."""
        state = getattr(self._channel, "state", ConnectivityState.READY)
        return not self._stops and state is ConnectivityState.READY

    @property
    def has_stopped(self) -> bool:
        """Whether it takes no further calls."""
        return self._stops

    def listens(self) -> None:
        """A server takes calls for it; who waits is told at once."""
        self._listening += 1
        self._stops = False
        self._tell()

    def listens_no_more(self) -> None:
        """One of these stops; without another, it takes no further calls, and who waits is told."""
        self._listening -= 1
        if not self._listening:
            self._stops = True
            self._tell()

    def wait_for_change(self, last: bool) -> Deferred[bool]:
        """Wait until it is not *last* any more; it may be so already.

        :return: whether it is ready; it may be cancelled.
        """
        if self.is_ready is not last:
            return succeed(not last)
        waiter: Deferred[bool] = Deferred(self._leave)
        self._waiting[waiter] = last
        self._follow()
        return waiter

    def _follow(self) -> None:
        """Wait for the channel's next state, or do not, by whether somebody waits here."""
        if self._waiting and self._next is None:
            state = getattr(self._channel, "state", None)
            if state is None or state is ConnectivityState.SHUTDOWN:
                return  # it has none, or there will be no other
            wait = getattr(self._channel, "wait_for_state_change")  # noqa: B009 - a Caller has none
            following: Deferred[ConnectivityState] = wait(state)
            self._next = following
            following.addCallbacks(self._changed, _not_followed)
        elif not self._waiting and self._next is not None:
            last, self._next = self._next, None
            last.cancel()

    def _changed(self, _: ConnectivityState) -> None:
        self._next = None
        self._tell()

    def _tell(self) -> None:
        ready = self.is_ready
        for waiter, last in list(self._waiting.items()):
            if last is not ready and self._waiting.pop(waiter, None) is not None:
                waiter.callback(ready)
        self._follow()

    def _leave(self, waiter: Deferred[bool]) -> None:
        self._waiting.pop(waiter, None)
        self._follow()


def _not_followed(_: object) -> None:
    """Nobody waits any more."""
