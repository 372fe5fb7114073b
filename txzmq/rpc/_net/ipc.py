"""Paths of ipc sockets: never taken from a server that listens there, nor from another file.

libzmq deletes whatever is at the path before it listens there, and leaves its socket behind.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from txzmq._listening import CannotListen
from txzmq.rpc._net.addresses import ANY_IPC, split_scheme
from txzmq.rpc._net.secure_bind import InsecureBindError

__all__ = ["claim", "links", "others_write"]

#: Seconds until a folder that somebody has locked is used all the same: who locks it to claim a
#: path needs some milliseconds, and nobody shall keep a server from starting. To listen is
#: synchronous, as in Twisted, so the reactor waits meanwhile.
_PATIENCE: Final = 0.2
_STEP: Final = 0.005
#: How many links the system follows.
_MAX_LINKS: Final = 40
_KINDS: Final = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def claim(address: str) -> Generator[None]:
    """Check that an address of ipc is free, and keep others from claiming it meanwhile.

    What a server has left behind that does not listen any more counts as free. Does nothing for
    other transports, and where there is no path: ``ipc://*``, and abstract sockets, whose names the
    system itself gives to one only.

    :raises CannotListenError: if a server listens there, or something is there that is no socket.
    :raises InsecureBindError: if others can lead the path elsewhere, by a link.
    """
    scheme, path = split_scheme(address)
    if scheme != "ipc" or address == ANY_IPC or sys.platform == "win32":
        yield
        return
    if path.startswith("@"):
        if os.path.lexists(path):
            why = (
                f"libzmq would delete the file {path!r} of the current folder; choose another name"
            )
            raise CannotListen(address, errno.EEXIST, why)
        yield
        return
    _check_links(address, path)
    with _locked(os.path.dirname(path) or "."):
        _check_free(address, path)
        yield


# -- what is there ------------------------------------------------------------------------------


def _check_free(address: str, path: str) -> None:
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except OSError:
        return  # nothing is there, or to bind will fail
    if kind != stat.S_IFSOCK:
        what = _KINDS.get(kind, "something else")
        why = f"{what} is there, and no socket; move it away, or choose another path"
        raise CannotListen(address, errno.EEXIST, why)
    number = _answer(path)
    if number == 0:
        why = "a server listens there; stop it first, or choose another path. On Linux, ss -lxp"
        raise CannotListen(address, errno.EADDRINUSE, f"it is in use: {why} says which it is")
    if number not in (errno.ECONNREFUSED, errno.ENOENT):
        why = f"it is in use by a socket that cannot be asked ({os.strerror(number)})"
        raise CannotListen(address, errno.EADDRINUSE, why)


def _answer(path: str) -> int:
    """The system's error when somebody connects to a socket; 0 if a server accepts that."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # with a full backlog: EAGAIN
        number = probe.connect_ex(path)
    return 0 if number in (errno.EAGAIN, errno.EINPROGRESS) else number


# -- one at a time ------------------------------------------------------------------------------


@contextmanager
def _locked(folder: str) -> Generator[None]:
    """Keep other servers from claiming paths in a folder, if it can be locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):  # of file systems that have no locks
            _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    import fcntl  # not on Windows

    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_STEP)
        else:
            return


# -- links --------------------------------------------------------------------------------------


def _check_links(address: str, path: str) -> None:
    # The current folder may be gone, of a daemon for instance; an absolute path does not need it.
    current = "/" if path.startswith("/") else os.getcwd()
    for folder, link in links(os.path.join(current, os.path.dirname(path))):
        if others_write(folder):
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            raise InsecureBindError(
                f"refusing to listen at {address}: {link} is a link in a folder that others can "
                f"write to, who could lead it elsewhere. Use ipc://{real}"
            )


def links(path: str) -> Iterator[tuple[str, str]]:
    """The links on the way to a folder, by an absolute path, each with the folder that it is in."""
    rest = deque(path.split("/"))
    current = "/"
    followed = 0
    while rest and followed < _MAX_LINKS:
        part = rest.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        step = os.path.join(current, part)
        try:
            target = os.readlink(step)
        except OSError:  # it is no link
            current = step
            continue
        followed += 1
        yield current, step
        if target.startswith("/"):
            current = "/"
        rest.extendleft(reversed(target.split("/")))


def others_write(folder: str) -> bool:
    """Whether somebody but this user and root can change what is in a folder, or may allow it."""
    status = os.stat(folder)
    others = stat.S_IWGRP | stat.S_IWOTH
    return bool(status.st_mode & others) or status.st_uid not in (0, os.geteuid())
