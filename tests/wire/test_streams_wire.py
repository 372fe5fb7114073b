"""Both ends of a stream over a wire that loses, doubles and reorders."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support import examples
from txzmq.rpc._wire.headers import OK, ResponseHead, encode_response
from txzmq.rpc._wire.streams import (
    MAX_PUBLISHED,
    MAX_PUBLISHED_SIZE,
    MAX_REPLAYED_SIZE,
    BadPublication,
    Publication,
    Receiver,
    Sender,
    decode,
    decode_bundle,
    encode,
    encode_bundle,
    new_topic,
    topic_of,
)

END = encode_response(OK)
START = encode_response(ResponseHead(initial=(("a", "b"),)))


class LossyStream(RuleBasedStateMachine):
    """What is read is what was sent, in order, and no more than a window of it is on its way."""

    WINDOW = 7

    def __init__(self) -> None:
        super().__init__()
        self.sender = Sender(self.WINDOW, 40, first=5)
        self.sender.start(START)
        self.receiver = Receiver(self.WINDOW)
        self.receiver.begin(5)
        self.topic = new_topic()
        self.wire: list[bytes] = []
        self.acknowledgements: list[int] = []
        self.sent: list[bytes] = []
        self.read: list[bytes] = []
        self.starts = 0

    @precondition(lambda self: not self.sender.ended and not self.sender.is_full)
    @rule(item=st.binary(max_size=15))
    def add(self, item: bytes) -> None:
        self.sender.add(item)
        self.sent.append(item)

    @precondition(lambda self: not self.sender.ended)
    @rule()
    def end(self) -> None:
        self.sender.end(END)
        self.publish()

    @precondition(lambda self: not self.sender.ended)
    @rule()
    def publish(self) -> None:
        publication = self.sender.take()
        if publication is not None:
            self.wire.append(encode(self.topic, publication))

    @rule()
    def beat(self) -> None:
        self.wire.append(encode(self.topic, self.sender.heartbeat))

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), twice=st.booleans())
    def deliver(self, data: st.DataObject, twice: bool) -> None:
        index = data.draw(st.integers(0, len(self.wire) - 1))
        frame = self.wire[index] if twice else self.wire.pop(index)
        assert topic_of(frame) == self.topic
        self.receive(decode(frame))

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        del self.wire[data.draw(st.integers(0, len(self.wire) - 1))]

    @precondition(lambda self: self.receiver.missing)
    @rule()
    def replay(self) -> None:
        self.publish_rest()
        self.receive(self.sender.replay(self.receiver.sequence))

    def receive(self, publication: Publication) -> None:
        before = self.receiver.sequence
        fresh = self.receiver.receive(publication)
        assert fresh == (self.receiver.sequence > before)
        if self.receiver.start is not None:
            assert self.receiver.start == START
            self.starts += 1
            self.receiver.start = None

    @precondition(lambda self: self.receiver.items)
    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.receiver.items))):
            self.read.append(self.receiver.items.popleft())

    @rule()
    def acknowledge(self) -> None:
        if self.receiver.end is not None:
            self.acknowledgements.append(self.receiver.sequence)
        else:
            self.acknowledgements.append(self.receiver.sequence - len(self.receiver.items))

    @precondition(lambda self: self.acknowledgements)
    @rule(data=st.data())
    def acknowledged(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.acknowledgements) - 1))
        self.sender.acknowledge(self.acknowledgements[index])

    def publish_rest(self) -> None:
        if not self.sender.ended:
            self.sender.take()

    @invariant()
    def nothing_is_lost_doubled_or_reordered(self) -> None:
        have = [*self.read, *self.receiver.items]
        assert have == self.sent[: len(have)]
        assert self.receiver.end is None or have == self.sent

    @invariant()
    def the_window_holds(self) -> None:
        assert len(self.sender) - self.sender.ended <= self.WINDOW
        assert self.sender.size <= 40 + 15
        assert len(self.receiver.items) <= self.WINDOW

    def teardown(self) -> None:
        # Whatever happened, replays bring the rest.
        if not self.sender.ended:
            self.sender.end(END)
            self.sender.take()
        self.receive(self.sender.heartbeat)
        while self.receiver.missing:
            self.take(100) if self.receiver.items else None
            self.receive(self.sender.replay(self.receiver.sequence))
        self.take(1000)
        assert self.read == self.sent
        assert self.receiver.end == END
        assert self.starts
        self.sender.acknowledge(self.receiver.sequence)
        assert self.sender.is_done
        assert self.sender.size == 0


TestLossyStream = LossyStream.TestCase
TestLossyStream.settings = settings(max_examples=examples(60), deadline=None)


@given(st.lists(st.binary(max_size=40_000), max_size=20))
@settings(deadline=None)
def test_a_message_is_bounded_by_the_item_that_fills_it(items: list[bytes]) -> None:
    sender = Sender(1000, 10**9)
    fresh = 0
    for item in items:
        fresh += len(item)
        assert sender.add(item) == (fresh >= MAX_PUBLISHED_SIZE)
        if fresh >= MAX_PUBLISHED_SIZE:
            publication = sender.take()
            assert publication is not None
            assert sum(map(len, publication.items)) == fresh
            fresh = 0


def test_a_message_has_so_many_items_at_most() -> None:
    sender = Sender(1000, 10**9)
    assert [sender.add(b"") for _ in range(MAX_PUBLISHED)][-2:] == [False, True]


def test_a_replay_is_bounded_and_goes_on() -> None:
    sender, receiver = Sender(1000, 10**9), Receiver(1000)
    item = bytes(MAX_REPLAYED_SIZE // 2)
    for _ in range(5):
        sender.add(item)
    sender.end(END)
    sender.take()
    receiver.receive(sender.heartbeat)
    sizes: list[int] = []
    while receiver.missing:
        publication = sender.replay(receiver.sequence)
        sizes.append(len(publication.items))
        receiver.receive(publication)
    assert sizes == [2, 2, 1]
    assert receiver.end == END


@pytest.mark.parametrize("sequence", [0, 1, 4, 2**63])
def test_an_acknowledgement_of_what_was_not_published_is_ignored(sequence: int) -> None:
    sender = Sender(10, 100)
    sender.add(b"a")
    sender.take()
    sender.add(b"b")
    assert not sender.acknowledge(sequence)
    assert sender.acknowledge(2)


def test_no_topic_has_a_zero_byte_and_none_comes_twice() -> None:
    topics = {new_topic() for _ in range(2000)}
    assert len(topics) == 2000
    assert all(len(topic) == 16 and b"\0" not in topic for topic in topics)


@given(st.binary(max_size=60))
def test_a_malformed_frame_is_told(frame: bytes) -> None:
    topic = topic_of(frame)
    assert topic == (frame[:16] if frame[16:17] == b"\0" else b"")
    try:
        decode(frame)
    except BadPublication:
        pass


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_a_bundle_is_read_as_it_was_written(frames: list[bytes]) -> None:
    topic = new_topic()
    frame = encode_bundle(topic, frames)
    assert topic_of(frame) == topic
    assert decode_bundle(frame) == frames


@given(st.binary(max_size=60))
def test_a_malformed_bundle_is_told(frame: bytes) -> None:
    try:
        assert all(isinstance(each, bytes) for each in decode_bundle(frame))
    except BadPublication:
        pass


def test_a_receiver_keeps_a_bounded_number_of_early_items() -> None:
    receiver = Receiver(10)
    for sequence in range(100, 10_000, 3):
        receiver.receive(Publication(sequence, [b"x"] * 3))
    assert receiver.missing
    assert receiver.early_items <= 21


def test_a_receiver_keeps_a_bounded_number_of_early_bytes() -> None:
    receiver = Receiver(1_000, window_bytes=100)
    for sequence in range(100, 1_000, 2):
        receiver.receive(Publication(sequence, [b"x" * 30] * 2))
    assert receiver.missing
    assert receiver.early_bytes == 60


def test_a_sender_says_when_there_is_enough_for_a_message() -> None:
    sender = Sender(1_000, 10 * MAX_PUBLISHED_SIZE)
    for _ in range(2):
        assert not sender.add(bytes(MAX_PUBLISHED_SIZE - 1))
        assert sender.add(b"x")
        assert sender.take() is not None
    for _ in range(MAX_PUBLISHED - 1):
        assert not sender.add(b"")
    assert sender.add(b"")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 1), (1, 2, 0)])
def test_of_what_comes_too_early_twice_the_longer_one_is_kept(order: tuple[int, ...]) -> None:
    all_of_it = Publication(3, [b"c", b"d", b"e"], END)
    early = [Publication(3, [b"c"]), Publication(3, [b"c", b"d", b"e"]), all_of_it]
    receiver = Receiver(10)
    for index in order:
        assert not receiver.receive(early[index])
    assert receiver.receive(Publication(1, [b"a", b"b"]))
    assert b"".join(receiver.items) == b"abcde"
    assert receiver.end == (END if 2 in order else None)
    assert (receiver.early_items, receiver.early_bytes) == (0, 0)


def test_what_came_too_early_counts_until_its_turn() -> None:
    receiver = Receiver(4)
    for round_ in range(20):
        first = 1 + 3 * round_
        # An item is missing, which lets in both of the others; that is all there is room for.
        assert not receiver.receive(Publication(first + 1, [b"b"]))
        assert not receiver.receive(Publication(first + 2, [b"c"]))
        assert (receiver.early_items, receiver.early_bytes) == (4, 2)
        assert receiver.receive(Publication(first, [b"a"]))
        assert (receiver.early_items, receiver.early_bytes) == (0, 0)
        assert receiver.sequence == first + 3
        receiver.items.clear()


@pytest.mark.parametrize("items", [[b"x" * 40] * 10, [b"x" * 1_000] * 2, [b"", b"x" * 100, b""]])
def test_a_receiver_takes_no_more_bytes_than_its_window_and_one_item(items: list[bytes]) -> None:
    receiver = Receiver(1_000, window_bytes=100)
    read: list[bytes] = []
    rounds = 0
    over = False
    while not over:
        # The sender ignores the window, and sends all again.
        receiver.receive(Publication(1, items, END))
        receiver.receive(Publication(5, items))
        assert sum(map(len, receiver.items)) < 100 + max(map(len, items))
        over = receiver.end is not None
        assert over or not receiver.has_room
        read += receiver.items
        receiver.items.clear()
        assert receiver.has_room
        rounds += 1
        assert rounds < 20
    assert read == items


def test_items_that_come_too_early_cost_no_more_time_the_more_there_are() -> None:
    looked = 0

    class Number(int):
        """Counts comparisons, which is what looking for the first one costs."""

        def __lt__(self, other: int) -> bool:
            nonlocal looked
            looked += 1
            return int(self) < int(other)

    count = 2_000
    receiver = Receiver(count)
    for number in range(count, 1, -1):
        receiver.receive(Publication(Number(number), [b""]))
    assert receiver.receive(Publication(1, [b""]))
    assert receiver.sequence == count + 1
    assert looked < 40 * count
