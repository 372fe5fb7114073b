"""May strangers reach an address? A server without authentication must not listen there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from txzmq.rpc._net.addresses import ip_of

__all__ = ["InsecureBindError", "check_endpoint"]


class InsecureBindError(ValueError):
    """A server was to listen, or to connect to a proxy, where strangers could reach it."""


def check_endpoint(address: str, *, listens: bool = True) -> None:
    """Check that only this machine, or only this user, can reach *address*.

    Loopback TCP, inproc, and ipc below a folder that only this user can enter pass.

    :param listens: whether a server is to listen there, or to connect to a proxy that does.
    :raises InsecureBindError: for any other address; the message says why.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "inproc":
        return
    if scheme == "tcp":
        host = rest.rpartition(":")[0].strip("[]")
        if _is_loopback(host):
            return
        reason = f"{host!r} is not a loopback address"
    elif scheme == "ipc":
        if _is_private(rest):
            return
        reason = "no folder above the socket keeps other users out (chmod 700 one of them)"
    else:
        reason = f"nothing is known of who reaches {scheme}://"
    what = "listen at" if listens else "connect to"
    raise InsecureBindError(
        f"refusing to {what} {address} without authentication: {reason}. "
        "Pass insecure=True to do it all the same"
    )


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "lo"):
        return True
    ip = ip_of(host)
    return ip is not None and ip.is_loopback


def _is_private(path: str) -> bool:
    if path.startswith("@"):
        return False  # Linux's abstract sockets have no permissions
    for folder in Path(os.path.realpath(path)).parents:  # libzmq follows links, too
        try:
            status = folder.stat()
        except OSError:
            continue  # it does not exist yet: bind() will tell
        others = stat.S_IXGRP | stat.S_IXOTH
        if status.st_uid == os.geteuid() and not status.st_mode & others:
            return True
    return False
