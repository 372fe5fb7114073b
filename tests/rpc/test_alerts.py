"""The alerts: which of them fire, and how often, for a process that is in trouble."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")

from tests.rpc.scraping import NEEDS_PROMETHEUS, PROMTOOL
from tests.rpc.test_dashboard import ALERTS, of_alerts

METHOD = 'instance="a",grpc_service="s",grpc_method="m"'
#: A process in trouble of each kind, as promtool writes series: from 0, so much more each minute.
SERIES = {
    f'grpc_server_handled_total{{{METHOD},grpc_code="OK"}}': "0+98x20",
    f'grpc_server_handled_total{{{METHOD},grpc_code="Unknown"}}': "0+1x20",
    f'grpc_server_handled_total{{{METHOD},grpc_code="DeadlineExceeded"}}': "0+1x20",
    **{
        f'grpc_server_handling_seconds_bucket{{{METHOD},grpc_type="unary",le="{bound}"}}': (
            f"0+{count}x20"
        )
        for bound, count in (("1", 90), ("2.5", 100), ("+Inf", 100))
    },
    'txzmq_server_events_total{instance="a",event="shed_request"}': "0+1x20",
    'txzmq_server_events_total{instance="a",event="reactor_blocked"}': "0+1x20",
    'txzmq_reactor_lag_seconds_bucket{instance="a",le="0.1"}': "0+90x20",
    'txzmq_reactor_lag_seconds_bucket{instance="a",le="0.25"}': "0+100x20",
    'txzmq_reactor_lag_seconds_bucket{instance="a",le="+Inf"}': "0+100x20",
    'txzmq_server_calls_queued{instance="a"}': "9x20",
    'txzmq_server_limit{instance="a",limit="queued"}': "10x20",
    'txzmq_client_connections{instance="a",state="ready"}': "0x20",
    'txzmq_client_connections{instance="a",state="transient_failure"}': "1x20",
    'txzmq_client_events_total{instance="a",event="stream_gap"}': "0+1x20",
}


def summaries() -> list[tuple[str, str]]:
    """The alerts, each with what it says."""
    return re.findall(r'- alert: (\w+)\n(?: .*\n)*? +summary: "(.*)"\n', ALERTS.read_text("utf-8"))


@NEEDS_PROMETHEUS
def test_each_alert_fires_once_for_a_process_in_its_trouble(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    method = {"grpc_service": "s", "grpc_method": "m"}
    expected: list[dict[str, Any]] = []
    for alert, summary in summaries():
        labels = method if alert in ("TxzmqErrors", "TxzmqSlow") else {"instance": "a"}
        for name, value in labels.items():
            summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
        one = {"exp_labels": labels, "exp_annotations": {"summary": summary}}
        expected.append({"eval_time": "20m", "alertname": alert, "exp_alerts": [one]})
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": expected}]
    assert len(expected) == len(list(of_alerts()))
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": tests}), "utf-8")
    done = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
