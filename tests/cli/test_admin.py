"""``txzmq peers`` and the other lists of the Admin service, as tables and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.cli.shop import ADDRESS, ORDER, WATCH, World
from txzmq._cli.units import bytes_of, seconds_of
from txzmq._cli.verbs.admin import COMMANDS
from txzmq.rpc import Channel, Code
from txzmq.rpc.admin import Admin

HEADS = {
    "peers": "ID IDENTITY ADDRESS AGE AGENT CALLS RUNNING QUEUED STREAMS UNREAD BACKLOG",
    "methods": "METHOD CALLS RUNNING QUEUED FAILED P50 P90 P99",
    "streams": "ID METHOD STATE PEER IDENTITY AGE ITEMS UNREAD WAITS FOR",
    "limits": "LIMIT METHOD VALUE USED SHARE FULLEST",
    "endpoints": "CHANNEL ADDRESS STATE CALLS REASON",
}


class Busy:
    """A server with a stream that nobody reads, and a channel of its own."""

    def __init__(self, new_world: Callable[..., World]) -> None:
        self.channels: dict[str, Channel] = {}
        self.world = new_world(Admin(channels=self.channels))

    def __enter__(self) -> World:
        channel = Channel(self.world.network, ADDRESS, stream_window=3, wait_for_ready=True)
        self.channels["stock"] = channel
        self.stream = channel.unary_stream(WATCH, ORDER(item="x"))
        self.world.network.run()
        return self.world

    def __exit__(self, *_: object) -> None:
        self.stream.cancel()
        self.world.network.run()
        self.channels["stock"].close()


@pytest.fixture
def busy(new_world: Callable[..., World]) -> Busy:
    return Busy(new_world)


def rows(printed: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in printed.splitlines()]


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_table_has_its_head_and_its_columns(busy: Busy, verb: str) -> None:
    with busy as world:
        head, *lines = rows(world.run(verb, "AT").out)
    assert " ".join(head) == HEADS[verb]
    assert all(len(line) == len(head) for line in lines)
    assert lines or verb == "endpoints"


@pytest.mark.parametrize("verb", COMMANDS)
def test_json_has_all_fields_a_line_each(busy: Busy, verb: str) -> None:
    with busy as world:
        found = [json.loads(line) for line in world.run(verb, "AT", "--json").lines]
    assert all(len(each) > 2 for each in found)


def test_a_stream_that_nobody_reads_is_seen(busy: Busy) -> None:
    with busy as world:
        _, stream = rows(world.run("streams", "AT").out)
        (figures,) = [json.loads(line) for line in world.run("streams", "AT", "--json").lines]
    assert stream[1:3] == [WATCH.path, "OPEN"]
    assert stream[-3:] == ["3", "3/3", "client"]
    assert (figures["blocked"], figures["window_items"]) == (True, "3")


def test_calls_are_counted_by_method(busy: Busy) -> None:
    with busy as world:
        world.call("Place", "--protoset", "tests/cli/shop.protoset", "-d", '{"item": "nothing"}')
        found = {row[0]: row for row in rows(world.run("methods", "AT").out)}
    place = found["/acme.shop.v1.Shop/Place"]
    assert place[1:5] == ["1", "0", "0", "1"]
    assert found[WATCH.path][1:5] == ["1", "1", "0", "0"]


def test_all_pages_are_asked_for(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(Admin())
    whole = world.run("methods", "AT", "--json").lines
    monkeypatch.setattr("txzmq._cli.verbs.admin.MAX_PAGE", 2)
    paged = world.run("methods", "AT", "--json").lines
    assert [json.loads(line)["path"] for line in paged] == [
        json.loads(line)["path"] for line in whole
    ]
    assert len(whole) > 4


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_terminal_has_a_table_or_paragraphs_that_fit(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    world = new_world(Admin())
    monkeypatch.setenv("FORCE_COLOR", "1")  # what a terminal is to rich
    monkeypatch.setenv("COLUMNS", str(width))
    done = world.run("peers", "AT")
    assert (done.status, done.err) == (0, "")
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.out)
    assert max(map(len, plain.splitlines())) <= width
    assert plain != done.out
    heads = HEADS["peers"].split()
    firsts = [line.split()[0] for line in plain.splitlines() if line.strip()]
    if width < 100:
        assert firsts == heads
    else:
        assert plain.split()[: len(heads)] == heads


def test_a_long_name_goes_on_in_the_next_line(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(Admin())
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    plain = re.sub(r"\x1b\[[\d;]*m", "", world.run("limits", "AT").out)
    assert plain.split()[:6] == HEADS["limits"].split()
    monkeypatch.setenv("COLUMNS", "94")
    plain = re.sub(r"\x1b\[[\d;]*m", "", world.run("methods", "AT").out)
    assert plain.split()[:8] == HEADS["methods"].split()
    assert max(map(len, plain.splitlines())) <= 94
    paths = "".join(line.split()[0] for line in plain.splitlines()[3:] if line.strip())
    assert "/txzmq.rpc.v1.Admin/ListMethods" in paths
    assert "\u2026" not in plain


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_server_without_the_service(world: World, verb: str) -> None:
    done = world.run(verb, "AT")
    assert done.status == 64 + Code.UNIMPLEMENTED
    assert done.err.splitlines() == [
        f"txzmq {verb}: the server has no Admin service",
        "hint: give it Admin() of txzmq.rpc.admin",
    ]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        *((0, "0 B"), (999, "999 B"), (1023.97, "1 KiB"), (1536, "1.5 KiB"), (4 << 20, "4 MiB")),
        (5 << 60, "5242880 TiB"),
    ],
)
def test_bytes_are_told(number: float, said: str) -> None:
    assert bytes_of(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "-"), (float("inf"), "-"), (1e-7, "<1 us"), (2.5e-6, "2.5 us"), (0.0125, "12.5 ms")),
        *((1, "1 s"), (59.4, "59.4 s"), (60, "1 m"), (61, "1 m 1 s"), (3_600, "1 h")),
        *((3_660, "1 h 1 m"), (90_000, "1 d 1 h"), (86_401, "1 d")),
    ],
)
def test_seconds_are_told(seconds: float, said: str) -> None:
    assert seconds_of(seconds) == said
