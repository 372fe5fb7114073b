"""The command line of keys: ``python -m txzmq.auth new|public|list``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from txzmq import _certificates
from txzmq._client_keys import read_folder
from txzmq._escape import escaped
from txzmq._key_pair import PUBLIC_SUFFIX, SECRET_SUFFIX, CurveKeyPair

__all__ = ["main"]

_FINE: Final = 0
#: The status of whatever is wrong; argparse's own.
_ERROR: Final = 2


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m txzmq.auth") -> int:
    """Do what the command line says.

    :param arguments: those of the process by default.
    :param program: what the help calls it.
    :return: the exit status: 0, or 2 if something is wrong. Standard error has it then, in a line.
    :raises SystemExit: if the arguments are wrong, with status 2; and for ``--help``.
    """
    given = _parser(program).parse_args(arguments)
    try:
        lines = list(given.run(given))  # all or nothing
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except BrokenPipeError:
        # The program that reads the output, such as head, has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _ERROR
    except (OSError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"txzmq.auth: {escaped(_said(error))}\n")
        return _ERROR
    return _FINE


def _said(error: Exception) -> str:
    """What the operating system says, in the form of other errors: ``me.key: File exists``."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Make and show CURVE keys.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser(
        "new",
        help="make a pair of keys, and print the public one",
        description=f"Make NAME{SECRET_SUFFIX}, which only its owner can read, and "
        f"NAME{PUBLIC_SUFFIX}, to be given to others. Files that are there are never overwritten.",
    )
    new.add_argument("name", metavar="NAME", help="of the user or the server, and of the files")
    new.add_argument("--folder", default=".", help="where to put the files (default: here)")
    new.add_argument(
        "--groups", default="", help="the user's groups, separated by commas, as servers read them"
    )
    new.add_argument(
        "--user", help="the user's name, where it is not NAME: of a second key of the same user"
    )
    new.set_defaults(run=_new)
    public = commands.add_parser(
        "public", help="print the public key of a file, secret or not", description=_public.__doc__
    )
    public.add_argument("file", metavar="FILE")
    public.set_defaults(run=_public)
    listing = commands.add_parser(
        "list", help="print whom a server lets in that is given a folder", description=_list.__doc__
    )
    listing.add_argument("folder", metavar="FOLDER")
    listing.set_defaults(run=_list)
    return parser


def _new(given: argparse.Namespace) -> Iterator[str]:
    name: str = given.name
    is_path = name.startswith(".") or "/" in name or os.sep in name
    if not name.strip() or is_path or not name.isprintable():
        raise ValueError(f"{name!r} cannot be the name of files; use --folder for their place")
    folder = Path(given.folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}; make it first")
    groups = [group.strip() for group in given.groups.split(",") if group.strip()]
    metadata = {} if given.user is None else {"name": given.user}
    if groups:
        metadata["groups"] = ", ".join(groups)
    keys = CurveKeyPair.generate()
    keys.save(folder / name, metadata=metadata)
    yield f"secret key: {folder / name}{SECRET_SUFFIX}"
    yield f"public key: {folder / name}{PUBLIC_SUFFIX}"
    yield keys.public_key


def _public(given: argparse.Namespace) -> Iterator[str]:
    """Print the public key of a file, for server_keys= or a mapping of clients."""
    yield _certificates.read(given.file).public_key


def _list(given: argparse.Namespace) -> Iterator[str]:
    """Print a line for each client that a server lets in which is given this folder.

    The line has the public key, the name and the groups.
    """
    for identity in read_folder(Path(given.folder)):
        groups = ", ".join(sorted(identity.groups))
        said = f"{identity.name}  ({groups})" if groups else identity.name
        yield f"{identity.public_key}  {escaped(said)}"
