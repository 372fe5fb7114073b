"""What Prometheus is shown: what the page lists, and what a real one understands."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import formatEvent

from tests.programs import ROOT
from tests.rpc.service import ADDRESS, ECHO, Waiting, made, text
from tests.rpc.service import World as EchoWorld
from tests.support import Logged, Loop, error_of
from txzmq.rpc import CallRecord, Channel, Code, Side
from txzmq.rpc.metrics import Metrics
from txzmq.testing import MemoryNetwork

pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
from prometheus_client.parser import text_string_to_metric_families

from tests.rpc.scraping import CODES, NEEDS_PROMETHEUS, PROMTOOL, Scraped
from txzmq.rpc.prometheus import FAMILIES, MetricsCollector, MetricsResource

PAGE = ROOT / "docs/guide/metrics.md"


class Request:
    """The part of a request over HTTP that a resource uses."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.code = 200

    def getHeader(self, name: str) -> None:
        return None

    def setHeader(self, name: str, value: str) -> None:
        self.headers[name] = value


def shown(metrics: Metrics) -> str:
    request: Any = Request()
    page = MetricsResource(metrics).render_GET(request)
    assert request.headers["content-type"].startswith("text/plain")
    return page.decode()


def samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def busy() -> Metrics:
    """Metrics of some calls, of a reactor that was late."""
    metrics = Metrics(name="greeter", version="1.4", instance="me")
    for make in made(EchoWorld):
        service = Waiting()
        world = make(service, observer=metrics)
        calls = [world.call("x", timeout=1).addErrback(error_of) for _ in range(2)]
        world.network.advance(0.25)
        service.results[0].callback(text("y"))
        world.network.advance(1)
        assert all(call.called for call in calls)
    clock = Clock()
    metrics.watch_reactor(clock)
    clock.advance(0.5)
    metrics.stop_watching_reactor()
    return metrics


def test_every_family_is_shown_with_its_type_its_labels_and_its_meaning() -> None:
    families = {family.name: family for family in MetricsCollector(busy()).collect()}
    for family in FAMILIES:
        name = family.name.removesuffix("_total").removesuffix("_info")
        found = families.pop(name)
        assert (found.type, found.documentation) == (family.kind, family.meaning)
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(family.labels), family.name
    assert families == {}


def test_the_page_lists_every_family() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", PAGE.read_text(), re.MULTILINE
    )
    expected = [
        (f.name, f.kind, " ".join(f"`{label}`" for label in f.labels), f.meaning) for f in FAMILIES
    ]
    assert [(name, kind, labels.strip(), meaning) for name, kind, labels, meaning in listed] == (
        expected
    )


@pytest.mark.parametrize("side", ["server", "client"])
def test_calls_have_the_names_of_grpcs_exporters(side: str) -> None:
    values = samples(shown(busy()))
    of = {"grpc_type": "unary", "grpc_service": "test.Echo", "grpc_method": "Echo"}

    def value(name: str, **labels: str) -> float:
        return values[name, frozenset({**of, **labels}.items())]

    assert value(f"grpc_{side}_started_total") == 2
    assert value(f"grpc_{side}_handled_total", grpc_code="OK") == 1
    assert value(f"grpc_{side}_handled_total", grpc_code="DeadlineExceeded") == 1
    assert value(f"grpc_{side}_handling_seconds_count") == 2
    assert value(f"grpc_{side}_handling_seconds_bucket", le="0.25") == 1
    assert value(f"grpc_{side}_handling_seconds_bucket", le="+Inf") == 2
    sent, received = (1, 2) if side == "server" else (2, 1)
    assert value(f"grpc_{side}_msg_sent_total") == sent
    assert value(f"grpc_{side}_msg_received_total") == received
    assert value(f"txzmq_{side}_sent_bytes_total") == 3 * sent
    assert value(f"txzmq_{side}_calls_in_flight") == 0


def test_codes_are_written_as_grpcs_exporters_write_them() -> None:
    metrics, source = Metrics(), Channel(MemoryNetwork(), ADDRESS)
    for code in Code:
        record = CallRecord(Side.SERVER, ECHO.path, ECHO.kind, 0.0, (), "", None, True, b"")
        record.complete(code, "", 1.0, 1, 1, 0, 0)
        metrics.call_started(source, record)
        metrics.call_ended(source, record)
    found = samples(shown(metrics))
    handled = [labels for (name, labels) in found if name == "grpc_server_handled_total"]
    assert sorted(dict(labels)["grpc_code"] for labels in handled) == sorted(CODES)
    source.close()


@pytest.mark.parametrize("side", ["server", "client"])
def test_every_code_is_there_before_a_call_ends_with_it(side: str) -> None:
    """A rate does not see that a series begins: without the 0, no first error would be found."""
    counts = {
        dict(labels)["grpc_code"]: value
        for (name, labels), value in samples(shown(busy())).items()
        if name == f"grpc_{side}_handled_total"
    }
    assert len(counts) == len(Code)
    assert {code for code, count in counts.items() if count} == {"OK", "DeadlineExceeded"}


def test_the_service_is_named() -> None:
    (labels,) = [labels for name, labels in samples(shown(busy())) if name == "txzmq_build_info"]
    named = dict(labels)
    assert named.pop("txzmq_version")
    assert named == {"name": "greeter", "version": "1.4", "process": "me"}


@NEEDS_PROMETHEUS
def test_promtool_finds_nothing_wrong_with_names_and_types() -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=shown(busy()), text=True, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- over HTTP -----------------------------------------------------------------------------------


def test_a_server_that_drains_is_not_ready_before_it_has_stopped(one_loop: Loop) -> None:
    service = Waiting()

    async def main() -> None:
        world = Scraped(one_loop, [service], Metrics(name="greeter"))
        assert world.port.getHost().host == "127.0.0.1"
        call = world.channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
        await one_loop.until(lambda: bool(service.results))
        code, page = await world.get("metrics")
        assert code == 200
        assert "txzmq_server_handlers_running 1.0" in page
        assert await world.get("healthz") == (200, "ok\n")
        assert await world.get("readyz") == (200, "ok\n")
        world.is_ready = False
        assert await world.get("readyz") == (503, "the application is not ready\n")
        world.is_ready = True
        stopped = world.server.stop(20)
        assert await world.get("readyz") == (503, "a server drains\n")
        assert await world.get("healthz") == (200, "ok\n")
        service.results[0].callback(text("y"))
        assert (await call).value == "y"
        await stopped
        assert await world.get("readyz") == (503, "the servers have stopped\n")
        await world.close()

    one_loop.run(main)


def test_requests_are_no_lines_of_the_log(one_loop: Loop, logged: Logged) -> None:
    async def main() -> None:
        world = Scraped(one_loop, [Waiting()], Metrics())
        for path in ("metrics", "healthz", "readyz", "elsewhere"):
            await world.get(path)
        await world.close()

    one_loop.run(main)
    said = [str(formatEvent(event)) for event in logged]
    assert [line for line in said if "HTTP" in line] == []
