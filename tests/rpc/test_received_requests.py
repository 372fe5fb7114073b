"""What a server keeps for streams of requests, whatever their clients send."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import StringValue

from txzmq.rpc import Kind, Method, ServerLimits
from txzmq.rpc._server.admission import RequestBytes
from txzmq.rpc._server.request_stream import ReceivedRequests
from txzmq.rpc._wire.headers import ResponseHead
from txzmq.rpc._wire.server import CallKey
from txzmq.rpc.errors import Code
from txzmq.rpc.v1.streams_pb2 import SendRequest, SendResponse

UPLOAD = Method("/test.S/Upload", "upload", StringValue, StringValue, kind=Kind.STREAM_UNARY)


class Answers:
    """Takes the replies."""

    def __init__(self) -> None:
        self.taken: dict[CallKey, int] = {}

    def answer(self, key: CallKey, head: ResponseHead, body: bytes = b"") -> None:
        assert head.code is Code.OK
        assert key not in self.taken
        self.taken[key] = SendResponse.FromString(body).taken


def new_stream() -> ReceivedRequests:
    return ReceivedRequests(UPLOAD, b"s" * 16, 1_000, lambda _: None)


def send(sequence: int, *items: bytes, end: bool = False) -> SendRequest:
    return SendRequest(
        requests=b"s" * 16, sequence=sequence, items=items, end=end, acknowledge=True
    )


def read(stream: ReceivedRequests) -> None:
    """Take an item; there is one."""
    coroutine = stream.__anext__()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def test_requests_for_one_acknowledgement_do_not_pile_up() -> None:
    stream, answers = new_stream(), Answers()
    stream.receive(answers, (b"p", b"0"), send(1, b"", b"", b""))
    for number in range(1, 1_000):
        # In turn for the last item and, with an item or without, for the first.
        request = (send(4), send(1, b""), send(2))[number % 3]
        stream.receive(answers, (b"p", b"%d" % number), request)
    assert len(answers.taken) >= 990
    assert set(answers.taken.values()) == {0}
    for _ in range(3):
        read(stream)
    assert len(answers.taken) == 1_000
    assert sorted(answers.taken.values())[-2:] == [1, 3]


def test_requests_behind_the_end_wait_for_no_item_that_never_comes() -> None:
    stream, answers = new_stream(), Answers()
    stream.receive(answers, (b"p", b"end"), send(1, b"", end=True))
    for number in range(1_000):
        request = send(2, *[b""] * (number + 1))
        stream.receive(answers, (b"p", b"%d" % number), request)
    assert len(answers.taken) == 1_000
    read(stream)
    assert len(answers.taken) == 1_001


def test_each_request_is_answered_when_the_call_ends() -> None:
    stream, answers = new_stream(), Answers()
    for number in range(1, 6):
        stream.receive(answers, (b"p", b"%d" % number), send(number, b""))
    assert answers.taken == {}
    stream.close()
    assert len(answers.taken) == 5


def test_a_stream_that_breaks_a_limit_holds_no_bytes_any_more() -> None:
    held = RequestBytes(ServerLimits(request_bytes=64 * 1024))  # so that few bytes count
    stream, answers = new_stream(), Answers()
    stream.count_by(held, b"p")
    stream.receive(answers, (b"p", b"1"), send(1, b"", b"x" * 900))
    assert held.size == 900 + 2 * 64  # what two items take besides
    stream.receive(answers, (b"p", b"2"), send(3, b"x" * 1_001))
    assert held.size == 0
    stream.close()
    assert held.size == 0


def test_the_bytes_of_a_stream_are_its_clients() -> None:
    held = RequestBytes(ServerLimits(request_bytes_per_peer=1_000))
    stream = new_stream()
    stream.count_by(held, b"p")
    stream.receive(Answers(), (b"p", b"1"), send(1, b"x" * 900))
    assert "this client's requests" in (held.why_not(b"p", 200) or "")
    assert held.why_not(b"q", 200) is None
