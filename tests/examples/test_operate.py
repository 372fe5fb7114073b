"""The ten questions of the page on operating, asked of servers that are in trouble."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher, jsonFileLogObserver

pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.programs import ROOT, succeeds
from tests.rpc.scraping import NEEDS_PROMETHEUS, Scraped, address_of, prometheus
from tests.rpc.service import ECHO, OTHER, Waiting, text
from tests.rpc.streaming import COUNT, Streaming
from tests.support import Logged, Loop, error_of
from txzmq.rpc import Context, NotFound, Observers, ResourceExhausted, Server, ServerLimits
from txzmq.rpc.access_log import AccessLog
from txzmq.rpc.admin import Admin
from txzmq.rpc.metrics import Metrics

PAGE = (ROOT / "docs/guide/operate.md").read_text("utf-8")
#: Seconds that nothing but the handler takes which is to block the reactor; half of the default.
BLOCKED = 0.25


def blocks(language: str) -> list[str]:
    """The blocks of the page in one language."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


# The lexer of the page does not know subqueries: that one is text.
QUERIES = [*blocks("promql"), *blocks("text")]
FILTERS = [block for block in blocks("sh") if block.startswith("jq")]
COMMANDS = [block for block in blocks("sh") if block.startswith("txzmq")]


class Hello(Waiting):
    """Fails, blocks the reactor or waits, as the request says; waits in another method."""

    def other(self, request: StringValue, context: Context) -> Any:
        return self.wait()

    def echo(self, request: StringValue, context: Context) -> Any:
        if request.value == "wait":
            return self.wait()
        if request.value == "block":
            began = time.monotonic()
            while time.monotonic() - began < 1.2 * BLOCKED:
                pass
        if request.value == "fail":
            raise NotFound("nobody of that name")
        if request.value == "bug":
            raise ValueError("what nobody has thought of")
        return request


class Trouble(Scraped):
    """A server with everything that the page asks for, one that drains, and a log of both."""

    def __init__(self, loop: Loop, folder: Path) -> None:
        self.hello = Hello()
        self.log = (folder / "access.log").open("w", buffering=1)
        self.server_log = (folder / "server.log").open("w", buffering=1)
        self.logs = cast("Any", jsonFileLogObserver(self.server_log, ""))  # an ILogObserver
        globalLogPublisher.addObserver(self.logs)
        metrics = Metrics(name="hello", version="1.4")
        metrics.watch_reactor(loop.reactor, interval=0.05)
        services = [self.hello, Streaming(), Admin()]
        super().__init__(
            loop,
            services,
            metrics,
            observer=Observers(metrics, AccessLog(json=self.log)),
            limits=ServerLimits(
                blocked_after=BLOCKED,
                running_per_method={OTHER.path: 1},
                queued_per_method={OTHER.path: 1},
            ),
        )
        self.waiting: list[Deferred[Any]] = []

    async def begin(self) -> None:
        """A call that waits, and a stream whose items nobody reads."""
        for method in (ECHO, OTHER, OTHER):  # of which one waits for a place
            call = self.channel.unary_unary(method, text("wait"), wait_for_ready=True)
            self.waiting.append(call.addErrback(error_of))
        self.stream = self.channel.unary_stream(COUNT, text("100000"))
        await self.stream.opened()
        await self.loop.until(lambda: bool(self.hello.results))
        await self.channel.unary_unary(ECHO, text("block"))
        other = Server(self.factory, [Hello()], observer=self.metrics)
        address = other.listen("tcp://127.0.0.1:*")
        self.other, self.other_channel = other, self.connect(address)
        call = self.other_channel.unary_unary(ECHO, text("wait"), wait_for_ready=True)
        self.waiting.append(call.addErrback(error_of))
        await self.loop.until(lambda: other.stats.running == 1)
        self.other_stops = other.stop(60)

    async def work(self) -> None:
        """Calls that succeed and fail, and one for which there is no room."""
        for value in ("hello", "fail", "bug"):
            await self.channel.unary_unary(ECHO, text(value)).addErrback(error_of)
        shed = await self.channel.unary_unary(OTHER, text("x")).addErrback(error_of)
        assert isinstance(shed, ResourceExhausted)

    async def close(self) -> None:
        self.stream.cancel()
        for call in self.waiting:
            call.cancel()
        self.other_channel.close()
        await self.other_stops
        self.metrics.stop_watching_reactor()
        await super().close()
        globalLogPublisher.removeObserver(self.logs)
        self.log.close()
        self.server_log.close()


def is_figure(one: dict[str, Any]) -> bool:
    """Whether it is no quantile of nothing, of a method that nobody calls now."""
    return not math.isnan(float(one["value"][1]))


@NEEDS_PROMETHEUS
@pytest.mark.skipif(shutil.which("jq") is None, reason="needs Debian's package jq")
def test_each_question_has_an_answer(one_loop: Loop, tmp_path: Path, logged: Logged) -> None:
    assert len(COMMANDS) == 4
    answers: list[list[dict[str, Any]]] = []
    asked: dict[str, list[dict[str, Any]]] = {}
    began = time.time()

    async def main() -> None:
        world = Trouble(one_loop, tmp_path)
        await world.begin()
        with prometheus(tmp_path, world.host) as process:
            address = await world.in_thread(address_of, process)
            for query in QUERIES:
                # A step of one query is 15 s, and the first one comes when they have passed.
                url = f"api/v1/query?query={quote(query.strip().replace(':15s]', ':1s]'))}"
                found: list[dict[str, Any]] = []
                while not found:
                    await world.work()
                    code, answer = await world.get(url, address)
                    # It starts: it listens before it answers.
                    assert code in (200, 503), answer
                    data: Any = json.loads(answer)["data"] if code == 200 else {"result": []}
                    found = [one for one in data["result"] if is_figure(one)]
                answers.append(found)
        for command in COMMANDS:
            _, what, _ = command.split()
            arguments = ["-m", "txzmq", what, "--json", world.address]
            printed = await world.in_thread(succeeds, arguments)
            asked[what] = [json.loads(line) for line in printed.splitlines()]
        await world.close()

    one_loop.run(main)
    assert {type(each) for each in logged.failures()} == {ValueError}  # the bug's
    slow, fails, build, queued, shed, lag, drains, streams, since = [
        [(one["metric"], float(one["value"][1])) for one in found] for found in answers
    ]
    assert "Echo" in {labels["grpc_method"] for labels, _ in slow}
    assert all(0 < seconds < 300 for _, seconds in slow)
    codes = {"NotFound", "Unknown", "ResourceExhausted"}
    for found in (fails, since):
        assert {labels["grpc_code"] for labels, _ in found} <= codes
    assert all(began - 1 <= when <= time.time() for _, when in since)
    assert [labels["version"] for labels, _ in build] == ["1.4"]
    assert [(value, len(found)) for found in (queued, drains) for _, value in found] == [(1, 1)] * 2
    assert all(value > 0 for _, value in shed + lag)
    assert [value for _, value in streams] == [pytest.approx(1 / (2 * ServerLimits().streams))]

    (peer,) = [peer for peer in asked["peers"] if int(peer["streams"])]
    assert (peer["address"], peer["calls_running"], peer["calls_queued"]) == ("127.0.0.1", "2", "1")
    (stream,) = asked["streams"]
    assert (stream["method"], stream["blocked"]) == (COUNT.path, True)
    assert stream["unacknowledged_items"] == stream["window_items"]
    assert stream["peer_id"] == peer["id"]
    limits = {(limit["name"], limit["method"]): limit for limit in asked["limits"]}
    full = limits["queued_per_method", OTHER.path]
    assert (full["used"], full["value"]) == (1, 1)
    assert asked["endpoints"] == []  # its Admin was given no channel

    calls, failed, raised, blocked = (filtered(block, tmp_path) for block in FILTERS)
    assert re.fullmatch(r" *\d+ +127\.0\.0\.1\n", calls)
    for code in ("NOT_FOUND", "UNKNOWN", "RESOURCE_EXHAUSTED"):
        assert f'"code": "{code}"' in failed
    assert "ValueError: what nobody has thought of" in raised
    assert '"echo",' in raised  # the function that raised it
    assert f'"method": "{ECHO.path}"' in blocked
    assert '"handler": "Hello.echo"' in blocked


def filtered(command: str, folder: Path) -> str:
    """What a filter of the page prints, of calls to the method that there is here."""
    command = command.replace("/hello.v1.Hello/SayHello", ECHO.path)
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("what", ["peers", "streams", "limits", "endpoints"])
def test_the_page_has_a_command_for_all_that_can_be_asked(what: str) -> None:
    assert any(command.split()[1] == what for command in COMMANDS)


def questions() -> Iterator[str]:
    """The questions of the page, each with its section."""
    yield from (part for part in PAGE.split("\n## ")[2:])


def test_there_are_ten_questions_each_with_a_query_or_a_command() -> None:
    found = list(questions())
    assert len(found) == 10
    has_one: Callable[[str], object] = re.compile(r"```(promql|sh|text)\n").search
    assert all(part.split("\n")[0].endswith("?") and has_one(part) for part in found)
