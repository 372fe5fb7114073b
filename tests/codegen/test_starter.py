"""``--init``: what it writes runs, and passes both checkers; what it refuses, it leaves alone."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codegen.support import run, tree
from tests.programs import running, succeeds
from txzmq_codegen import starter as starter_module
from txzmq_codegen.problems import UsageError
from txzmq_codegen.starter import check_service, starter

FILES = [
    "README.md",
    "client.py",
    "protos/hello/v1/hello.proto",
    "pyproject.toml",
    "server.py",
    "test_hello.py",
]


def init(folder: Path, *arguments: str | Path) -> list[str]:
    """Run ``--init`` in *folder*; the commands that it says come next."""
    ran = run("--init", *arguments, folder=folder)
    assert (ran.status, ran.err) == (0, "")
    return re.findall(r"^    (.+?)(?: +#.*)?$", ran.out, re.MULTILINE)


def has_pytest_and_server(folder: Path) -> None:
    """Run the tests, then the server, and the client against it."""
    # Not the options that this run of pytest has.
    said = succeeds(["-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder)
    assert "2 passed" in said
    with running("server.py", "tcp://127.0.0.1:*", cwd=folder) as server:
        endpoint = server.expect(r"listening on (\S+)")[1]
        printed = succeeds(["client.py", endpoint], cwd=folder)
        assert printed == "Hello, World!\nINVALID_ARGUMENT: whom shall I greet?"
        server.interrupt()


def test_what_it_writes_runs_and_is_typed(tmp_path: Path) -> None:
    commands = init(tmp_path)
    assert commands == ["python -m txzmq.codegen", "python server.py", "python client.py"]
    assert sorted(tree(tmp_path)) == FILES
    succeeds(commands[0].split()[1:], cwd=tmp_path)
    has_pytest_and_server(tmp_path)
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    server = tmp_path / "server.py"
    right = server.read_text("utf-8")
    # pyright is told what it finds by itself in an environment that is active.
    for checker in (["mypy"], ["pyright", "--pythonpath", sys.executable]):
        assert check(tmp_path, *checker)[0] == 0
        # And not for want of looking.
        server.write_text(right.replace("not request.name", "request.name + 1"), "utf-8")
        status, said = check(tmp_path, *checker)
        assert status == 1
        line = right.splitlines().index("        if not request.name:") + 1
        assert f"server.py:{line}:" in said
        server.write_text(right, "utf-8")


def check(folder: Path, *checker: str) -> tuple[int, str]:
    """The exit status of a checker, and what it says; it may take its time."""
    done = subprocess.run(
        [sys.executable, "-m", *checker], cwd=folder, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "service"),
    [
        ("a b/ü ñ 名/'$HOME\n", "HTTPServer2"),
        ("-x/generated", "Google"),  # a package that others share
        ("txzmq", "Class"),  # the runtime's name, and a keyword as a package
    ],
)
def test_odd_folders_and_services(tmp_path: Path, place: str, service: str) -> None:
    folder = tmp_path / place
    ran = run(f"--init={place}", "--service", service, folder=tmp_path)
    assert (ran.status, ran.err) == (0, "")
    succeeds(["-m", "txzmq.codegen"], cwd=folder)
    has_pytest_and_server(folder)


def test_a_package_around_it(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="the type checkers are not installed")
    (tmp_path / "__init__.py").touch()
    init(tmp_path)
    succeeds(["-m", "txzmq.codegen"], cwd=tmp_path)
    has_pytest_and_server(tmp_path)
    status, said = check(tmp_path, "mypy")
    assert status == 0, said


def started(folder: Path, command: str) -> str:
    """Run ``$INIT`` in a shell's *command*; what it says."""
    environ = {**os.environ, "INIT": f"{sys.executable} -m txzmq.codegen --init"}
    environ["PYTHONIOENCODING"] = "ascii"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@needs_bash
def test_an_output_in_ascii(tmp_path: Path) -> None:
    said = started(tmp_path, "$INIT ü名")
    assert r"/\xfc\u540d." in said
    assert "python client.py" in said
    assert sorted(tree(tmp_path / "ü名")) == FILES


@needs_bash
def test_an_output_that_nobody_reads(tmp_path: Path) -> None:
    """The files are there, so it is no error."""
    assert started(tmp_path, "set -o pipefail; $INIT shop | exec 0<&-; $INIT closed >&-") == ""
    assert sorted(tree(tmp_path / "shop")) == FILES
    assert sorted(tree(tmp_path / "closed")) == FILES


def test_it_goes_beside_what_is_there(tmp_path: Path) -> None:
    other = tmp_path / "protos/acme/orders.proto"
    other.parent.mkdir(parents=True)
    other.write_text('syntax = "proto3"; package acme; message Order {}', "utf-8")
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    before = tree(tmp_path)
    init(tmp_path)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == FILES
    succeeds(["-m", "txzmq.codegen"], cwd=tmp_path)
    assert (tmp_path / "generated/acme/orders_pb2.py").exists()


def test_a_broken_project_around_it_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.txzmq.codegen]\nprotos = 3\n", "utf-8")
    init(tmp_path, "inside")
    assert run(folder=tmp_path / "inside").status == 0


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine", "utf-8")
    ran = run("--init", folder=tmp_path)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        f"{name}: error: this is there already, and is not overwritten\n"
        "  help: name another folder: --init FOLDER\n"
    )
    assert tree(tmp_path) == {name: "mine"}


def test_all_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    init(tmp_path)
    before = tree(tmp_path)
    ran = run("--init", "--error-format", "json", folder=tmp_path)
    assert ran.status == 1
    assert [json.loads(line)["file"] for line in ran.err.splitlines()] == FILES
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="the platform has no links")
def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/server.py").symlink_to(tmp_path / "elsewhere.py")
    ran = run("--init", "shop", folder=tmp_path)
    assert ran.status == 1
    assert ran.err.startswith("shop/server.py: error: this is there already")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("place", ["protos", "protos/hello", "shop", "shop/inner"])
def test_a_file_where_a_folder_is_due(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine", "utf-8")
    ran = run("--init", *(["shop/inner"] if "shop" in place else []), folder=tmp_path)
    assert ran.status == 1
    assert ran.err == (
        f"{place}: error: this is no folder, and one is needed here\n"
        "  help: name another folder: --init FOLDER\n"
    )
    assert tree(tmp_path) == {place: "mine"}


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, who may run the tests, writes everywhere: the folder says no by itself."""

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    ran = run("--init", "shop", folder=tmp_path)
    assert ran == (2, "", "error: shop: Permission denied\n")


@pytest.mark.parametrize("working", range(len(FILES)))
def test_a_disk_that_is_full_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, working: int
) -> None:
    replace, calls = os.replace, list[str]()

    def full(source: str, target: str) -> None:
        if len(calls) == working:
            raise OSError(errno.ENOSPC, "No space left on device", target)
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    ran = run("--init", "shop", folder=tmp_path)
    assert ran.status == 2
    assert ran.err.endswith(": No space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_leaves_nothing(tmp_path: Path) -> None:
    ran = run("--init", "shop", "--service", "A" * 300, folder=tmp_path)
    assert ran.status == 2
    assert "File name too long" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "help"),
    [
        ("orders", "did you mean Orders?"),
        ("order-book", "did you mean OrderBook?"),
        ("order_book", "did you mean OrderBook?"),
        ("acme.v1.Orders", "did you mean AcmeV1Orders?"),
        ("Orders\n", "did you mean Orders?"),
        ("../../Orders", "did you mean Orders?"),
        ("server", "for instance: --service Orders"),
        ("1st", "for instance: --service Orders"),
        ("Größe", "did you mean GrE?"),
        ("", "for instance: --service Orders"),
        ("TestRuns", "for instance: --service Orders"),  # a class that pytest takes for tests
        ("test-runs", "for instance: --service Orders"),
        ("None", "choose another one, for instance NoneService"),
        ("Server", "choose another one, for instance ServerService"),
        ("SayHelloRequest", "choose another one, for instance SayHelloRequestService"),
    ],
)
def test_a_wrong_name_is_refused(tmp_path: Path, name: str, help: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_service(name)
    assert caught.value.help == help
    assert run(f"--service={name}", "--init", folder=tmp_path).status == 2
    assert list(tmp_path.iterdir()) == []


def test_the_names_that_are_refused_are_those_of_the_code(tmp_path: Path) -> None:
    used: set[str] = {"SayHelloRequest", "SayHelloResponse"}  # of the proto, too
    for name, text in starter("Zzz").items():
        if name.endswith(".py"):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ImportFrom):
                    used.update(alias.asname or alias.name for alias in node.names)
    capitalised = {name for name in used if name[0].isupper() and "Zzz" not in name}
    assert vars(starter_module)["_TAKEN"] == capitalised


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--service", "Orders"], "--service goes with --init"),
        (["protos", "more", "--init"], "--init writes protos, and takes none: protos more"),
        (["--init", "x", "--check", "-o", "y"], "--init does not go with --check, --output"),
    ],
)
def test_other_options_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = run(*arguments, folder=tmp_path)
    assert ran.status == 2
    assert ran.err.splitlines()[0] == f"error: {said}"
    assert list(tmp_path.iterdir()) == []


def test_what_is_to_come_is_right_for_any_folder(tmp_path: Path) -> None:
    """The folder is named in full, and shown without what a terminal takes for a command."""
    ran = run("--init", "od\x1b[31md", folder=tmp_path)
    first, second, *_ = ran.out.splitlines()
    assert first == (
        f"Wrote {', '.join(FILES[:-1])} and {FILES[-1]} to {tmp_path.resolve()}/od\\x1b[31md."
    )
    assert second == "Next, in that folder:"
    shutil.rmtree(tmp_path / "od\x1b[31md")
