"""The supervisor with fake processes, in virtual time."""

from __future__ import annotations

import errno
import signal
from itertools import pairwise

import pytest

from tests.serve.fakes import FakeProcess, House
from tests.support import captured_log
from txzmq._serve.control import Draining, HandOver, KeysReloaded, Ping, ReloadKeys
from txzmq._serve.supervisor import NotStarted
from txzmq._serve.worker_state import Limits


@pytest.fixture
def house() -> House:
    started = House()
    started.all_ready()
    return started


def only(processes: list[FakeProcess]) -> FakeProcess:
    (process,) = processes
    return process


# -- the first start ----------------------------------------------------------------------------


def test_it_is_ready_when_all_workers_are() -> None:
    house = House()
    assert [process.worker.number for process in house.alive] == [1, 2]
    house.processes[0].becomes_ready()
    assert house.supervisor.why_not_ready == "not all workers have been ready yet"
    house.processes[1].becomes_ready()
    assert house.supervisor.why_not_ready == ""
    assert house.supervisor.status == "2 of 2 ready"


def test_the_first_worker_that_cannot_serve_ends_it() -> None:
    house = House()
    house.processes[0].becomes_ready()
    house.processes[1].fails("shop:Nope: shop has no Nope", "Traceback...")
    house.obey()
    (error,) = house.ended
    assert isinstance(error, NotStarted)
    assert str(error) == "shop:Nope: shop has no Nope"
    assert error.traceback == "Traceback..."
    assert house.alive == []


def test_a_first_worker_that_crashes_ends_it() -> None:
    house = House()
    house.processes[1].exits("signal SIGSEGV")
    house.advance(0)  # the other one starts yet, and is ended by SIGTERM
    assert house.processes[0].signals == [signal.SIGTERM]
    assert str(house.ended[0]) == "signal SIGSEGV"


def test_a_first_worker_that_is_not_ready_in_time_ends_it() -> None:
    house = House(1, Limits(start=5))
    house.advance(5)
    assert house.processes[0].signals == [signal.SIGABRT]
    assert str(house.ended[0]) == "signal SIGABRT: it was not ready within 5 s"


def test_a_first_worker_for_which_the_system_has_no_process_ends_it() -> None:
    house = House(1, no_process=OSError(errno.EAGAIN, "Resource temporarily unavailable"))
    house.advance(0)
    (error,) = house.ended
    assert str(error).startswith("no process could be started: ")


def test_a_worker_that_has_served_and_dies_while_others_start_yet_is_started_again() -> None:
    house = House()
    first, second = house.alive
    first.becomes_ready()
    first.exits("signal SIGKILL")
    second.becomes_ready()
    house.advance(1)
    house.all_ready()
    assert house.supervisor.status == "2 of 2 ready"


# -- restarts -----------------------------------------------------------------------------------


def test_a_worker_that_dies_is_started_again_ever_more_slowly(house: House) -> None:
    waits: list[float] = []
    for _ in range(20):
        before = house.clock.seconds()
        only(house.at(1)).exits("signal SIGKILL")
        while not house.at(1):
            house.clock.advance(0.01)
        waits.append(house.clock.seconds() - before)
    assert 0.05 <= waits[0] <= 0.16
    assert 15 <= waits[-1] <= 45.1
    assert all(later > 0.2 * earlier for earlier, later in pairwise(waits))
    assert len(house.at(2)) == 1, "the other one is not touched"
    assert house.supervisor.counts["restarts"] == 20


def test_who_has_served_for_a_minute_is_started_again_at_once(house: House) -> None:
    for _ in range(10):
        only(house.at(1)).exits("exit status 1")
        house.advance(60)
    only(house.at(1)).becomes_ready()
    house.advance(60)
    only(house.at(1)).exits("exit status 1")
    house.advance(0.25)
    assert len(house.at(1)) == 1


def test_a_system_without_processes_is_asked_again(house: House) -> None:
    house.no_process = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    with captured_log() as log:
        only(house.at(1)).exits("signal SIGKILL")
        house.advance(1)
    assert any("no process could be started" in str(event.get("why")) for event in log)
    house.no_process = None
    house.advance(30)
    assert len(house.at(1)) == 1


def test_the_log_says_how_a_worker_has_ended(house: House) -> None:
    with captured_log() as log:
        only(house.at(1)).exits("signal SIGSEGV")
    (event,) = log
    assert event["log_level"].name == "error"
    assert (event["why"], event["pid"], event["then"]) == (
        "signal SIGSEGV",
        100,
        "; another one is started",
    )


def test_a_worker_that_drains_by_itself_is_replaced_at_once(house: House) -> None:
    house.advance(10)
    old = only(house.at(1))
    old.says(Draining())
    assert len(house.at(1)) == 2
    assert house.supervisor.why_not_ready == "", "another address has one"
    new = house.at(1)[1]
    assert new.worker.slot != old.worker.slot
    new.becomes_ready()
    old.exits()
    assert house.at(1) == [new]
    house.advance(60)
    assert house.at(1) == [new]


def test_workers_that_drain_as_soon_as_they_are_ready_are_started_ever_more_slowly(
    house: House,
) -> None:
    """Such as those of a service that stops the reactor."""
    house.advance(600)
    only(house.at(1)).exits()
    started = len(house.processes)
    until = house.clock.seconds() + 300
    while house.clock.seconds() < until:
        for process in house.at(1):
            if not process.is_ready:
                process.becomes_ready()
                process.says(Draining())
                process.exits()
        house.clock.advance(0.05)
    assert 5 <= len(house.processes) - started <= 60
    house.advance(60)
    house.all_ready()
    house.advance(60)
    only(house.at(1)).says(Draining())
    assert len(house.at(1)) == 2, "at once again"


def test_there_are_no_more_than_two_workers_of_an_address(house: House) -> None:
    house.advance(10)
    first = only(house.at(1))
    first.says(Draining())
    second = house.at(1)[1]
    second.becomes_ready()
    house.advance(10)
    second.says(Draining())
    assert house.at(1) == [first, second]
    first.exits()
    assert [process.pid for process in house.at(1)] == [second.pid, 103]


# -- who stands still -----------------------------------------------------------------------------


def test_a_worker_whose_reactor_stands_still_says_where_and_is_replaced(house: House) -> None:
    stuck = only(house.at(1))
    house.advance(120)
    assert any(isinstance(message, Ping) for message in stuck.sent)
    assert stuck.signals == []
    stuck.is_stuck = True
    house.advance(60.5)
    assert stuck.signals == [signal.SIGABRT]
    house.advance(2)
    assert stuck.signals == [signal.SIGABRT, signal.SIGKILL]
    house.advance(1)
    assert only(house.at(1)) is not stuck


def test_without_a_time_limit_nobody_is_asked() -> None:
    house = House(1, Limits(silence=0))
    house.all_ready()
    only(house.alive).is_stuck = True
    house.advance(1000)
    assert only(house.alive).sent == []


# -- rolls --------------------------------------------------------------------------------------


def test_a_roll_replaces_one_after_the_other(house: House) -> None:
    first, second = house.alive
    house.supervisor.roll()
    assert len(house.at(1)) == 2
    assert house.at(2) == [second]
    assert not first.is_told_to_end
    house.at(1)[1].becomes_ready()
    assert first.sent[-1] == HandOver(grace=10)
    assert len(house.at(2)) == 2
    house.at(2)[1].becomes_ready()
    assert "rolling" in house.supervisor.status, "the old ones have not ended"
    house.obey()
    assert house.supervisor.status == "2 of 2 ready"
    assert [process.pid for process in house.alive] == [102, 103]
    assert house.supervisor.counts["rolls"] == 1


def test_a_roll_is_given_up_if_a_new_worker_cannot_serve(house: House) -> None:
    old = house.alive
    house.supervisor.roll()
    with captured_log() as log:
        house.at(1)[1].fails("shop:Echo: importing it raised SyntaxError", "Traceback")
    assert house.alive == old
    assert not any(process.is_told_to_end for process in old)
    assert not house.supervisor.is_rolling
    assert house.supervisor.counts == {"rolls_given_up": 1}
    assert any("the roll is given up" in event["log_format"] for event in log)


def test_a_roll_is_given_up_if_a_new_worker_is_not_ready_in_time(house: House) -> None:
    old = house.alive
    house.supervisor.roll()
    house.at(1)[1].is_stuck = True
    house.advance(62.25)
    assert house.alive == old
    assert house.supervisor.counts == {"rolls_given_up": 1}


def test_a_roll_that_a_stop_ends_was_not_given_up(house: House) -> None:
    house.supervisor.roll()
    house.supervisor.stop()
    house.obey()
    only(house.alive).exits("signal SIGTERM")  # the new one, which was about to start
    assert house.alive == []
    assert not house.supervisor.counts["rolls_given_up"]


def test_a_roll_during_a_roll_is_one_more_after_it(house: House) -> None:
    with captured_log() as log:
        house.supervisor.roll()
        house.supervisor.roll()
        house.supervisor.roll()
    assert [event["log_format"] for event in log] == [
        "rolls: all workers are replaced, one after the other",
        "once this roll has ended, one more follows",
    ]
    for _ in range(4):
        house.all_ready()
        house.obey()
    assert house.supervisor.counts == {"rolls": 2}
    assert [process.pid for process in house.alive] == [104, 105]


def test_a_roll_during_the_first_start_follows_it() -> None:
    house = House()
    house.supervisor.roll()
    assert len(house.alive) == 2
    house.all_ready()
    assert house.supervisor.is_rolling


def test_an_old_worker_that_dies_during_its_roll_is_not_missed(house: House) -> None:
    old = only(house.at(1))
    house.supervisor.roll()
    old.exits("signal SIGKILL")
    new = only(house.at(1))
    new.becomes_ready()
    house.advance(5)
    assert only(house.at(1)) is new
    house.at(2)[1].becomes_ready()
    house.obey()
    assert house.supervisor.counts == {"rolls": 1}


def test_a_worker_that_waits_to_be_started_again_is_rolled_by_being_started(house: House) -> None:
    only(house.at(1)).exits("signal SIGKILL")
    house.supervisor.roll()
    only(house.at(1)).becomes_ready()
    assert len(house.at(2)) == 2


def test_an_old_worker_that_starts_yet_is_ended_when_the_new_one_is_ready(house: House) -> None:
    only(house.at(1)).exits("signal SIGKILL")
    house.advance(0.25)
    starting = only(house.at(1))
    house.supervisor.roll()
    house.at(1)[1].becomes_ready()
    assert starting.signals == [signal.SIGTERM]


def test_a_worker_that_does_not_end_within_its_grace_is_killed(house: House) -> None:
    old = only(house.at(1))
    house.supervisor.roll()
    house.at(1)[1].becomes_ready()
    house.advance(14.75)
    assert old.signals == []
    house.advance(0.25)
    assert old.signals == [signal.SIGKILL]


# -- stops --------------------------------------------------------------------------------------


def test_it_ends_when_all_workers_have(house: House) -> None:
    house.supervisor.stop()
    assert house.supervisor.why_not_ready == "the supervisor stops"
    first, second = house.alive
    first.exits()
    assert house.ended == []
    second.exits()
    assert house.ended == [None]
    assert house.timers == []


def test_a_second_stop_has_no_grace(house: House) -> None:
    house.supervisor.stop()
    house.supervisor.stop()
    assert [message.grace for message in house.processes[0].sent] == [10, 0]  # type: ignore[attr-defined]  # Drain
    house.processes[0].is_stuck = True
    house.advance(5)
    assert house.processes[0].signals == [signal.SIGKILL]


def test_a_stop_ends_a_roll(house: House) -> None:
    house.supervisor.roll()
    new = house.at(1)[1]
    house.supervisor.stop()
    assert new.signals == [signal.SIGTERM]
    house.advance(0)
    house.obey()
    assert house.ended == [None]
    assert house.supervisor.counts["rolls"] == 0
    house.supervisor.roll()
    house.supervisor.reload_keys()
    assert house.timers == []


def test_a_stop_while_nobody_runs_ends_it_at_once() -> None:
    house = House(1)
    house.all_ready()
    only(house.alive).exits("signal SIGKILL")
    house.supervisor.stop()
    assert house.ended == [None]
    assert house.timers == []


# -- keys ---------------------------------------------------------------------------------------


def test_all_workers_reload_the_keys(house: House) -> None:
    house.supervisor.roll()  # also one that is starting, which may have read them just before
    house.supervisor.reload_keys()
    assert all(process.sent[-1] == ReloadKeys() for process in house.alive)
    first, second, third = house.alive
    with captured_log() as log:
        first.says(KeysReloaded(error="", clients=3))
        second.says(KeysReloaded(error="alice.key is no certificate", clients=4))
        assert [house.supervisor.is_reloading] == [True]
        third.exits("signal SIGKILL")
    assert not house.supervisor.is_reloading
    assert [event["log_level"].name for event in log][:2] == ["info", "error"]


# -- files --------------------------------------------------------------------------------------


def test_files_are_told_of_workers_that_are_ready(house: House) -> None:
    house.supervisor.roll()
    house.at(1)[1].becomes_ready("/srv/shop.py")
    assert house.files == ["/srv/shop.py"]
