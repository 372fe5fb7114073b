"""How the RPC layer sets up its sockets: every default, and why it is that one.

The socket layer keeps libzmq's and txZMQ's defaults; these are for channels and servers. They go on
before the first bind or connect, for most act on later ones only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SocketOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketOptions:
    """What may be changed of the sockets of a channel or server; times are in seconds.

    What is not here is fixed, since the promises of the RPC layer hang on it:

    - ``LINGER`` is 0.1 s on a channel, so that what it says of its streams when it is closed gets
      out, if nothing is in the way; and 1 s on a server, for its last replies.
    - ``IMMEDIATE`` is on where a socket connects: no request waits in libzmq for a server that is
      down, to be executed there much later.
    - ``ROUTER_MANDATORY`` is on where a server's socket sends: a reply that cannot be sent is an
      error, not silence. ``ROUTER_HANDOVER`` is off: with it, a stranger could take over
      another's replies. No routing ids are set, for the same reason.
    - ``HEARTBEAT_IVL`` is off: with a bounded ``RCVHWM``, ZMTP's heartbeats can abort the process
      in libzmq 4.3.5. TCP's keepalive finds a dead machine, and ``Control.Ping`` a process that is
      stopped; see :class:`~txzmq.rpc.Liveness`.
    - ``MAXMSGSIZE`` follows from the limit for messages, so that nobody has to receive what it
      would refuse: 64 KiB more than that, or than 4 MiB, where that is more.
    - ``IPV6`` is on where an address has brackets: with it, libzmq resolves names to IPv6 first.
    """

    #: ``SNDHWM``: messages that libzmq holds for each peer, on their way out. Never unbounded. A
    #: message has the calls or replies of a turn of the reactor. Ten times as many of streams, for
    #: each message has items of one.
    send_high_water_mark: int = 1_000
    #: ``RCVHWM``: the same on their way in.
    receive_high_water_mark: int = 1_000
    #: Bytes of large messages, of 64 KiB and more, that libzmq holds for each peer on their way
    #: out, since a high-water mark bounds no bytes. The most that a peer costs is this, and
    #: ``send_high_water_mark`` times 64 KiB of smaller ones. One message is sent in any case.
    send_budget: int = 64 * 1024 * 1024
    #: ``TCP_KEEPALIVE_IDLE``: after so long a silence the kernel asks whether the other machine is
    #: there; None to leave it to the kernel, which does so after two hours.
    keepalive_idle: int | None = 20
    #: ``TCP_KEEPALIVE_INTVL``: until it asks again.
    keepalive_interval: int = 5
    #: ``TCP_KEEPALIVE_CNT``: how often it asks in vain before the connection is lost. So a dead
    #: machine is known after 35 s.
    keepalive_count: int = 3
    #: ``TCP_MAXRT``: how long what was sent may stay unacknowledged. Keepalive does not see it.
    retransmit_timeout: float = 30.0
    #: ``CONNECT_TIMEOUT``, where a socket connects. The kernel's own attempts come ever less often
    #: while nothing answers; new ones find a network that has healed within this.
    connect_timeout: float = 5.0
    #: ``HANDSHAKE_IVL``: who has connected and does not speak ZMTP by then is dropped. None for 5 s
    #: on a socket that connects, 10 s on one that listens.
    handshake_timeout: float | None = None
    #: ``RECONNECT_IVL``: between attempts to connect where nobody listens, drawn between these for
    #: each socket. libzmq's own backoff is the same in every process, and all clients of a server
    #: that restarts would come back at once.
    reconnect_interval: tuple[float, float] = (0.1, 0.3)
    #: ``RECONNECT_IVL_MAX``: what that grows to, likewise. Below a second, so that a server is used
    #: so soon after it listens again. After anything else than a refusal a channel makes a new
    #: socket, with a backoff of its own (:attr:`Liveness.max_backoff`): libzmq does not connect
    #: again after a breach of its protocol, and at once to a server that accepts and closes.
    reconnect_interval_max: tuple[float, float] = (0.6, 0.9)
    #: ``BACKLOG``, where a socket listens: connections that wait to be accepted. Enough for the
    #: clients of a server that has restarted.
    backlog: int = 1_024
    #: ``SNDBUF``: bytes of the kernel's buffer per connection; None for what the kernel finds good.
    send_buffer: int | None = None
    #: ``RCVBUF``: likewise.
    receive_buffer: int | None = None
    #: ``RATE``: kilobits per second that a server sends to a multicast group at most, on all of its
    #: streams; its clients should have the same. libzmq keeps what was sent in the last 10 s of it,
    #: which here is 12 MB.
    multicast_rate: int = 10_000
    #: Where a channel joins multicast groups: the name of a network interface, or an address of it.
    #: Empty for the one by which the server is reached.
    multicast_interface: str = ""

    def __post_init__(self) -> None:
        for name in (
            "send_high_water_mark",
            "receive_high_water_mark",
            "backlog",
            "send_budget",
            "multicast_rate",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        for name in (
            "keepalive_idle",
            "keepalive_interval",
            "keepalive_count",
            "retransmit_timeout",
            "connect_timeout",
            "handshake_timeout",
            "send_buffer",
            "receive_buffer",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("reconnect_interval", "reconnect_interval_max"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ValueError(f"{name} must be two times above 0, the shorter one first")

    def for_channel(self) -> Mapping[str, int]:
        """A channel's socket, by libzmq's names."""
        return {**self._common(), **self._connecting(), "LINGER": 100}

    def for_server(self) -> Mapping[str, int]:
        """A server's socket that listens."""
        return {
            **self._common(),
            "LINGER": 1_000,
            "ROUTER_MANDATORY": 1,
            "BACKLOG": self.backlog,
            "HANDSHAKE_IVL": _ms(self.handshake_timeout or 10.0),
        }

    def for_worker(self) -> Mapping[str, int]:
        """A server's socket that connects.

        With ``IMMEDIATE`` each connection is another peer, so that no reply goes to the clients of
        a proxy that has restarted.
        """
        return {
            **self._common(),
            **self._connecting(),
            "LINGER": 1_000,
            "ROUTER_MANDATORY": 1,
        }

    def for_publisher(self) -> Mapping[str, int]:
        """A server's socket that publishes streams.

        ``XPUB_MANUAL``: nobody receives what the server has not allowed; a subscription to
        everything would be one to all streams of others. The high-water mark counts messages to one
        client, of all its streams; the windows of the streams bound their bytes.
        """
        return {
            **self._common(),
            "LINGER": 1_000,
            "SNDHWM": 10 * self.send_high_water_mark,
            "XPUB_MANUAL": 1,
            "MAXMSGSIZE": 255,
            "BACKLOG": self.backlog,
            "HANDSHAKE_IVL": _ms(self.handshake_timeout or 10.0),
        }

    def for_multicast(self) -> Mapping[str, int]:
        """A server's socket that publishes shared streams to a multicast group."""
        return {
            **self._common(),
            "LINGER": 1_000,
            "SNDHWM": 10 * self.send_high_water_mark,
            "RATE": self.multicast_rate,
        }

    def for_subscriber(self) -> Mapping[str, int]:
        """A channel's socket for a server's streams; it connects again by itself."""
        return {
            **self._common(),
            **self._connecting(),
            "LINGER": 0,
            "RATE": self.multicast_rate,
        }

    def _common(self) -> dict[str, int]:
        options = {
            "SNDHWM": self.send_high_water_mark,
            "RCVHWM": self.receive_high_water_mark,
            "TCP_MAXRT": _ms(self.retransmit_timeout),
        }
        if self.keepalive_idle is not None:
            options |= {
                "TCP_KEEPALIVE": 1,
                "TCP_KEEPALIVE_IDLE": self.keepalive_idle,
                "TCP_KEEPALIVE_INTVL": self.keepalive_interval,
                "TCP_KEEPALIVE_CNT": self.keepalive_count,
            }
        if self.send_buffer is not None:
            options["SNDBUF"] = self.send_buffer
        if self.receive_buffer is not None:
            options["RCVBUF"] = self.receive_buffer
        return options

    def _connecting(self) -> dict[str, int]:
        return {
            "IMMEDIATE": 1,
            "CONNECT_TIMEOUT": _ms(self.connect_timeout),
            "HANDSHAKE_IVL": _ms(self.handshake_timeout or 5.0),
            "RECONNECT_IVL": _ms(random.uniform(*self.reconnect_interval)),
            "RECONNECT_IVL_MAX": _ms(random.uniform(*self.reconnect_interval_max)),
        }


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1_000))
