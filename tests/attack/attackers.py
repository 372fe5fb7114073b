"""Attackers: ``python -m tests.attack.attackers NAME JSON``, each in a process of its own.

One says ``attacking`` when all that it holds is there, and goes on until it is killed; what it has
seen of the server it says in lines of their own. They import nothing of txzmq, to start at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import zmq

from tests.attack.curve import COMMAND, MORE, Peer, Refused, frame, greeting

_HUGE: Final = (2**62, 2**63 - 1, 2**64 - 1, 2**40, 2**31)


class Target(NamedTuple):
    """What is attacked, and with which keys.

    :ivar endpoint: of calls.
    :ivar publisher: of streams.
    :ivar server_key: the server's public key.
    :ivar known: public and secret key of a client that the server knows.
    :ivar unknown: of one that it does not know.
    :ivar header: of a request to echo, in hex.
    """

    endpoint: str
    publisher: str
    server_key: str
    known: tuple[str, str]
    unknown: tuple[str, str]
    header: str

    def peer(self, *, known: bool = True, publisher: bool = False) -> Peer:
        """A new connection, on which nothing was said."""
        endpoint, kind = (self.publisher, b"SUB") if publisher else (self.endpoint, b"DEALER")
        return Peer(endpoint, self.server_key, self.known if known else self.unknown, kind)

    def ready(self, *, publisher: bool = False) -> Peer:
        """A connection of a client that was let in."""
        peer = self.peer(publisher=publisher)
        peer.shake_hands()
        return peer

    def request(self, value: str) -> list[bytes]:
        """A request to echo a short text."""
        body = b"\n" + bytes((len(value),)) + value.encode()  # a StringValue
        return [os.urandom(8) + bytes(7) + b"\1", b"", bytes.fromhex(self.header), body]


def say(*words: object) -> None:
    print(*words, flush=True)


def hold(peers: list[Peer]) -> None:
    """Say when the server has ended all connections, and how many there were."""
    say("attacking")
    waiting = list(peers)
    while waiting:
        waiting = [peer for peer in waiting if not peer.is_closed()]
        time.sleep(0.02)  # a process of its own, which has nothing else to do
    say("ended", len(peers))


def drip(peers: list[Peer], data: bytes) -> None:
    """Send a byte by each connection now and then, until the server has ended all of them."""
    say("attacking")
    at = 0
    waiting = list(peers)
    while waiting:
        for peer in list(waiting):
            try:
                if peer.is_closed():
                    raise OSError
                peer.send(data[at : at + 1])
            except OSError:
                waiting.remove(peer)
        at = (at + 1) % len(data)
        time.sleep(0.05)  # what makes it slow
    say("ended", len(peers))


# -- handshakes --------------------------------------------------------------------------------


def again_and_again(attempt: Callable[[], None]) -> None:
    """Attempt something without a pause."""
    for number in range(10**9):
        if number == 20:
            say("attacking")
        with contextlib.suppress(OSError):  # the server has ended it, and may be busy
            attempt()


def shake_hands_without_a_key(target: Target) -> None:
    def attempt() -> None:
        for publisher in (False, True):
            peer = target.peer(known=False, publisher=publisher)
            try:
                peer.shake_hands()
            except Refused:
                peer.close()
            else:
                say("a stranger was let in")

    again_and_again(attempt)


def shake_hands_with_a_key(target: Target) -> None:
    def attempt() -> None:
        with contextlib.suppress(Refused):
            target.ready().close()
            target.ready(publisher=True).close()

    again_and_again(attempt)


def hang_up_after_hello(target: Target) -> None:
    def attempt() -> None:
        peer = target.peer()
        peer.greet()
        peer.send(peer.hello())
        peer.close()

    again_and_again(attempt)


def hold_half_handshakes(target: Target) -> None:
    peers = [target.peer(publisher=number % 2 == 0) for number in range(300)]
    for peer in peers:
        with contextlib.suppress(Refused, OSError):  # it was ended while the others were made
            peer.greet()
            peer.send(peer.hello())
            peer.welcome()
    hold(peers)


def hold_connections(target: Target) -> None:
    """Which say nothing."""
    hold([target.peer(publisher=number % 2 == 0) for number in range(400)])


def replay_cookies(target: Target) -> None:
    """The cookie of one connection opens no other, nor does its whole handshake."""
    good = target.ready()
    first = target.peer()
    first.greet()
    first.send(first.hello())
    first.welcome()
    second = target.peer()
    second.short_public, second.short_secret = first.short_public, first.short_secret
    second.greet()
    second.send(second.hello())
    second.welcome()
    second.cookie = first.cookie
    second.send(second.initiate())
    try:
        second.ready()
    except Refused:
        say("refused")
    replayed = target.peer()
    replayed.send(bytes(good.sent))
    replayed.wait_for_end()
    say("refused")
    say("attacking")


def downgrade(target: Target) -> None:
    """Others than CURVE, from the beginning and in the middle."""
    plain_ready = b"\5READY" + b"\x0bSocket-Type\0\0\0\6DEALER"
    *parts, last = target.request("downgraded")
    requests = b"".join(frame(part, MORE) for part in parts) + frame(last)
    for mechanism, command in (
        (b"NULL", plain_ready),
        (b"PLAIN", b"\5HELLO\5alice\6s3cret"),
        (b"GSSAPI", b"\x08INITIATE"),
        (b"CURVE", plain_ready),
        (b"curve", plain_ready),
        (b"", plain_ready),
    ):
        peer = target.peer()
        peer.send(greeting(mechanism) + frame(command, COMMAND) + requests)
        peer.wait_for_end()
    for version in (b"\1\0", b"\2\1", b"\3\0", b"\0\0"):
        peer = target.peer()
        peer.send(greeting(b"NULL", version) + frame(command, COMMAND) + requests)
        peer.wait_for_end()
    # In the middle of the handshake, and after it: parts without encryption.
    for after_hello in (True, False):
        peer = target.peer()
        if after_hello:
            peer.greet()
            peer.send(peer.hello())
            peer.welcome()
        else:
            peer.shake_hands()
        peer.send(frame(plain_ready, COMMAND) + requests)
        peer.wait_for_end()
    say("attacking")


# -- messages ----------------------------------------------------------------------------------


def replay(target: Target) -> None:
    """All that a client has sent, once more, by another connection and by its own."""
    peer = target.ready()
    before = len(peer.sent)
    peer.send_message(target.request("replayed"))
    peer.receive_message()
    message = bytes(peer.sent[before:])
    other = target.peer()
    other.send(bytes(peer.sent))
    other.wait_for_end()
    another = target.ready()  # its handshake is its own, the message is not
    another.send(message)
    another.wait_for_end()
    peer.send(message)
    peer.wait_for_end()
    say("attacking")


def tamper(target: Target) -> None:
    """One bit of a message is another: in its nonce, its box, its size."""
    for place in (2, 12, 20, 40, -1):
        peer = target.ready()
        parts = target.request("tampered")
        data = bytearray()
        for at, part in enumerate(parts):
            data += peer.message(part, more=at < 3)
        data[place] ^= 1
        peer.send(bytes(data))
        peer.send(bytes(64))  # what is missing where it has become longer
        peer.wait_for_end()
    say("attacking")


def say_huge_sizes(target: Target) -> None:
    """Frames of exabytes, before, during and after the handshake."""
    for publisher in (False, True):
        for size in _HUGE:
            before, during = target.peer(publisher=publisher), target.peer(publisher=publisher)
            before.send(greeting() + frame(b"\5HELLO", COMMAND, size))
            during.greet()
            during.send(during.hello())
            during.welcome()
            during.send(frame(b"\x08INITIATE", COMMAND, size))
            after = target.ready(publisher=publisher)
            after.send(frame(b"\7MESSAGE", 0, size))
            for peer in (before, during, after):
                peer.wait_for_end()
    say("attacking")


def bring_much_metadata(target: Target) -> None:
    """In the handshake: as much as a message may have, by known and by unknown clients."""
    some = {b"X-Large": bytes(4_000_000)}
    many = {b"X-%d" % number: bytes(100) for number in range(20_000)}
    for metadata in (some, many, {b"X-%d" % number: b"" for number in range(100_000)}):
        for known in (True, False):
            peer = target.peer(known=known)
            with contextlib.suppress(Refused, OSError):
                peer.shake_hands(metadata)
    subscriber = target.peer(publisher=True)
    with contextlib.suppress(OSError):
        subscriber.greet()
        subscriber.send(subscriber.hello())
        subscriber.welcome()
        subscriber.send(subscriber.initiate(some))
    subscriber.wait_for_end()
    say("attacking")


def drip_greetings(target: Target) -> None:
    drip([target.peer(publisher=number % 2 == 0) for number in range(100)], greeting())


def drip_handshakes(target: Target) -> None:
    peers = [target.peer(publisher=number % 2 == 0) for number in range(100)]
    for peer in peers:
        with contextlib.suppress(Refused, OSError):  # likewise
            peer.greet()
    drip(peers, peers[0].hello())


def drip_messages(target: Target) -> None:
    """Clients that were let in send a part that never ends."""
    peers = [target.ready() for _ in range(50)]
    for peer in peers:
        peer.send(frame(b"\7MESSAGE", 0, 4_000_000))
    drip(peers, b"x")


def send_without_end(target: Target) -> None:
    """A client that was let in sends a message of ever more parts, 60 MB for now."""
    peer = target.ready()
    part = bytes(60_000)
    for _ in range(1_000):
        peer.send(peer.message(part, more=True))
        peer.sent.clear()
    hold([peer])


def send_many_parts(target: Target) -> None:
    """A client that was let in sends messages of 100,000 empty parts."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = _secured(context, zmq.DEALER, target)
    dealer.connect(target.endpoint)
    for number in range(10):
        dealer.send_multipart([b""] * 100_000)
        if number == 1:
            say("attacking")
    time.sleep(60)  # until it is killed: it stays connected


# -- subscriptions -----------------------------------------------------------------------------


def _secured(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, target: Target
) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.set(zmq.SNDHWM, 0)
    made.set(zmq.CURVE_SERVERKEY, target.server_key.encode())
    made.set(zmq.CURVE_PUBLICKEY, target.known[0].encode())
    made.set(zmq.CURVE_SECRETKEY, target.known[1].encode())
    return made


def subscribe_to_many(target: Target) -> None:
    """A client that was let in: 100,000 topics, again whenever it is connected again."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    subscriber = _secured(context, zmq.SUB, target)
    for _ in range(100_000):
        subscriber.subscribe(os.urandom(16) + b"\0")
    subscriber.connect(target.publisher)
    say("attacking")
    time.sleep(60)  # as above


def _ready_to_subscribe(target: Target) -> Peer:
    """As soon as the server has time for a handshake."""
    while True:
        with contextlib.suppress(Refused):
            return target.ready(publisher=True)


def subscribe_to_long_ones(target: Target) -> None:
    """Topics that are as long as can be, and longer."""
    fits = _ready_to_subscribe(target)
    said = 0
    with contextlib.suppress(OSError):
        while said < 20_000:
            fits.send(fits.message(b"\1" + os.urandom(500)))
            fits.sent.clear()
            said += 1
    say("said", said)
    for size in (1_000, 100_000, 10_000_000):
        peer = _ready_to_subscribe(target)
        with contextlib.suppress(OSError):
            peer.send(peer.message(b"\1" + bytes(size)))
        peer.wait_for_end()
    say("attacking")


def subscribe_as_strangers(target: Target) -> None:
    """Without a handshake that would allow it."""
    command = b"\x09SUBSCRIBE"
    for mechanism in (b"NULL", b"CURVE"):
        for number in range(20):
            peer = target.peer(publisher=True)
            ready = frame(b"\5READY\x0bSocket-Type\0\0\0\3SUB", COMMAND)
            topics = (frame(b"\1" + b"t%d" % topic) for topic in range(2_000))
            some = b"".join(topics) if number % 2 else frame(command + b"x", COMMAND) * 2_000
            with contextlib.suppress(OSError):
                peer.send(greeting(mechanism) + ready + some)
            peer.wait_for_end()
    say("attacking")


# -- whoever decides ---------------------------------------------------------------------------


def ask_who_never_answers(target: Target) -> None:
    """Handshakes of as many strangers as are let wait, each decided by somebody who hangs."""
    peers: list[Peer] = []
    for _ in range(300):
        peers.append(peer := target.peer(known=False))
        with contextlib.suppress(Refused, OSError):  # likewise
            peer.greet()
            peer.send(peer.hello())
            peer.welcome()
            peer.send(peer.initiate())
    hold(peers)


ATTACKS: Final[dict[str, Callable[[Target], None]]] = {
    attack.__name__: attack
    for attack in (
        shake_hands_without_a_key,
        shake_hands_with_a_key,
        hang_up_after_hello,
        hold_half_handshakes,
        hold_connections,
        replay_cookies,
        downgrade,
        replay,
        tamper,
        say_huge_sizes,
        bring_much_metadata,
        drip_greetings,
        drip_handshakes,
        drip_messages,
        send_without_end,
        send_many_parts,
        subscribe_to_many,
        subscribe_to_long_ones,
        subscribe_as_strangers,
        ask_who_never_answers,
    )
}


def main(name: str, given: dict[str, Any]) -> None:
    socket.setdefaulttimeout(30)
    known, unknown = tuple(given.pop("known")), tuple(given.pop("unknown"))
    ATTACKS[name](Target(known=known, unknown=unknown, **given))
    time.sleep(60)  # until it is killed, which the test does when it has seen enough


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
