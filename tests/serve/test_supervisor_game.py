"""A game of workers that die, drain, hang and start, of rolls and stops, in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import DataObject, booleans, data, floats, integers, sampled_from

from tests.serve.fakes import FakeProcess, House
from tests.support import examples
from txzmq._serve.control import Draining
from txzmq._serve.worker_state import State


class Game(RuleBasedStateMachine):
    """What a supervisor must keep to, whatever its workers do."""

    house: House

    @initialize(addresses=integers(1, 3), seed=integers(0, 9))
    def start(self, addresses: int, seed: int) -> None:
        self.house = House(addresses, seed=seed)
        self.addresses = addresses
        self.is_stopped = False

    def _some(self, choice: DataObject, processes: list[FakeProcess]) -> FakeProcess | None:
        return choice.draw(sampled_from(processes)) if processes else None

    # -- what happens -------------------------------------------------------------------------

    @rule(choice=data())
    def one_becomes_ready(self, choice: DataObject) -> None:
        starting = [each for each in self.house.alive if not each.is_ready]
        if process := self._some(choice, starting):
            process.becomes_ready()

    @rule(choice=data())
    def one_cannot_serve(self, choice: DataObject) -> None:
        starting = [each for each in self.house.alive if not each.is_ready]
        if process := self._some(choice, starting):
            process.fails()

    @rule(choice=data())
    def one_dies(self, choice: DataObject) -> None:
        if process := self._some(choice, self.house.alive):
            process.exits("signal SIGKILL")

    @rule(choice=data())
    def one_drains_by_itself(self, choice: DataObject) -> None:
        if process := self._some(choice, [each for each in self.house.alive if each.is_ready]):
            process.says(Draining())

    @rule(choice=data(), stuck=booleans())
    def one_hangs_or_does_not(self, choice: DataObject, stuck: bool) -> None:
        if process := self._some(choice, self.house.alive):
            process.is_stuck = stuck

    @rule(seconds=floats(0, 70))
    def time_passes(self, seconds: float) -> None:
        self.house.advance(seconds)

    @rule()
    def who_was_told_to_ends(self) -> None:
        self.house.obey()

    @rule()
    def roll(self) -> None:
        self.house.supervisor.roll()

    @rule()
    def reload_keys(self) -> None:
        self.house.supervisor.reload_keys()

    @precondition(lambda self: not self.is_stopped)
    @rule()
    def stop(self) -> None:
        self.is_stopped = True
        self.house.supervisor.stop()

    # -- what holds -----------------------------------------------------------------------------

    @invariant()
    def an_address_has_two_workers_at_most_each_in_a_place_of_its_own(self) -> None:
        for number in range(1, self.addresses + 1):
            slots = [each.worker.slot for each in self.house.at(number)]
            assert slots in ([], [0], [1], [0, 1], [1, 0])

    @invariant()
    def it_knows_who_lives(self) -> None:
        known = {worker.pid for worker in self.house.supervisor.workers}
        assert known == {process.pid for process in self.house.alive}

    @invariant()
    def it_ends_when_it_stops_and_nobody_is_left(self) -> None:
        stops = self.house.supervisor.is_stopping
        assert bool(self.house.ended) == (stops and not self.house.alive)
        if self.house.ended:
            assert self.house.timers == []

    @invariant()
    def who_is_ready_is_told_to_go_only_where_another_is(self) -> None:
        """But for the end of all; :meth:`House.handed_over` looks, when it is told."""
        if not self.house.supervisor.is_stopping:
            for process in self.house.alive:
                left = process.worker.state is State.LEAVING
                assert left or not process.is_told_to_end

    # -- the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "house"):
            return
        house, supervisor = self.house, self.house.supervisor
        if not supervisor.is_stopping:
            self._goes_well()
            before = {each.pid for each in house.alive}
            supervisor.roll()
            self._goes_well()
            assert not before & {each.pid for each in house.alive}, "a roll replaces all"
            supervisor.stop()
        for process in house.alive:
            process.is_stuck = True
        house.advance(20)
        assert house.alive == []
        assert len(house.ended) == 1
        assert house.timers == []

    def _goes_well(self) -> None:
        """From now on, all workers do what they should: then one of each address is ready."""
        house = self.house
        for _ in range(12):
            for process in house.alive:
                process.is_stuck = False
            house.all_ready()
            house.obey()
            house.advance(20)
        assert house.supervisor.status == f"{self.addresses} of {self.addresses} ready"
        assert len(house.alive) == self.addresses
        assert house.supervisor.number_of(State.READY) == self.addresses


TestGame = Game.TestCase
TestGame.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
