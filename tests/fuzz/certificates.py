"""Files that should be certificates."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.fuzz.mutators import mutate_text
from tests.fuzz.wire import expect, of_corpus
from txzmq import _certificates
from txzmq._client_keys import ClientKeys, read_folder
from txzmq.auth import CurveKeyPair

WORDS: Final = (
    *("public-key", "secret-key", "metadata", "curve", " = ", "=", '"', "'", "\n", "\r", "#"),
    *("name", "groups", "    ", "\0", "\u2028", "\x85", "\ufeff", "é", "x" * 40, "\ud800"),
)


def check_certificate(data: bytes) -> None:
    """A file is a certificate, which says the same when it is written anew; or it is refused."""
    with tempfile.TemporaryDirectory(prefix="txzmq-fuzz-") as temporary:
        path = Path(temporary, "x.key")
        path.write_bytes(data)
        try:
            read = _certificates.read(path)
        except ValueError as error:
            _check_refusal(error, path, data)
            return
        expect(not read.secret_key or read.secret_key not in repr(read), "the secret is shown")
        new = Path(temporary, "new.key")
        try:
            _certificates.write(new, read.public_key, read.secret_key, read.metadata)
        except ValueError:
            expect(not new.exists(), "half a file was written")
        else:
            again = _certificates.read(new)
            expect(again == read, f"written anew it says {again.metadata} and not {read.metadata}")
        (identity,) = read_folder(_public_folder(temporary, path))
        expect(identity.public_key == read.public_key, "the clients have another key")


def _public_folder(temporary: str, path: Path) -> Path:
    folder = Path(temporary, "clients")
    folder.mkdir()
    path.rename(folder / path.name)
    return folder


def _check_refusal(error: ValueError, path: Path, data: bytes) -> None:
    """The message shows no secret, and all readers refuse the file."""
    text = str(error)
    expect(text.isprintable(), f"a message that cannot be shown: {text!r}")
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        secret = value.strip(" \t'\"")
        if name.strip() == "secret-key" and len(secret) > 12:
            expect(secret not in text, "the message shows the secret")
    expect(not _reads(lambda: CurveKeyPair.load(path)), "a pair is loaded of such a file")
    expect(not _reads(lambda: ClientKeys(path.parent)), "a folder is read that has such a file")


def _reads(read: Callable[[], object]) -> bool:
    try:
        read()
    except (ValueError, OSError):
        return False
    return True


def _mutate(data: bytes, chance: random.Random) -> bytes:
    return mutate_text(data, chance, WORDS)


TARGETS: Final = {"certificate": of_corpus("certificate", _mutate, check_certificate)}
