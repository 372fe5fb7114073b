"""What is varied, what is made of the figures; and one real run, of a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.figures import Sample
from benchmarks.generate import with_txzmq
from benchmarks.process import StackError
from benchmarks.scale.__main__ import main, redraw, write
from benchmarks.scale.axes import AXES, Axis, Point, Setup
from benchmarks.scale.measure import Cost, Plan, Row, added, growth, measure, median
from benchmarks.scale.report import as_markdown, as_text, cells, header, size, verdict
from tests.benchmarks.test_run import WHERE
from tests.benchmarks.test_stacks import skip_unless_installed
from tests.support import is_installed

ROWS = [Row(16, Cost(12_345.6, 20e-6, 10e-6)), Row(1_024, Cost(3_000.0, 40e-6, 11e-6))]


def sample(calls: int, elapsed: float, cpu: float) -> Sample:
    return Sample(calls=calls, elapsed=elapsed, p50=1, p99=1, client_cpu=cpu)


def test_clients_share_four_processes() -> None:
    assert Setup().processes() == [1]
    assert Setup(clients=3).processes() == [1, 1, 1]
    assert Setup(clients=10).processes() == [3, 3, 2, 2]
    assert Setup(clients=500).processes() == [125] * 4


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_an_axis_varies_one_thing_upwards(axis: Axis) -> None:
    values = [point.value for point in axis.points]
    assert values == sorted(set(values))
    varied = {
        "in-flight": [point.in_flight for point in axis.points],
        "endpoints": [point.setup.endpoints for point in axis.points],
        "clients": [point.setup.clients for point in axis.points],
        "size": [point.message_bytes for point in axis.points],
        "methods": [point.setup.methods for point in axis.points],
        "workers": [point.setup.workers for point in axis.points],
    }
    assert varied[axis.name] == values


def test_the_axes_reach_as_far_as_they_should() -> None:
    reach = {name: (axis.points[0].value, axis.points[-1].value) for name, axis in AXES.items()}
    assert reach == {
        "in-flight": (1, 1_000),
        "endpoints": (1, 64),
        "clients": (1, 500),
        "size": (16, 16 << 20),
        "methods": (1, 10_000),
        "workers": (1, 4),
    }


def test_a_shortened_axis_keeps_its_ends() -> None:
    axis = AXES["in-flight"]
    assert [point.value for point in axis.shortened(3).points] == [1, 20, 1_000]
    assert axis.shortened(100).points == axis.points
    with pytest.raises(ValueError, match="1 points show no growth"):
        axis.shortened(1)


def test_client_processes_are_added_up() -> None:
    cost = added([sample(100, 1.0, 0.5), sample(300, 2.0, 1.5)], server_cpu=0.8)
    assert cost == Cost(calls_per_second=250, client_cpu=0.005, server_cpu=0.002)


def test_the_median_is_of_each_figure() -> None:
    assert median([Cost(1, 9, 5), Cost(3, 7, 4), Cost(2, 8, 6)]) == Cost(2, 8, 5)


def test_growth_is_of_the_last_over_the_lowest_before() -> None:
    assert growth([20.0, 10.0, 15.0]) == 1.5
    assert growth([20.0, 10.0]) == 0.5
    with pytest.raises(ValueError, match="one cost alone"):
        growth([1.0])


def test_a_size_has_the_largest_unit_that_divides_it() -> None:
    assert [size(n) for n in (16, 1_000, 4_096, 16 << 20)] == ["16 B", "1000 B", "4 KiB", "16 MiB"]


def test_a_table_shows_what_a_call_costs() -> None:
    assert cells(AXES["in-flight"], ROWS) == [
        ["calls in flight", "calls/s", "client CPU µs/call", "server CPU µs/call"],
        ["16", "12,346", "20.0", "10.0"],
        ["1,024", "3,000", "40.0", "11.0"],
    ]
    expected = (
        "CPU time per call at 1,024 calls in flight, in terms of the lowest before it: "
        "client 2.00 x, server 1.10 x."
    )
    assert verdict(AXES["in-flight"], ROWS) == expected


def test_of_sizes_it_shows_what_a_byte_costs() -> None:
    assert cells(AXES["size"], ROWS)[2][4:] == ["2.9", "39.06", "10.74"]
    assert "per byte at 1 KiB" in verdict(AXES["size"], ROWS)
    assert "client 0.03 x, server 0.02 x." in verdict(AXES["size"], ROWS)


def test_the_text_lines_up() -> None:
    title, table, last = as_text(AXES["size"], ROWS).split("\n\n")
    assert title.startswith("Size of messages: one client")
    assert len({len(line) for line in table.splitlines()}) == 1
    assert last == verdict(AXES["size"], ROWS)


def test_the_page_names_versions_and_machine_and_shows_the_plot() -> None:
    introduction = header(WHERE, Plan(rounds=3, seconds=0.5))
    page = as_markdown(introduction, {"in-flight": ROWS})
    assert "CPython 3, Linux, 2 CPUs, load 0.5 at the beginning; ours 1.0, b 2.0" in page
    assert "medians of 3 rounds of 0.5 s." in page
    assert "\n### Calls in flight\n\nOne client, one endpoint" in page
    assert "](scale-in-flight.svg)" in page
    assert "\n| ---: | ---: | ---: | ---: |\n| 16 | 12,346 | 20.0 | 10.0 |\n" in page


@pytest.mark.parametrize("name", ["in-flight", "size"])
def test_the_same_figures_give_the_same_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        write(folder, "Where.", {name: ROWS})
    files = [{file.name: file.read_bytes() for file in each.iterdir()} for each in folders]
    assert files[0] == files[1]
    assert set(files[0]) == {"scale.md", "scale.json", f"scale-{name}.svg"}
    plot = files[0][f"scale-{name}.svg"].decode()
    assert "<dc:date>" not in plot
    assert "CPU µs per call" in plot
    redraw(folders[0])
    assert files[0] == {file.name: file.read_bytes() for file in folders[0].iterdir()}


def axis_of(points: Sequence[Point]) -> Axis:
    return Axis(name="in-flight", title="T", unit="u", fixed="f", points=points)


@pytest.mark.parametrize(
    "setup",
    [
        *(Setup(endpoints=3), Setup(clients=6), Setup(methods=3), Setup(message_limit=6 << 20)),
        Setup(workers=2),
    ],
    ids=str,
)
def test_a_point_is_measured(setup: Setup, tmp_path: Path) -> None:
    skip_unless_installed("txzmq")
    if setup.workers and not is_installed("click"):
        pytest.skip("the extra cli is not installed")
    with_txzmq(tmp_path)
    bytes_ = 5 << 20 if setup.message_limit else 100
    point = Point(value=7, setup=setup, in_flight=2, message_bytes=bytes_)
    said: list[str] = []
    plan = Plan(seconds=0.05, rounds=1, warm_up=0.01)
    ((value, cost),) = measure(axis_of([point]), plan, tmp_path, said.append)
    assert value == 7
    assert min(cost) > 0
    assert said == ["T, round 1 of 1", "T, round 1 of 1, 7"]


def test_a_process_that_fails_is_told(tmp_path: Path) -> None:
    plan = Plan(seconds=0.05, rounds=1)
    with pytest.raises(StackError, match=r"(?s)server: has ended.*generated"):
        measure(AXES["in-flight"], plan, tmp_path, lambda _: None)


def test_a_quick_run_prints_and_writes_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_installed("txzmq")
    pytest.importorskip("matplotlib")
    build, docs = str(tmp_path / "build"), tmp_path / "docs"
    quick = ["--quick", "--axis", "in-flight", "--seconds", "0.05", "--build", build]
    assert main([*quick, "--points", "2", "--docs", str(docs)]) == 0
    printed = capsys.readouterr().out
    assert "CPU time per call at 1,000 calls in flight" in printed
    assert "| 1,000 | " in (docs / "scale.md").read_text(encoding="utf-8")
    assert (docs / "scale-in-flight.svg").exists()
