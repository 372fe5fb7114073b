"""``txzmq bench``: load on a server in memory, and its reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.cli.shop import ADDRESS, Done, MemoryRuntime, World
from txzmq._cli.program import invoke
from txzmq.rpc import Channel
from txzmq.rpc.reflection import Reflection
from txzmq.testing import Faults, MemoryNetwork

SHOP = "acme.shop.v1.Shop"
TEA = '{"item": "tea"}'


def bench(world: World, method: str, *arguments: str, **options: Any) -> Done:
    return world.run("bench", "AT", f"{SHOP}/{method}", *arguments, **options)


def report(world: World, method: str, *arguments: str) -> dict[str, Any]:
    done = bench(world, method, "--format", "json", *arguments)
    found: dict[str, Any] = json.loads(done.out)
    return {**found, "status": done.status}


@pytest.fixture
def slow(new_world: Callable[..., World]) -> World:
    """A server whose answers take some time; one call at once, or they overtake each other."""
    return new_world(Reflection(), faults=Faults(delay=0.02))


ONE: Final = ("-c", "1", "--protoset", "tests/cli/shop.protoset", "-d", TEA)


def test_so_many_calls_of_a_method(world: World) -> None:
    found = report(world, "Place", "-n", "20", "-c", "4", "-d", TEA)
    assert (found["calls"], found["succeeded"], found["status"]) == (20, 20, 0)
    assert (found["method"], found["concurrency"]) == (f"/{SHOP}/Place", 4)
    assert [request.item for request in world.shop.requests] == ["tea"] * 20
    assert found["errors"] == {}


def test_several_requests_take_turns(world: World) -> None:
    report(world, "Place", "-n", "5", "-c", "1", "-d", '{"item": "a"} {"item": "b"}')
    assert [request.item for request in world.shop.requests] == ["a", "b", "a", "b", "a"]


def test_streams_of_requests_get_all_of_them_in_each_call(world: World) -> None:
    found = report(world, "Upload", "-n", "3", "-d", '{"item": "a"} {"item": "b"}')
    assert (found["succeeded"], found["responses"]) == (3, None)
    assert len(world.shop.contexts) == 3


@pytest.mark.parametrize(
    ("method", "data", "each"),
    [("Watch", '{"item": "x", "count": 4}', 4), ("Chat", '{"item": "a"} {"item": "b"}', 2)],
)
def test_responses_of_streams_are_counted(world: World, method: str, data: str, each: int) -> None:
    found = report(world, method, "-n", "5", "-d", data)
    assert (found["succeeded"], found["responses"]) == (5, 5 * each)


def test_an_endless_stream_is_left_after_so_many(world: World) -> None:
    found = report(world, "Watch", "-n", "3", "-d", '{"item": "x"}', "--stream-call-count", "7")
    assert (found["succeeded"], found["responses"]) == (3, 21)
    assert world.shop.ended == ["watch"] * 3


def test_the_message_is_made_once_and_metadata_goes_with_each_call(world: World) -> None:
    report(world, "Place", "-n", "3", "-H", "tenant: acme", "-d", TEA)
    assert all(("tenant", "acme") in context.metadata for context in world.shop.contexts)


def test_the_summary(slow: World) -> None:
    lines = bench(slow, "Place", "-n", "20", *ONE).lines
    assert [re.split(r"  +", line)[0] for line in lines[:4]] == [
        "calls",
        "rate",
        "errors",
        "latency",
    ]
    names = [line.split()[0] for line in lines[4:13]]
    assert names == ["mean", "min", "p50", "p75", "p90", "p95", "p99", "p99.9", "max"]
    assert lines[13] == "histogram"
    assert max(map(len, lines)) <= 40


def test_csv_has_percentiles(slow: World) -> None:
    head, *lines = bench(slow, "Place", "-n", "20", *ONE, "-O", "csv").lines
    assert head == "percentile,seconds"
    found = [tuple(map(float, line.split(","))) for line in lines]
    assert [each[0] for each in found][-3:] == [99.99, 99.999, 100]
    assert found == sorted(found)


def test_any_error_makes_it_fail(world: World) -> None:
    data = '{"item": "tea"} {"item": "nothing"}'
    done = bench(world, "Place", "-n", "10", "-d", data)
    assert done.status == 1
    assert "  NOT_FOUND  5  no such\\x1b[31m item\n" in done.out
    assert done.err == "FAILED: 50 % of the calls failed, and 0 % may (--max-error-rate)\n"
    found = report(world, "Place", "-n", "10", "-d", data, "--max-error-rate", "0.5")
    assert (found["status"], found["error_rate"], found["broken"]) == (0, 0.5, [])
    assert found["errors"]["NOT_FOUND"]["count"] == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-latency", "p99=1us"], r"the latency p99 is .*, above 1 us \(--max-latency\)"),
        (["--max-latency", "mean=1us"], "the latency mean is "),
        (["--max-latency", "p50=1h", "--max-latency", "max=1us"], "the latency max is "),
        (["--min-rps", "1000000"], r"calls/s, below 1,000,000 \(--min-rps\)"),
    ],
)
def test_limits_decide_the_exit_status(slow: World, options: list[str], said: str) -> None:
    done = bench(slow, "Place", *ONE, "-z", "1s", "-r", "10", *options)
    assert done.status == 1
    assert re.search(f"^FAILED: .*{said}", done.err)


def test_limits_that_hold(slow: World) -> None:
    options = ["--max-latency", "p99.9=1s", "--min-rps", "5"]
    found = report(slow, "Place", *ONE, "-z", "1s", "-r", "10", *options)
    assert (found["status"], found["broken"], found["target_rps"]) == (0, [], 10)


def test_all_calls_fail(world: World) -> None:
    done = bench(world, "Place", "-n", "10", "-d", '{"item": "nothing"}')
    assert done.status == 1
    assert "latency" not in done.out
    assert "errors      10 (100 %)" in done.out


def test_calls_that_are_not_answered_run_out_of_time(world: World) -> None:
    data = '{"item": "never"}'
    found = report(world, "Place", "-c", "3", "-z", "1s", "-t", "400ms", "-d", data)
    assert found["status"] == 1
    assert {code: each["count"] for code, each in found["errors"].items()} == {
        "DEADLINE_EXCEEDED": 9
    }


def test_a_server_that_goes_away_in_the_middle_is_reported(world: World) -> None:
    world.network.clock.callLater(1, world.server.stop, 0)
    found = report(world, "Place", "-c", "2", "-z", "2s", "-d", TEA, "-r", "100")
    assert (found["status"], [*found["errors"]]) == (1, ["UNAVAILABLE"])
    assert found["succeeded"] == pytest.approx(100, abs=10)
    assert found["calls"] == 200


def test_no_server_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    network = MemoryNetwork()
    arguments = ["bench", ADDRESS, f"{SHOP}/Place", "--protoset", "tests/cli/shop.protoset"]
    assert invoke(arguments, lambda: MemoryRuntime(network)) == 64 + 14
    assert capsys.readouterr().err.startswith(f"ERROR: UNAVAILABLE: no connection to {ADDRESS}")


def test_the_time_of_all_ends_it(world: World) -> None:
    data = '{"item": "never"}'
    found = report(world, "Place", "-c", "3", "-z", "1h", "-d", data, "--max-time", "2")
    assert (found["cancelled"], found["calls"]) == (3, 0)
    assert (found["status"], found["broken"]) == (1, ["no call has ended"])


def test_what_it_cannot_do_is_said_before_the_load(world: World) -> None:
    assert bench(world, "Place", "--stream-call-count", "3").err == (
        f"txzmq bench: --stream-call-count: {SHOP}.Place has no stream of responses\n"
    )
    assert "has no method Plaec" in bench(world, "Plaec").err
    assert "is no duration" in bench(world, "Place", "-z", "soon").err
    assert "is no percentile" in bench(world, "Place", "--max-latency", "q=1s").err
    assert bench(world, "Place", "-d", '{"itme": 1}').status == 2
    assert world.shop.requests == []


@pytest.mark.parametrize("option", ["--rps", "--min-rps", "--max-error-rate"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e999", "many"])
def test_what_is_no_number_is_refused(world: World, option: str, value: str) -> None:
    """No comparison with NaN is true, so a limit that is one would always hold."""
    done = bench(world, "Place", "-n", "1", "-d", TEA, option, value)
    assert (done.status, world.shop.requests) == (2, [])
    assert option in done.err


def test_connections_are_made_and_get_the_calls_in_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Channel] = []
    before = Channel.unary_unary

    def call(channel: Channel, *args: Any, **options: Any) -> Any:
        used.append(channel)
        return before(channel, *args, **options)

    monkeypatch.setattr(Channel, "unary_unary", call)
    assert report(world, "Place", "-n", "21", "--connections", "3")["succeeded"] == 21
    assert [used.count(channel) for channel in dict.fromkeys(used)] == [7, 7, 7]
