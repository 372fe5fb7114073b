"""What a run tells, of what, in which order: as text, as JSON, and while it watches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.codegen.support import generate, run, write_protos
from txzmq_codegen.problems import Position, Problem, UsageError
from txzmq_codegen.report import Report

MESSAGE = 'syntax = "proto3";\npackage acme;\nmessage M {}\n'
BOTH = "run the same command without --check, and with --prune to delete stale files"
UNUSED = MESSAGE + 'import "google/protobuf/empty.proto";\n'


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def stale(tmp_path: Path) -> Path:
    """A folder whose output has two files of a proto that is gone."""
    protos = {"x.proto": MESSAGE, "old.proto": MESSAGE.replace("M", "Old")}
    assert generate(protos, tmp_path).status == 0
    (tmp_path / "protos/old.proto").unlink()
    return tmp_path


def test_stale_files_alone_are_for_prune(stale: Path) -> None:
    ran = run("protos", "--check", folder=stale)
    assert ran.status == 3
    assert ran.out == "generated/old_pb2.py: stale\ngenerated/old_pb2.pyi: stale\n"
    assert ran.err.splitlines() == [
        "error: 2 files are not up to date",
        "  help: run the same command with --prune in place of --check",
    ]
    assert run("protos", "--prune", folder=stale) == (0, "", "")
    assert run("protos", "--check", folder=stale) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "gone", "advice"),
    [
        (["--check", "--prune"], False, "run the same command without --check"),
        (["--check"], True, BOTH),
        (["--check", "--prune"], True, "run the same command without --check"),
    ],
)
def test_the_advice_of_check_is_what_helps(
    stale: Path, options: list[str], gone: bool, advice: str
) -> None:
    if gone:
        (stale / "generated/x_pb2.py").unlink()
    ran = run("protos", *options, folder=stale)
    assert ran.status == 3
    assert ran.err.splitlines()[1] == f"  help: {advice}"
    assert run("protos", "--prune", folder=stale) == (0, "", "")
    assert run("protos", *options, folder=stale) == (0, "", "")


def test_missing_files_alone_need_no_prune(tmp_path: Path) -> None:
    ran = generate({"x.proto": MESSAGE}, tmp_path, "--check")
    assert ran.err.endswith("  help: run the same command without --check\n")


def test_a_run_says_how_many_files_are_stale(stale: Path) -> None:
    ran = run("protos", folder=stale)
    assert ran.status == 0
    assert ran.out == ""
    assert ran.err.splitlines() == [
        "generated: warning: 2 files are stale: their protos are gone",
        "  help: --prune deletes them",
    ]
    (stale / "generated/old_pb2.pyi").unlink()
    assert "1 file is stale: its proto is gone" in run("protos", folder=stale).err


def test_json_tells_of_each_stale_file(stale: Path) -> None:
    ran = run("protos", "--error-format", "json", folder=stale)
    assert (ran.status, ran.out) == (0, "")
    assert objects(ran.err) == [
        {
            "file": f"generated/old_pb2.{end}",
            "line": 0,
            "column": 0,
            "severity": "warning",
            "rule": "STALE",
            "message": "stale",
            "help": "--prune deletes them",
        }
        for end in ("py", "pyi")
    ]


def test_json_tells_what_check_finds(stale: Path) -> None:
    (stale / "generated/x_pb2.py").unlink()
    stub = stale / "generated/x_pb2.pyi"
    stub.write_text(stub.read_text("utf-8") + "# by hand\n", "utf-8")
    ran = run("protos", "--check", "--error-format", "json", folder=stale)
    assert (ran.status, ran.out) == (3, "")
    found = [(it["file"], it["rule"], it["severity"], it["message"]) for it in objects(ran.err)]
    assert found == [
        ("generated/x_pb2.py", "MISSING", "error", "missing"),
        ("generated/x_pb2.pyi", "CHANGED", "error", "changed"),
        ("generated/old_pb2.py", "STALE", "error", "stale"),
        ("generated/old_pb2.pyi", "STALE", "error", "stale"),
    ]
    assert {it["help"] for it in objects(ran.err)} == {BOTH}


def test_json_tells_of_wrong_usage_and_of_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = objects(run("nowhere", "--error-format=json", folder=tmp_path).err)
    assert (found["file"], found["message"]) == ("", "nowhere does not exist")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "generated/x_pb2.py")

    monkeypatch.setattr("txzmq_codegen.cli.write", full)
    (found,) = objects(generate({"x.proto": MESSAGE}, tmp_path, "--error-format=json").err)
    assert found["message"] == "generated/x_pb2.py: No space left on device"


def _many(folder: Path, count: int) -> None:
    protos = {f"u{n}.proto": UNUSED.replace("acme", f"acme.u{n}") for n in range(count)}
    write_protos(protos, folder / "protos")


def test_very_many_warnings_are_cut_short(tmp_path: Path) -> None:
    _many(tmp_path, 30)
    ran = run("protos", folder=tmp_path)
    assert ran.status == 0
    lines = ran.err.splitlines()
    assert sum(": warning: Import" in line for line in lines) == 20
    assert lines[-2:] == [
        "warning: 10 more warnings are not shown",
        "  help: --error-format json shows all of them",
    ]
    assert len(objects(run("protos", "--error-format=json", folder=tmp_path).err)) == 30


@pytest.mark.parametrize(("count", "shown"), [(4, 4), (30, 3)])
def test_errors_come_first_and_few_warnings_after_them(
    tmp_path: Path, count: int, shown: int
) -> None:
    _many(tmp_path, count)
    clash = "service S { rpc Foo(M) returns (M); rpc _Foo(M) returns (M); }\n"
    bad = {
        "bad.proto": MESSAGE.replace("acme", "bad") + "message {}\n",
        "z.proto": MESSAGE.replace("acme", "z") + clash,
    }
    ran = generate(bad, tmp_path)
    assert ran.status == 1
    kinds = [line.split(": ")[1] for line in ran.err.splitlines() if ".proto:" in line]
    assert kinds == ["error"] * 2 + ["warning"] * shown
    assert ran.err.splitlines()[0].startswith("protos/bad.proto:4:9: error: ")
    hidden = f"warning: {count - shown} more warnings are not shown"
    assert (hidden in ran.err) == (count > shown)


def test_one_warning_more_is_shown_rather_than_counted(capsys: pytest.CaptureFixture[str]) -> None:
    one = Problem(Position("x.proto", 1, 1), "said", severity="warning")
    Report("text").problems([one] * 21)
    assert capsys.readouterr().err.count("x.proto:1:1: warning: said\n") == 21


def test_each_error_of_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Report("text").usage(UsageError("one", "do", [UsageError("two"), UsageError("three", "be")]))
    lines = ["error: one", "  help: do", "error: two", "error: three", "  help: be"]
    assert capsys.readouterr().err.splitlines() == lines


def _watch(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What a watch says while a proto is fine, broken, fine, and fine and another."""
    texts = ["nonsense", MESSAGE, MESSAGE, MESSAGE + "message N {}\n"]
    write_protos({"x.proto": MESSAGE}, folder / "protos")

    def wait(_: float) -> None:
        if not texts:
            raise KeyboardInterrupt
        write_protos({"x.proto": texts.pop(0)}, folder / "protos")

    monkeypatch.setattr("txzmq_codegen.cli.time.sleep", wait)
    ran = run("protos", "--watch", *options, folder=folder)
    assert (ran.status, ran.out) == (130, "")
    return ran.err


def test_a_watch_says_that_it_watches_what_it_wrote_and_when_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = _watch(tmp_path, monkeypatch).splitlines()
    assert lines[:4] == [f"generated/{name}: written" for name in FILES]
    assert lines[4:6] == [
        "generated: 4 files written, 0 unchanged",
        "watching protos; Ctrl-C ends it",
    ]
    assert lines[6].startswith("protos/x.proto:1:1: error: ")
    well = lines.index("all is well again")
    assert lines[well - 1] == "generated: 0 files written, 3 unchanged"
    assert lines[-3:] == [
        "generated/x_pb2.py: written",
        "generated/x_pb2.pyi: written",
        "generated: 2 files written, 1 unchanged",
    ]
    assert lines.count("all is well again") == 1


FILES = ("__init__.py", "py.typed", "x_pb2.py", "x_pb2.pyi")


def test_a_watch_speaks_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = objects(_watch(tmp_path, monkeypatch, "--error-format=json"))
    told = [it["message"] for it in found if it["severity"] == "info"]
    assert "watching protos; Ctrl-C ends it" in told
    assert "all is well again" in told
    assert {it["severity"] for it in found} == {"info", "error"}


def test_a_watch_that_begins_with_an_error_says_when_it_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_protos({"y.proto": "nonsense"}, tmp_path / "protos")
    looks = 0

    def wait(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise KeyboardInterrupt
        (tmp_path / "protos/y.proto").unlink()
        write_protos({"x.proto": MESSAGE}, tmp_path / "protos")

    monkeypatch.setattr("txzmq_codegen.cli.time.sleep", wait)
    lines = run("protos", "--watch", folder=tmp_path).err.splitlines()
    assert "watching protos; Ctrl-C ends it" in lines
    assert lines[-1] == "all is well again"
