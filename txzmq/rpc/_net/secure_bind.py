"""Refuses a server without authentication at an address that strangers can reach."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from txzmq._listening import CannotListen, no_folder, no_interface
from txzmq.rpc._net.addresses import ANY_IPC, WILDCARDS, ip_of, split_scheme, split_tcp

__all__ = [
    "InsecureBindError",
    "check_endpoint",
    "is_local",
    "why_secrets_are_read",
    "why_strangers_reach",
]


class InsecureBindError(ValueError):
    """A server without authentication was told to listen where strangers can reach it.

    The same holds for a proxy that it was told to connect to, and for a path of ipc on which there
    is a link that others can lead elsewhere.
    """


def check_endpoint(
    address: str, *, listens: bool = True, foreign: bool = False, secrets: bool = False
) -> None:
    """Check that only this machine, or only this user, can reach *address*.

    Accepted are loopback TCP, inproc, and ipc below a folder that only this user can enter.

    :param listens: whether the server listens there, or connects to a proxy that does.
    :param foreign: whether it is for a network that is not ZeroMQ's, which has hosts of its own.
    :param secrets: whether calls carry what only the server may read, such as tokens: then
        loopback TCP is not accepted.
    :raises CannotListenError: if it cannot listen there at all, as there is no such folder or
        interface: that it would be secure with an argument more is no help then.
    :raises InsecureBindError: for any other address; the message says why.
    """
    scheme, path = split_scheme(address)
    if listens and scheme == "ipc" and not path.startswith("@") and address != ANY_IPC:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise CannotListen(address, errno.ENOENT, no_folder(folder))
    if listens and scheme == "tcp" and not foreign:
        _check_interface(address)
    reason = why_strangers_reach(address)
    if secrets and not reason:
        reason = why_secrets_are_read(address)
    if reason:
        what = "listen at" if listens else "connect to"
        raise InsecureBindError(
            f"refusing to {what} {address} without authentication: {reason}. Pass credentials= "
            "(docs/guide/security.md shows how), or insecure=True to do it all the same"
        )


def is_local(address: str) -> bool:
    """Whether only this machine, or only this user, can reach a server that listens there."""
    return not why_strangers_reach(address)


def why_secrets_are_read(address: str) -> str:
    """Why others could read what is sent to *address* without encryption; empty if they cannot."""
    scheme, _ = split_scheme(address)
    if scheme == "tcp":
        host = _host(address)
        if not _is_loopback(host):
            return f"{host!r} is not a loopback address"
        return "any user of this machine can listen at a loopback port, and read tokens"
    return why_strangers_reach(address)


def why_strangers_reach(address: str) -> str:
    """Why strangers could reach a server that listens at *address*; empty if they cannot."""
    scheme, rest = split_scheme(address)
    if scheme == "inproc":
        return ""
    if scheme == "tcp":
        host = _host(address)
        return "" if _is_loopback(host) else f"{host!r} is not a loopback address"
    if scheme == "ipc":
        if rest.startswith("@"):
            return "an abstract socket has no permissions, so other users can connect to it"
        if _is_private(rest):
            return ""
        return "no folder above the socket keeps other users out (chmod 700 one of them)"
    return f"nothing is known of who reaches {scheme}://"


def _host(address: str) -> str:
    """That of an address of tcp."""
    return (split_tcp(address) or ("", ""))[0].rpartition(";")[2].strip("[]")


def _check_interface(address: str) -> None:
    """Refuse the name of a host, which libzmq does not look up for listening.

    :raises CannotListenError: if the host is neither an IP address nor an interface.
    """
    host = _host(address)
    if host in WILDCARDS or _is_loopback(host) or ip_of(host) is not None:
        return
    if host not in (name for _, name in socket.if_nameindex()):
        raise CannotListen(address, errno.ENODEV, no_interface(host))


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "lo"):
        return True
    ip = ip_of(host)
    return ip is not None and ip.is_loopback


def _is_private(path: str) -> bool:
    for folder in Path(os.path.realpath(path)).parents:  # libzmq follows links, too
        try:
            status = folder.stat()
        except OSError:
            continue  # it does not exist, and bind() will fail
        others = stat.S_IXGRP | stat.S_IXOTH
        if status.st_uid == os.geteuid() and not status.st_mode & others:
            return True
    return False
