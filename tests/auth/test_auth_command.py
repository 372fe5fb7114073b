"""``python -m txzmq.auth``: keys are made, shown and listed, and never overwritten."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
import zmq.auth

from tests.programs import ROOT, running, succeeds
from txzmq import _auth_command
from txzmq.auth import ClientKeys, CurveKeyPair


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What a command prints that succeeds."""
    assert _auth_command.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is said when a command cannot do what it is told."""
    assert _auth_command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("txzmq.auth: ")
    assert err.count("\n") == 1
    return err.removeprefix("txzmq.auth: ").rstrip("\n")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- new --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such modes")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_new_makes_a_secret_file_and_a_public_one(
    here: Path, capsys: pytest.CaptureFixture[str], umask: int
) -> None:
    before = os.umask(umask)
    try:
        lines = done(capsys, "new", "alice")
    finally:
        os.umask(before)
    secret, public = here / "alice.key_secret", here / "alice.key"
    keys = CurveKeyPair.load(secret)
    assert lines == ["secret key: alice.key_secret", "public key: alice.key", keys.public_key]
    assert mode(secret) == 0o600
    assert mode(public) == 0o644 & ~umask
    assert keys.secret_key.encode() in secret.read_bytes()
    assert keys.secret_key.encode() not in public.read_bytes()
    assert sorted(here.iterdir()) == [public, secret]


def test_pyzmq_reads_what_new_makes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done(capsys, "new", "alice", "--groups", "staff")
    keys = CurveKeyPair.load(here / "alice.key_secret")
    public, secret = keys.public_key.encode(), keys.secret_key.encode()
    load = zmq.auth.load_certificate  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # pyzmq's PathLike is bare
    assert load(here / "alice.key_secret") == (public, secret)
    assert load(here / "alice.key") == (public, None)


def test_groups_are_those_that_a_server_reads(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "clients").mkdir()
    key = done(capsys, "new", "alice", "--folder", "clients", "--groups", " staff,admin ,,")[-1]
    identity = ClientKeys(here / "clients").get(key)
    assert identity is not None
    assert identity.name == "alice"
    assert sorted(identity.groups) == ["admin", "staff"]


def test_a_user_may_have_a_second_key(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = done(capsys, "new", "alice")[-1]
    second = done(capsys, "new", "alice-2027", "--user", "alice")[-1]
    assert sorted(done(capsys, "list", ".")) == sorted([f"{first}  alice", f"{second}  alice"])


@pytest.mark.parametrize("there", ["alice.key_secret", "alice.key"])
def test_new_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    (here / there).write_bytes(b"precious")
    assert "never overwritten" in refused(capsys, "new", "alice")
    assert (here / there).read_bytes() == b"precious"
    assert list(here.iterdir()) == [here / there]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_new_writes_through_no_link(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "alice.key_secret").symlink_to(here / "elsewhere")
    assert "never overwritten" in refused(capsys, "new", "alice")
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize(
    "name", ["", " ", "../alice", "a/b", ".hidden", "..", "/tmp/alice", "a\nb", "\x1b[2J", "\udcff"]
)
def test_a_name_is_no_path(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "cannot be the name of files" in refused(capsys, "new", name)
    assert list(here.iterdir()) == []


def test_the_folder_of_new_must_be_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "new", "a", "--folder", "nix") == "there is no folder nix; make it first"
    assert list(here.iterdir()) == []


def test_groups_that_a_file_cannot_have_leave_no_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for groups in ("a\nb", 'say "hi"', 'a"b', "'staff'", "a\x85b", "a\rsecret-key=b"):
        assert "groups" in refused(capsys, "new", "alice", "--groups", groups)
        assert list(here.iterdir()) == []


# -- public -----------------------------------------------------------------------------------


def test_public_prints_the_key_of_either_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = done(capsys, "new", "alice")[-1]
    assert done(capsys, "public", "alice.key") == [key]
    assert done(capsys, "public", "alice.key_secret") == [key]


def test_public_says_what_is_no_certificate(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "public", "nix.key") == "nix.key: No such file or directory"
    assert refused(capsys, "public", ".") == ".: Is a directory"
    (here / "x.key").write_text("nonsense")
    assert "x.key is no certificate" in refused(capsys, "public", "x.key")
    key = done(capsys, "new", "alice")[-1]
    (here / "y.key").write_text(f'public-key = "{key[1:]}"')
    assert "the public-key of y.key must be a CURVE key" in refused(capsys, "public", "y.key")


# -- list -------------------------------------------------------------------------------------


def test_list_prints_whom_a_server_would_let_in(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "clients").mkdir()
    assert done(capsys, "list", "clients") == []
    bob = done(capsys, "new", "bob", "--folder", "clients", "--groups", "staff,admin")[-1]
    alice = done(capsys, "new", "alice", "--folder", "clients")[-1]
    assert done(capsys, "list", "clients") == [f"{alice}  alice", f"{bob}  bob  (admin, staff)"]
    assert len(ClientKeys(here / "clients")) == 2


def test_list_escapes_what_a_certificate_of_somebody_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = CurveKeyPair.generate()
    (here / "x.key").write_text(f"metadata\n  name = eve\x1b[2J\npublic-key = {keys.public_key}\n")
    assert done(capsys, "list", ".") == [f"{keys.public_key}  eve\\x1b[2J"]


def test_list_says_what_a_server_would_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "list", "nix") == "nix is no folder of certificates"
    done(capsys, "new", "alice")
    (here / "bob.key").write_bytes((here / "alice.key").read_bytes())
    said = refused(capsys, "list", ".")
    assert said == "alice.key and bob.key have the same key; remove one of them"
    with pytest.raises(ValueError, match="have the same key"):
        ClientKeys(here)


# -- the program ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such names there")
def test_no_name_of_a_file_moves_a_cursor(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "\x1b[2J\nred"
    assert refused(capsys, "public", f"{odd}.key").startswith("\\x1b[2J\\nred.key: ")
    (here / f"{odd}.key").write_text("curve")
    for arguments in (("public", f"{odd}.key"), ("list", ".")):
        assert (
            refused(capsys, *arguments)
            == "\\x1b[2J\\nred.key is no certificate: it has no public-key"
        )


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such files")
def test_a_folder_with_what_is_no_file_is_told_and_not_waited_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(here / "alice.key")
    assert refused(capsys, "list", ".") == "alice.key is no file"


@pytest.mark.skipif(sys.platform != "linux", reason="files have no such names elsewhere")
def test_a_name_that_is_no_text_is_nobodys(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done(capsys, "new", "alice")
    os.rename("alice.key", os.fsencode("alice") + b"\xff.key")
    said = refused(capsys, "list", ".")
    assert said == "alice\\udcff.key: name must be text of UTF-8, and has half a character"


def test_the_program_does_the_same(tmp_path: Path) -> None:
    """In a process, in which warnings are errors: of a module that is imported twice, too."""
    command = ["-m", "txzmq.auth"]
    lines = succeeds([*command, "new", "alice", "--folder", tmp_path], cwd=ROOT).splitlines()
    assert succeeds([*command, "public", tmp_path / "alice.key_secret"], cwd=ROOT) == lines[-1]
    with running(*command, "new", "alice", "--folder", tmp_path) as program:
        assert program.wait() == 2
        (said,) = program.output
        file = tmp_path / "alice.key_secret"
        assert said == f"txzmq.auth: {file} is there already, and keys are never overwritten"


@pytest.mark.parametrize(
    "arguments", [[], ["new"], ["public"], ["list"], ["old", "x"], ["new", "a", "b"]]
)
def test_wrong_arguments_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        _auth_command.main(arguments)
    assert raised.value.code == 2
    assert "python -m txzmq.auth" in capsys.readouterr().err


def test_who_reads_no_more_ends_it_quietly(tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        succeeds(["-m", "txzmq.auth", "new", name, "--folder", tmp_path], cwd=ROOT)
    program = f"""
import os, sys
from txzmq import _auth_command
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, sys.stdout.fileno())
os._exit(_auth_command.main(["list", {str(tmp_path)!r}]))
"""
    with running("-c", program) as ended:
        assert ended.wait() == 2
        assert ended.output == []
