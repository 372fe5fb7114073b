"""``txzmq call``: all four kinds, requests and responses, metadata, errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue

from tests.cli.shop import ADDRESS, ORDER, PROTO, PROTOSET, RECEIPT, World, base64_of
from tests.support import is_installed
from txzmq.rpc import Code


def receipts(lines: list[str]) -> list[str]:
    return [json.loads(line)["text"] for line in lines]


# -- the four kinds ---------------------------------------------------------------------------


def test_one_request_one_response(world: World) -> None:
    done = world.call("Place", "-d", '{"item": "Öl", "count": 2, "postBox": "AP8="}')
    assert done.lines == ['{"text": "Öl"}']
    (request,) = world.shop.requests
    assert request == ORDER(item="Öl", count=2, box=b"\x00\xff")


def test_no_data_is_an_empty_request(world: World) -> None:
    assert world.call("Place").lines == ["{}"]
    assert world.call("Place", "-d", "").lines == ["{}"]
    assert world.call("Place", "-d", " {} ").lines == ["{}"]


def test_a_stream_of_responses_is_one_line_each(world: World) -> None:
    done = world.call("Watch", "-d", '{"item": "tick", "count": 3}')
    assert receipts(done.lines) == ["tick 0", "tick 1", "tick 2"]


def test_a_stream_of_requests_comes_from_standard_input_in_any_pieces(world: World) -> None:
    data = '{"item": "ä"}{\n"item":\n"}{"}\n\n{"item": "c"}'.encode()
    for size in (1, 2, 3, 1000):
        pieces = [data[place : place + size] for place in range(0, len(data), size)]
        done = world.call("Upload", "-d", "@", stdin=pieces)
        assert receipts(done.lines) == ["ä, }{, c"]


def test_no_data_is_no_request_of_a_stream(world: World) -> None:
    assert world.call("Upload").lines == ["{}"]
    assert world.call("Chat").lines == []


def test_both_sides_stream(world: World, tmp_path: Path) -> None:
    file = tmp_path / "requests"
    file.write_bytes(b'\xef\xbb\xbf{"item": "a"}\n{"item": "b"}')  # with a byte order mark
    assert receipts(world.call("Chat", "-d", f"@{file}").lines) == ["A", "B"]


@pytest.mark.parametrize("name", ["acme.shop.v1.Shop.Place", "/acme.shop.v1.Shop/Place"])
def test_a_method_may_be_named_otherwise(world: World, name: str) -> None:
    assert world.run("call", "AT", name).lines == ["{}"]


def test_4_mib_go_both_ways(world: World) -> None:
    item = "x" * ((4 << 20) - 64)
    data = json.dumps({"item": item}).encode()
    pieces = [data[place : place + 65_536] for place in range(0, len(data), 65_536)]
    assert receipts(world.call("Place", "-d", "@", stdin=pieces).lines) == [item]


def test_a_message_that_is_too_large_says_so(world: World) -> None:
    done = world.call("Place", "-d", '{"item": "' + "x" * 1000 + '"}', "--max-msg-sz", "1000")
    assert done.status == 64 + Code.RESOURCE_EXHAUSTED
    assert "RESOURCE_EXHAUSTED" in done.err


# -- formats ----------------------------------------------------------------------------------


def test_defaults_are_printed_on_demand(world: World) -> None:
    assert world.call("Place", "--emit-defaults").lines == ['{"text": ""}']


def test_text_format(world: World) -> None:
    done = world.call("Upload", "--format", "text", "-d", 'item: "a"\x1eitem: "b" count: 1')
    assert done.lines == ['text: "a, b"']


def test_what_moves_a_cursor_is_escaped(world: World) -> None:
    done = world.call("Place", "-d", r'{"item": "\u009b\u202e\u0007\ud83d\ude00\udb40\udc01"}')
    assert done.lines == [r'{"text": "\u009b\u202e\u0007😀\udb40\udc01"}']


# -- wrong requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        ('{"itme": "x"}', 'no field named "itme"', "did you mean item?"),
        ('{"item": 1}', "in line 1", ""),
        ('\n\n{"item": ]', "in line 3", ""),
        ('{"item": "x"', "in line 1", ""),
        ("}", "in line 1", ""),
        ("{} {}", "takes one request, and there are 2", "once for each"),
        ("[" * 5_000, "in line 1", ""),
    ],
)
def test_a_wrong_request_is_told_with_its_line(
    world: World, data: str, said: str, hint: str
) -> None:
    done = world.call("Place", "-d", data)
    assert (done.status, done.out) == (2, "")
    first, *more = done.err.splitlines()
    assert first.startswith("txzmq call: ")
    assert said in first
    assert len(more) <= 1
    assert hint in "".join(more)
    assert world.shop.requests == []


def test_unknown_fields_are_ignored_on_demand(world: World) -> None:
    done = world.call("Place", "-d", '{"itme": 1, "item": "x"}', "--allow-unknown-fields")
    assert receipts(done.lines) == ["x"]


@pytest.mark.parametrize("method", ["Upload", "Chat"])
def test_a_wrong_request_ends_a_stream_of_requests(world: World, method: str) -> None:
    done = world.call(method, "-d", "@", stdin=[b'{"item": "a"}\n', b'{"item": 1}\n'])
    assert done.status == 2
    assert "the request in line 2 is no acme.shop.v1.Order" in done.err


def test_input_must_be_utf_8(world: World, tmp_path: Path) -> None:
    assert "standard input is not UTF-8" in world.call("Upload", "-d", "@", stdin=[b"\xff"]).err
    missing = world.call("Place", "-d", f"@{tmp_path}/none")
    assert missing.status == 2
    assert "none: No such file or directory" in missing.err


# -- metadata ---------------------------------------------------------------------------------


def test_headers_go_along(world: World) -> None:
    binary = f"X-Bin: {base64_of(bytes([255, 0]))}"
    done = world.call("Place", "-H", "Tenant:  acme: b ", "-H", binary, "--rpc-header", "a: b")
    assert done.status == 0
    (context,) = world.shop.contexts
    assert [*context.metadata] == [("tenant", "acme: b"), ("x-bin", b"\xff\x00"), ("a", "b")]


@pytest.mark.parametrize("header", ["tenant", ": x", "a-bin: ?", "txzmq-x: y", "a: \x1b", "ä: b"])
def test_a_malformed_header_is_refused(world: World, header: str) -> None:
    done = world.call("Place", "-H", header)
    assert (done.status, done.out) == (2, "")
    assert "\nhint: " in done.err
    assert "\x1b" not in done.err


def test_verbose_prints_metadata_beside_the_answer(world: World) -> None:
    done = world.call("Place", "-v", "-H", "tenant: acme")
    assert done.out == "{}\n"
    assert done.err.splitlines() == ["> tenant: acme", "< first: 1", "< last: 2"]


# -- errors -----------------------------------------------------------------------------------


def test_an_error_has_its_details_and_its_status(world: World) -> None:
    done = world.call("Place", "-v", "-d", '{"item": "nothing"}')
    assert (done.status, done.out) == (64 + Code.NOT_FOUND, "")
    assert done.err.splitlines() == [
        "< reason-bin: AP8=",
        r"ERROR: NOT_FOUND: no such\x1b[31m item",
        'detail: {"@type": "type.googleapis.com/acme.shop.v1.Order", "item": "detail"}',
    ]


def test_an_error_may_come_behind_items(world: World) -> None:
    done = world.call("Watch", "-d", '{"item": "nothing", "count": 2}')
    assert receipts(done.out.splitlines()) == ["nothing 0", "nothing 1"]
    assert (done.status, done.err) == (69, "ERROR: NOT_FOUND: no more\n")


def test_the_time_is_up(world: World) -> None:
    done = world.call("Upload", "--max-time", "1.5", "-d", "@", stdin=[])
    assert done.status == 0
    done = world.run("call", "inproc://nobody", "a.B/C", "--max-time", "1.5", "--wait-for-ready")
    assert done.status == 64 + Code.DEADLINE_EXCEEDED
    assert "no connection to inproc://nobody within 1.5 s" in done.err


def test_nobody_is_there(world: World) -> None:
    done = world.run(
        "call", "inproc://nobody", "a.B/C", "--connect-timeout", "3", "--wait-for-ready"
    )
    assert done.status == 64 + Code.UNAVAILABLE
    assert done.err.startswith("ERROR: UNAVAILABLE: no connection to inproc://nobody within 3 s")


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("acme.shop.v1.Shop/Plaec", "no method Plaec", "did you mean Place?"),
        ("acme.shop.v1.Shop/X", "no method X", "its methods are: Chat, Place, Upload, Watch"),
        ("acme.shop.v1.Shpo/Place", "no service acme.shop.v1.Shpo", "acme.shop.v1.Shop?"),
        ("acme.shop.v1.Order/Place", "no service acme.shop.v1.Order", "acme.shop.v1.Shop?"),
        ("Place", "Place is no method", "package.Service/Method"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_one(
    world: World, name: str, said: str, hint: str
) -> None:
    done = world.run("call", "AT", name)
    assert (done.status, done.out) == (2, "")
    first, second = done.err.splitlines()
    assert said in first
    assert hint in second


# -- what an Any has --------------------------------------------------------------------------


def extra(world: World, *arguments: str) -> object:
    (line,) = world.call("Place", *arguments).lines
    return json.loads(line)["extra"]


def test_a_standard_type_of_an_any_is_known(world: World) -> None:
    world.shop.extra = StringValue(value="x")  # of a file that the service does not import
    kind = "type.googleapis.com/google.protobuf.StringValue"
    assert extra(world) == {"@type": kind, "value": "x"}


def test_an_any_within_an_any(world: World) -> None:
    inner = RECEIPT()
    inner.extra.Pack(StringValue(value="x"))
    world.shop.extra = inner
    kinds = ["type.googleapis.com/" + name for name in ("acme.shop.v1.Receipt", "")]
    assert extra(world) == {
        "@type": kinds[0],
        "extra": {"@type": kinds[1] + "google.protobuf.StringValue", "value": "x"},
    }


@pytest.mark.parametrize("name", ["acme.unknown.v1.Thing", "Thing"])
def test_what_nobody_knows_is_shown_as_bytes(world: World, name: str) -> None:
    inner = RECEIPT()
    inner.extra.type_url, inner.extra.value = f"x.org/{name}", b"\xff"
    world.shop.extra = inner
    shown = {"@type": f"x.org/{name}", "@value": "/w=="}
    assert extra(world) == {"@type": "type.googleapis.com/acme.shop.v1.Receipt", "extra": shown}


@pytest.mark.parametrize("url", ["x.org/a b", "x.org/acme.shop.v1.Order"])
def test_what_is_not_what_it_says_is_shown_as_bytes(world: World, url: str) -> None:
    inner = RECEIPT()
    inner.extra.type_url, inner.extra.value = url, b"\xff"
    world.shop.extra = inner
    found = extra(world)
    assert isinstance(found, dict)
    if "@value" in found["extra"]:  # protobuf's implementation in Python takes a space in a name
        assert found["extra"] == {"@type": url, "@value": "/w=="}
        return
    assert found["extra"]["typeUrl"] == base64_of(url.encode())
    assert found["extra"]["value"] == "/w=="


def test_what_json_cannot_have_is_told(world: World) -> None:
    world.shop.extra = Timestamp(seconds=10**15)
    done = world.call("Place")
    assert done.status == 1
    assert "cannot be written as JSON" in done.err
    assert "--format text" in done.err


def test_an_any_may_be_empty(world: World) -> None:
    world.shop.extra = AnyMessage()
    assert extra(world) == {"@type": "type.googleapis.com/google.protobuf.Any", "value": {}}


# -- where types come from --------------------------------------------------------------------


def test_a_server_without_reflection(new_world: Callable[..., World]) -> None:
    from txzmq.rpc.health import Health

    world = new_world(Health())
    done = world.call("Place")
    assert done.status == 64 + Code.UNIMPLEMENTED
    assert "it has no reflection service" in done.err
    assert "--protoset FILE" in done.err
    done = world.call("Place", "--protoset", str(PROTOSET), "-d", '{"item": "x"}')
    assert receipts(done.lines) == ["x"]


@pytest.mark.skipif(not is_installed("grpc_tools"), reason="there is no protoc here")
def test_types_of_sources(world: World) -> None:
    given = ["--proto", PROTO.name, "--import-path", str(PROTO.parent)]
    assert receipts(world.call("Place", "-d", '{"item": "x"}', *given).lines) == ["x"]
    done = world.call("Place", "--proto", "none.proto")
    assert done.status == 2
    assert "none.proto: No such file or directory" in done.err
    assert "--import-path" in done.err


def test_an_endpoint_must_be_one(world: World) -> None:
    done = world.run("call", "localhost:1", "a.B/C")
    assert done.status == 2
    assert "tcp://localhost:1 perhaps" in done.err
    assert ADDRESS not in done.err


@pytest.mark.skipif(not is_installed("grpc_tools"), reason="there is no protoc here")
def test_the_descriptor_set_of_these_tests_is_that_of_their_proto() -> None:
    from txzmq._cli.types import compile_protos, read_sets

    def own(files: Iterable[FileDescriptorProto]) -> list[FileDescriptorProto]:
        """But for those that each protoc brings in a version of its own."""
        return [file for file in files if not file.name.startswith("google/protobuf/")]

    compiled = own(compile_protos([PROTO.name], [str(PROTO.parent)]))
    assert compiled == own(read_sets([str(PROTOSET)]))
    assert compiled
