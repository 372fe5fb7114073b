"""Imported protos that are not generated: a warning if their modules are missing, or included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.codegen.support import Ran, generate, knows_cpp_features, python, run, tree, write_protos
from tests.codegen.test_corpus import googleapis

#: Two libraries of others, of which the second imports the first publicly, and an rpc of ours.
UNITS = """syntax = "proto3";
package vendor;
message Unit {}
"""
MONEY = """syntax = "proto3";
package vendor;
import public "vendor/units.proto";
import "google/protobuf/timestamp.proto";
message Money { Unit unit = 1; google.protobuf.Timestamp at = 2; }
service Rates { rpc Get(Unit) returns (Money); }
"""
THIRD_PARTY = {
    "vendor/units.proto": UNITS,
    "vendor/money.proto": MONEY,
    "vendor/unused.proto": 'syntax = "proto3";\n',
}
SHOP = """syntax = "proto3";
package shop;
import "vendor/money.proto";
import "google/protobuf/empty.proto";
message Cart { vendor.Money total = 1; }
service Shop {
  rpc Pay(Cart) returns (google.protobuf.Empty);
  rpc Measure(Cart) returns (vendor.Unit);
}
"""
CARTS = (
    'syntax = "proto3";\nimport "vendor/money.proto";\nmessage Old { vendor.Money total = 1; }\n'
)
PROTOS = {"shop/carts.proto": CARTS, "shop/shop.proto": SHOP}


def shop(folder: Path, *options: str | Path) -> Ran:
    write_protos(THIRD_PARTY, folder / "third_party")
    return generate(PROTOS, folder, "-I", "third_party", *options)


def test_a_module_that_is_missing_is_warned_of_once(tmp_path: Path) -> None:
    ran = shop(tmp_path)
    assert ran.status == 0
    complaint, advice = ran.err.splitlines()
    assert complaint == (
        "protos/shop/carts.proto:2:1: warning: imports vendor/money.proto, and 1 more do; its "
        "module vendor.money_pb2 is not generated, and not installed here"
    )
    assert advice == (
        "  help: generate it along with --include-imports, or install the package that brings it "
        "wherever the code runs"
    )


def test_programs_read_the_warning_too(tmp_path: Path) -> None:
    (line,) = shop(tmp_path, "--error-format", "json").err.splitlines()
    said = json.loads(line)
    assert (said["file"], said["line"], said["severity"]) == (
        "protos/shop/carts.proto",
        2,
        "warning",
    )


def test_imports_are_included_with_all_that_they_import(tmp_path: Path) -> None:
    ran = shop(tmp_path, "--include-imports")
    assert ran == (0, "", "")
    files = tree(tmp_path / "generated")
    assert "vendor/money_txzmq.py" in files
    assert [name for name in files if "unused" in name or "google" in name] == []
    python(_USE, tmp_path)


_USE = """
from generated.shop import carts_pb2
from generated.shop.shop_txzmq import ShopClient
from generated.vendor import money_pb2, units_pb2
from generated.vendor.money_txzmq import RatesClient
assert type(carts_pb2.Old().total) is money_pb2.Money
assert type(money_pb2.Money().unit) is units_pb2.Unit
"""


def test_they_are_included_under_absolute_imports(tmp_path: Path) -> None:
    assert shop(tmp_path, "--include-imports", "--imports", "absolute", "-o", "src").status == 0
    python("import shop.shop_txzmq, vendor.money_txzmq", tmp_path / "src")


def test_pyproject_can_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.txzmq.codegen]\ninclude-imports = true\n")
    assert shop(tmp_path) == (0, "", "")
    assert "vendor/units_pb2.py" in tree(tmp_path / "generated")


def test_what_is_no_more_imported_is_stale(tmp_path: Path) -> None:
    shop(tmp_path, "--include-imports")
    write_protos(dict.fromkeys(PROTOS, USELESS), tmp_path / "protos")
    again = ("protos", "-I", "third_party", "--include-imports")
    ran = run(*again, "--check", folder=tmp_path)
    assert "generated/vendor/units_pb2.py: stale" in ran.out.splitlines()
    assert run(*again, "--prune", folder=tmp_path).status == 0
    assert [name for name in tree(tmp_path / "generated") if "vendor" in name] == []


USELESS = 'syntax = "proto3";\n'


def test_an_error_in_an_included_file_has_its_place(tmp_path: Path) -> None:
    clash = "message M {}\nservice S { rpc Foo(M) returns (M); rpc _Foo(M) returns (M); }\n"
    write_protos({"vendor/bad.proto": f'syntax = "proto3";\n{clash}'}, tmp_path / "third_party")
    mine = {"x.proto": 'syntax = "proto3";\nimport "vendor/bad.proto";\nmessage N { M m = 1; }\n'}
    ran = generate(mine, tmp_path, "-I", "third_party", "--include-imports")
    assert ran.status == 1
    assert ran.err.startswith("third_party/vendor/bad.proto:3:37: error: rpc _Foo and rpc Foo")


@pytest.mark.parametrize("where", ["beside the package", "on the path"])
def test_what_another_run_wrote_is_found(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_protos(THIRD_PARTY, tmp_path / "third_party")
    run("third_party", "-o", "src", "--imports", "absolute", folder=tmp_path)
    write_protos({"acme/__init__.py": ""}, tmp_path / "src")
    if where == "on the path":
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "src")])
        assert shop(tmp_path) == (0, "", "")
    else:
        assert shop(tmp_path, "-o", "src/acme/generated") == (0, "", "")


def test_modules_are_looked_for_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    fails = "raise AssertionError('imported')\n"
    files = {"vendor/__init__.py": fails, "vendor/money_pb2.py": fails}
    write_protos(files, tmp_path / "site")
    assert shop(tmp_path) == (0, "", "")


def test_a_module_on_the_path_itself_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_protos({"top.proto": 'syntax = "proto3";\nmessage Top {}\n'}, tmp_path / "third_party")
    mine = {"x.proto": 'syntax = "proto3";\nimport "top.proto";\nmessage N { Top top = 1; }\n'}
    assert "its module top_pb2 is not" in generate(mine, tmp_path, "-I", "third_party").err
    write_protos({"top_pb2.py": ""}, tmp_path / "site")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    assert generate(mine, tmp_path, "-I", "third_party") == (0, "", "")


#: protoc brings this one, and protobuf has no module for it.
FEATURES = """edition = "2023";
import "google/protobuf/cpp_features.proto";
message M { string text = 1 [features.(pb.cpp).string_type = VIEW]; }
"""


@knows_cpp_features
def test_a_proto_that_protoc_brings_and_protobuf_does_not(tmp_path: Path) -> None:
    protos = {"x.proto": FEATURES}
    ran = generate(protos, tmp_path)
    assert "its module google.protobuf.cpp_features_pb2 is not" in ran.err
    assert "--include-imports" in ran.err
    assert generate(protos, tmp_path, "--include-imports") == (0, "", "")
    python("import generated.x_pb2", tmp_path)


@knows_cpp_features
def test_it_never_hides_protobuf_itself(tmp_path: Path) -> None:
    options = ("--include-imports", "--imports", "absolute", "-o", "src")
    ran = generate({"x.proto": FEATURES}, tmp_path, *options)
    assert ran.status == 0
    assert "would hide that of protobuf" in ran.err
    assert not (tmp_path / "src/google").exists()


@knows_cpp_features
def test_included_from_a_descriptor_set(tmp_path: Path) -> None:
    assert generate({"x.proto": FEATURES}, tmp_path, "--descriptor-set", "x.binpb").status == 0
    ran = run("x.binpb", "-o", "from_set", "--include-imports", folder=tmp_path)
    assert ran == (0, "", "")
    python("import from_set.x_pb2", tmp_path)


def test_protos_of_an_installed_package_are_included_instead(tmp_path: Path) -> None:
    site = googleapis().folder
    annotated = """syntax = "proto3";
import "google/api/annotations.proto";
message M {}
service S { rpc Do(M) returns (M) { option (google.api.http) = { get: "/v1/do" }; } }
"""
    ran = generate({"x.proto": annotated}, tmp_path, "-I", site, "--include-imports")
    assert ran == (0, "", "")
    assert "google/api/http_pb2.py" in tree(tmp_path / "generated")
    python(f"import generated.x_txzmq\n{_NOTHING_INSTALLED}", tmp_path)


_NOTHING_INSTALLED = """
import sys
assert [name for name in sys.modules if name.startswith("google.api")] == []
"""
