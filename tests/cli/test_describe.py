"""``txzmq list`` and ``txzmq describe``: what a server has, and what files say."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.cli.shop import ADDRESS, PROTOSET, World
from txzmq.rpc.reflection import SERVICE_NAMES

SHOP = "acme.shop.v1.Shop"

SERVICE = """acme.shop.v1.Shop is a service:
service Shop {
  option deprecated = true;
  rpc Place ( .acme.shop.v1.Order ) returns ( .acme.shop.v1.Receipt ) {
    option idempotency_level = IDEMPOTENT;
  }
  rpc Watch ( .acme.shop.v1.Order ) returns ( stream .acme.shop.v1.Receipt ) {
    option (txzmq.rpc.v1.requires) = "shop.watch";
  }
  rpc Upload ( stream .acme.shop.v1.Order ) returns ( .acme.shop.v1.Receipt );
  rpc Chat ( stream .acme.shop.v1.Order ) returns ( stream .acme.shop.v1.Receipt );
}
"""
MESSAGE = """acme.shop.v1.Order is a message:
message Order {
  string item = 1;
  optional uint32 count = 2;
  .acme.shop.v1.Order.Size size = 3;
  map<string, .acme.shop.v1.Order.Line> lines = 4;
  repeated string tags = 5 [deprecated = true];
  oneof to {
    string street = 6;
    bytes box = 7;
  }
  reserved 20 to 22, 30;
  reserved "old";
  message Line {
    string text = 1;
  }
  enum Size {
    SIZE_UNSPECIFIED = 0;
    LARGE = 1;
  }
}
"""
ENUM = """acme.shop.v1.Order.Size is an enum:
enum Size {
  SIZE_UNSPECIFIED = 0;
  LARGE = 1;
}
"""
METHOD = """acme.shop.v1.Shop.Upload is a method:
rpc Upload ( stream .acme.shop.v1.Order ) returns ( .acme.shop.v1.Receipt );
"""
FIELD = """acme.shop.v1.Order.lines is a field:
map<string, .acme.shop.v1.Order.Line> lines = 4;
"""
ONEOF = """acme.shop.v1.Order.to is a oneof:
oneof to {
  string street = 6;
  bytes box = 7;
}
"""


# -- list -------------------------------------------------------------------------------------


def test_services_are_listed(world: World) -> None:
    assert world.run("list", "AT").lines == [SHOP, *sorted(SERVICE_NAMES)]


def test_methods_of_a_service_are_listed(world: World) -> None:
    expected = [f"{SHOP}/{name}" for name in ("Chat", "Place", "Upload", "Watch")]
    assert world.run("list", "AT", SHOP).lines == expected
    assert world.run("list", "--protoset", str(PROTOSET), SHOP).lines == expected


def test_files_need_no_server(world: World) -> None:
    assert world.run("list", "--protoset", str(PROTOSET)).lines == [SHOP]
    assert world.run("list", "--protoset", str(PROTOSET), ADDRESS).lines == [SHOP]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "an endpoint is missing"),
        (["list", "AT", "a", "b"], "b is one argument too many"),
        (["list", "AT", "acme.shop.v1.Shopp"], "did you mean acme.shop.v1.Shop?"),
        (["list", "--protoset", "none"], "none: No such file or directory"),
        (["list", "--protoset", __file__], "is no descriptor set"),
        (["describe", "AT", "acme.shop.v1.Nothing"], "there is no symbol acme.shop.v1.Nothing"),
        (["lst"], "did you mean list?"),
        (["list", "--protoste", "x"], "--protoset"),
        (["x"], "txzmq --help lists the verbs"),
        (["list", "AT", "--max-time", "0"], "above 0"),
        (["list", "AT", "--max-time", "nan"], "above 0"),
        (["list", "AT", "--server-key", "x"], "needs the client's own key"),
        (["list", "AT", "--key", "x"], "needs the server's public key"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_hint(
    world: World, arguments: list[str], said: str
) -> None:
    done = world.run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) <= 2
    assert done.err.startswith("txzmq")


# -- describe ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [["AT"], ["--protoset", str(PROTOSET)]])
@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        (SHOP, SERVICE),
        ("acme.shop.v1.Order", MESSAGE),
        (
            "acme.shop.v1.Order.Size",
            ENUM,
        ),
        (
            f"{SHOP}/Upload",
            METHOD,
        ),
        (
            "acme.shop.v1.Order.lines",
            FIELD,
        ),
        (
            "acme.shop.v1.Order.to",
            ONEOF,
        ),
    ],
)
def test_a_symbol_is_shown_as_its_proto_has_it(
    world: World, source: list[str], symbol: str, expected: str
) -> None:
    done = world.run("describe", *source, symbol)
    assert (done.status, done.err) == (0, "")
    assert done.out == expected


def test_an_extension(world: World) -> None:
    done = world.run("describe", "--protoset", str(PROTOSET), "txzmq.rpc.v1.requires")
    assert done.lines == [
        "txzmq.rpc.v1.requires is an extension:",
        "extend .google.protobuf.MethodOptions {",
        "  string requires = 51728;",
        "}",
    ]


def test_without_a_symbol_all_services_are_shown(world: World) -> None:
    assert world.run("describe", "--protoset", str(PROTOSET)).out == SERVICE
    assert world.run("describe", "AT").out.count(" is a service:") == 3


def proto2() -> FileDescriptorProto:
    """What only proto2 has."""
    file = FileDescriptorProto(name="old.proto", package="old", syntax="proto2")
    message = file.message_type.add(name="Old")
    message.field.add(name="a", number=1, type=9, label=2)
    message.field.add(name="b", number=2, type=9, label=1, default_value='q"\n')
    message.field.add(name="c", number=3, type=1, label=1, default_value="inf")
    message.field.add(name="d", number=4, type=12, label=1, default_value="\\377")
    message.extension_range.add(start=100, end=536_870_912)
    message.extension_range.add(start=50, end=51)
    message.extension.add(name="inner", number=101, type=5, label=1, extendee=".old.Old")
    enum = file.enum_type.add(name="E")
    enum.value.add(name="X", number=-1).options.deprecated = True
    enum.options.allow_alias = True
    enum.value.add(name="Y", number=-1)
    enum.reserved_range.add(start=5, end=5)
    enum.reserved_range.add(start=9, end=2_147_483_647)
    return file


# protobuf's implementation in Python reads defaults of bytes so.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_what_only_proto2_has(world: World, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(FileDescriptorSet(file=[proto2()]).SerializeToString())
    assert world.run("describe", "--protoset", str(path), "old.Old").lines[1:] == [
        "message Old {",
        "  required string a = 1;",
        '  optional string b = 2 [default = "q\\"\\n"];',
        "  optional double c = 3 [default = inf];",
        '  optional bytes d = 4 [default = "\\377"];',
        "  extensions 100 to max, 50;",
        "  extend .old.Old {",
        "    optional int32 inner = 101;",
        "  }",
        "}",
    ]
    assert world.run("describe", "--protoset", str(path), "old.E").lines[1:] == [
        "enum E {",
        "  option allow_alias = true;",
        "  X = -1 [deprecated = true];",
        "  Y = -1;",
        "  reserved 5, 9 to max;",
        "}",
    ]
    assert world.run("describe", "--protoset", str(path), "old.Old.inner").lines[1:] == [
        "extend .old.Old {",
        "  optional int32 inner = 101;",
        "}",
    ]


# -- descriptor sets --------------------------------------------------------------------------


def written(path: Path, *files: FileDescriptorProto) -> str:
    path.write_bytes(FileDescriptorSet(file=files).SerializeToString())
    return str(path)


def test_a_set_without_its_imports_says_how_to_make_one(world: World, tmp_path: Path) -> None:
    alone = FileDescriptorProto(name="a.proto", dependency=["b.proto"])
    done = world.run("list", "--protoset", written(tmp_path / "set", alone))
    assert done.status == 2
    assert "b.proto is imported, and not in the descriptor set" in done.err
    assert "--include_imports" in done.err


def test_protoc_brings_the_well_known_types_along(world: World, tmp_path: Path) -> None:
    alone = FileDescriptorProto(
        name="a.proto", package="a", dependency=["google/protobuf/timestamp.proto"]
    )
    alone.service.add(name="S")
    assert world.run("list", "--protoset", written(tmp_path / "set", alone)).lines == ["a.S"]


def test_files_that_contradict_are_refused(world: World, tmp_path: Path) -> None:
    one, two = FileDescriptorProto(name="a.proto"), FileDescriptorProto(name="b.proto")
    one.message_type.add(name="M")
    two.message_type.add(name="M").field.add(name="x", number=1, type=5, label=1)
    circle = [
        FileDescriptorProto(name="c.proto", dependency=["d.proto"]),
        FileDescriptorProto(name="d.proto", dependency=["c.proto"]),
    ]
    done = world.run("list", "--protoset", written(tmp_path / "set", one, two))
    assert (done.status, "protobuf refuses" in done.err) == (2, True)
    done = world.run("list", "--protoset", written(tmp_path / "circle", *circle))
    assert (done.status, "import each other" in done.err) == (2, True)
