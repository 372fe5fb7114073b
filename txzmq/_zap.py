"""Who may connect to sockets with CURVE: ZMQ RFC 27 (ZAP), in the reactor."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import zmq
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zmq.utils import z85

from txzmq._client_keys import ClientKeys
from txzmq._escape import escaped
from txzmq._identity import Identity, user_of
from txzmq._ordered_set import OrderedSet
from txzmq._rate_limit import KindLimits, RateLimit
from txzmq._reactor import Timer, monotonic
from txzmq.connection import Factory, ZmqConnection, ZmqEndpoint, ZmqEndpointType

__all__ = ["ADDRESS", "Authenticator", "Decision", "Domain"]

_log = Logger()

#: Where libzmq looks for whoever decides, in its context.
ADDRESS: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_KEY_SIZE: Final = 32
#: Parts of a request: the way back, an empty one, and six and the key.
_PARTS: Final = 9
#: Requests that wait for a function's answer. For one more, one is told to come again later: the
#: oldest from the address from which the most wait, so that a flood keeps out itself.
_MOST_WAITING: Final = 4_096
#: Characters of a mechanism's name: RFC 23 has 20.
_LONGEST_MECHANISM: Final = 20
_LET_IN: Final = "let {identity} in from {address} ({public_key}){more}"
_REFUSED: Final = "refused a client from {address}: {reason} ({public_key}){more}"
_numbers = itertools.count(1)


class Domain(Protocol):
    """What an authenticator needs of a server's credentials."""

    @property
    def clients(self) -> ClientKeys:
        """Who may connect."""
        ...

    @property
    def policy_timeout(self) -> float:
        """Seconds that a function may take to decide."""
        ...


class Decision(NamedTuple):
    """What was decided about a client that wanted to connect.

    :ivar identity: who was let in; None if it was refused.
    :ivar public_key: the client's CURVE key; empty if it has shown none.
    :ivar address: where it connects from, an IP address; empty for ipc.
    :ivar mechanism: the one that it wanted, such as ``CURVE``.
    :ivar reason: why it was refused; empty if it was not.
    """

    identity: Identity | None
    public_key: str
    address: str
    mechanism: str
    reason: str


class _Question:
    """What libzmq has asked.

    :ivar content: the way back, the number, the domain, the client's key and its address.
    :ivar timer: runs while a function decides.
    """

    __slots__ = ("content", "is_answered", "timer")

    def __init__(
        self, way: list[bytes], number: bytes, domain: Domain, key: str, address: str
    ) -> None:
        self.content = way, number, domain, key, address
        self.is_answered = False
        self.timer: Timer | None = None


def _cancel(asked: Deferred[None]) -> None:
    try:
        asked.cancel()
    except Exception:  # noqa: BLE001 - a user's own canceller
        _log.failure("a Deferred of the function of clients failed to be cancelled")


class Authenticator(ZmqConnection):
    """Answers libzmq's questions whether a client may connect; one for a context.

    What raises, hangs, or returns nonsense denies. It decides for sockets with CURVE only.
    """

    socketType = zmq.ROUTER
    credentials = None
    #: A question is never dropped: libzmq waits for its answer.
    highWaterMark = 0

    def __init__(self, factory: Factory) -> None:
        """:raises RuntimeError: if something else decides in this context already."""
        # As long as a connection, or somebody else, has the credentials.
        self._domains: WeakValueDictionary[bytes, Domain] = WeakValueDictionary()
        self._names: WeakKeyDictionary[Domain, bytes] = WeakKeyDictionary()
        self._waiting: dict[_Question, Deferred[None]] = {}
        # Who is told of decisions.
        self._watchers: WeakKeyDictionary[Domain, OrderedSet[Callable[[Decision], None]]] = (
            WeakKeyDictionary()
        )
        # The same by address, the oldest first.
        self._places: dict[str, OrderedSet[_Question]] = {}
        try:
            super().__init__(factory, ZmqEndpoint(ZmqEndpointType.bind, ADDRESS))
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            raise RuntimeError(
                f"something else listens at {ADDRESS} in this ZmqFactory's context, such as an "
                "authenticator of zmq.auth: there can be one only, and credentials need their own"
            ) from None
        factory.connections.discard(self)  # it goes last
        clock = monotonic(factory.reactor)
        self._lines, self._failures = KindLimits(clock), RateLimit(clock)

    def domain_of(self, domain: Domain) -> bytes:
        """The name by which libzmq asks for a server's credentials."""
        name = self._names.get(domain)
        if name is None:
            name = self._names[domain] = b"txzmq.%d" % next(_numbers)
            self._domains[name] = domain
        return name

    def watch(self, domain: Domain, callback: Callable[[Decision], None]) -> Callable[[], None]:
        """Have *callback* called with each decision about clients of *domain*.

        :return: a function that takes this back.
        """
        watchers = self._watchers.setdefault(domain, OrderedSet())
        watchers.add(callback)
        return lambda: watchers.discard(callback)

    def messageReceived(self, message: list[bytes]) -> None:
        """Decide, now or later; or say at once what is no question."""
        if len(message) < _PARTS - 1 or message[1] or message[2] != _VERSION:
            self.discard("malformed")
            return
        way = message[:2]
        request_id, name, address, _, mechanism = message[3:8]
        domain = self._domains.get(name)
        if domain is None:
            self._answer(way, request_id, b"400", "no such domain")
            return
        place = escaped(address.decode("ascii", "replace"))
        key = message[8] if len(message) == _PARTS else b""
        if mechanism == b"CURVE" and len(key) == _KEY_SIZE:
            self._decide(domain, z85.encode(key).decode(), place, way, request_id)
            return
        # What is in place of the key is not looked at: it may be a password.
        is_curve = mechanism == b"CURVE"
        reason = "malformed credentials" if is_curve else "only CURVE is allowed here"
        self._answer(way, request_id, b"400", reason)
        wanted = escaped(mechanism[:_LONGEST_MECHANISM].decode("ascii", "replace"))
        self._tell(domain, Decision(None, "", place, wanted, reason))

    def _decide(
        self, domain: Domain, key: str, place: str, way: list[bytes], request_id: bytes
    ) -> None:
        question = _Question(way, request_id, domain, key, place)
        asked = domain.clients.look_up(key, place).addBoth(self._decided, question)
        if not question.is_answered:
            assert self.factory is not None, "it has just received something"
            self._waiting[question] = asked
            self._places.setdefault(place, OrderedSet()).add(question)
            question.timer = self.factory.reactor.callLater(
                domain.policy_timeout, self._too_late, question
            )
            if len(self._waiting) > _MOST_WAITING:
                self._send_one_away()

    def _send_one_away(self) -> None:
        """There is no room for all: one has to come again."""
        question = max(self._places.values(), key=len).first()
        asked = self._waiting[question]
        self._forget(question)
        way, number, domain, key, place = question.content
        reason = "too many clients wait for a decision"
        self._answer(way, number, b"300", reason)
        self._tell(domain, Decision(None, key, place, "CURVE", reason))
        _cancel(asked)

    def _forget(self, question: _Question) -> None:
        """A question is answered, or is about to be."""
        question.is_answered = True
        if self._waiting.pop(question, None) is None:
            return
        place = question.content[4]
        here = self._places[place]
        here.discard(question)
        if not here:
            del self._places[place]
        if question.timer is not None and question.timer.active():
            question.timer.cancel()

    def _decided(self, result: Identity | Failure | None, question: _Question) -> None:
        if question.is_answered:
            return  # nobody waits for it any more
        self._forget(question)
        way, number, domain, key, place = question.content
        if isinstance(result, Identity):
            self._answer(way, number, b"200", "OK", key)
            self._tell(domain, Decision(result, key, place, "CURVE", ""))
        elif isinstance(result, Failure):
            reason = "that could not be decided"
            self._answer(way, number, b"500", "the server cannot decide")
            self._tell(domain, Decision(None, key, place, "CURVE", reason), result)
        else:
            self._answer(way, number, b"400", "unknown key")
            self._tell(domain, Decision(None, key, place, "CURVE", "the key is unknown"))

    def _too_late(self, question: _Question) -> None:
        """The time is over, also for what does not end when it is cancelled."""
        asked = self._waiting[question]
        seconds = question.content[2].policy_timeout
        error = TimeoutError(f"no answer within {seconds:g} s")
        self._decided(Failure(error), question)  # type: ignore[no-untyped-call]  # Twisted's
        _cancel(asked)

    def _tell(self, domain: Domain, decision: Decision, failure: Failure | None = None) -> None:
        """Tell those who watch the domain, and the log unless there are too many such lines."""
        self._say(decision, failure)
        for watcher in list(self._watchers.get(domain, ())):
            try:
                watcher(decision)
            except Exception:  # noqa: BLE001 - a user's own; the others must be told too
                _log.failure("a callback of watchClients() raised an exception")

    def _say(self, decision: Decision, failure: Failure | None) -> None:
        identity, key, address, mechanism, reason = decision
        if failure is None:
            left_out = self._lines.take((user_of(identity), key, mechanism, reason))
        elif self._failures.take():
            left_out = self._failures.take_suppressed()
        else:
            self._failures.suppress()
            left_out = None
        if left_out is None:
            return
        # Any: what a Logger takes besides has other types.
        values: dict[str, Any] = {
            "identity": escaped(user_of(identity)),
            "public_key": key,
            "address": address,
            "mechanism": mechanism,
            "reason": reason,
        }
        if identity is not None:
            more = f"; {left_out} more times since the last line" if left_out else ""
            _log.info(_LET_IN, more=more, **values)
            return
        more = f"; {left_out} more were refused since the last line" if left_out else ""
        if failure is None:
            _log.warn(_REFUSED, more=more, **values)
        else:
            _log.failure(_REFUSED, failure, more=more, **values)

    def _answer(
        self, way: list[bytes], request_id: bytes, code: bytes, text: str, user: str = ""
    ) -> None:
        if self.socket is not None:
            reply = (_VERSION, request_id, code, text.encode(), user.encode(), b"")
            self.trySend([*way, *reply])

    def shutdown(self) -> None:
        """Let nobody in any more."""
        super().shutdown()
        for question, asked in list(self._waiting.items()):
            self._forget(question)
            _cancel(asked)
        self._domains.clear()
        self._names.clear()
        self._watchers.clear()
