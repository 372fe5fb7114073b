"""The access log: a line for each call that has ended, its fields, and what is left out."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, eventAsJSON, formatEvent

from tests.rpc.raw import RawClient
from tests.rpc.service import ADDRESS, ECHO, MISSING, Echo, World, made, text
from tests.rpc.streaming import Reader, StreamWorld
from tests.support import Logged
from txzmq.auth import Identity
from txzmq.rpc import (
    CallRecord,
    Channel,
    Code,
    Context,
    Kind,
    NotFound,
    Side,
    UnaryResult,
)
from txzmq.rpc._wire.headers import RequestHead
from txzmq.rpc.access_log import FIELDS, SERVER_FAULTS, AccessLog
from txzmq.testing import MemoryNetwork

Worlds = Callable[..., World]
#: Of the tests' clocks: 2026-01-02, 03:04:05.678.
NOON = 1_767_323_045.678


class Failing(Echo):
    """Ends as the request says."""

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        if request.value == "nobody":
            raise NotFound("no such user\x1b[2J")
        if request.value == "bug":
            raise LookupError("text of the bug")
        return super().echo(request, context)


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    yield from made(World)


def lines(logged: Logged) -> list[LogEvent]:
    return [event for event in logged if event["log_namespace"] == "txzmq.rpc.access_log"]


def done(world: World, *values: str, **options: Any) -> None:
    """Make calls one after the other, whatever becomes of them."""
    for value in values:
        world.call(value, **options).addErrback(lambda _: None)
        world.network.run()


def ended(
    code: Code = Code.OK, at: float = 0.0, number: int = 0, method: str = "/a.B/C", **more: Any
) -> CallRecord:
    """The record of a call that has ended at a time."""
    id_ = number.to_bytes(16, "big")
    record = CallRecord(Side.SERVER, method, Kind.UNARY_UNARY, at, request_id=id_, **more)
    record.complete(code, "" if code is Code.OK else "why", at, 1, 1, 2, 3)
    return record


def written(log: AccessLog, *records: CallRecord) -> None:
    for record in records:
        log.call_ended(MemorySource(), record)


class MemorySource:
    """What is watched; nobody reads it."""

    counters: Any = None


class Lines(io.StringIO):
    """A file; what is in it, parsed."""

    def parsed(self) -> list[dict[str, Any]]:
        assert self.getvalue().count("\n") == len(self.getvalue().splitlines())
        return [json.loads(line) for line in self.getvalue().splitlines()]


def test_each_side_has_a_line_and_both_have_one_id(worlds: Worlds, logged: Logged) -> None:
    world = worlds(observer=AccessLog())
    done(world, "x")
    server, client = lines(logged)
    assert (server["side"], client["side"]) == ("server", "client")
    assert server["call_id"] == client["call_id"]
    assert len(bytes.fromhex(server["call_id"])) == 16
    assert formatEvent(server) == (
        f"server /test.Echo/Echo OK 0.000000 s of memory ({server['call_id']})"
    )
    assert formatEvent(client).startswith(f"client /test.Echo/Echo OK 0.000000 s at {ADDRESS} (")
    for event in (server, client):
        assert set(FIELDS) - {"metadata", "sample"} <= set(event)
        assert event["log_level"] is LogLevel.info
        assert (event["kind"], event["code"], event["message"]) == ("unary_unary", "OK", "")
        assert (event["requests"], event["responses"], event["attempts"]) == (1, 1, 1)
        assert event["request_bytes"] == event["response_bytes"] == text("x").ByteSize()
        # What jsonFileLogObserver writes: no value that only Python knows.
        assert json.loads(eventAsJSON(event))["method"] == ECHO.path


def test_a_stream_has_its_line_at_its_end(logged: Logged) -> None:
    world = StreamWorld(lambda request, context: [text("a"), text("b")], observer=AccessLog())
    reader = Reader(world.open("x"))
    world.network.advance(1)
    assert reader.has_ended
    server, client = sorted(lines(logged), key=lambda event: event["side"] == "client")
    assert server["call_id"] == client["call_id"]
    assert (server["kind"], server["responses"], client["responses"]) == ("unary_stream", 2, 2)
    world.close()


def test_failures_say_why_and_faults_of_the_server_are_warnings(
    worlds: Worlds, logged: Logged
) -> None:
    world = worlds(Failing(), observer=AccessLog())
    done(world, "nobody", "bug")
    not_found, _, unknown, _ = lines(logged)
    assert not_found["log_level"] is LogLevel.info
    assert not_found["message"] == "no such user\\x1b[2J"
    assert "NOT_FOUND 0.000000 s of memory: no such user\\x1b[2J (" in str(formatEvent(not_found))
    assert unknown["log_level"] is LogLevel.warn
    assert "text of the bug" not in str(formatEvent(unknown))


@pytest.mark.parametrize("code", set(Code) - {Code.OK})
def test_which_codes_are_warnings(logged: Logged, code: Code) -> None:
    written(AccessLog(), ended(code), ended(code, known=False))
    known, unknown = lines(logged)
    assert known["log_level"] is (LogLevel.warn if code in SERVER_FAULTS else LogLevel.info)
    assert unknown["log_level"] is LogLevel.info  # a peer can do that at any rate


def test_what_peers_send_cannot_begin_a_line(logged: Logged) -> None:
    who = Identity("eve\nroot")
    nasty = ended(method="/a\r\n.B/C", peer="1.2.3.4\x07", identity=who, known=False)
    out = Lines()
    written(AccessLog(), nasty)
    written(AccessLog(json=out), nasty)
    (event,) = lines(logged)
    (parsed,) = out.parsed()
    for shown in (event, parsed):
        assert shown["method"] == "/a\\r\\n.B/C"
        assert shown["identity"] == "eve\\nroot"
        assert shown["peer"] == "1.2.3.4\\x07"
    assert str(formatEvent(event)).isprintable()


def test_a_message_that_is_long_is_cut(logged: Logged) -> None:
    record = CallRecord(Side.SERVER, "/a.B/C", Kind.UNARY_UNARY, 0.0)
    record.complete(Code.NOT_FOUND, "x" * 100_000, 0.0, 1, 0, 0, 0)
    written(AccessLog(), record)
    assert lines(logged)[0]["message"] == "x" * 500 + "..."


def test_an_unreadable_request_has_a_line(logged: Logged) -> None:
    world = World(observer=AccessLog())
    raw = RawClient(world.network, ADDRESS)
    world.network.run()
    raw.request(RequestHead("", None, ()))
    raw.transport.send_message([b"x" * 200, b"", b"", b""])
    world.network.run()
    assert [event["code"] for event in lines(logged)] == ["INTERNAL"] * 2
    assert [event["call_id"] for event in lines(logged)] == [raw.id_of(1).hex(), ""]
    raw.transport.close()
    world.close()


def test_a_method_that_there_is_not(worlds: Worlds, logged: Logged) -> None:
    world = worlds(observer=AccessLog())
    done(world, "x", method=MISSING)
    server, client = lines(logged)
    assert (server["code"], server["log_level"]) == ("UNIMPLEMENTED", LogLevel.info)
    assert client["log_level"] is LogLevel.warn


# -- what is logged and what is not -------------------------------------------------------------


def test_no_metadata_but_what_is_named(worlds: Worlds, logged: Logged) -> None:
    metadata: dict[str, str | bytes] = {"tenant": "acme", "password": "swordfish", "id-bin": b"\0"}
    world = worlds(observer=AccessLog(metadata=["Tenant", "id-bin", "none"]))
    done(world, "x", metadata=metadata)
    for event in lines(logged):
        assert event["metadata"] == {"tenant": "acme", "id-bin": "AA=="}
        assert "swordfish" not in repr(event)


def test_values_of_one_key_stand_together() -> None:
    out = Lines()
    log = AccessLog(metadata=["tenant"], json=out)
    written(log, ended(metadata=(("tenant", "a"), ("x", "y"), ("tenant", "b"))))
    assert out.parsed()[0]["metadata"] == {"tenant": "a,b"}


@pytest.mark.parametrize("key", ["authorization", "Authorization", "cookie", "proxy-authorization"])
def test_secrets_cannot_be_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"metadata: the log would show .* '{key.lower()}'"):
        AccessLog(metadata=[key])


def test_a_sample_has_the_same_calls_on_both_sides(worlds: Worlds, logged: Logged) -> None:
    world = worlds(Failing(), observer=AccessLog(sample=0.5))
    done(world, *["x"] * 40, *["nobody"] * 10)
    ids = {side: [e["call_id"] for e in lines(logged) if e["side"] == side] for side in Side}
    assert ids[Side.SERVER] == ids[Side.CLIENT]
    successes = [event for event in lines(logged) if event["code"] == "OK"]
    failures = [event for event in lines(logged) if event["code"] != "OK"]
    assert 0 < len(successes) < 80
    assert len(failures) == 20
    for event in successes:
        assert zlib.crc32(bytes.fromhex(event["call_id"])) < 2**31
        assert event["sample"] == 0.5
    assert "sample" not in failures[0]


@pytest.mark.parametrize(("sample", "expected"), [(0.25, 10), (0.01, 0), (0.0, 0), (1.0, 40)])
def test_calls_that_an_interceptor_answers_are_sampled_too(sample: float, expected: int) -> None:
    def answers(call: Any, proceed: Any) -> Any:
        return text("kept")

    out = Lines()
    log = AccessLog(sample=sample, json=out)
    channel = Channel(MemoryNetwork(), ADDRESS, interceptors=[answers], observer=log)
    for _ in range(40):
        channel.unary_unary(ECHO, text("x"))
    channel.close()
    assert [line["call_id"] for line in out.parsed()] == [""] * expected


def test_no_sample_has_failures_only(worlds: Worlds, logged: Logged) -> None:
    done(worlds(Failing(), observer=AccessLog(sample=0)), "x", "nobody")
    assert {event["code"] for event in lines(logged)} == {"NOT_FOUND"}


@pytest.mark.parametrize("excluded", ["/test.Echo/Echo", "/test.Echo/*"])
def test_methods_that_are_excluded_have_lines_where_they_fail(
    worlds: Worlds, logged: Logged, excluded: str
) -> None:
    done(worlds(Failing(), observer=AccessLog(exclude=[excluded])), "x", "nobody")
    assert {event["code"] for event in lines(logged)} == {"NOT_FOUND"}


def test_what_is_over_the_limit_is_told_with_the_next_line(logged: Logged) -> None:
    log = AccessLog(per_minute=3)
    written(log, *(ended(at=10.0 + second) for second in range(59)))
    assert len(lines(logged)) == 3
    written(log, ended(at=69.9), ended(at=70.0))
    told, line = lines(logged)[3:]
    assert formatEvent(told) == "57 calls were left out of the access log, over 3 a minute"
    assert (told["left_out"], told["per_minute"]) == (57, 3)
    assert line["code"] == "OK"
    written(log, ended(at=71.0))
    assert len(lines(logged)) == 6


def test_successes_leave_room_for_faults(logged: Logged) -> None:
    log = AccessLog(per_minute=2)
    written(log, *(ended() for _ in range(9)), *(ended(Code.INTERNAL) for _ in range(9)))
    assert [event["code"] for event in lines(logged)] == ["OK"] * 2 + ["INTERNAL"] * 2


def test_a_clock_that_goes_back_begins_a_minute(logged: Logged) -> None:
    log = AccessLog(per_minute=1)  # of channels on several clocks
    written(log, ended(at=1000.0), ended(at=5.0))
    assert len(lines(logged)) == 2


def test_what_is_left_out_is_told_when_the_source_stops(worlds: Worlds, logged: Logged) -> None:
    world = worlds(observer=AccessLog(per_minute=3))
    done(world, *"abcd")
    world.channel.close()
    assert lines(logged)[-1]["left_out"] == 5
    world.server.stop(0)
    world.network.advance(1)
    assert len(lines(logged)) == 4


def test_no_limit(logged: Logged) -> None:
    written(AccessLog(per_minute=None), *(ended() for _ in range(10_000)))
    assert len(lines(logged)) == 10_000


# -- JSON ---------------------------------------------------------------------------------------


def test_json_is_a_line_of_stable_names(worlds: Worlds, logged: Logged) -> None:
    out = Lines()
    log = AccessLog(json=out, per_minute=3, metadata=["tenant"], sample=0.999, now=lambda: NOON)
    done(worlds(Failing(), observer=log), "x", "bug", metadata={"tenant": "a"})
    assert not lines(logged)
    first, _, warning, _ = out.parsed()
    order = ["time", "level", *FIELDS]
    assert list(first) == [name for name in order if name in first]
    assert set(order) - set(first) <= {"sample"}
    assert (first["time"], first["level"]) == ("2026-01-02T03:04:05.678Z", "info")
    assert (warning["level"], warning["code"]) == ("warn", "UNKNOWN")
    assert out.getvalue().startswith('{"time":"2026-01-02T03:04:05.678Z","level":"info","side":"s')


def test_json_says_what_was_left_out() -> None:
    out = Lines()
    log = AccessLog(json=out, per_minute=1, now=lambda: NOON)
    written(log, ended(), ended())
    log.stopped(MemorySource())
    assert out.parsed()[1] == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "info",
        "left_out": 1,
        "per_minute": 1,
    }


def test_a_full_disk_is_no_matter_of_the_call(worlds: Worlds, logged: Logged) -> None:
    class Full:
        def write(self, line: str) -> None:
            raise OSError("no space left on device")

    world = worlds(observer=AccessLog(json=Full()))
    assert world.network.result(world.call()) == text("x")
    assert {str(error) for error in logged.failures()} == {"no space left on device"}


def test_what_a_full_disk_kept_from_being_told_is_told_later() -> None:
    out = Lines()

    class Disk:
        full = False

        def write(self, line: str) -> None:
            if self.full:
                raise OSError("no space left on device")
            out.write(line)

    disk = Disk()
    log = AccessLog(json=disk, per_minute=1)
    written(log, *[ended()] * 3, *[ended(Code.INTERNAL)] * 5)
    disk.full = True
    for at in (60, 120):
        with pytest.raises(OSError, match="no space"):
            written(log, ended(at=at))
    with pytest.raises(OSError, match="no space"):
        log.stopped(MemorySource())
    disk.full = False
    log.stopped(MemorySource())
    assert [line["left_out"] for line in out.parsed() if "left_out" in line] == [2, 4]


# -- wrong values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"per_minute": 0}, ValueError, "per_minute must be an integer of 1 or more"),
        ({"per_minute": "x"}, TypeError, "per_minute"),
        ({"sample": 1.5}, ValueError, "sample must be from 0 to 1, and not 1.5"),
        ({"sample": -0.5}, ValueError, "sample"),
        ({"sample": "all"}, TypeError, "sample"),
        ({"exclude": "/a.B/C"}, TypeError, "exclude must be a collection of str"),
        ({"exclude": [1]}, TypeError, "exclude"),
        ({"exclude": ["a.B/C"]}, ValueError, "exclude: 'a.B/C' is no path of a method"),
        ({"exclude": ["/a.B/*C"]}, ValueError, "exclude: '/a.B/.C' is no path"),
        ({"exclude": ["*"]}, ValueError, "exclude: '.' is no path"),
        ({"metadata": ["no key"]}, ValueError, "the metadata key 'no key' may only have"),
        ({"metadata": "tenant"}, TypeError, "metadata must be a collection of str"),
        ({"metadata": [b"x"]}, TypeError, "metadata"),
        ({"json": "access.log"}, TypeError, "json must be a file that is open for text, not"),
        ({"json": True}, TypeError, "json"),
        ({"now": 1.0}, TypeError, "now must be a function"),
    ],
)
def test_wrong_values_are_refused(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        AccessLog(**options)


def test_a_call_that_never_left_has_no_id(logged: Logged) -> None:
    world = World(serve=False, observer=AccessLog())
    failed: Deferred[Any] = world.call(timeout=1)
    failed.addErrback(lambda _: None)
    world.network.advance(2)
    (event,) = lines(logged)
    assert (event["side"], event["call_id"], event["attempts"]) == ("client", "", 0)
    assert str(formatEvent(event)).endswith(event["message"])
    world.close()


def test_a_traceback_has_the_id_of_its_call(worlds: Worlds, logged: Logged) -> None:
    world = worlds(Failing(), observer=AccessLog())
    done(world, "bug")
    (traceback,) = [event for event in logged if "log_failure" in event]
    server, _ = lines(logged)
    assert traceback["call_id"] == server["call_id"] != ""
    assert traceback["identifier"] in server["message"]
    assert (traceback["method"], traceback["peer"]) == (ECHO.path, "memory")
    assert (traceback["identity"], traceback["seconds"]) == ("", 0.0)


def test_a_failure_is_known_from_the_log_as_json(worlds: Worlds, logged: Logged) -> None:
    world = worlds(Failing())
    for _ in range(20):
        done(world, "bug")
    written = [json.loads(eventAsJSON(event)) for event in logged if event.get("identifier")]
    assert len(written) == 20
    assert {"log_failure" in event for event in written} == {True, False}  # few with tracebacks
    assert {event["error"] for event in written} == {"LookupError: text of the bug"}


def test_a_traceback_without_an_access_log_has_no_id(worlds: Worlds, logged: Logged) -> None:
    done(worlds(Failing()), "bug")
    (traceback,) = [event for event in logged if "log_failure" in event]
    assert (traceback["call_id"], traceback["method"]) == ("", ECHO.path)
