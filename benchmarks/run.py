"""In what order the stacks are measured, and what is kept of it.

On a shared machine two measurements can be compared only when they are made one right after the
other. So the baseline is measured again beside each other stack, pair after pair, in several
rounds, and a ratio is the median of the rounds' ratios rather than the ratio of two medians.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.figures import Figures, figures_of, median, ratio
from benchmarks.generate import GenerateError
from benchmarks.process import Running, StackError
from benchmarks.stacks import Stack
from benchmarks.workload import Load

__all__ = ["Plan", "Result", "Results", "Turn", "run", "turns"]

#: One stack, or two that are compared, in the order in which they are measured.
Turn: TypeAlias = tuple[str, ...]

#: Seconds of calls before each measurement, which wake what fell asleep meanwhile.
_WAKE_UP: Final = 0.05


@dataclass(frozen=True, kw_only=True)  # no slots: the defaults are read from the class
class Plan:
    """What is to be measured."""

    loads: Sequence[Load] = (
        Load(in_flight=1),
        Load(in_flight=100),
        Load(in_flight=10_000, at_once=True),
        Load(in_flight=4, message_bytes=1 << 20),
    )
    #: Of one measurement.
    seconds: float = 0.5
    rounds: int = 5
    #: Of calls that nobody counts, once per stack and load.
    warm_up: float = 0.3


@dataclass(slots=True)
class Result:
    """What came out for one load."""

    load: Load
    #: One entry per measurement of a stack.
    samples: dict[str, list[Figures]] = field(default_factory=dict[str, list[Figures]])
    #: One entry per round: the baseline's figures divided by that stack's.
    ratios: dict[str, list[Figures]] = field(default_factory=dict[str, list[Figures]])

    def figures(self) -> dict[str, Figures]:
        """The medians per stack."""
        return {name: median(several) for name, several in self.samples.items()}

    def median_ratios(self) -> dict[str, Figures]:
        """The medians per stack, of the baseline's figures divided by that stack's."""
        return {name: median(several) for name, several in self.ratios.items()}

    def add(self, baseline: str, measured: Mapping[str, Figures]) -> None:
        """Take what one turn measured."""
        for name, figures in measured.items():
            self.samples.setdefault(name, []).append(figures)
            if name != baseline and baseline in measured:
                self.ratios.setdefault(name, []).append(ratio(measured[baseline], figures))

    def forget(self, name: str) -> None:
        """Drop a stack that failed meanwhile."""
        self.samples.pop(name, None)
        self.ratios.pop(name, None)


@dataclass(slots=True)
class Results:
    """What came out of a plan."""

    baseline: str
    by_load: list[Result]
    #: What went wrong, by the name of the stack.
    failures: dict[str, str] = field(default_factory=dict[str, str])


def turns(names: Collection[str], baseline: str, rounds: int) -> Iterator[Sequence[Turn]]:
    """For each round, who is measured beside whom.

    Who of a pair comes first alternates. Without the baseline, or without others, each is alone.
    """
    others = [name for name in names if name != baseline]
    for number in range(rounds):
        if baseline not in names:
            yield [(other,) for other in others]
        elif not others:
            yield [(baseline,)]
        elif number % 2:
            yield [(other, baseline) for other in others]
        else:
            yield [(baseline, other) for other in others]


def run(
    stacks: Iterable[Stack],
    baseline: str,
    plan: Plan,
    build: Path,
    progress: Callable[[str], None],
) -> Results:
    """Measure *stacks* as *plan* says; those that fail are left out, with the reason.

    :param build: a folder for generated modules.
    :param progress: told what is being done, in a few words.
    """
    results = Results(baseline, [Result(load) for load in plan.loads])
    with ExitStack() as ends:
        running: dict[str, Running] = {}
        for stack in stacks:
            progress(f"starting {stack.name}")
            try:
                running[stack.name] = ends.enter_context(_start(stack, build))
                for load in plan.loads:
                    if stack.bears(load):
                        running[stack.name].measure(load.order(plan.warm_up))
            except StackError as error:
                running.pop(stack.name, None)
                results.failures[stack.name] = str(error)
        for number, in_round in enumerate(turns(list(running), baseline, plan.rounds), 1):
            for result in results.by_load:
                progress(f"round {number} of {plan.rounds}, {result.load}")
                for turn in in_round:
                    _take_turn(turn, running, plan, result, results)
    return results


def _start(stack: Stack, build: Path) -> Running:
    """Generate what *stack* needs, and start it."""
    missing = stack.missing()
    if missing:
        raise StackError(f"{stack.name}: not installed: {', '.join(missing)}")
    try:
        stack.generate(build)
    except GenerateError as error:
        raise StackError(f"{stack.name}: {error}") from error
    return Running(stack, build.resolve())


def _take_turn(
    turn: Turn, running: dict[str, Running], plan: Plan, result: Result, results: Results
) -> None:
    """Measure each of *turn* that still runs, one right after the other."""
    measured: dict[str, Figures] = {}
    for name in turn:
        if name not in running or not running[name].stack.bears(result.load):
            continue
        try:
            running[name].measure(result.load.order(_WAKE_UP))
            sample = running[name].measure(result.load.order(plan.seconds))
            measured[name] = figures_of(sample)
        except StackError as error:
            del running[name]
            results.failures[name] = str(error)
            for each in results.by_load:
                each.forget(name)
    result.add(results.baseline, measured)
