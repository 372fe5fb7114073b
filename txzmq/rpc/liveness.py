"""How a channel finds out that a server has stopped answering."""

from __future__ import annotations

from dataclasses import dataclass

from txzmq import _check

__all__ = ["Liveness"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Liveness:
    """How a channel watches its connections. All times are in seconds.

    The channel notices at once when a server dies or closes its connections; TCP's keepalive
    notices a broken network. Neither sees a stopped process or a blocked reactor: its kernel and
    ZeroMQ's own thread still answer. So while calls wait on a connection and nothing arrives on
    it, the channel sends ``Control.Ping``, and gives the connection up if still nothing arrives.
    Nothing is sent on idle connections (as in gRFC A8).

    The channel replaces a connection that it gave up. The new one gets calls once its server has
    answered a ping.
    """

    #: The silence after which the channel pings the server, and again after each such silence. None
    #: for no pings; then *dead_after* has no effect.
    ping_interval: float | None = 10.0
    #: The silence after which the channel gives the connection up, and the calls on it fail. Both
    #: may take a quarter of *ping_interval* longer.
    dead_after: float = 20.0
    #: How many calls in a row may run out of time, while nothing at all is received, before the
    #: endpoint gets no further calls until it has answered a ping.
    suspect_after: int = 5
    #: How long the channel waits for the answer to that ping, and to the one on a new connection.
    probe_timeout: float = 5.0
    #: The delay from a loss to the next attempt to connect. Each failure makes it 1.6 times as
    #: long; a random factor makes each delay up to a half shorter or longer.
    first_backoff: float = 0.2
    #: The longest such delay, before the random factor.
    max_backoff: float = 20.0

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.number("dead_after", self.dead_after, above=True)
        if self.ping_interval is not None:
            _check.number("ping_interval", self.ping_interval, above=True, endless="None")
            if self.ping_interval > self.dead_after:
                raise ValueError(
                    f"ping_interval must be at most dead_after ({self.dead_after}), not "
                    f"{self.ping_interval}"
                )
        _check.integer("suspect_after", self.suspect_after, 1)
        _check.number("probe_timeout", self.probe_timeout, above=True)
        _check.number("max_backoff", self.max_backoff, above=True)
        _check.number("first_backoff", self.first_backoff, above=True)
        if self.first_backoff > self.max_backoff:
            raise ValueError(
                f"first_backoff must be at most max_backoff ({self.max_backoff}), not "
                f"{self.first_backoff}"
            )
