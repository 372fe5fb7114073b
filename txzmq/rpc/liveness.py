"""When a server counts as gone that the kernel says nothing about."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Liveness"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Liveness:
    """How a channel watches its connections; seconds.

    A server that dies or closes its connections is noticed at once, and a broken network by TCP's
    keepalive. What is left are processes that are stopped and reactors that are blocked: their
    kernel, and ZeroMQ's own thread, still answer. So while calls wait on a connection on which
    nothing arrives, the channel sends ``Control.Ping``, and gives the connection up where that
    does not help. Idle connections carry nothing (as gRFC A8 has it).

    A connection that was given up is made anew, and gets calls when its server has answered a
    ping.
    """

    #: After so long a silence a server is asked for a sign of life, and again each time as long.
    #: None for never. Kept to a quarter of itself.
    ping_interval: float | None = 10.0
    #: After so long a silence its connection is given up, and the calls on it fail. Likewise.
    dead_after: float = 20.0
    #: How many calls in a row may run out of time, while nothing at all is received, before the
    #: endpoint gets no further calls until it has answered a ping.
    suspect_after: int = 5
    #: How long the answer to such a ping, and to that on a new connection, is waited for.
    probe_timeout: float = 5.0
    #: From a loss to the next attempt to connect. Each failure makes it 1.6 times as long; all
    #: delays are up to a half shorter or longer.
    first_backoff: float = 0.2
    #: It does not grow beyond this.
    max_backoff: float = 20.0

    def __post_init__(self) -> None:
        interval = self.ping_interval
        if interval is not None and not 0 < interval <= self.dead_after:
            raise ValueError("ping_interval must be above 0 and at most dead_after")
        if self.suspect_after < 1:
            raise ValueError("suspect_after must be 1 or more")
        if not self.probe_timeout > 0:
            raise ValueError("probe_timeout must be above 0")
        if not 0 < self.first_backoff <= self.max_backoff:
            raise ValueError("first_backoff must be above 0 and at most max_backoff")
