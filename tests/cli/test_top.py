"""``txzmq top`` on servers in memory, and what a terminal shows of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from twisted.internet.defer import Deferred

from tests.cli.shop import ADDRESS, ORDER, PLACE, WATCH, Shop, World
from tests.support import examples
from txzmq._cli import admin_service
from txzmq._cli.rates import MethodRates
from txzmq._cli.screen import Screen
from txzmq._cli.servers import ServerView
from txzmq._cli.top_table import SORTS, Shown, columns_of, fitted, heads, rows_of
from txzmq.rpc import Channel, Context, Server, Unimplemented
from txzmq.rpc.admin import (
    Admin,
    GetServerRequest,
    GetServerResponse,
    ListMethodsRequest,
    ListMethodsResponse,
)
from txzmq.rpc.metrics import Metrics

OTHER = "inproc://other"
BOTH = f"{ADDRESS}, {OTHER}"
PATH = PLACE.path.removeprefix("/")


class Busy:
    """Two servers that are called ten times a second each, one in five times in vain."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.other = self.serve()
        self.channels = [Channel(world.network, each) for each in (ADDRESS, OTHER)]
        self.number = 0
        self.stopped = False
        self._call()

    def serve(self, admin: type[Admin] = Admin) -> Server:
        metrics = Metrics(name="shop", version="1.4")
        server = Server(self.world.network, [Shop(), admin(metrics=metrics)], observer=metrics)
        server.listen(OTHER)
        return server

    def _call(self) -> None:
        if self.stopped:
            return
        self.number += 1
        item = "nothing" if self.number % 5 == 0 else "tea"
        for channel in self.channels:
            channel.unary_unary(PLACE, ORDER(item=item)).addErrback(lambda _: None)
        self.world.network.clock.callLater(0.1, self._call)

    def close(self) -> None:
        self.stopped = True
        for channel in self.channels:
            channel.close()
        self.other.stop(0)
        self.world.network.advance(1)


@pytest.fixture
def busy(new_world: Callable[..., World]) -> Any:
    made = Busy(new_world(Admin()))
    yield made
    made.close()


def rows(lines: Sequence[str]) -> dict[str, list[str]]:
    """By method."""
    cells: list[list[str]] = [re.split(r"  +", line) for line in lines]
    found: dict[str, list[str]] = {row[0]: row[1:] for row in cells if row[0].count("/") == 1}
    return found


def documents(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def method(document: dict[str, Any], server: str | None = None) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        each
        for each in document["methods"]
        if each["path"] == PLACE.path and each.get("server") == server
    ]
    assert len(found) == 1
    return found[0]


def test_once_prints_what_one_interval_was_like(busy: Busy) -> None:
    lines = busy.world.run("top", "AT", "--once").lines
    assert re.fullmatch(rf"{ADDRESS}  up 1 s", lines[0])
    assert re.fullmatch(
        r"running 0/4,096  queued 0  streams 0  clients 2  calls/s 1[01]  errors/s 2\.0", lines[1]
    )
    assert lines[2].split() == "METHOD CALLS/S ERRORS/S IN FLIGHT QUEUED P50 P99".split()
    assert rows(lines)[PATH][0] in ("9.5", "10")  # as the interval falls
    assert rows(lines)[PATH][1:4] == ["2.0", "0", "0"]


def test_servers_are_added_up_or_shown_each(busy: Busy) -> None:
    (both,) = documents(busy.world.run("top", BOTH, "--once", "--json").out)
    assert method(both)["calls_per_second"] == pytest.approx(20, abs=0.1)
    assert method(both)["errors_per_second"] == pytest.approx(4, abs=0.1)
    assert method(both)["seconds_p99"] > 0
    assert [each["address"] for each in both["servers"]] == [ADDRESS, OTHER]
    assert [each["name"] for each in both["servers"]] == ["", "shop"]
    (each,) = documents(busy.world.run("top", BOTH, "--once", "--json", "--each").out)
    for address in (ADDRESS, OTHER):
        assert method(each, address)["calls_per_second"] == pytest.approx(10, abs=0.1)


def test_a_pipe_gets_one_table_after_another(busy: Busy) -> None:
    done = busy.world.run("top", BOTH, "--interval", "500ms", "--max-time", "2.2")
    tables = done.out.split("\n\n")
    assert (done.status, done.err, len(tables)) == (0, "", 4)
    assert all(table.startswith("2 of 2 servers\n") for table in tables)
    assert all(rows(table.splitlines())[PATH][0] == "20" for table in tables)


def test_a_server_that_goes_and_comes_back_is_shown_and_has_no_negative_rates(busy: Busy) -> None:
    clock = busy.world.network.clock

    def come_back() -> None:
        busy.other = busy.serve()

    clock.callLater(2.2, lambda: busy.other.stop(0))
    clock.callLater(4.7, come_back)
    options = ("--interval", "1s", "--max-time", "10", "--json", "--each")
    found = documents(busy.world.run("top", BOTH, *options).out)
    troubles = [each["servers"][1]["trouble"] for each in found]
    assert troubles[0] == troubles[-1] == ""
    gone = [trouble for trouble in troubles if trouble]
    assert 2 <= len(gone) <= 5
    assert all(trouble.startswith(("gone: ", "connecting")) for trouble in gone)
    for document in found:
        assert method(document, ADDRESS)["calls_per_second"] == pytest.approx(10, abs=0.1)
    back = [method(each, OTHER) for each in found if not each["servers"][1]["trouble"]]
    assert [each["calls_per_second"] for each in back].count(None) == 1  # of the new process
    assert all((each["calls_per_second"] or 0) >= 0 for each in back)
    assert back[-1]["calls_per_second"] == pytest.approx(10, abs=0.1)


class Silent(Admin):
    def list_methods(self, request: ListMethodsRequest, context: Context) -> Any:
        return Deferred[Any]()


class Older(Admin):
    """Of a version that had fewer methods and fields."""

    def get_server(self, request: GetServerRequest, context: Context) -> GetServerResponse:
        raise Unimplemented("no such method")

    def list_methods(self, request: ListMethodsRequest, context: Context) -> ListMethodsResponse:
        answer = super().list_methods(request, context)
        answer.ClearField("seconds_bounds")
        for each in answer.methods:
            each.ClearField("seconds_counts")
        return answer


class Endless(Admin):
    """Has one page more whenever it is asked."""

    def list_methods(self, request: ListMethodsRequest, context: Context) -> ListMethodsResponse:
        return ListMethodsResponse(next_page_token=f"{len(request.page_token)}{request.page_token}")


def instead(busy: Busy, admin: type[Admin]) -> None:
    busy.other.stop(0)
    busy.world.network.advance(1)
    busy.other = busy.serve(admin)
    busy.world.network.advance(1)


def test_a_server_that_does_not_answer_holds_up_no_other(busy: Busy) -> None:
    instead(busy, Silent)
    (found,) = documents(busy.world.run("top", BOTH, "--once", "--json").out)
    assert [each["trouble"] for each in found["servers"]] == ["", "no answer within 2 s"]
    assert method(found)["calls_per_second"] == pytest.approx(10, abs=0.1)


def test_a_server_with_ever_more_pages_holds_up_no_other(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_service, "_MOST_PAGES", 20)
    instead(busy, Endless)
    (found,) = documents(busy.world.run("top", BOTH, "--once", "--json").out)
    said = "the server's list has more than 20 pages of 1,000, and is not shown"
    assert [each["trouble"] for each in found["servers"]] == ["", f"RESOURCE_EXHAUSTED: {said}"]
    ran = busy.world.run("methods", OTHER)
    assert said in ran.err


def test_an_older_server_tells_no_more_than_it_knows(busy: Busy) -> None:
    instead(busy, Older)
    lines = busy.world.run("top", OTHER, "--once").lines
    assert lines[0] == OTHER
    assert lines[1].startswith("calls/s ")
    assert rows(lines)[PATH][0] in ("9.5", "10")
    assert rows(lines)[PATH][1:] == ["2.0", "0", "0", "-", "-"]


def test_calls_with_a_token_go_to_each_server(busy: Busy) -> None:
    """The token is asked for between a call and its server."""
    given = ("--token", "secret", "--insecure", "-H", "tenant: acme")
    (found,) = documents(busy.world.run("top", BOTH, "--once", "--json", *given).out)
    assert [each["trouble"] for each in found["servers"]] == ["", ""]
    assert method(found)["calls_per_second"] == pytest.approx(20, abs=0.1)


def test_open_streams_are_in_flight(busy: Busy) -> None:
    stream = busy.channels[0].unary_stream(WATCH, ORDER(item="x"))
    lines = busy.world.run("top", "AT", "--once").lines
    assert "  streams 1  " in lines[1]
    assert rows(lines)[WATCH.path.removeprefix("/")][2] == "1"
    stream.cancel()


@pytest.mark.parametrize("sort", SORTS)
def test_what_it_is_sorted_by(busy: Busy, sort: str) -> None:
    (found,) = documents(busy.world.run("top", "AT", "--once", "--json", "--sort", sort).out)
    paths = [each["path"] for each in found["methods"]]
    if sort == "name":
        assert paths == sorted(paths)
    elif sort in ("calls", "errors"):
        assert paths[0] == PLACE.path


def test_a_server_without_admin_is_told_so(world: World) -> None:
    done = world.run("top", "AT", "--once")
    assert (done.status, done.out) == (64 + 12, "")
    assert done.err.startswith("txzmq top: the server has no Admin service\n")


def test_no_server_is_told_at_once(world: World) -> None:
    done = world.run("top", "inproc://nobody")
    assert done.status == 64 + 14
    assert done.err.startswith("ERROR: UNAVAILABLE: no connection to inproc://nobody")


def test_if_all_servers_are_gone_once_fails(busy: Busy) -> None:
    busy.world.network.clock.callLater(1, lambda: busy.other.stop(0))
    done = busy.world.run("top", OTHER, "--once")
    assert done.status == 1
    assert done.out.startswith(OTHER)
    assert f"{OTHER}  gone: " in done.out


# -- what a terminal shows ----------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8"), max_size=40)


def rates(path: str, calls: float | None) -> MethodRates:
    return MethodRates(path=path, calls=calls, errors=calls, in_flight=3, queued=1)


def shown(methods: Sequence[MethodRates], *, each: bool = False) -> Shown:
    view = ServerView(address="tcp://127.0.0.1:5000", methods=methods, server=GetServerResponse())
    gone = ServerView(address="tcp://127.0.0.1:5001", trouble="gone: nobody listens there")
    return Shown([view, gone], "calls", each)


@settings(max_examples=examples(40))
@given(
    st.lists(st.builds(rates, NAMES, st.none() | st.floats(0, 1e7)), max_size=5),
    st.booleans(),
    st.integers(1, 200),
)
def test_no_line_is_wider_than_the_terminal(
    methods: list[MethodRates], each: bool, width: int
) -> None:
    found = shown(methods, each=each)
    lines = fitted(columns_of(found), rows_of(found), width)
    assert len(lines) == 1 + len(found.methods)
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("letter", ["x", "\u4e2d", "\u0301", "\x1b", "\u202e", "\n"])
def test_a_name_of_any_length_is_cut_off(letter: str) -> None:
    found = shown([rates(letter * 300_000, 1.0)])
    lines = fitted(columns_of(found), rows_of(found), 80)
    assert len(lines) == 2
    assert all(cell_len(line) <= 80 and line.isprintable() for line in lines)


def test_columns_go_where_there_is_no_room() -> None:
    found = shown([rates("/acme.shop.v1.Shop/Place", 1234.5)])
    columns, table = columns_of(found), rows_of(found)
    assert fitted(columns, table, 100) == [
        "METHOD                   CALLS/S  ERRORS/S  IN FLIGHT  QUEUED  P50  P99",
        "acme.shop.v1.Shop/Place    1,234     1,234          3       1    -    -",
    ]
    assert fitted(columns, table, 48) == [
        "METHOD                   CALLS/S  ERRORS/S  P99",
        "acme.shop.v1.Shop/Place    1,234     1,234    -",
    ]
    assert fitted(columns, table, 27)[1] == "\u2026hop.v1.Shop/Place    1,234"


def test_the_lines_above_say_what_the_servers_have() -> None:
    assert heads(shown([rates("/a/b", 2.0)])) == [
        "1 of 2 servers",
        "running 0/0  queued 0  streams 0  clients 0  calls/s 2.0  errors/s 2.0",
        "tcp://127.0.0.1:5001  gone: nobody listens there",
    ]
    assert len(heads(shown([], each=True))) == 4


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (10, 3), (200, 50), (1, 1)])
def test_a_screen_is_filled_and_not_more(width: int, height: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=height, no_color=True)
    screen = Screen(console)
    found = shown([rates(f"/a/{number}", number) for number in range(30)])
    table = fitted(columns_of(found), rows_of(found), screen.size[0])
    screen.draw(heads(found), table, "q quit")
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue()).split("\n")
    columns, lines = screen.size
    assert [len(line) for line in drawn] == [columns] * lines
    assert drawn[-1].startswith("q quit"[:columns])
    if height == 24:
        assert drawn[-2].startswith("and 13 more, for which there is no room")
