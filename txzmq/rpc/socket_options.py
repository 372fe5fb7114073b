"""The options of the RPC layer's sockets: every default, and the reason for it.

They are for channels and servers; the socket layer keeps the defaults of libzmq and txZMQ. They are
set before the first bind or connect, since most affect only later ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from txzmq import _check

__all__ = ["PUBLISHER_MESSAGE_SIZE", "SECURE_PUBLISHER_MESSAGE_SIZE", "SocketOptions"]

#: Bytes of the largest message that a publisher takes; a larger one ends its sender's connection.
#: A subscription is a topic of 17 bytes behind a command of 10; ZMTP's handshake without
#: credentials has up to 40. libzmq keeps each subscription that it is sent, also where the server
#: does not allow it, and needs some 50 bytes for each of its bytes.
PUBLISHER_MESSAGE_SIZE: Final = 64
#: The same with credentials: CURVE's handshake has up to 300 bytes, and each message 33 more.
SECURE_PUBLISHER_MESSAGE_SIZE: Final = 640
#: Subscriptions of one peer that wait for a publisher. An XPUB takes all that wait before it hands
#: out one, and goes on while more come: with libzmq's default, a peer that sends them without end
#: blocks the reactor for as long, and nothing can be done about it meanwhile. With so few, libzmq's
#: own thread seldom keeps up.
_WAITING_SUBSCRIPTIONS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketOptions:
    """Options of the sockets of a channel or server; times are in seconds.

    Other options are fixed, since the promises of the RPC layer depend on them:

    - ``LINGER`` is 0.1 s on a channel, so that a channel that is closed can still send what its
      streams owe the server; and 1 s on a server, for its last replies.
    - ``IMMEDIATE`` is on where a socket connects: no request waits in libzmq for a server that is
      down, to be executed there much later.
    - ``ROUTER_MANDATORY`` is on where a server's socket sends: a reply that cannot be sent is an
      error, and not dropped silently. ``ROUTER_HANDOVER`` is off: with it, a stranger could take
      over another client's replies. No routing ids are set, for the same reason.
    - ``HEARTBEAT_IVL`` is off: with a bounded ``RCVHWM``, ZMTP's heartbeats can abort the process
      in libzmq 4.3.5. TCP's keepalive finds a dead machine, and ``Control.Ping`` a process that is
      stopped; see :class:`~txzmq.rpc.Liveness`.
    - ``MAXMSGSIZE`` follows from the limit for messages, so that libzmq does not receive a message
      that would be refused: it is 64 KiB more than that limit or than 4 MiB, whichever is larger.
      On a publisher it is 64 bytes, since it is sent nothing but subscriptions to topics, and
      ``RCVHWM`` is 2, so that a peer which subscribes without end keeps nobody waiting.
    - ``IPV6`` is on where an address has brackets: with it, libzmq resolves names to IPv6 first.
    """

    #: ``SNDHWM``: how many messages to one peer libzmq holds. It is always bounded. A message has
    #: the calls or replies of one turn of the reactor. A publisher holds ten times as many, since
    #: each of its messages has items of one stream only.
    send_high_water_mark: int = 1_000
    #: ``RCVHWM``: how many messages from one peer libzmq holds.
    receive_high_water_mark: int = 1_000
    #: How many bytes of large messages (64 KiB or more) to one peer libzmq holds, since a
    #: high-water mark does not bound bytes. A peer costs at most this, and ``send_high_water_mark``
    #: times 64 KiB for smaller messages. One message is sent in any case. On PyPy, where libzmq
    #: does not tell when it is done with a message, no more messages of any size are held than this
    #: has room for with the largest size (``MAXMSGSIZE``).
    send_budget: int = 64 * 1024 * 1024
    #: ``TCP_KEEPALIVE_IDLE``: after how long a silence the kernel probes whether the other machine
    #: is there; None to leave it to the kernel, which does so after two hours.
    keepalive_idle: int | None = 20
    #: ``TCP_KEEPALIVE_INTVL``: how long after a probe the next one follows.
    keepalive_interval: int = 5
    #: ``TCP_KEEPALIVE_CNT``: how many probes stay unanswered before the connection is lost. With
    #: these defaults a dead machine is noticed after 35 s.
    keepalive_count: int = 3
    #: ``TCP_MAXRT``: how long sent data may stay unacknowledged before the connection is lost.
    #: Keepalive sends no probes meanwhile.
    retransmit_timeout: float = 30.0
    #: ``CONNECT_TIMEOUT``, where a socket connects: how long one attempt may take. The kernel
    #: repeats its own packets ever less often while nothing answers; with a new attempt, a network
    #: that works again is noticed within this time.
    connect_timeout: float = 5.0
    #: ``HANDSHAKE_IVL``: how long the ZMTP handshake of a connection may take before it is dropped.
    #: None for 5 s on a socket that connects, 10 s on one that listens.
    handshake_timeout: float | None = None
    #: ``RECONNECT_IVL``: the time between attempts to connect where nobody listens; each socket
    #: gets a random value between these two. libzmq's own backoff is the same in every process, so
    #: that all clients of a server that restarts would come back at once.
    reconnect_interval: tuple[float, float] = (0.1, 0.3)
    #: ``RECONNECT_IVL_MAX``: the value up to which that time grows, random likewise. It is below a
    #: second, so that clients connect within a second after a server listens again. After any other
    #: failure than a refused connection, a channel makes a new socket, with a backoff of its own
    #: (:attr:`Liveness.max_backoff`): libzmq does not connect again after a protocol error, and
    #: connects again at once to a server that accepts and closes.
    reconnect_interval_max: tuple[float, float] = (0.6, 0.9)
    #: ``BACKLOG``, where a socket listens: how many connections may wait to be accepted. The
    #: default is enough for the clients of a server that has restarted.
    backlog: int = 1_024
    #: ``SNDBUF``: bytes of the kernel's send buffer per connection; None for the kernel's choice.
    send_buffer: int | None = None
    #: ``RCVBUF``: bytes of the kernel's receive buffer per connection; None likewise.
    receive_buffer: int | None = None
    #: ``RATE``: kilobits per second that a server sends to a multicast group at most, for all of
    #: its streams; its clients should have the same value. libzmq keeps what was sent in the last
    #: 10 s, which is 12 MB at the default rate.
    multicast_rate: int = 10_000
    #: On which network interface a channel joins multicast groups: its name, or an address of it.
    #: Empty for the interface that leads to the server.
    multicast_interface: str = ""

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        for name in _WHOLE:
            _check.integer(name, getattr(self, name), 1, _MOST)
        _check.integer("send_budget", self.send_budget, 1)  # it is not libzmq's
        for name in _SECONDS:
            _check.number(name, getattr(self, name), most=_MOST_SECONDS, above=True)
        for name in _OPTIONAL:
            if getattr(self, name) is not None:
                _check.integer(name, getattr(self, name), 1, _MOST)
        if self.handshake_timeout is not None:
            _check.number(
                "handshake_timeout", self.handshake_timeout, most=_MOST_SECONDS, above=True
            )
        _check_interval("reconnect_interval", self.reconnect_interval)
        _check_interval("reconnect_interval_max", self.reconnect_interval_max)
        _check.text("multicast_interface", self.multicast_interface, empty=True)

    def for_channel(self) -> Mapping[str, int]:
        """The options of a channel's socket for calls, by libzmq's names."""
        return {**self._common(), **self._connecting(), "LINGER": 100}

    def for_server(self) -> Mapping[str, int]:
        """The options of a server's socket that listens."""
        return {
            **self._common(),
            "LINGER": 1_000,
            "ROUTER_MANDATORY": 1,
            "BACKLOG": self.backlog,
            "HANDSHAKE_IVL": _ms(self.handshake_timeout or 10.0),
        }

    def for_worker(self) -> Mapping[str, int]:
        """The options of a server's socket that connects to a proxy.

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
        """The options of a server's socket that publishes streams.

        With ``XPUB_MANUAL`` a subscription has no effect unless the server allows it; else a
        subscription to everything would receive the streams of others. The high-water mark counts
        the messages of all streams to one client. The windows of private streams bound their bytes;
        of shared ones, ``ServerLimits.backlog_per_peer`` does where the host tells what is taken.
        """
        return {
            **self._common(),
            "LINGER": 1_000,
            "SNDHWM": 10 * self.send_high_water_mark,
            "RCVHWM": _WAITING_SUBSCRIPTIONS,
            "XPUB_MANUAL": 1,
            "MAXMSGSIZE": PUBLISHER_MESSAGE_SIZE,
            "BACKLOG": self.backlog,
            "HANDSHAKE_IVL": _ms(self.handshake_timeout or 10.0),
        }

    def for_multicast(self) -> Mapping[str, int]:
        """The options of a server's socket that publishes shared streams to a multicast group."""
        return {
            **self._common(),
            "LINGER": 1_000,
            "SNDHWM": 10 * self.send_high_water_mark,
            "RATE": self.multicast_rate,
        }

    def for_subscriber(self) -> Mapping[str, int]:
        """The options of a channel's socket for a server's streams."""
        return {
            **self._common(),
            **self._connecting(),
            "LINGER": 0,
            # Of subscriptions, which libzmq would drop without a word past a limit: as many as
            # there are streams.
            "SNDHWM": 0,
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


#: The largest value of an option of libzmq, which is an int of C, and of which a publisher may have
#: ten times as much; and in seconds, one that is given in milliseconds.
_MOST: Final = (2**31 - 1) // 10
_MOST_SECONDS: Final = 2_000_000
_WHOLE: Final = (
    "send_high_water_mark",
    "receive_high_water_mark",
    "keepalive_interval",
    "keepalive_count",
    "backlog",
    "multicast_rate",
)
_SECONDS: Final = ("retransmit_timeout", "connect_timeout")
_OPTIONAL: Final = ("keepalive_idle", "send_buffer", "receive_buffer")


def _check_interval(name: str, interval: object) -> None:
    expected = "two durations above 0, the shorter one first"
    _check.instance(name, interval, tuple, f"a tuple of {expected}")
    pair = cast("tuple[Any, ...]", interval)
    if len(pair) != 2:
        raise ValueError(f"{name} must be {expected}, not {len(pair)} of them")
    for value in pair:
        _check.number(name, value, most=_MOST_SECONDS, above=True)
    least, most = pair
    if least > most:
        raise ValueError(f"{name} must be {expected}, not {interval}")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1_000))
