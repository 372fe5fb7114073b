"""The command: what it writes, what it leaves alone, what it says and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import txzmq_codegen.cli
from tests.codegen.support import ROOT, generate, python, run, tree, write_protos
from txzmq_codegen.problems import UsageError
from txzmq_codegen.render import MARKER
from txzmq_codegen.watch import snapshot, watch

ORDERS = """syntax = "proto3";
package acme;
message Order {}
service Orders { rpc Place(Order) returns (Order); }
"""
USERS = """syntax = "proto3";
package acme;
message User {}
"""
PROTOS = {"acme/orders.proto": ORDERS, "acme/users.proto": USERS}
GENERATED = [
    "__init__.py",
    "acme/__init__.py",
    "acme/orders_pb2.py",
    "acme/orders_pb2.pyi",
    "acme/orders_txzmq.py",
    "acme/users_pb2.py",
    "acme/users_pb2.pyi",
    "py.typed",
]


def test_the_package_generated_is_the_default(tmp_path: Path) -> None:
    ran = generate(PROTOS, tmp_path)
    assert ran == (0, "", "")
    assert sorted(tree(tmp_path / "generated")) == sorted(GENERATED)
    python("import generated.acme.orders_txzmq", tmp_path)


def test_the_package_works_under_any_name_and_in_any_place(tmp_path: Path) -> None:
    generate(PROTOS, tmp_path)
    shutil.copytree(tmp_path / "generated", tmp_path / "some" / "where" / "other_name")
    python("import some.where.other_name.acme.orders_txzmq", tmp_path)


def test_absolute_imports_for_a_folder_on_the_path(tmp_path: Path) -> None:
    protos = {**PROTOS, "shop/cart.proto": CART}
    assert generate(protos, tmp_path, "-o", "src", "--imports", "absolute").status == 0
    files = tree(tmp_path / "src")
    assert "__init__.py" not in files
    assert {"acme/py.typed", "shop/py.typed", "acme/__init__.py", "shop/__init__.py"} <= set(files)
    assert "from acme import orders_pb2 as _acme_orders_pb2" in files["shop/cart_txzmq.py"]
    python("import shop.cart_txzmq", tmp_path / "src")


CART = """syntax = "proto3";
package shop;
import "acme/orders.proto";
message Cart { acme.Order order = 1; }
service Carts { rpc Buy(Cart) returns (acme.Order); }
"""


def test_included_protos_are_imported_and_not_generated(tmp_path: Path) -> None:
    write_protos({"acme/orders.proto": ORDERS}, tmp_path / "third_party")
    ran = generate({"shop/cart.proto": CART}, tmp_path, "-I", "third_party")
    assert ran.status == 0
    files = tree(tmp_path / "generated")
    assert not [name for name in files if name.startswith("acme")]
    assert "\nfrom acme import orders_pb2 as _acme_orders_pb2\n" in files["shop/cart_txzmq.py"]
    assert "\nfrom acme import orders_pb2 as _orders_pb2\n" in files["shop/cart_pb2.pyi"]


def test_several_roots_make_one_package(tmp_path: Path) -> None:
    write_protos({"acme/orders.proto": ORDERS}, tmp_path / "one")
    write_protos({"shop/cart.proto": CART}, tmp_path / "two")
    assert run("one", "two", folder=tmp_path).status == 0
    python("import generated.shop.cart_txzmq", tmp_path)


def test_a_part_of_an_include_folder_can_be_chosen(tmp_path: Path) -> None:
    write_protos({**PROTOS, "shop/cart.proto": CART}, tmp_path / "protos")
    assert run("protos/shop", "-I", "protos", folder=tmp_path).status == 0
    names = tree(tmp_path / "generated")
    assert "shop/cart_txzmq.py" in names
    assert not [name for name in names if name.startswith("acme")]


def test_single_files_can_be_chosen(tmp_path: Path) -> None:
    write_protos(PROTOS, tmp_path / "protos")
    assert run("protos/acme/users.proto", "-I", "protos", folder=tmp_path).status == 0
    assert "acme/users_pb2.py" in tree(tmp_path / "generated")
    assert "acme/orders_pb2.py" not in tree(tmp_path / "generated")


EMPTY = """syntax = "proto3";
package google.protobuf;
message Empty {}
"""


def test_vendored_well_known_protos_are_left_to_protobuf(tmp_path: Path) -> None:
    protos = {**PROTOS, "google/protobuf/empty.proto": EMPTY}
    assert generate(protos, tmp_path).status == 0
    assert sorted(tree(tmp_path / "generated")) == sorted(GENERATED)


def test_our_own_options_are_found_and_left_to_the_runtime(tmp_path: Path) -> None:
    ran = run("--print-include")
    folder = Path(ran.out.strip())
    assert (folder / "txzmq/rpc/v1/options.proto").is_file()
    proto = """syntax = "proto3";
import "txzmq/rpc/v1/options.proto";
message M { txzmq.rpc.v1.StreamOptions options = 1; }
"""
    assert generate({"x.proto": proto}, tmp_path).status == 0
    assert "from txzmq.rpc.v1 import options_pb2" in tree(tmp_path / "generated")["x_pb2.py"]
    python("import generated.x_pb2", tmp_path)


def test_check_passes_when_nothing_would_change(tmp_path: Path) -> None:
    generate(PROTOS, tmp_path)
    assert run("protos", "--check", folder=tmp_path) == (0, "", "")


def test_check_lists_missing_changed_and_stale_files(tmp_path: Path) -> None:
    generate({**PROTOS, "acme/old.proto": USERS.replace("User", "Old")}, tmp_path)
    (tmp_path / "protos/acme/old.proto").unlink()
    (tmp_path / "generated/acme/users_pb2.py").unlink()
    changed = tmp_path / "generated/acme/orders_txzmq.py"
    changed.write_text(changed.read_text("utf-8") + "# by hand\n", "utf-8")
    before = tree(tmp_path / "generated")
    ran = run("protos", "--check", folder=tmp_path)
    assert ran.status == 3
    assert ran.out.splitlines() == [
        "generated/acme/users_pb2.py: missing",
        "generated/acme/orders_txzmq.py: changed",
        "generated/acme/old_pb2.py: stale",
        "generated/acme/old_pb2.pyi: stale",
    ]
    assert ran.err.splitlines() == [
        "error: 4 files are not up to date",
        "  help: run the same command without --check, and with --prune to delete stale files",
    ]
    assert tree(tmp_path / "generated") == before


def test_diff_shows_how(tmp_path: Path) -> None:
    generate(PROTOS, tmp_path)
    changed = tmp_path / "generated/acme/__init__.py"
    changed.write_text(MARKER + "\n# by hand\n", "utf-8")
    (tmp_path / "generated/acme/users_pb2.py").unlink()
    ran = run("protos", "--check", "--diff", folder=tmp_path)
    assert ran.status == 3
    lines = ran.out.splitlines()
    assert lines[:5] == [
        "--- generated/acme/__init__.py",
        "+++ generated/acme/__init__.py",
        "@@ -1,2 +1 @@",
        f" {MARKER}",
        "-# by hand",
    ]
    assert "--- /dev/null" in lines
    assert "+++ generated/acme/users_pb2.py" in lines


def test_only_changed_files_are_touched(tmp_path: Path) -> None:
    generate(PROTOS, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("generated/**/*.py*")}
    write_protos({"acme/users.proto": USERS + "message More {}\n"}, tmp_path / "protos")
    for path in stamps:
        os.utime(path, ns=(1, 1))
    assert run("protos", folder=tmp_path).status == 0
    touched = sorted(path.name for path in stamps if path.stat().st_mtime_ns != 1)
    assert touched == ["users_pb2.py", "users_pb2.pyi"]


def test_stale_files_stay_unless_pruned(tmp_path: Path) -> None:
    protos = {
        **PROTOS,
        "gone/deep/old.proto": CART.replace("acme.Order", "Cart").replace(
            'import "acme/orders.proto";\n', ""
        ),
    }
    generate(protos, tmp_path)
    shutil.rmtree(tmp_path / "protos/gone")
    assert run("protos", folder=tmp_path).status == 0
    assert (tmp_path / "generated/gone/deep/old_txzmq.py").exists()
    assert run("protos", "--prune", folder=tmp_path).status == 0
    assert sorted(tree(tmp_path / "generated")) == sorted(GENERATED)
    assert not (tmp_path / "generated/gone").exists()


def test_pruning_leaves_what_others_wrote(tmp_path: Path) -> None:
    generate({**PROTOS, "gone/old.proto": USERS.replace("User", "Old")}, tmp_path)
    (tmp_path / "generated/gone/by_hand.py").write_text("x = 1\n", "utf-8")
    (tmp_path / "generated/acme/helper_pb2.py").write_text("x = 1\n", "utf-8")
    shutil.rmtree(tmp_path / "protos/gone")
    assert run("protos", "--prune", folder=tmp_path).status == 0
    names = tree(tmp_path / "generated")
    assert {"gone/by_hand.py", "gone/__init__.py", "acme/helper_pb2.py"} <= set(names)
    assert "gone/old_pb2.py" not in names


def test_pruning_leaves_other_output_folders(tmp_path: Path) -> None:
    write_protos(PROTOS, tmp_path / "protos")
    run("protos", "-o", "src/inner/generated", folder=tmp_path)
    before = tree(tmp_path / "src/inner")
    write_protos({"shop/x.proto": USERS.replace("acme", "shop")}, tmp_path / "more")
    options = ("-o", "src", "--imports", "absolute", "--prune")
    assert run("more", *options, folder=tmp_path).status == 0
    assert tree(tmp_path / "src/inner") == before


def test_a_hand_made_package_is_respected(tmp_path: Path) -> None:
    package = tmp_path / "src/acme"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Ours."""\n', "utf-8")
    write_protos(PROTOS, tmp_path / "protos")
    options = ("protos", "-o", "src", "--imports", "absolute")
    assert run(*options, folder=tmp_path).status == 0
    assert (package / "__init__.py").read_text("utf-8") == '"""Ours."""\n'
    assert not (package / "py.typed").exists()
    assert run(*options, "--check", folder=tmp_path).status == 0


def test_a_namespace_that_others_share_gets_no_init(tmp_path: Path) -> None:
    protos = {"google/acme/users.proto": USERS}
    assert generate(protos, tmp_path, "-o", "src", "--imports", "absolute").status == 0
    assert "google/__init__.py" not in tree(tmp_path / "src")
    python("import google.acme.users_pb2, google.protobuf", tmp_path / "src")


def test_a_file_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "generated/acme/users_pb2.py"
    target.parent.mkdir(parents=True)
    target.write_text("mine = 1\n", "utf-8")
    ran = generate(PROTOS, tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("generated/acme/users_pb2.py:1:1: error: this file was not generated")
    assert tree(tmp_path / "generated") == {"acme/users_pb2.py": "mine = 1\n"}


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_all_files_are_written_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    generate({**PROTOS, "acme/gone.proto": USERS.replace("User", "Gone")}, tmp_path)
    before = tree(tmp_path / "generated")
    (tmp_path / "protos/acme/gone.proto").unlink()
    more = {"acme/users.proto": USERS + "message More {}\n", "new/x.proto": CART}
    write_protos(more, tmp_path / "protos")
    replace, calls = os.replace, 0

    def full_disk(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr("txzmq_codegen.output.os.replace", full_disk)
    ran = run("protos", "--prune", folder=tmp_path)
    assert calls == fails_at
    assert ran.status == 1
    assert "No space left on device" in ran.err
    assert tree(tmp_path / "generated") == before
    assert not [path for path in (tmp_path / "generated").rglob("*") if path.name == "new"]


def test_files_keep_to_the_umask(tmp_path: Path) -> None:
    generate(PROTOS, tmp_path)
    expected = tmp_path / "any"
    expected.touch()
    mode = stat.S_IMODE((tmp_path / "generated/py.typed").stat().st_mode)
    assert mode == stat.S_IMODE(expected.stat().st_mode)


def test_a_descriptor_set_is_written_and_read(tmp_path: Path) -> None:
    ran = generate({**PROTOS, "shop/cart.proto": CART}, tmp_path, "--descriptor-set", "d/set.binpb")
    assert ran.status == 0
    descriptors = FileDescriptorSet.FromString((tmp_path / "d/set.binpb").read_bytes())
    names = [file.name for file in descriptors.file]
    assert sorted(names) == ["acme/orders.proto", "acme/users.proto", "shop/cart.proto"]
    assert run("d/set.binpb", "-o", "again", folder=tmp_path).status == 0
    once, again = tree(tmp_path / "generated"), tree(tmp_path / "again")
    assert sorted(once) == sorted(again)
    # protoc itself adds the JSON names that a set spells out, and only those.
    different = {name for name in once if once[name] != again[name]}
    assert different == {"shop/cart_pb2.py"}


def test_json_errors_are_one_object_a_line(tmp_path: Path) -> None:
    ran = generate({"x.proto": "syntax = 'proto3';\nmessage {}\n"}, tmp_path, "--error-format=json")
    assert ran.status == 1
    (problem,) = map(json.loads, ran.err.splitlines())
    assert (problem["file"], problem["line"], problem["column"]) == ("protos/x.proto", 2, 9)
    assert problem["severity"] == "error"


def test_a_warning_does_not_fail(tmp_path: Path) -> None:
    proto = 'syntax = "proto3";\nimport "google/protobuf/empty.proto";\n'
    ran = generate({"x.proto": proto}, tmp_path)
    assert ran.status == 0
    assert ran.err.startswith("protos/x.proto:2:1: warning: Import google/protobuf/empty.proto is")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no protos given"),
        (("nowhere",), "nowhere does not exist"),
        (("protos", "-I", "nowhere"), "nowhere does not exist"),
        (("empty",), "no .proto files in empty"),
        (("protos", "-I", "protos/x.proto"), "protos/x.proto is not a folder"),
        (("junk.bin",), "junk.bin holds neither protos nor a FileDescriptorSet"),
        (("protos", "--check", "--watch"), "--check and --watch exclude each other"),
        (("protos", "--against", "nothing"), "--against nothing"),
        (("protos", "junk.bin"), "not both in one run"),
        (("protos", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("protos", "--imports", "sideways"), "invalid choice: 'sideways'"),
    ],
)
def test_wrong_usage_is_status_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    write_protos({"x.proto": USERS}, tmp_path / "protos")
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.bin").write_bytes(b"\xff\xfejunk")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    ran = run(*arguments, folder=tmp_path)
    assert ran.status == 2
    assert said in ran.err
    assert not (tmp_path / "generated").exists()


def test_the_root_of_a_project_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("", "utf-8")
    ran = generate(PROTOS, tmp_path, "-o", ".")
    assert ran.status == 2
    assert "--imports absolute" in ran.err


def test_one_name_for_two_files_is_an_error(tmp_path: Path) -> None:
    write_protos({"x.proto": USERS}, tmp_path / "one")
    write_protos({"x.proto": USERS}, tmp_path / "two")
    ran = run("one", "two", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("two/x.proto:1:1: error: two/x.proto and one/x.proto are both")


def test_overlapping_folders_are_one(tmp_path: Path) -> None:
    write_protos(PROTOS, tmp_path / "protos")
    assert run("protos", "protos/acme", "protos/acme/users.proto", folder=tmp_path).status == 0
    assert sorted(tree(tmp_path / "generated")) == sorted(GENERATED)


def test_a_bug_of_ours_is_status_70(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(txzmq_codegen.cli, "plan", broken)
    ran = generate(PROTOS, tmp_path)
    assert ran.status == 70
    assert "RuntimeError: a bug" in ran.err
    assert ran.err.endswith("error: this is a bug in txzmq.codegen; please report it\n")


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txzmq_codegen.protoc._TOOLS", ("no_such_tool",))
    ran = generate(PROTOS, tmp_path)
    assert ran.status == 2
    assert "pip install 'txzmq[codegen]'" in ran.err


def test_the_door_works(tmp_path: Path) -> None:
    write_protos(PROTOS, tmp_path / "protos")
    environment = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "codegen", ROOT)))}
    door = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['protos', '--check']\n"
        "runpy.run_module('txzmq.codegen', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", door],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
    )
    assert done.returncode == 3
    assert b"generated/acme/orders_txzmq.py: missing" in done.stdout


class Stop(Exception):
    """Ends a watch."""


def test_watch_generates_again_after_each_change(tmp_path: Path) -> None:
    write_protos(PROTOS, tmp_path)
    runs: list[int] = []
    looks = 0

    def wait() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            write_protos({"acme/users.proto": USERS + "message More {}\n"}, tmp_path)
        if looks == 4:
            write_protos({"acme/new.proto": USERS}, tmp_path)
        if looks == 6:
            (tmp_path / "acme/new.proto").unlink()
        if looks == 9:
            raise Stop

    with pytest.raises(Stop):
        watch([tmp_path], lambda: runs.append(looks), wait)
    assert runs == [0, 2, 4, 6]


def test_watch_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_protos({"x.proto": "nonsense"}, tmp_path / "protos")
    looks = 0

    def wait(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise KeyboardInterrupt
        write_protos({"x.proto": USERS}, tmp_path / "protos")

    monkeypatch.setattr("txzmq_codegen.cli.time.sleep", wait)
    ran = run("protos", "--watch", folder=tmp_path)
    assert ran.status == 130
    assert "protos/x.proto:1:1: error" in ran.err
    assert "x_pb2.py" in tree(tmp_path / "generated")


def test_a_snapshot_sees_single_files_and_forgets_those_that_are_gone(tmp_path: Path) -> None:
    write_protos({"x.proto": USERS}, tmp_path)
    file = tmp_path / "x.proto"
    assert list(snapshot([file])) == [str(file)]
    file.unlink()
    assert snapshot([tmp_path]) == {}


def test_usage_errors_carry_help() -> None:
    error = UsageError("what", "help")
    assert (str(error), error.help) == ("what", "help")


_OTHER_TOOL = """
import sys
print("said by the tool", file=sys.stderr)
sys.exit(5)
"""


def test_what_a_failing_tool_says_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "tools/mypy_protobuf"
    tool.mkdir(parents=True)
    (tool / "__init__.py").touch()
    (tool / "main.py").write_text(_OTHER_TOOL, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tool.parent))
    ran = generate(PROTOS, tmp_path)
    assert ran.status == 70
    assert ran.err == "error: mypy-protobuf failed with status 5\nsaid by the tool\n"
    assert not (tmp_path / "generated").exists()


def test_what_a_tool_says_is_not_shown_otherwise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    comment = 'syntax = "proto3"; message M {\n  // \\N{no such character}\n'
    assert generate({"x.proto": f"{comment} option deprecated = true; }}"}, tmp_path).status == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("it's/x.proto", "it_s.x"),
        ('q"uoted.proto', "q_uoted"),
        ("back\\Nslash.proto", "back_Nslash"),
        ("a b.proto", "a_b"),
        ("-o.proto", "_o"),
        ("@at.proto", "_at"),
        ("#hash.proto", "_hash"),
        ("{0}%s$x.proto", "_0__s_x"),
        ("x_pb2.proto", "x_pb2"),
        ("__init__.proto", "__init__"),
        ("Straße/München.proto", "Stra_e.M_nchen"),
    ],
)
def test_a_file_may_have_any_name(tmp_path: Path, name: str, module: str) -> None:
    text = ORDERS.replace("acme", "odd")
    assert generate({name: text, "importer.proto": _importer(name)}, tmp_path).status == 0
    python(f"import generated.{module}_txzmq, generated.importer_txzmq", tmp_path)
    assert run("protos", "--check", folder=tmp_path) == (0, "", "")


def _importer(name: str) -> str:
    name = name.replace("\\", "\\\\").replace('"', '\\"')
    return f"""syntax = "proto3";
import "{name}";
service S {{ rpc Do(odd.Order) returns (odd.Order); }}
"""


def test_a_name_over_two_lines_is_an_error(tmp_path: Path) -> None:
    ran = generate({"a\nb.proto": ORDERS}, tmp_path)
    assert ran.status == 1
    assert ran.err.splitlines() == [
        "protos/a\\nb.proto:1:1: error: there are unprintable characters in the name of this file",
        "  help: rename it",
    ]


def test_whoever_reads_the_differences_may_stop_early(tmp_path: Path) -> None:
    write_protos(PROTOS, tmp_path / "protos")
    many = {f"p{number}.proto": ORDERS.replace("acme", f"p{number}") for number in range(60)}
    write_protos(many, tmp_path / "protos")
    command = [sys.executable, "-m", "txzmq_codegen", "protos", "--check", "--diff"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "codegen")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as head does
        assert process.stderr.read() == b""
    assert process.returncode == 1
