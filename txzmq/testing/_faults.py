"""What a network in memory does to messages, by chance or one by one; see txzmq.testing."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from txzmq import _check

__all__ = ["Carried", "Faults", "MessageFault", "MessageKind", "Script"]

#: What may befall a single message of a :class:`Script`.
MessageFault: TypeAlias = Literal["lost", "doubled", "late"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What a :class:`MemoryNetwork` does to messages: the same for the same seed."""

    #: The seed of the random numbers.
    seed: int = 0
    #: The probability, from 0 to 1, that a message never arrives.
    loss: float = 0.0
    #: The probability, from 0 to 1, that it arrives twice.
    duplication: float = 0.0
    #: It takes between zero and so many seconds, so that later messages overtake it.
    delay: float = 0.0
    #: The probability, from 0 to 1, that the sender's queue is full, so that the message is refused
    #: now, and sent later.
    blocked: float = 0.0
    #: The probability, from 0 to 1, that a SUBSCRIBE or UNSUBSCRIBE never arrives; libzmq drops
    #: them without a word past the subscriber's ``SNDHWM``. :attr:`loss`, :attr:`duplication` and
    #: :attr:`delay` do not concern these messages.
    subscription_loss: float = 0.0
    #: The probability, from 0 to 1, that a SUBSCRIBE or UNSUBSCRIBE arrives twice.
    subscription_duplication: float = 0.0
    #: A SUBSCRIBE or UNSUBSCRIBE takes between zero and so many seconds; later ones overtake it.
    subscription_delay: float = 0.0
    #: The probability, from 0 to 1, that after a SUBSCRIBE has arrived somebody unsubscribes from
    #: the same tag who never subscribed to it. A publisher of ZeroMQ passes that on.
    strangers: float = 0.0
    #: The probability, from 0 to 1, that a server is not told that a client's connection was lost,
    #: as over inproc.
    unreported_loss: float = 0.0
    #: A server is told of the loss of a client's connection after between zero and so many seconds;
    #: what it sends meanwhile is lost, as where a machine has vanished.
    late_loss: float = 0.0
    #: The probability, from 0 to 1, that a client loses what its server or publisher sent just
    #: before it closed its socket. libzmq drops what a socket with ``IMMEDIATE`` has not read by
    #: then.
    loss_at_close: float = 0.0

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.instance("seed", self.seed, int, "an integer")
        for name in _PROBABILITIES:
            _check.number(name, getattr(self, name), most=1)
        for name in ("delay", "subscription_delay", "late_loss"):
            _check.number(name, getattr(self, name))


_PROBABILITIES: Final = (
    "loss duplication blocked subscription_loss subscription_duplication strangers "
    "unreported_loss loss_at_close"
).split()


class MessageKind(enum.Enum):
    """What a message of a :class:`MemoryNetwork` is."""

    #: From a client to a server: calls, control calls among them.
    REQUEST = "request"
    #: From a server to a client.
    REPLY = "reply"
    #: From a publisher to one of its subscribers.
    PUBLICATION = "publication"
    #: A SUBSCRIBE, from a subscriber to its publisher.
    SUBSCRIPTION = "subscription"
    #: An UNSUBSCRIBE, likewise.
    UNSUBSCRIPTION = "unsubscription"


class Carried(NamedTuple):
    """A message that a :class:`MemoryNetwork` has carried."""

    kind: MessageKind
    #: The frames of a request or reply, without routing ids; the frame of a publication; the tag
    #: that a subscriber subscribes to or unsubscribes from.
    parts: Sequence[bytes]


class Script:
    """Loses, doubles or delays single messages of a :class:`MemoryNetwork`, by their numbers.

    Run once without faults, and ``carried`` has the messages of that run; run again for each
    of them, with a fault at its number. Give each network a script of its own. ::

        reference = Script()
        play(MemoryNetwork(script=reference))
        for number in range(len(reference.carried)):
            play(MemoryNetwork(script=Script({number: "lost"})))

    :ivar carried: the messages of all kinds that were sent so far, those that were lost among them,
        in the order in which they were sent; a message that was doubled is there once.
    """

    def __init__(
        self, faults: Mapping[int, MessageFault] | None = None, *, late: float = 1.0
    ) -> None:
        """
        :param faults: what befalls messages, by their indices in ``carried``.
        :param late: how many seconds a message takes that is late; later ones overtake it.
        :raises ValueError: for a value out of range, and so TypeError.
        """
        if faults is not None:
            _check.instance("faults", faults, Mapping, "a mapping of indices to faults, or None")
            # The cast is for pyright, which knows a mapping of what as little as the caller may.
            for number, fault in cast("Mapping[object, object]", faults).items():
                _check_fault(number, fault)
        _check.number("late", late)
        self.carried: list[Carried] = []
        self._faults = dict(faults or {})
        self._late = late

    def fault_at(self, number: int, fault: MessageFault) -> None:
        """Have a fault befall the message that will have the index *number* in ``carried``.

        :raises ValueError: if that message was sent already, or there is no such fault.
        """
        _check_fault(number, fault)
        if number < len(self.carried):
            raise ValueError(f"message {number} was sent already")
        self._faults[number] = fault

    def arrivals(self, kind: MessageKind, parts: Sequence[bytes]) -> Sequence[float]:
        """Count a message that is sent; after how many seconds it arrives, once for each time."""
        fault = self._faults.get(len(self.carried))
        self.carried.append(Carried(kind, tuple(parts)))
        if fault == "lost":
            return ()
        if fault == "late":
            return (self._late,)
        return (0.0, 0.0) if fault == "doubled" else (0.0,)


def _check_fault(number: object, fault: object) -> None:
    _check.integer("number (of a message, in faults)", number)
    _check.choice("fault (of a message, in faults)", fault, ("lost", "doubled", "late"))
