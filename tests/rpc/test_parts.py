"""The parts of the RPC layer by themselves: errors, deadlines, admission, the facade."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from txzmq.rpc import Code, NotFound, RpcError, ServerLimits, Unknown
from txzmq.rpc import errors as errors_module
from txzmq.rpc._core.deadlines import Deadlines
from txzmq.rpc._server.admission import Admission, Place
from txzmq.rpc._wire.headers import to_us
from txzmq.rpc.errors import to_code
from txzmq.rpc.method import GENERATED_LEVEL, require_level

ERRORS = [code for code in Code if code is not Code.OK]


@pytest.mark.parametrize("code", ERRORS)
def test_each_code_has_its_class(code: Code) -> None:
    error = RpcError(code, "why")
    assert type(error) is not RpcError
    assert type(error).__name__.upper() == code.name.replace("_", "")
    again = type(error)("why")  # type: ignore[arg-type]  # the subclass takes the message first
    for one in (error, again, RpcError(code=code, message="why")):
        assert (type(one), one.code, one.message) == (type(error), code, "why")
        assert str(one) == f"{code.name}: why"
    assert type(error).__name__ in errors_module.__all__


def test_an_error_survives_pickling() -> None:
    detail = AnyMessage()
    detail.Pack(StringValue(value="1"))  # protobuf on PyPy compares only types that exist
    error = NotFound("no", details=[detail], metadata=[("k-bin", b"\0")])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is NotFound
    assert (copy.message, copy.details, copy.metadata) == ("no", error.details, error.metadata)


def test_what_cannot_be_an_error() -> None:
    with pytest.raises(ValueError, match="OK"):
        RpcError(Code.OK)
    with pytest.raises(ValueError, match="NotFound cannot have"):
        NotFound(Code.ABORTED, "x")
    assert to_code(99) is Code.UNKNOWN
    assert isinstance(RpcError(Code.UNKNOWN), Unknown)


def test_generated_code_of_another_level_is_refused() -> None:
    require_level(GENERATED_LEVEL, "here")
    with pytest.raises(ImportError, match="newer txzmq"):
        require_level(GENERATED_LEVEL + 1, "there")
    with pytest.raises(ImportError, match="older txzmq"):
        require_level(0, "there")


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.sampled_from(["keep", "remove", "remove twice"])),
        max_size=60,
    ),
    st.lists(st.floats(0.001, 3), min_size=1, max_size=20),
)
def test_deadlines_fire_once_in_order_and_leave_nothing(
    items: list[tuple[float, str]], steps: list[float]
) -> None:
    clock, fired = Clock(), list[tuple[int, float]]()
    deadlines: Deadlines[int] = Deadlines(clock, lambda i: fired.append((i, clock.seconds())))
    ticks = [deadlines.set(i, when) for i, (when, _) in enumerate(items)]
    assert len(clock.getDelayedCalls()) <= 1
    for i, (_, fate) in enumerate(items):
        for _ in range(["keep", "remove", "remove twice"].index(fate)):
            deadlines.remove(i, ticks[i])
    for step in (*steps, 20.0):
        clock.advance(step)
        late = [i for i, (_, fate) in enumerate(items) if fate == "keep"]
        due = [i for i in late if items[i][0] <= clock.seconds() - 0.001]
        assert set(due) <= {i for i, _ in fired}
    kept = sorted(i for i, (_, fate) in enumerate(items) if fate == "keep")
    assert sorted(i for i, _ in fired) == kept
    assert all(at >= items[i][0] - 0.001 for i, at in fired)
    assert (len(deadlines), clock.getDelayedCalls()) == (0, [])


def test_what_is_removed_while_others_fire_does_not_fire() -> None:
    clock, fired = Clock(), list[int]()

    def expired(item: int) -> None:
        fired.append(item)
        if item == 0:
            deadlines.remove(1, ticks[1])  # of the same tick
            deadlines.remove(3, ticks[3])  # of a later one that is due as well
            deadlines.set(4, 1.0)  # due already
        elif item == 5:
            deadlines.close()

    deadlines: Deadlines[int] = Deadlines(clock, expired)
    ticks = [deadlines.set(item, when) for item, when in enumerate((1.0, 1.0, 1.0, 1.5))]
    clock.advance(2)
    assert fired == [0, 2, 4]
    for item in (5, 6, 7):
        deadlines.set(item, 3.0)
    clock.advance(2)
    assert fired == [0, 2, 4, 5]
    assert (len(deadlines), clock.getDelayedCalls()) == (0, [])


def test_a_million_deadlines_that_are_removed_cost_no_memory() -> None:
    clock = Clock()
    deadlines: Deadlines[int] = Deadlines(clock, lambda _: None)
    deadlines.set(-1, 100.0)
    for i in range(50_000):
        deadlines.remove(i, deadlines.set(i, 30.0 + i * 0.001))
    assert len(deadlines) == 1
    assert len(vars(deadlines)["_ticks"]) < 100
    deadlines.close()
    assert clock.getDelayedCalls() == []


PEERS, PATHS = [b"a", b"b", b"c"], ["/s/m", "/s/n"]
LIMITS = ServerLimits(
    running=3,
    running_per_peer=2,
    running_per_method={"/s/m": 2},
    queued=5,
    queued_per_peer=3,
    queued_per_method={"/s/n": 3},
)


class Comparable:
    """Counts how often it is looked at."""

    looks = 0

    def __eq__(self, other: object) -> bool:
        Comparable.looks += 1
        return self is other

    def __hash__(self) -> int:
        Comparable.looks += 1
        return id(self)


def test_a_call_leaves_its_queue_from_anywhere_at_once() -> None:
    limits = ServerLimits(queued=10_000, queued_per_peer=10_000)
    admission: Admission[Comparable] = Admission(limits)
    place = PEERS[0], PATHS[0]
    calls = [Comparable() for _ in range(10_000)]
    for call in calls:
        admission.enqueue(place, call)
    Comparable.looks = 0
    for call in reversed(calls[1:]):
        admission.remove(place, call)
    assert Comparable.looks < 100_000
    assert admission.next_call() is calls[0]
    assert admission.queued == 0


@pytest.mark.parametrize("limit", ["running", "running_per_peer", "running_per_method"])
def test_a_limit_of_none_lets_none_run(limit: str) -> None:
    peer, path = PEERS[0], PATHS[0]
    none: Any = {limit: {path: 0} if limit == "running_per_method" else 0}
    admission: Admission[str] = Admission(ServerLimits(**none))
    assert not admission.may_run((peer, path))
    admission.enqueue((peer, path), "call")
    assert admission.next_call() is None


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("cccev"), st.integers(0, 100)), max_size=80))
def test_admission_keeps_every_limit_and_every_call(steps: list[tuple[str, int]]) -> None:
    admission: Admission[tuple[Place, int]] = Admission(LIMITS)
    running: list[Place] = []
    waiting: list[tuple[Place, int]] = []
    newest_first = False

    def start(place: Place) -> None:
        admission.started(place)
        running.append(place)

    for number, (step, choice) in enumerate(steps):
        if step == "e" and running:
            admission.ended(running.pop(choice % len(running)))
        elif step == "v":
            admission.waited_in_vain()
            newest_first = bool(waiting)
        elif step == "c":
            place = PEERS[choice % 3], PATHS[choice % 2]
            if admission.may_run(place):
                assert place not in [call[0] for call in waiting], "an equal is overtaken"
                start(place)
            elif admission.why_not(place) is None:
                waiting.append((place, number))
                admission.enqueue(place, (place, number))
        while (call := admission.next_call()) is not None:
            same = [other for other in waiting if other[0] == call[0]]
            assert same[-1 if newest_first else 0] == call, "first come, first served among equals"
            waiting.remove(call)
            start(call[0])
        newest_first &= bool(waiting)
        assert (admission.running, admission.queued) == (len(running), len(waiting))
        assert len(running) <= LIMITS.running
        assert len(waiting) <= LIMITS.queued
        for peer in PEERS:
            assert sum(whose == peer for whose, _ in running) <= LIMITS.running_per_peer
            assert sum(whose == peer for (whose, _), _ in waiting) <= LIMITS.queued_per_peer
        assert sum(path == "/s/m" for _, path in running) <= 2
        assert sum(path == "/s/n" for (_, path), _ in waiting) <= 3
    for place, number in waiting:
        admission.remove(place, (place, number))
    for place in running:
        admission.ended(place)
    counts = vars(admission)
    assert not any(value for name, value in counts.items() if name != "_limits"), counts


def test_methods_of_one_peer_take_turns() -> None:
    admission: Admission[str] = Admission(ServerLimits(running=1))
    for call in ("m1", "m2", "m3", "n1", "n2"):
        admission.enqueue((b"a", f"/s/{call[0]}"), call)
    assert [admission.next_call() for _ in range(6)] == ["m1", "n1", "m2", "n2", "m3", None]


@given(st.floats(0.0, 2**31))
def test_a_header_promises_no_more_time_than_there_is(left: float) -> None:
    told = to_us(left) / 1e6
    assert told <= left + 2e-6
    assert left - told < (1.1e-3 if left >= 1.0 else 1e-6)


def test_headers_say_whole_milliseconds_of_longer_times() -> None:
    assert [to_us(left) for left in (1.0, 1.001, 29.9999, 30.0)] == [
        1_000_000,
        1_001_000,
        29_999_000,
        30_000_000,
    ]
    assert [to_us(left) for left in (0.0, 1e-6, 0.9999994)] == [0, 1, 999_999]
