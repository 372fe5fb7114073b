"""The applications among the examples: their own tests, and the one command of each."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ROOT, running, succeeds

APPLICATIONS = ["chat", "jobs", "ticker"]


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


def test_their_own_tests_pass(folder: Path) -> None:
    options = ["-p", "no:cacheprovider", "--import-mode=importlib", "--strict-markers"]
    options += ["-c", "/dev/null", "--rootdir=.", "--txzmq-seed", "1"]
    paths = [f"examples/{name}" for name in APPLICATIONS]
    output = succeeds(["-m", "pytest", *paths, *options], folder)
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


def enveloped(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">BI", 0, len(data)) + data


def events(chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """What comes in a stream of Connect's, the end too."""
    read = b""
    for chunk in chunks:
        read += chunk
        while len(read) >= 5 and len(read) >= (end := 5 + struct.unpack(">I", read[1:5])[0]):
            yield json.loads(read[5:end])
            read = read[end:]


def test_a_page_chats_by_the_gateway(folder: Path) -> None:
    pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
    httpx = pytest.importorskip("httpx", reason="httpx is not installed here")
    with running("-m", "examples.chat", "0", cwd=folder) as program, httpx.Client() as http:
        origin = program.expect("open (http://127.0.0.1:.+) in two windows")[1]
        page = http.get(f"{origin}/")
        gateway = http.get(f"{origin}/gateway").text
        assert page.headers["content-security-policy"].endswith(f"connect-src 'self' {gateway}")
        for path in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
            assert http.get(origin + path).status_code == 200

        service = f"{gateway}/demo.chat.v1.Chat"
        asking = {"access-control-request-method": "POST"}
        for each, allowed in (origin, origin), ("http://elsewhere.example", None):
            answer = http.options(f"{service}/Say", headers={"origin": each, **asking})
            assert answer.headers.get("access-control-allow-origin") == allowed

        headers = {"content-type": "application/connect+json", "connect-protocol-version": "1"}

        def join(name: str) -> Any:
            content = enveloped({"room": "lobby", "name": name})
            return http.stream("POST", f"{service}/Join", content=content, headers=headers)

        with join("Ann") as stream:
            ann = events(stream.iter_raw())
            ticket = next(ann)["welcome"]["ticket"]
            assert next(ann) == {"present": {"names": ["Ann"]}}
            said = http.post(f"{service}/Say", json={"ticket": ticket, "text": "<script>"})
            assert (said.status_code, said.json()) == (200, {})
            message = {"message": {"number": 1, "name": "Ann", "text": "<script>"}}
            assert next(ann) == message
            with join("Ann") as second:
                assert next(events(second.iter_raw()))["error"]["code"] == "already_exists"
            with join("Bob") as other:
                bob = events(other.iter_raw())
                assert "welcome" in next(bob)
                assert next(bob) == message  # said before he came
                assert next(ann) == next(bob) == {"present": {"names": ["Ann", "Bob"]}}
            assert next(ann) == {"present": {"names": ["Ann"]}}  # he has closed his page
        refused = http.post(f"{service}/Say", json={"ticket": "forged", "text": "hello"})
        assert refused.json()["code"] == "permission_denied"
        assert program.interrupt() == 0
