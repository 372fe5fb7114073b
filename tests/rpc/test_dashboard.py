"""The dashboard and the alerts: each query is PromQL, of metrics and labels that there are."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.programs import ROOT
from tests.rpc import promql
from tests.rpc.service import ECHO, OTHER, Echo, text
from tests.support import Loop, error_of
from txzmq.rpc import (
    ConnectivityState,
    Context,
    Count,
    NotFound,
    ServerLimits,
    UnaryResult,
)

pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
from prometheus_client.parser import text_string_to_metric_families

from tests.rpc.scraping import CODES, NEEDS_PROMETHEUS, PROMTOOL, Scraped, address_of, prometheus
from tests.rpc.test_prometheus import busy, shown
from txzmq.rpc.metrics import Metrics

EXAMPLES = ROOT / "examples/operate"
ALERTS = EXAMPLES / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((EXAMPLES / "dashboard.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {
    variable["name"]: variable for variable in DASHBOARD["templating"]["list"]
}
#: What Prometheus adds to the labels of whatever it scrapes.
OF_TARGETS = {"job", "instance"}
#: Grafana's own, and what stands for them here.
OWN = {"__rate_interval": "5s"}
#: What only counters are for, and their values at the end of a range.
RATES = {"rate", "increase", "irate"}


class Query(NamedTuple):
    title: str
    text: str
    legend: str

    def filled(self) -> str:
        """With values in place of the variables."""

        def value_of(found: re.Match[str]) -> str:
            name = found[1]
            return OWN.get(name) or str(VARIABLES[name]["allValue"])

        return re.sub(r"\$(\w+)", value_of, self.text)


def of_panels() -> Iterator[Query]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"], target["legendFormat"])


def of_alerts() -> Iterator[Query]:
    """The expressions of the rules, in one line or in a block."""
    found = re.findall(
        r"- alert: (\w+)\n +expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", ALERTS.read_text("utf-8")
    )
    for name, block, line in found:
        yield Query(name, block or line, "")


QUERIES = [*of_panels(), *of_alerts()]
IDS = [f"{query.title} {number}" for number, query in enumerate(QUERIES)]


class Metric(NamedTuple):
    #: ``counter``, ``gauge``, ``histogram`` (its buckets, count and sum) or ``info``.
    kind: str
    labels: set[str]


@cache
def exposed() -> dict[str, Metric]:
    """The samples that a busy server and channel show, by name."""
    metrics: dict[str, Metric] = {}
    for family in text_string_to_metric_families(shown(busy())):
        for sample in family.samples:
            known = metrics.setdefault(sample.name, Metric(family.type, set()))
            known.labels.update(sample.labels)
    return metrics


#: The values that labels may have which have few.
VALUES = {
    "event": {name.name.lower() for name in Count},
    "state": {state.name.lower() for state in ConnectivityState},
    "grpc_type": {"unary", "server_stream", "client_stream", "bidi_stream"},
    "grpc_code": set(CODES),
    "limit": {limit.name for limit in dataclasses.fields(ServerLimits)},
}


@pytest.mark.parametrize("query", QUERIES, ids=IDS)
def test_a_query_uses_metrics_and_labels_that_there_are(query: Query) -> None:
    read = promql.read(query.filled())
    assert read.uses
    labels = set(OF_TARGETS)
    for use in read.uses:
        assert use.metric in exposed(), use.metric
        of_metric = exposed()[use.metric].labels | OF_TARGETS
        assert set(use.selected) <= of_metric, use.metric
        labels |= of_metric
        for label in VALUES.keys() & use.selected.keys():
            assert set(use.selected[label].split("|")) <= VALUES[label]
    assert read.grouped <= labels
    shown_by_legend = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    # What an aggregation drops cannot be shown.
    assert shown_by_legend <= read.grouped


@pytest.mark.parametrize("query", QUERIES, ids=IDS)
def test_a_query_does_with_each_metric_what_its_kind_allows(query: Query) -> None:
    for use in promql.read(query.filled()).uses:
        kind = exposed()[use.metric].kind
        is_rate = bool(RATES & set(use.around[-1:]))
        assert is_rate == use.is_range, use
        # What only grows means nothing by itself; what goes up and down has no rate.
        assert is_rate == (kind in ("counter", "histogram")), use
        assert ("histogram_quantile" in use.around) == use.metric.endswith("_bucket"), use


def test_quantiles_keep_the_buckets_apart() -> None:
    for query in QUERIES:
        for aggregation in re.findall(
            r"histogram_quantile\([\d.]+, sum by \(([^)]*)\)", query.text
        ):
            assert "le" in aggregation.split(", "), query


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("rate(txzmq_server_streams[5m])", "a rate of a gauge"),
        ("sum(grpc_server_handled_total)", "a counter by itself"),
        ("histogram_quantile(0.9, rate(grpc_server_handling_seconds_sum[5m]))", "no buckets"),
        ("sum by (le) (rate(grpc_server_handling_seconds_bucket[5m]))", "no quantile"),
    ],
)
def test_what_is_wrong_would_be_noticed(given: str, wrong: str) -> None:
    with pytest.raises(AssertionError):
        test_a_query_does_with_each_metric_what_its_kind_allows(Query(wrong, given, ""))


@pytest.mark.parametrize(
    ("given", "legend"),
    [
        ("sum(txzmq_server_stream)", ""),
        ('sum(txzmq_client_connections{stat="ready"})', ""),
        ('sum(txzmq_client_connections{state="steady"})', ""),
        ('sum(txzmq_server_limit{limit="runing"})', ""),
        ('sum(rate(grpc_server_handled_total{grpc_code=~"OK|NOT_FOUND"}[5m]))', ""),
        ("sum by (grpc_code) (rate(grpc_server_started_total[5m]))", ""),
        ("sum by (grpc_method) (rate(grpc_server_started_total[5m]))", "{{grpc_service}}"),
        ("up", ""),
    ],
)
def test_names_that_there_are_not_would_be_noticed(given: str, legend: str) -> None:
    with pytest.raises(AssertionError):
        test_a_query_uses_metrics_and_labels_that_there_are(Query("", given, legend))


def test_every_family_of_calls_connections_and_limits_is_shown() -> None:
    used = {use.metric for query in of_panels() for use in promql.read(query.filled()).uses}
    left = {
        name
        for name in exposed()
        if name.startswith(promql.OURS)
        and name not in used
        and not name.endswith(("_count", "_sum", "_started_total"))
    }
    assert left == set()


# -- what Grafana reads --------------------------------------------------------------------------


def test_panels_have_places_ids_titles_and_units_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    row = ""
    titles: list[tuple[str, str]] = []
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
        if panel["type"] == "row":
            row = panel["title"]
            continue
        titles.append((row, panel["title"]))
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
    assert len(set(titles)) == len(titles)


def test_units_are_those_of_what_is_shown() -> None:
    for panel in PANELS:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            expression = target["expr"]
            if unit == "s":
                assert expression.startswith("histogram_quantile("), panel["title"]
            elif unit == "percentunit":
                assert " / " in expression, panel["title"]
            elif unit in ("ops", "reqps", "Bps"):
                assert "rate(" in expression, panel["title"]
                assert (unit == "Bps") == ("_bytes_total" in expression), panel["title"]
            elif unit == "bytes":
                assert "_bytes{" in expression, panel["title"]
            else:
                assert (unit, "rate(" in expression) in [("short", False), ("none", False)]


def test_every_panel_asks_the_source_that_is_chosen() -> None:
    assert DASHBOARD["schemaVersion"] >= 38  # Grafana 10
    assert DASHBOARD["id"] is None  # Grafana gives one
    assert DASHBOARD["uid"]
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
    others = [variable for name, variable in VARIABLES.items() if name != "datasource"]
    assert all(variable["datasource"] == chosen for variable in others)


def test_variables_are_of_labels_that_there_are_and_used() -> None:
    used = {name for query in of_panels() for name in re.findall(r"\$(\w+)", query.text)}
    assert used == set(VARIABLES) - {"datasource"} | set(OWN)
    for name in used - set(OWN):
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", VARIABLES[name]["query"]["query"])
        assert found is not None
        metrics = [metric for metric in exposed() if re.search(rf"\b{metric}\b", found[1])]
        assert metrics
        assert all(found[2] in exposed()[metric].labels | OF_TARGETS for metric in metrics)


#: The gauges that run into limits.
GAUGES = {
    "running": "txzmq_server_calls_running",
    "queued": "txzmq_server_calls_queued",
    "streams": "txzmq_server_streams",
    "subscribers": "txzmq_server_subscribers",
    "request_bytes": "txzmq_server_request_bytes",
    "streams_bytes": "txzmq_server_unacknowledged_bytes",
    "backlog": "txzmq_server_backlog_bytes",
}


def test_limits_are_compared_with_what_runs_into_them() -> None:
    ratio = re.compile(
        r"(txzmq_\w+)(?:\{.*?\})?\) / sum by \(instance\) \(txzmq_server_limit\{(.*?)\}"
    )
    compared = {
        re.findall(r'limit="(\w+)"', labels)[0]: gauge
        for query in of_panels()
        for gauge, labels in ratio.findall(query.text)
    }
    assert compared == GAUGES
    shown_limits = {
        sample.labels["limit"]
        for family in text_string_to_metric_families(shown(busy()))
        for sample in family.samples
        if sample.name == "txzmq_server_limit"
    }
    assert shown_limits == set(GAUGES)


# -- what Prometheus says ------------------------------------------------------------------------


@NEEDS_PROMETHEUS
def test_promtool_finds_nothing_wrong_with_the_alerts() -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "check", "rules", ALERTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Those that were read here are all.
    assert f"{len(list(of_alerts()))} rules found" in done.stdout


@NEEDS_PROMETHEUS
def test_promtool_finds_nothing_wrong_with_the_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.filled()}
        for number, query in enumerate(of_panels())
    ]
    # JSON is YAML.
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


class Failing(Echo):
    """Fails sometimes."""

    def other(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        raise NotFound("nobody")


@NEEDS_PROMETHEUS
def test_a_real_prometheus_has_something_to_show_in_each_panel(
    one_loop: Loop, tmp_path: Path
) -> None:
    handled = 'grpc_server_handled_total{grpc_method="Echo",grpc_code="OK"}'

    async def main() -> tuple[int, int]:
        world = Scraped(one_loop, [Failing()], Metrics(name="greeter"))
        world.metrics.watch_reactor(one_loop.reactor, 0.05)
        empty = {query.filled() for query in of_panels()}
        calls = 0
        with prometheus(tmp_path, world.host) as process:

            async def result(query: str) -> list[Any]:
                code, answer = await world.get(f"api/v1/query?query={quote(query)}", address)
                assert code in (200, 503), (query, answer)  # it listens before it answers
                found: list[Any] = json.loads(answer)["data"]["result"] if code == 200 else []
                return found

            address = await world.in_thread(address_of, process)
            while empty:  # until it has scraped twice
                await world.channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
                calls += 1
                failing = world.channel.unary_unary(OTHER, text("x"))
                assert isinstance(await failing.addErrback(error_of), NotFound)
                for query in list(empty):
                    if await result(query):
                        empty.remove(query)
            scraped = 0
            while scraped < calls:
                (found,) = await result(handled)
                scraped = int(found["value"][1])
        world.metrics.stop_watching_reactor()
        await world.close()
        return calls, scraped

    calls, scraped = one_loop.run(main)
    assert scraped == calls > 0
