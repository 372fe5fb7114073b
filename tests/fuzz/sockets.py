"""Messages for the sockets: questions of who may connect, events, whatever peers send."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import zmq
from twisted.internet.defer import Deferred
from zmq.utils import z85

from tests.auth.support import ALICE, CLIENTS, serving
from tests.fuzz.mutators import read_steps
from tests.fuzz.server import check_log
from tests.fuzz.wire import expect, of_corpus, scripts
from tests.sockets.support import Dealer, Silent, Sub, Turns, bind, fresh_turns
from tests.support import captured_log
from txzmq import ZmqConnection, ZmqREQConnection, ZmqXPubConnection
from txzmq.monitor import SocketEvent, ZmqMonitor

# -- who may connect ---------------------------------------------------------------------------

#: What stands for the name of a domain, and for a key that is known.
DOMAIN, POLICY, KEY = b"<domain>", b"<policy>", b"<the key of alice, 32 bytes....>"
_KEY: Final = z85.decode(ALICE.public_key.encode())


def check_zap(data: bytes) -> None:
    """Only who has a key that is known is let in, and every question has one answer."""
    with captured_log() as logged, fresh_turns() as turns:
        kept = serving(), serving(_never_decides, policy_timeout=1)
        names = [turns.factory.domainOf(each) for each in kept]
        factory: Any = turns.factory  # its parts are looked at
        authenticator = factory._authenticator
        answers: list[list[bytes]] = []
        authenticator.trySend = answers.append
        for step in read_steps(data):
            message = [_meant(frame, names) for frame in step.frames]
            before = len(answers)
            authenticator.messageReceived([b"peer", *message])
            _check_answers(message, answers[before:], names)
        turns.reactor.advance(2)
        expect(not authenticator._waiting, "a question waits for ever")
        expect(len(CLIENTS) == len(kept[0].clients), "clients have become known")
        for answer in answers:
            expect(answer[:2] == [b"peer", b""] and len(answer) == 8, f"an answer {answer}")
    expect(not logged.failures() or _are_timeouts(logged.failures()), "something has failed")


def _meant(frame: bytes, names: Sequence[bytes]) -> bytes:
    for word, real in ((DOMAIN, names[0]), (POLICY, names[1]), (KEY, _KEY)):
        frame = frame.replace(word, real)
    return frame


def _check_answers(
    message: Sequence[bytes], answers: Sequence[Sequence[bytes]], names: Sequence[bytes]
) -> None:
    expect(len(answers) <= 1, "two answers to one question")
    for answer in answers:
        if answer[4] == b"200":
            expect(
                (message[3], *message[6:]) == (names[0], b"CURVE", _KEY),
                f"a stranger is let in: {message}",
            )
            expect(answer[6] == ALICE.public_key.encode(), "somebody else is let in")
        else:
            expect(answer[6] == b"", "somebody who is refused has a name")


def _never_decides(key: str, address: str) -> Deferred[None]:
    return Deferred()


def _are_timeouts(failures: Sequence[BaseException]) -> bool:
    return all(isinstance(failure, TimeoutError) for failure in failures)


# -- events of a socket ------------------------------------------------------------------------


def check_monitor(data: bytes) -> None:
    """Every event is passed on, and what is none is dropped."""
    events: list[SocketEvent] = []
    with captured_log() as logged, fresh_turns() as turns:
        monitor = ZmqMonitor(Dealer(turns.factory), events.append)
        for step in read_steps(data):
            monitor.messageReceived(list(step.frames))
        for event in events:
            expect(0 <= event.event < 2**16 and -(2**31) <= event.value < 2**31, f"{event}")
    check_log(logged)


# -- whatever peers send -----------------------------------------------------------------------


class Req(ZmqREQConnection):
    """Waits for a reply to ``id``."""

    def _getNextId(self) -> bytes:
        return b"id"


#: By number of a step.
_KINDS: Final[Sequence[type[ZmqConnection]]] = (Silent, Req, Sub, ZmqXPubConnection, Dealer)


@contextmanager
def _connections() -> Generator[tuple[Turns, Callable[[int], ZmqConnection]]]:
    made: dict[int, ZmqConnection] = {}
    with fresh_turns() as turns:

        def connection(kind: int) -> ZmqConnection:
            if kind not in made:
                address = f"inproc://{kind}"
                new = made[kind] = _KINDS[kind](turns.factory, bind(address))
                if isinstance(new, ZmqREQConnection):
                    turns.raw(zmq.DEALER, address)
                    new.sendMsg(b"x").addErrback(lambda _: None)
            return made[kind]

        yield turns, connection


def check_sockets(data: bytes) -> None:
    """No message raises out of what receives it."""
    with captured_log() as logged, _connections() as (turns, connection):
        for step in read_steps(data):
            kind = step.what % len(_KINDS)
            message = [b"peer", *step.frames] if _KINDS[kind] is Silent else list(step.frames)
            if message:  # ZeroMQ has none without a frame
                connection(kind).messageReceived(message)
        turns.settle()
    check_log(logged)


TARGETS: Final = {
    "zap": of_corpus("zap", scripts("zap", 1), check_zap),
    "monitor": of_corpus("monitor", scripts("monitor", 1), check_monitor),
    "sockets": of_corpus("sockets", scripts("sockets", len(_KINDS)), check_sockets),
}
