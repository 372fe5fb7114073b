from __future__ import annotations

from benchmarks.figures import Figures
from benchmarks.report import as_json, as_text
from benchmarks.run import Plan, Result, Results, turns
from benchmarks.workload import Load

WHERE = {
    "python": "CPython 3",
    "system": "Linux",
    "cpus": 2,
    "load": 0.5,
    "versions": {"ours": "1.0", "b": "2.0"},
}


def same(number: float) -> Figures:
    return Figures(*[number] * 5)


def test_the_baseline_is_measured_beside_each_other_and_the_order_alternates() -> None:
    assert [list(each) for each in turns(["ours", "b", "c"], "ours", 3)] == [
        [("ours", "b"), ("ours", "c")],
        [("b", "ours"), ("c", "ours")],
        [("ours", "b"), ("ours", "c")],
    ]


def test_without_the_baseline_or_without_others_each_is_measured_alone() -> None:
    assert [list(each) for each in turns(["b", "c"], "ours", 1)] == [[("b",), ("c",)]]
    assert [list(each) for each in turns(["ours"], "ours", 2)] == [[("ours",)], [("ours",)]]


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    result = Result(Load(in_flight=1))
    # The machine was twice as fast in the second round, which no ratio shows.
    for ours, theirs in [(10, 5), (20, 10), (12, 4)]:
        result.add("ours", {"ours": same(ours), "b": same(theirs)})
    assert result.median_ratios() == {"b": same(2)}
    assert result.figures() == {"ours": same(12), "b": same(5)}


def test_a_stack_alone_has_no_ratio() -> None:
    result = Result(Load(in_flight=1))
    result.add("ours", {"b": same(1)})
    assert result.ratios == {}
    assert result.figures() == {"b": same(1)}


def test_a_stack_that_failed_is_forgotten() -> None:
    result = Result(Load(in_flight=1))
    result.add("ours", {"ours": same(2), "b": same(1)})
    result.forget("b")
    assert set(result.figures()) == {"ours"}
    assert result.median_ratios() == {}


def results() -> Results:
    result = Result(Load(in_flight=100))
    ours = Figures(12345.6, 0.0001, 0.0025, 10e-6, 4e-6)
    result.add("ours", {"ours": ours, "b": Figures(4000, 0.001, 0.0025, 40e-6, 10e-6)})
    return Results("ours", [result], {"c": "c, server: has ended"})


def test_the_table_shows_figures_ratios_and_failures() -> None:
    header, figures, ratios, failure = as_text(WHERE, Plan(), results()).split("\n\n")
    assert "CPython 3, Linux, 2 CPUs, load 0.5\nours 1.0, b 2.0" in header
    assert [line.split() for line in figures.splitlines()[2:]] == [
        ["ours", "12,346", "100.0", "2,500.0", "10.0", "4.0"],
        ["b", "4,000", "1,000.0", "2,500.0", "40.0", "10.0"],
    ]
    assert ratios.splitlines()[2].split() == [
        *("b", "3.09", "x", "1/10.00", "1.00", "x", "1/4.00", "1/2.50"),
    ]
    assert failure == "FAILED c, server: has ended\n"


def test_the_columns_line_up() -> None:
    tables = as_text(WHERE, Plan(), results()).split("\n\n")[1:3]
    assert len({len(line) for table in tables for line in table.splitlines()}) == 1


def test_the_json_has_every_measurement() -> None:
    written = as_json(WHERE, Plan(seconds=2.0, rounds=1), results())
    assert written["machine"] == WHERE
    assert written["plan"] == {"seconds": 2.0, "rounds": 1}
    (load,) = written["loads"]
    assert (load["in_flight"], load["message_bytes"], load["at_once"]) == (100, 100, False)
    assert load["figures"]["b"]["calls_per_second"] == 4000
    assert load["ratios"]["b"]["p50"] == 0.1
    assert load["samples"]["b"] == [load["figures"]["b"]]
    assert written["failures"] == {"c": "c, server: has ended"}
