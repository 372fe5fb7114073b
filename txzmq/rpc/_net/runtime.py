"""A place for ipc sockets that other users cannot reach, the same for all programs of one user."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Final

from txzmq import _check
from txzmq.rpc._net.addresses import SUFFIX
from txzmq.rpc._net.ipc import links, others_write
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc._net.secure_bind import InsecureBindError

__all__ = ["runtime_path"]

#: Below the folder of the system; what is in it is txzmq's.
_FOLDER: Final = "txzmq"


def runtime_path(name: str) -> str:
    """An address of ipc for the programs of this user: for a server to listen at, and its clients.

    It is ``ipc://$XDG_RUNTIME_DIR/txzmq/NAME``. Where that variable is not set, ``/run/user/UID``
    takes its place, and for root ``/run``. The folder ``txzmq`` is made if it is missing, with mode
    0700: other users cannot enter it, so that they cannot connect.

    :param name: of the socket, such as ``greeter``.
    :raises TypeError: if it is no str.
    :raises ValueError: if it cannot be the name of a file, or makes the path too long for a socket.
    :raises InsecureBindError: if others can enter the folder, or could lead the path elsewhere.
    :raises OSError: if there is no such place, or the folder cannot be made.
    """
    _check.text("name", name)
    if "/" in name or name in (".", "..") or not name.isprintable():
        raise ValueError(f"name must be the name of a file, without a folder, and is {name!r}")
    if sys.platform == "win32":
        raise OSError("runtime_path() is for ipc, which ZeroMQ does not have on Windows")
    folder = os.path.join(_base(), _FOLDER)
    address = f"ipc://{folder}/{name}"
    parse_address(address, Use.LISTEN, "name", room=len(SUFFIX))
    _make_private(folder)
    return address


def _base() -> str:
    """The system's folder for sockets of this user, without links."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if not given.startswith("/"):  # a relative one has to be ignored, says the specification
        user = os.geteuid()
        given = f"/run/user/{user}"
        if not os.path.isdir(given) and user == 0:
            given = "/run"
    if not os.path.isdir(given):
        raise FileNotFoundError(
            f"there is no folder {given} for sockets of this user: set XDG_RUNTIME_DIR to one that "
            "nobody else can write to"
        )
    for folder, link in links(given):
        if others_write(folder):
            raise InsecureBindError(f"{link} is a link in a folder that others can write to")
    real = Path(os.path.realpath(given))
    for each in (real, *real.parents):
        # Of a folder with the sticky bit, such as /tmp, others can take nothing away.
        status = each.stat()
        is_sticky = status.st_mode & stat.S_ISVTX and status.st_uid in (0, os.geteuid())
        if others_write(str(each)) and not is_sticky:
            raise InsecureBindError(
                f"others can write to {each}, so that they could lead {given} elsewhere: set "
                "XDG_RUNTIME_DIR to a folder that nobody else can write to"
            )
    return str(real)


def _make_private(folder: str) -> None:
    """Make a folder that nobody else can enter, or check that it is one.

    :raises InsecureBindError: if it is none.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass  # another program may have made it just now: what it is like is looked at below
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no folder"
        raise InsecureBindError(f"{folder} is {what}: move it away")
    if status.st_uid != os.geteuid():
        raise InsecureBindError(f"{folder} belongs to another user, of id {status.st_uid}")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InsecureBindError(f"others can enter {folder} or read it: chmod 700 it")
