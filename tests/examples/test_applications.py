"""The applications among the examples: their own tests, and the one command of each."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.programs import ROOT, running, succeeds

APPLICATIONS = ["jobs", "ticker"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The applications, and the code generated for them."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("applications")
    for name in APPLICATIONS:
        shutil.copytree(ROOT / "examples" / name, folder / "examples" / name)
    protos = ROOT / "protos"
    succeeds(["-m", "txzmq.codegen", protos / "demo", "--include", protos], folder)
    return folder


@pytest.mark.parametrize("name", APPLICATIONS)
def test_its_own_tests_pass(folder: Path, name: str) -> None:
    options = ["-p", "no:cacheprovider", "--import-mode=importlib", "--strict-markers"]
    options += ["-c", "/dev/null", "--rootdir=.", "--txzmq-seed", "1"]
    output = succeeds(["-m", "pytest", f"examples/{name}", *options], folder)
    assert re.search(r"\d passed", output), output
    assert "skipped" not in output, output


def test_a_ticker_has_subscribers(folder: Path) -> None:
    asked = ["--subscribers", "60", "--rate", "200", "--seconds", "2"]
    with running("-m", "examples.ticker", *asked, cwd=folder) as program:
        assert program.wait() == 0, program
    output = "\n".join(program.output)
    assert re.search(
        r"^server \| listening on tcp://127\.0\.0\.1:\d+, 200 prices", output, re.MULTILINE
    )
    for client, joined in (1, 31), (2, 30):
        assert f"client {client} | all {joined} have joined" in output
        line = rf"^client {client} \| [\d,]+ events/s, [\d,]+ deliveries/s, slowest: subscriber \d+"
        assert re.search(line + r", \d+ ms, [\d,]+ late$", output, re.MULTILINE), output
        assert re.search(
            rf"^client {client} \| in all [\d,]+ deliveries, 0 lost$", output, re.MULTILINE
        )


def test_subscribers_say_that_the_server_is_gone(folder: Path) -> None:
    server = ["-m", "examples.ticker.server", "tcp://127.0.0.1:*", "20"]
    with running(*server, cwd=folder) as ticker:
        endpoint = ticker.expect("listening on (.+)")[1]
        asked = ["-m", "examples.ticker.client", endpoint, "20", "600"]
        with running(*asked, cwd=folder) as subscribers:
            subscribers.expect("all 20 have joined")
            ticker.kill()
            subscribers.expect("the subscribers gave up: UNAVAILABLE: .+")
            assert subscribers.wait() == 1


def test_a_killed_worker_loses_no_job(folder: Path) -> None:
    output = succeeds(["-m", "examples.jobs"], folder)
    assert "worker 1 | was killed, with jobs that it had not done" in output
    assert "client | 20 of 20 jobs are done" in output
    # Two jobs that it had were given to others, and no other was given twice.
    given = re.findall(r"^worker [23] \| does job \d+, attempt (\d)$", output, re.MULTILINE)
    assert 1 <= given.count("2") <= 2, output
    assert set(given) == {"1", "2"}, output
