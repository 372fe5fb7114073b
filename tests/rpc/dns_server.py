"""A real DNS server, Debian's dnsmasq-base."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Generator

import pytest

from tests.programs import Program, started

_PATH = "/usr/sbin:/usr/bin:/sbin"
NEEDS_DNSMASQ = pytest.mark.skipif(
    shutil.which("dnsmasq", path=_PATH) is None,
    reason="dnsmasq is not installed (Debian: apt-get install dnsmasq-base)",
)


def free_port() -> int:
    """A port that is free for UDP and TCP; dnsmasq cannot be told to choose one."""
    while True:
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            port: int = udp.getsockname()[1]
            with contextlib.suppress(OSError):
                tcp.bind(("127.0.0.1", port))
                return port


@contextlib.contextmanager
def dnsmasq(port: int, *records: str, address: str = "127.0.0.1") -> Generator[Program]:
    """A DNS server with the zone ``test``."""
    with started(
        shutil.which("dnsmasq", path=_PATH) or "",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=",  # no change of user
        "--bind-interfaces",
        f"--listen-address={address}",
        f"--port={port}",
        "--local=/test/",
        *records,
    ) as program:
        program.expect("dnsmasq: started, .*")
        yield program
