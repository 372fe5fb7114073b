"""Clients that send what they like: the server lives, says no, counts; others notice nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
import zmq

from tests.programs import Program
from tests.wire.bare import BareClient, field, request_header, string_value, text_of
from tests.wire.vectors import frames_of, read
from txzmq.rpc import ServerLimits

ECHO, PERSIST = "/test.Bare/Echo", "/test.Bare/Persist"
HEADER = request_header(ECHO)
INTERNAL = 13


def calls_go_on(client: BareClient) -> None:
    for number in range(20):
        answer = client.call(ECHO, str(number), timeout_us=20_000_000)
        assert (answer.code, text_of(answer.body)) == (0, str(number))


def truncated(client: BareClient) -> None:
    # Behind each byte of the header, and each frame.
    header = request_header(ECHO, 1_000_000, [("tenant", b"a"), ("trace-bin", b"\xff")])
    for end in range(len(header)):
        client.send_frames([client.new_id(), b"", header[:end], string_value("x")])
    for end in range(1, 4):
        client.send_frames([client.new_id(), b"", header, b""][:end])


def many_frames(client: BareClient) -> None:
    client.send_frames([b""] * 200_000)
    client.send_frames([client.new_id(), b"", HEADER, *[b""] * 200_000])
    client.send_frames([b"x"] * 200_000)


def large_frames(client: BareClient) -> None:
    # As large as the socket lets through, where a few bytes are expected.
    size = 4 * 2**20
    client.send_frames([b"i" * size, b"", HEADER, b""])
    client.send_frames([b"r" * size, client.new_id(), b"", HEADER, b""])
    client.send_frames([client.new_id(), b"", HEADER + field(1000, b"h" * size), b""])
    client.send_frames([client.new_id(), b"", request_header("/" + "m" * size), b""])


def much_metadata(client: BareClient) -> None:
    client.send_frames([client.new_id(), b"", request_header(ECHO, 0, [("a", b"")] * 9_000), b""])
    client.send_frames([client.new_id(), b"", request_header(ECHO, 0, [("a", b"")] * 1_000), b""])


def duplicated_and_reordered(client: BareClient) -> None:
    messages = [[client.new_id(), b"", HEADER, string_value("again")] for _ in range(50)] * 3
    random.Random(1).shuffle(messages)
    for message in messages:
        client.send_frames(message)


def random_frames(client: BareClient) -> None:
    choose = random.Random(2)
    for _ in range(2_000):
        client.send_frames(
            [
                choose.choice(
                    [b"", HEADER, client.new_id(), choose.randbytes(choose.randrange(40))]
                )
                for _ in range(choose.randrange(1, 8))
            ]
        )


def random_headers(client: BareClient) -> None:
    choose = random.Random(3)
    for _ in range(2_000):
        header = bytearray(request_header(ECHO, 1_000_000, [("tenant", b"a")]))
        header[choose.randrange(len(header))] = choose.randrange(256)
        client.send_frames([client.new_id(), b"", bytes(header), choose.randbytes(10)])


def deep_groups(client: BareClient) -> None:
    for nested in (b"\x0b" * 60_000, b"\x0b" * 50 + b"\x0c" * 50):
        client.send_frames([client.new_id(), b"", nested, b""])
        client.send_frames([client.new_id(), b"", HEADER, nested])


def strange_cancels(client: BareClient) -> None:
    client.cancel(*[b""] * 400_000)
    client.cancel(b"", b"x" * 100_000)
    client.send("/txzmq.rpc.v1.Control/Cancel", b"\xff")


def malformed(client: BareClient) -> None:
    for vector in read("malformed-requests"):
        client.send_frames(frames_of(vector))


ATTACKS = [
    truncated,
    many_frames,
    large_frames,
    much_metadata,
    duplicated_and_reordered,
    random_frames,
    random_headers,
    deep_groups,
    strange_cancels,
    malformed,
]
#: Attacks whose messages are well-formed.
HARMLESS = {strange_cancels, duplicated_and_reordered}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack(
    attack: Callable[[BareClient], None], new_client: Callable[[], BareClient]
) -> None:
    enemy, friend = new_client(), new_client()
    calls_go_on(friend)
    attack(enemy)
    calls_go_on(friend)
    assert text_of(enemy.call(ECHO, "friends again?").body) == "friends again?"
    told = friend.told()
    assert told["running"] == told["queued"] == 0
    if attack not in HARMLESS:
        assert told["counters"]["malformed"] > 0
    replies = [reply for replies in enemy.replies.values() for reply in replies]
    assert {len(replies) for key, replies in enemy.replies.items() if len(key) == 16} == {1}
    assert all(reply.message.isprintable() and len(reply.message) < 300 for reply in replies)
    calls_go_on(friend)


def test_each_of_many_duplicates_is_dropped(new_client: Callable[[], BareClient]) -> None:
    enemy, friend = new_client(), new_client()
    duplicated_and_reordered(enemy)
    assert enemy.call(ECHO, "x").code == 0
    told = friend.told()
    # Every request either came first, or was overtaken, or is a duplicate.
    assert told["executed"]["again"] + told["counters"]["duplicate request"] == 150
    assert told["executed"]["again"] <= 50


def test_l11_a_client_that_takes_anothers_routing_id_gets_none_of_its_replies(
    new_client: Callable[..., BareClient],
) -> None:
    victim, friend = new_client(b"the same"), new_client()
    waiting = victim.send("/test.Bare/Wait", string_value("victim"))
    calls_go_on(victim)
    enemy = new_client(b"the same")
    for number in range(20):
        with suppress(zmq.Again):  # nobody takes what it sends
            enemy.socket.send_multipart(
                [enemy.new_id(), b"", HEADER, string_value(f"enemy {number}")], zmq.DONTWAIT
            )
        calls_go_on(victim)
        calls_go_on(friend)
    victim.cancel(waiting)
    assert not enemy.socket.poll(100)
    told = friend.told()
    assert told["running"] == 0
    assert not [text for text in told["executed"] if text.startswith("enemy")]


def test_a_frame_over_the_sockets_limit_costs_its_sender_the_connection(
    new_client: Callable[[], BareClient], program: Program
) -> None:
    enemy, friend = new_client(), new_client()
    enemy.send("/test.Bare/Wait", string_value("connected"))
    program.expect("executing connected")
    enemy.send(ECHO, b"x" * (5 * 2**20))
    calls_go_on(friend)
    program.expect("connected: the client has gone")
    # It may come back: libzmq connects again.
    assert text_of(enemy.call(ECHO, "x").body) == "x"


def test_a_client_that_reads_nothing(new_client: Callable[[], BareClient]) -> None:
    enemy, friend = new_client(), new_client()
    for _ in range(3_000):
        enemy.send(ECHO, string_value("x" * 10_000))
    calls_go_on(friend)
    assert friend.told()["running"] == 0


def test_c5_l13_a_flood_of_cancels_runs_no_more_handlers_than_the_limit(
    new_client: Callable[[], BareClient],
) -> None:
    enemy, friend = new_client(), new_client()
    # The handler goes on when it is cancelled, so its place must not be given away.
    cancels = [enemy.cancel(enemy.send(PERSIST, string_value("flood"))) for _ in range(20_000)]
    calls_go_on(friend)
    assert enemy.answer(cancels[-1]).code == 0
    told = friend.told()
    assert told["most"] == told["running"] == ServerLimits().running_per_peer
    assert (told["executed"]["flood"], told["queued"]) == (told["most"], 0)
    assert not any(reply.code for replies in enemy.replies.values() for reply in replies)
    friend.told("let go")
    assert friend.told()["running"] == 0
    assert enemy.call(ECHO, "x").code == 0


def test_l12_attacks_leave_nothing_in_memory(new_client: Callable[[], BareClient]) -> None:
    enemy, friend = new_client(), new_client()

    def round_of_attacks() -> int:
        for attack in ATTACKS:
            if attack is not many_frames:  # the slowest
                attack(enemy)
        assert enemy.call(ECHO, "x").code == 0
        enemy.replies.clear()
        blocks: int = friend.told()["blocks"]
        return blocks

    round_of_attacks()  # fills caches, which are bounded
    blocks = [round_of_attacks() for _ in range(4)]
    # A round has more than 5,000 messages of which something could be kept.
    assert blocks[-1] - blocks[0] < 2_000
