"""What the guide's page on serving says: its units, its flags, its metrics."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import ROOT
from tests.support import is_installed
from txzmq._serve.worker_state import OVER_GRACE

PAGE = (ROOT / "docs/guide/serve.md").read_text(encoding="utf-8")
#: Files of units, by their names.
UNITS: dict[str, str] = dict(
    re.findall(r"`/etc/systemd/system/(\S+)`:\n\n```ini\n(.*?)```", PAGE, re.DOTALL)
)


def test_the_units_are_right(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    assert sorted(UNITS) == ["shop.service", "shop.socket"]
    for name, text in UNITS.items():
        # What is started must be there.
        program = text.replace("/opt/shop/bin/txzmq", "/bin/true")
        (tmp_path / name).write_text(program.replace("WorkingDirectory=/opt/shop\n", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_the_service_is_locked_up(tmp_path: Path) -> None:
    """At most 2.0 of the 10 points of exposure that systemd counts."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "shop.service"
    unit.write_text(UNITS["shop.service"])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_waits_for_as_long_as_serve_may_take() -> None:
    pytest.importorskip("rich", reason="the extra cli is not installed")
    pytest.importorskip("click", reason="the extra cli is not installed")
    from txzmq._cli.verbs.serve import command

    (started,) = re.findall("ExecStart=/opt/shop/bin/txzmq serve (.*)", UNITS["shop.service"])
    flags = command.make_context("serve", started.split()).params
    limits = dict(re.findall(r"^(\w+Sec)=(\d+)$", UNITS["shop.service"], re.MULTILINE))
    assert int(limits["TimeoutStopSec"]) >= flags["grace"] + OVER_GRACE
    assert int(limits["TimeoutStartSec"]) > flags["start_timeout"]


def test_the_units_start_what_there_is() -> None:
    pytest.importorskip("rich", reason="the extra cli is not installed")
    pytest.importorskip("click", reason="the extra cli is not installed")
    from txzmq._cli.verbs.serve import command

    flags = {flag for parameter in command.params for flag in parameter.opts}
    (started,) = re.findall("ExecStart=/opt/shop/bin/txzmq serve (.*)", UNITS["shop.service"])
    assert {word for word in started.split() if word.startswith("--")} <= flags
    code = re.sub("docker run --init", "", PAGE)
    named = set(re.findall(r"(?<!\S)`?(--[a-z-]+)", code)) - {"--kill-whom"}
    assert named <= flags
    assert flags - named == {"services", "--key"}, "the page does not name all"


def test_the_metrics_are_named() -> None:
    if not is_installed("prometheus_client"):
        pytest.skip("the extra prometheus is not installed")
    source = (ROOT / "txzmq/_serve/metrics.py").read_text(encoding="utf-8")
    made = set(re.findall(r'"(txzmq_supervisor_\w+)"', source))
    assert made == set(re.findall(r"^\| `(txzmq_supervisor_\w+)`", PAGE, re.MULTILINE))
