"""Files of keys: those of pyzmq and CZMQ are read, and they read ours."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq.auth.certs
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from tests.auth.support import ALICE, BOB, serving
from tests.support import examples
from txzmq import _certificates
from txzmq.auth import CurveKeyPair

#: Any: pyzmq's types of paths are open.
CERTS: Any = zmq.auth.certs


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    ALICE.save(tmp_path / "alice", metadata={"groups": "staff, admin"})
    loaded = CurveKeyPair.load(tmp_path / "alice.key_secret")
    assert loaded.secret_key == ALICE.secret_key
    assert loaded.public_key == ALICE.public_key
    public = _certificates.read(tmp_path / "alice.key")
    assert public == (ALICE.public_key, "", {"groups": "staff, admin"})


@pytest.mark.parametrize("name", ["alice", "alice.key", "alice.key_secret"])
def test_either_file_may_be_named(tmp_path: Path, name: str) -> None:
    ALICE.save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["alice.key", "alice.key_secret"]


def test_pyzmq_reads_what_is_saved(tmp_path: Path) -> None:
    ALICE.save(tmp_path / "alice", metadata={"name": "Alice"})
    public, secret = ALICE.public_key.encode(), ALICE.secret_key.encode()
    assert CERTS.load_certificate(tmp_path / "alice.key_secret") == (public, secret)
    assert CERTS.load_certificate(tmp_path / "alice.key") == (public, None)
    assert CERTS.load_certificates(tmp_path) == {public: True}


def test_what_pyzmq_saves_is_read(tmp_path: Path) -> None:
    names = CERTS.create_certificates(tmp_path, "alice", metadata={"name": "Alice"})
    public, secret = (Path(name) for name in names)
    secret.chmod(0o600)
    keys = CurveKeyPair.load(secret)
    assert CERTS.load_certificate(secret) == (
        keys.public_key.encode(),
        keys.secret_key.encode(),
    )
    assert _certificates.read(public).public_key == keys.public_key
    assert _certificates.read(secret).metadata == {"name": "Alice"}


def test_what_czmq_saves_is_read(tmp_path: Path) -> None:
    """As ``zcert_save`` writes it: metadata before the keys, each quoted, and four spaces."""
    path = tmp_path / "czmq"
    path.write_text(
        "#   ****  Generated on 2026-01-01 10:00:00 by CZMQ  ****\n"
        "#   ZeroMQ CURVE Public Certificate\n"
        "#   Exchange securely, or use a secure mechanism to verify the contents\n"
        "#   of this file after exchange. Store public certificates in your home\n"
        "#   directory, in the .curve subdirectory.\n\n"
        'metadata\n    email = "a=b@c.org"\n    name = "Alice"\n'
        f'curve\n    public-key = "{ALICE.public_key}"\n'
    )
    certificate = _certificates.read(path)
    assert certificate == (ALICE.public_key, "", {"email": "a=b@c.org", "name": "Alice"})


def test_the_secret_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ALICE.save(tmp_path / "alice")
    finally:
        os.umask(before)
    assert mode(tmp_path / "alice.key_secret") == 0o600
    assert mode(tmp_path / "alice.key") == 0o644


@pytest.mark.parametrize("name", ["alice.key", "alice.key_secret"])
@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_no_key_is_overwritten(tmp_path: Path, name: str, kind: str) -> None:
    there = tmp_path / name
    if kind == "file":
        there.write_text("precious")
    else:
        there.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="never overwritten"):
        ALICE.save(tmp_path / "alice")
    assert os.listdir(tmp_path) == [name]
    if kind == "file":
        assert there.read_text() == "precious"


@pytest.mark.parametrize("bits", [0o604, 0o602, 0o606, 0o640, 0o620, 0o644, 0o777])
def test_a_secret_that_others_can_read_or_write_is_refused(tmp_path: Path, bits: int) -> None:
    ALICE.save(tmp_path / "alice")
    path = tmp_path / "alice.key_secret"
    path.chmod(bits)
    with pytest.raises(PermissionError, match="chmod 600") as caught:
        CurveKeyPair.load(path)
    assert ALICE.secret_key not in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "is_taken"), [(0o440, True), (0o640, True), (0o660, False), (0o644, False)]
)
def test_a_group_may_read_it_where_that_is_said(tmp_path: Path, bits: int, is_taken: bool) -> None:
    ALICE.save(tmp_path / "alice")
    path = tmp_path / "alice.key_secret"
    path.chmod(bits)
    if is_taken:
        assert CurveKeyPair.load(path, allow_group=True).public_key == ALICE.public_key
        with pytest.raises(PermissionError, match="allow_group=True"):
            CurveKeyPair.load(path)
    else:
        with pytest.raises(PermissionError):
            CurveKeyPair.load(path, allow_group=True)


@pytest.mark.parametrize("bits", [0o600, 0o644])
def test_the_file_with_the_public_key_has_no_secret(tmp_path: Path, bits: int) -> None:
    """Also where all may read it, as all may: to protect it would not help."""
    ALICE.save(tmp_path / "alice")
    path = tmp_path / "alice.key"
    path.chmod(bits)
    with pytest.raises(ValueError, match=r"has no secret key; .*NAME\.key_secret"):
        CurveKeyPair.load(path)


def test_keys_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mixed"
    path.write_text(f'public-key = "{BOB.public_key}"\nsecret-key = "{ALICE.secret_key}"\n')
    path.chmod(0o600)
    with pytest.raises(ValueError, match="is not that of the secret key") as caught:
        CurveKeyPair.load(path)
    assert ALICE.secret_key not in str(caught.value)


def test_a_file_that_is_no_certificate_is_told(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"#" * 70_000)
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        _certificates.read(path)
    with pytest.raises(FileNotFoundError):
        _certificates.read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        _certificates.read(tmp_path)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ValueError, match="it has no public-key"):
        _certificates.read(empty)


# -- secrets stay secret ---------------------------------------------------------------------


def test_no_secret_is_in_a_repr() -> None:
    shown = [repr(ALICE), str(ALICE), repr(serving())]
    certificate = _certificates.Certificate(ALICE.public_key, ALICE.secret_key, {})
    shown += [repr(certificate), f"{certificate}"]
    for text in shown:
        assert ALICE.secret_key not in text


def test_a_key_pair_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ALICE)


@pytest.mark.parametrize(
    "wrong",
    [ALICE.secret_key[:-1], ALICE.secret_key + "x", ALICE.secret_key[:-1] + "é"],
    ids=["short", "long", "foreign"],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_should_be_a_key_is_not_shown(wrong: str, as_bytes: bool) -> None:
    value: str | bytes = wrong.encode() if as_bytes else wrong
    with pytest.raises(ValueError, match="40 characters of Z85") as caught:
        CurveKeyPair(value)
    assert wrong[:20] not in str(caught.value)
    assert caught.value.__cause__ is None
    assert wrong[:20] not in repr(caught.value.__context__)


def test_a_key_may_be_text_or_bytes() -> None:
    raw = z85.decode(ALICE.secret_key.encode())
    for each in (ALICE.secret_key, ALICE.secret_key.encode(), bytes(raw)):
        assert CurveKeyPair(each).public_key == ALICE.public_key
    with pytest.raises(TypeError, match="secret_key must be a CURVE key, not int"):
        CurveKeyPair(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what is tested


def complaint(function: Callable[..., object], *args: object, **options: object) -> str:
    """What the ValueError says that a function raises; empty if it raises none."""
    try:
        function(*args, **options)
    except ValueError as error:
        return str(error) or "nothing"
    return ""


# -- any file, any metadata ------------------------------------------------------------------

LINES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"metadata",
            b"curve",
            b'    public-key = "%s"' % ALICE.public_key.encode(),
            b'    secret-key = "%s"' % ALICE.secret_key.encode(),
            b"public-key",
            b"public-key =",
            b"secret-key = ''",
            b"= = =",
            b'secret-key = "%s"' % (b"#" * 40),
            b'public-key = "%s"' % ("\u2028" * 40).encode(),
        ]
    ),
    st.text(alphabet="0123abc.-:+=^!/*?&<>()[]{}@%$#", min_size=40, max_size=40).map(
        lambda key: f"public-key = {key}".encode()
    ),
)


@given(st.lists(LINES, max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r", b"\0"]))
@settings(max_examples=examples(300))
def test_whatever_a_file_has_it_is_a_certificate_or_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(end.join(lines))
    told = complaint(_certificates.read, path)
    assert ALICE.secret_key not in told
    if not told:
        certificate = _certificates.read(path)
        assert _certificates.check_key("key", certificate.public_key) == certificate.public_key
        assert certificate.secret_key in ("", ALICE.secret_key)


@given(st.one_of(st.text(max_size=50), st.binary(max_size=50)))
@settings(max_examples=examples(300))
def test_whatever_should_be_a_key_it_is_one_or_a_value_error(value: str | bytes) -> None:
    told = complaint(_certificates.check_key, "key", value)
    if told:
        assert len(value) < 10 or str(value) not in told
    else:
        key = _certificates.check_key("key", value)
        assert CurveKeyPair(key).secret_key == key


WORDS = st.text(
    alphabet=st.one_of(st.sampled_from("ab-=# \"'\n\t\0"), st.characters(codec="utf-8")),
    max_size=12,
)
NAMES = st.one_of(WORDS, st.sampled_from(["public-key", "secret-key", "groups", "public-keys"]))


@given(st.dictionaries(NAMES, WORDS, max_size=3))
@settings(max_examples=examples(300))
def test_metadata_is_read_as_it_was_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "keys" / "alice"
    path.parent.mkdir(exist_ok=True)
    for left in path.parent.iterdir():
        left.unlink()
    told = complaint(ALICE.save, path, metadata=metadata)
    if told:
        assert "a certificate cannot have the metadata" in told
        assert not os.listdir(path.parent)
        return
    for suffix in (".key", ".key_secret"):
        written = path.with_suffix(suffix)
        certificate = _certificates.read(written)
        assert certificate.metadata == metadata
        assert certificate.public_key == ALICE.public_key
        public, _ = CERTS.load_certificate(written)
        assert public == ALICE.public_key.encode()
