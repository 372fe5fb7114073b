"""The metrics of several processes, added up; and how they are asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")

from hypothesis import given
from hypothesis.strategies import booleans, integers, lists, tuples
from prometheus_client import (
    PROCESS_COLLECTOR,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.task import Clock

from tests.rpc.test_operations_site import ask
from tests.serve.fakes import House
from tests.support import Logged
from txzmq._serve.control import Figures, GetFigures
from txzmq._serve.figures import FigureReader, Total
from txzmq._serve.metrics import PATIENCE, FigureKeeper, operations_site
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.prometheus import FAMILIES, MetricsCollector


class Process:
    """A process with metrics of each type."""

    def __init__(self, name: str = "p") -> None:
        registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["method"], registry=registry)
        self.queue = Gauge("queue", "Waiting.", registry=registry)
        self.seconds = Histogram("seconds", "Seconds.", buckets=(1, 2), registry=registry)
        self._reader = FigureReader(registry, name)

    def read(self) -> list[Any]:
        """As they come over the pipe."""
        families: list[Any] = json.loads(json.dumps(self._reader.read()))
        return families


def values(total: Total) -> dict[str, float]:
    """Lines without comments: name and labels, and value."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(total)
    lines = generate_latest(registry).decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def test_values_of_processes_are_added_up() -> None:
    total = Total()
    first, second = Process(), Process()
    first.calls.labels("a").inc(3)
    second.calls.labels("a").inc(4)
    second.calls.labels("b").inc(1)
    first.queue.set(2)
    second.queue.set(5)
    first.seconds.observe(0.5)
    second.seconds.observe(1.5)
    total.set(1, first.read())
    total.set(2, second.read())
    found = values(total)
    assert found['calls_total{method="a"}'] == 7
    assert found['calls_total{method="b"}'] == 1
    assert found["queue"] == 7
    assert found['seconds_bucket{le="1.0"}'] == 1
    assert found['seconds_bucket{le="+Inf"}'] == 2
    assert found["seconds_sum"] == 2
    created = [process.read()[0][3][1][2] for process in (first, second)]
    assert found['calls_created{method="a"}'] == pytest.approx(min(created))


def test_what_has_ended_is_counted_and_has_nothing() -> None:
    total = Total()
    process = Process()
    process.calls.labels("a").inc(3)
    process.queue.set(2)
    total.set(1, process.read())
    total.end(1)
    found = values(total)
    assert found['calls_total{method="a"}'] == 3
    assert "queue" not in found
    total.end(1)
    total.end("of whom nothing is known")
    assert values(total) == found


@given(lists(tuples(integers(0, 3), integers(0, 5), booleans()), max_size=30))
def test_no_counter_falls_and_none_is_lost(steps: list[tuple[int, int, bool]]) -> None:
    total = Total()
    processes = {number: Process() for number in range(4)}
    counted = 0
    last = 0.0
    for number, calls, ends in steps:
        processes[number].calls.labels("a").inc(calls)
        counted += calls
        total.set(processes[number], processes[number].read())
        if ends:
            total.end(processes[number])
            processes[number] = Process()
        now = values(total)['calls_total{method="a"}']
        assert now >= last
        assert now == counted
        last = now


def test_each_process_says_what_it_takes() -> None:
    total = Total()
    total.set(1, Process("host:1").read())
    total.set(2, Process("host:2").read())
    found = values(total)
    assert 'process_start_time_seconds{process="host:1"}' in found
    assert 'process_start_time_seconds{process="host:2"}' in found
    assert not any(name.startswith("python_") for name in found)
    total.end(1)
    assert 'process_cpu_seconds_total{process="host:1"}' not in values(total)


def test_what_is_no_figure_of_a_process_is_added_up_whatever_its_name() -> None:
    total = Total()
    for number in range(2):
        registry = CollectorRegistry()
        Counter("process_orders", "Of the user's.", registry=registry).inc(3)
        Counter("python_jobs", "Of the user's.", registry=registry).inc(2)
        Counter("orders_created", "Of the user's.", registry=registry).inc(4)
        Gauge("open_created", "Of the user's.", registry=registry).set(5)
        total.set(number, json.loads(json.dumps(FigureReader(registry, f"host:{number}").read())))
    assert values(total)["open_created"] == 10
    total.end(0)
    found = values(total)
    assert found["process_orders_total"] == 6
    assert found["python_jobs_total"] == 4
    assert found["orders_created_total"] == 8


def test_all_that_prometheus_client_tells_of_a_process_is_known() -> None:
    total = Total()
    total.set(1, Process("host:1").read())
    total.set(2, Process("host:2").read())
    names = {metric.name for metric in PROCESS_COLLECTOR.collect()}
    for metric in total.collect():
        if metric.name in names:
            assert {sample.labels["process"] for sample in metric.samples} == {"host:1", "host:2"}


def test_labels_have_no_order() -> None:
    total = Total()
    total.set(1, [["x", "counter", "X.", [["x_total", {"a": "1", "b": "2"}, 1.0]]]])
    total.set(2, [["x", "counter", "X.", [["x_total", {"b": "2", "a": "1"}, 2.0]]]])
    assert values(total) == {'x_total{a="1",b="2"}': 3}


class Odd(Collector):
    """A user's collector, which tells what a test says."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        # Any: a user's may be of any type.
        self.value: Any = 1
        self.label: Any = "a"

    def collect(self) -> Iterator[Metric]:
        if self.error is not None:
            raise self.error
        family = CounterMetricFamily("odd", "Odd.", labels=["label"])
        family.add_metric([self.label], self.value)
        yield family


@pytest.fixture
def odd() -> Iterator[Odd]:
    collector = Odd()
    REGISTRY.register(collector)
    yield collector
    REGISTRY.unregister(collector)


def odd_of(families: list[Any]) -> list[Any]:
    """The samples of that collector, as they come over the pipe."""
    return [one[3] for one in json.loads(json.dumps(families)) if one[0] == "odd"]


@pytest.mark.parametrize(
    ("value", "label", "told"),
    [
        (Decimal("1.5"), "a", ["odd_total", {"label": "a"}, 1.5]),
        (Fraction(1, 2), '\n"\\', ["odd_total", {"label": '\n"\\'}, 0.5]),
        (True, 7, ["odd_total", {"label": "7"}, 1.0]),
    ],
)
def test_values_of_any_type_are_numbers(odd: Odd, value: Any, label: Any, told: object) -> None:
    odd.value, odd.label = value, label
    assert odd_of(FigureReader(CollectorRegistry(), "p").read()) == [[told]]


@pytest.mark.parametrize(
    "value", ["many", None, object(), 10**400], ids=["text", "none", "object", "large"]
)
def test_what_is_no_number_is_as_a_collector_that_fails(
    odd: Odd, logged: Logged, value: Any
) -> None:
    reader = FigureReader(CollectorRegistry(), "p")
    reader.read()
    odd.value = value
    assert odd_of(reader.read()) == [[["odd_total", {"label": "a"}, 1.0]]]
    assert "the default registry of prometheus_client" in logged[0]["log_format"]


def test_a_collector_that_fails_fails_nothing_else(odd: Odd, logged: Logged) -> None:
    reader = FigureReader(CollectorRegistry(), "p")
    odd.value = 3
    assert len(odd_of(reader.read())) == 1
    odd.error = ZeroDivisionError("no rows")
    for _ in range(5):
        assert odd_of(reader.read()) == [[["odd_total", {"label": "a"}, 3.0]]], "no sum falls"
    assert logged.failures() == [odd.error]
    odd.error = None
    odd.value = 4
    assert odd_of(reader.read()) == [[["odd_total", {"label": "a"}, 4.0]]]
    odd.error = ZeroDivisionError("again")
    reader.read()
    assert len(logged.failures()) == 2


def test_not_a_number_passes() -> None:
    total = Total()
    process = Process()
    process.queue.set(float("nan"))
    total.set(1, process.read())
    assert math.isnan(values(total)["queue"])


def test_another_version_may_have_another_type_of_a_name() -> None:
    total = Total()
    total.set(1, [["x", "gauge", "X.", [["x", {}, 1.0]]]])
    total.set(2, [["x", "counter", "X.", [["x_total", {}, 1.0]]]])
    assert values(total) == {"x": 1}


def test_the_families_are_those_of_one_process() -> None:
    total = Total()
    metrics = Metrics(name="shop")
    total.set(1, FigureReader(MetricsCollector(metrics), metrics.instance).read())
    found = {metric.name for metric in total.collect()}
    wanted = {family.name.removesuffix("_total").removesuffix("_info") for family in FAMILIES}
    assert found >= wanted - {"txzmq_reactor_lag_seconds"}


# -- asking ---------------------------------------------------------------------------------------


def test_a_scrape_waits_for_those_that_serve() -> None:
    house = House()
    keeper = FigureKeeper(house.clock)
    house.all_ready()
    answered: list[None] = []
    keeper.ask(house.supervisor.workers).addCallback(answered.append)
    first, second = house.processes
    assert first.sent == second.sent == [GetFigures()]
    keeper.figures(first.worker, Figures(families=[], asked=False))
    keeper.figures(first.worker, Figures(families=[], asked=True))
    assert answered == []
    keeper.gone(second.worker)
    assert answered == [None]


def test_who_does_not_answer_holds_up_nobody_for_long() -> None:
    house = House()
    clock = Clock()
    keeper = FigureKeeper(clock)
    house.all_ready()
    worker = house.processes[0].worker
    keeper.figures(worker, Figures(families=Process().read(), asked=False))
    answered: list[None] = []
    keeper.ask(house.supervisor.workers).addCallback(answered.append)
    clock.advance(PATIENCE)
    assert answered == [None]
    assert clock.getDelayedCalls() == []
    keeper.figures(worker, Figures(families=[], asked=True))  # too late


def test_a_scrape_that_fails_is_answered(logged: Logged) -> None:
    """Such as by a name that the workers' version of prometheus_client knows, and ours does not."""
    house = House()
    keeper = FigureKeeper(house.clock)
    keeper.total.set(1, [["no name", "no type", "X.", [["x", {}, 1.0]]]])
    site = operations_site(house.supervisor, keeper)
    for _ in range(2):
        code, _, body = ask(site, "/metrics")
        assert (code, body) == (500, "the metrics cannot be told; the log says why\n")
    assert [type(error) for error in logged.failures()] == [ValueError, ValueError]
    keeper.total.end(1)
    code, _, body = ask(site, "/metrics")
    assert code == 200
    assert "txzmq_supervisor_listeners 2.0" in body


def test_where_nobody_serves_nobody_is_waited_for() -> None:
    house = House()
    keeper = FigureKeeper(house.clock)
    answered: list[None] = []
    keeper.ask(house.supervisor.workers).addCallback(answered.append)
    assert answered == [None]
    assert [process.sent for process in house.processes] == [[], []]
