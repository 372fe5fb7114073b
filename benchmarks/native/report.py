"""The results as tables in Markdown, and as JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.figures import Interval, median_interval
from benchmarks.native.loads import GROUPS, LOADS, Load
from benchmarks.native.measure import Figures, Plan, Results
from benchmarks.native.peers import BASELINE

__all__ = ["as_json", "as_markdown", "introduction", "ratios"]

_COLUMNS: Final = (
    "",
    "",
    "a second",
    "p50, µs",
    "p90",
    "p99",
    "p99.9",
    "client CPU, µs",
    "server CPU, µs",
    "client, MiB",
    "server, MiB",
    f"{BASELINE} : this",
    "interval",
)


def introduction(
    where: Mapping[str, Any], plan: Plan, results: Results, day: str, debian: Mapping[str, str]
) -> str:
    """What was measured, where, and of which versions.

    :param where: what :func:`benchmarks.report.machine` says.
    :param day: the date.
    :param debian: versions of packages that no program tells by itself.
    """
    made_of = "; ".join(f"{name}: {_pairs(it)}" for name, it in results.versions.items())
    transport = "a Unix socket" if plan.unix else "TCP on 127.0.0.1"
    confidence = median_interval(range(plan.rounds)).confidence
    packages = f" Debian's packages: {_pairs(debian)}." if debian else ""
    return (
        f"`{_command(plan)}`, {day}. {where['python']}, {where['system']}, {where['cpus']} CPUs, "
        f"load {where['load']} at the beginning. {made_of}.{packages}\n\n"
        f"Over {transport}, a client and a server process each; medians of {plan.rounds} rounds of "
        f"{plan.seconds:g} s, in which all take turns. CPU is per call, item or delivery, of all "
        f"threads; memory is the peak of the process. The ratio is the median of the rounds' "
        f"ratios of what is done a second; the interval, from the order statistics of the rounds, "
        f"holds it with a probability of {confidence:.0%}."
    )


def _command(plan: Plan) -> str:
    """What measures the same again."""
    words = ["python -m benchmarks.native", f"--rounds {plan.rounds} --seconds {plan.seconds:g}"]
    if set(plan.loads) != set(LOADS):
        words += dict.fromkeys(f"--load {load.name}" for load in plan.loads)
    return " ".join([*words, "--unix"] if plan.unix else words)


def _pairs(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> tuple[float, Interval]:
    """The median of the rounds' ratios of rates, and where it lies."""
    each = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(each), median_interval(each)


def as_markdown(results: Results) -> str:
    """A table for each group of loads that was measured, and what failed."""
    blocks: list[str] = []
    for title, loads in GROUPS.items():
        measured = [load for load in loads if results.samples.get(load)]
        if measured:
            blocks.append("\n".join([f"**{title}**", "", *_table(measured, results)]))
    blocks += [f"FAILED {reason}" for reason in results.failures.values()]
    return "\n\n".join(blocks) + "\n"


def _table(loads: Iterable[Load], results: Results) -> Iterator[str]:
    yield _line(_COLUMNS)
    yield _line(["---", "---", *["---:"] * (len(_COLUMNS) - 2)])
    for load in loads:
        peers = results.samples[load]
        for number, (name, several) in enumerate(peers.items()):
            yield _line(["" if number else str(load), name, *_cells(several), *_ratio(peers, name)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(several: Sequence[Figures]) -> Iterator[str]:
    figures = Figures(*map(statistics.median, zip(*several, strict=True)))
    yield f"{figures.rate:,.0f}"
    for latency in (figures.p50, figures.p90, figures.p99, figures.p999):
        yield f"{latency * 1e6:,.0f}" if latency else "-"
    for cpu in (figures.client_cpu, figures.server_cpu):
        yield f"{cpu * 1e6:,.1f}" if cpu < 1e-4 else f"{cpu * 1e6:,.0f}"
    for memory in (figures.client_memory, figures.server_memory):
        yield f"{memory / (1 << 20):,.0f}"


def _ratio(peers: Mapping[str, Sequence[Figures]], name: str) -> tuple[str, str]:
    if name == BASELINE or BASELINE not in peers:
        return "", ""
    middle, interval = ratios(peers[BASELINE], peers[name])
    return f"{middle:.2f}", f"{interval.low:.2f} to {interval.high:.2f}"


def as_json(
    where: Mapping[str, Any], plan: Plan, results: Results, debian: Mapping[str, str]
) -> dict[str, Any]:
    """Everything, with the single turns; times are in seconds, memory in bytes."""
    return {
        "machine": where,
        "versions": {**results.versions, "Debian": debian},
        "plan": {"seconds": plan.seconds, "rounds": plan.rounds, "unix": plan.unix},
        "loads": [
            {
                "load": load.name,
                "at_once": load.at_once,
                "message_bytes": load.message_bytes,
                "samples": {
                    name: [each._asdict() for each in several] for name, several in peers.items()
                },
            }
            for load, peers in results.samples.items()
        ],
        "failures": results.failures,
    }
