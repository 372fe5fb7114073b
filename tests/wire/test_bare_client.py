"""A client that was written from docs/protocol.md alone, and txzmq's server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.programs import Program
from tests.wire.bare import Answer, BareClient, field, request_header, string_value, text_of
from tests.wire.vectors import Vector, cases, frames_of

ECHO, FAIL, WAIT, TELL = (f"/test.Bare/{name}" for name in ("Echo", "Fail", "Wait", "Tell"))
CANCEL = "/txzmq.rpc.v1.Control/Cancel"
# google.rpc.Code
OK, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 2, 3, 4, 5
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 8, 12, 13


def test_a_call(client: BareClient) -> None:
    answer = client.call(ECHO, "hällo")
    assert (answer.code, text_of(answer.body)) == (OK, "hällo")


def test_a_call_without_metadata_has_an_empty_header(client: BareClient) -> None:
    request_id = client.new_id()
    client.send_frames([request_id, b"", request_header(TELL), b""])
    assert client.socket.poll(30_000)
    reply = client.socket.recv_multipart()
    assert reply[:3] == [request_id, b"", b""]


def test_many_calls_at_a_time(client: BareClient) -> None:
    ids = {client.send(ECHO, string_value(str(i))): str(i) for i in range(500)}
    assert {text_of(client.answer(request_id).body) for request_id in ids} == set(ids.values())
    assert all(len(replies) == 1 for replies in client.replies.values())


def test_metadata_goes_there_and_back(client: BareClient) -> None:
    pairs = [("tenant", b"a"), ("tenant", b"b"), ("trace-bin", b"\x00\xff"), ("empty", b"")]
    answer = client.call(ECHO, metadata=[*pairs, ("txzmq-later", b"1")])
    assert answer.initial == [("first", b"1"), *pairs]
    assert [key for key, _ in answer.trailing] == ["left"]


def test_an_error_with_details_and_trailing_metadata(client: BareClient) -> None:
    answer = client.call(FAIL, "x")
    detail = field(1, "type.googleapis.com/google.protobuf.StringValue")
    assert answer == Answer(
        NOT_FOUND,
        "no such thing",
        [detail + field(2, string_value("x"))],
        [],
        [("k-bin", b"\xff")],
        b"",
    )


def test_a_crash_keeps_its_secrets(client: BareClient, program: Program) -> None:
    answer = client.call(FAIL, "crash")
    assert answer.code == UNKNOWN
    assert "secret" not in answer.message
    program.expect(rf".*{answer.message.split()[-1]}.*")  # the id under which it is logged


def test_the_time_that_is_left_arrives(client: BareClient) -> None:
    answer = client.call(ECHO, timeout_us=5_000_000)
    ((_, left),) = answer.trailing
    assert 4 < float(left) <= 5


def test_a_deadline(client: BareClient, program: Program) -> None:
    answer = client.call(WAIT, "slow", timeout_us=50_000)
    assert answer.code == DEADLINE_EXCEEDED
    program.expect("executing slow")
    program.expect("slow: its deadline has passed")


def test_no_time_left(client: BareClient) -> None:
    assert client.call(ECHO, "late", timeout_us=0).code == DEADLINE_EXCEEDED
    assert client.told()["executed"] == {}


def test_ages_are_no_deadline(client: BareClient) -> None:
    assert client.call(ECHO, timeout_us=2**64 - 1).code == OK


def test_a_cancelled_call_ends_and_is_not_answered(client: BareClient, program: Program) -> None:
    cancelled, kept = (client.send(WAIT, string_value(text)) for text in ("one", "two"))
    program.expect("executing two")
    answer = client.answer(client.cancel(cancelled, b"of nobody", b"x" * 16))
    assert answer == Answer(OK, "", [], [], [], b"")
    program.expect("one: the client cancelled it")
    assert client.told()["running"] == 1
    assert client.answer(client.cancel(cancelled, kept)).code == OK
    program.expect("two: the client cancelled it")
    assert client.call(ECHO).code == OK
    assert not {cancelled, kept} & set(client.replies)


def test_a_client_cannot_cancel_anothers_call(
    new_client: Callable[[], BareClient], program: Program
) -> None:
    one, two = new_client(), new_client()
    two.random_part = one.random_part
    victim = one.send(WAIT, string_value("kept"))
    program.expect("executing kept")
    assert two.answer(two.cancel(victim)).code == OK
    assert two.told()["running"] == 1


def test_a_cancel_of_too_many_calls_is_refused(client: BareClient) -> None:
    ids = [b"%016d" % number for number in range(1001)]
    assert client.answer(client.cancel(*ids[1:])).code == OK
    assert client.answer(client.cancel(*ids)).code == INVALID_ARGUMENT


def test_an_unknown_method(client: BareClient) -> None:
    answer = client.call("/test.Bare/Missing")
    assert answer.code == UNIMPLEMENTED
    assert "/test.Bare/Missing" in answer.message
    assert client.call("/txzmq.rpc.v1.Control/Later").code == UNIMPLEMENTED


def test_a_body_that_is_not_the_methods_request(client: BareClient) -> None:
    for body in (b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff"):
        answer = client.answer(client.send(ECHO, body))
        assert answer.code == INTERNAL


def test_limits_name_themselves(client: BareClient) -> None:
    answer = client.answer(client.send(ECHO, string_value("x" * (4 * 2**20 + 1))))
    assert answer.code == RESOURCE_EXHAUSTED
    assert "4194304" in answer.message
    answer = client.call(ECHO, metadata=[("a", b"x" * 8192)])
    assert answer.code == RESOURCE_EXHAUSTED
    assert "8192" in answer.message


def test_the_same_request_twice_is_executed_once(client: BareClient) -> None:
    frames = [client.new_id(), b"", request_header(ECHO), string_value("once")]
    client.send_frames(frames)
    client.send_frames(frames)
    assert client.told()["executed"] == {"once": 1}
    client.send_frames(frames)  # when the first is long done
    counted = client.told()
    assert counted["executed"] == {"once": 1}
    assert counted["counters"] == {"duplicate request": 2}
    assert len(client.replies[frames[0]]) == 1


def test_a_request_that_was_overtaken_is_dropped(client: BareClient) -> None:
    earlier, later = client.new_id(), client.new_id()
    for request_id in (later, earlier):
        client.send_frames([request_id, b"", request_header(ECHO), string_value("x")])
    assert client.told()["counters"] == {"duplicate request": 1}
    assert earlier not in client.replies


@pytest.mark.parametrize("vector", cases("malformed-requests"))
def test_malformed_requests(client: BareClient, vector: Vector) -> None:
    frames = frames_of(vector)
    client.send_frames(frames)
    assert client.told()["counters"] == {"malformed": 1}
    if vector["answer"] is None:
        assert frames[0] not in client.replies
    else:
        answer = client.answer(frames[0])
        assert answer.code == INTERNAL
        assert answer.message.isprintable()
    assert client.call(ECHO, "still there").code == OK


def test_equal_ids_of_two_clients_are_two_calls(new_client: Callable[[], BareClient]) -> None:
    one, two = new_client(), new_client()
    two.random_part = one.random_part
    for number in range(20):
        ids = [client.send(ECHO, string_value(f"{client!r} {number}")) for client in (one, two)]
        assert ids[0] == ids[1]
        for client in (one, two):
            assert text_of(client.answer(ids[0]).body) == f"{client!r} {number}"


def test_a_client_that_goes_ends_its_calls(
    new_client: Callable[[], BareClient], program: Program
) -> None:
    leaving, staying = new_client(), new_client()
    leaving.send(WAIT, string_value("left"))
    staying.send(WAIT, string_value("stays"))
    program.expect("executing left")
    leaving.close()
    program.expect("left: the client has gone")
    assert staying.told()["running"] == 1


@pytest.mark.usefixtures("new_client")  # the calls of earlier clients have ended when it begins
def test_two_clients_behind_a_proxy(endpoint: str, program: Program) -> None:
    context: zmq.Context[Any] = zmq.Context()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    port = frontend.bind_to_random_port("tcp://127.0.0.1")
    backend.connect(endpoint)

    def proxy() -> None:
        with frontend, backend, pytest.raises(zmq.ContextTerminated):
            zmq.proxy(frontend, backend)

    thread = threading.Thread(target=proxy)
    thread.start()
    one, two = (BareClient(context, f"tcp://127.0.0.1:{port}") for _ in range(2))
    two.random_part = one.random_part
    try:
        for client in (one, two):
            assert text_of(client.call(ECHO, repr(client)).body) == repr(client)
        waiting = [client.send(WAIT, string_value(str(n))) for n, client in enumerate((one, two))]
        program.expect("executing [01]")
        program.expect("executing [01]")
        assert waiting[0] == waiting[1]
        assert two.answer(two.cancel(waiting[1])).code == OK
        program.expect("1: the client cancelled it")
        assert one.told()["running"] == 1
        assert two.told()["running"] == 1
    finally:
        one.close()
        two.close()
        context.term()
        thread.join(30)
        assert not thread.is_alive()
