"""Two hosts and the wire between them: network namespaces of this machine, with faults by nftables.

Nothing of it is seen outside: both ends of the wire are in namespaces of their own, and the test's
sockets get into one by :meth:`Host.entered`. What a killed test run leaves behind, the next one
removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.programs import Program, started

_PREFIX: Final = "txzmq-test-"
_CLONE_NEWNET: Final = 0x40000000
_numbers = itertools.count(1)


def _run(*command: str, stdin: str | None = None) -> str:
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30)
    if result.returncode:
        raise OSError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


class Host:
    """A network namespace with one interface."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        #: Its IPv4 address.
        self.address = address

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.address!r})"

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command in here to its end; what it printed.

        :raises OSError: if it fails, with what it said.
        """
        return _run("ip", "netns", "exec", self.name, *command, stdin=stdin)

    def running(self, *arguments: str | Path) -> contextlib.AbstractContextManager[Program]:
        """Run Python with these arguments in here; as :func:`tests.programs.running`."""
        # `ip` becomes the program: the process that signals reach is the program's own.
        return started("ip", "netns", "exec", self.name, sys.executable, "-u", *arguments)

    @contextlib.contextmanager
    def entered(self) -> Generator[None]:
        """This thread is in here; threads and sockets that it makes stay here afterwards.

        A ZeroMQ context makes its threads with its first socket.
        """
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(descriptor: int) -> None:
            if libc.setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

        with contextlib.ExitStack() as stack:
            outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            stack.callback(os.close, outside)
            inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            stack.callback(os.close, inside)
            enter(inside)
            stack.callback(enter, outside)
            yield

    def limit_ports(self, first: int, last: int) -> None:
        """Let clients in here have these ports only."""
        path = "/proc/sys/net/ipv4/ip_local_port_range"
        self.run("sh", "-c", f"echo {first} {last} >{path}")

    # -- faults ----------------------------------------------------------------------------------

    def drop(self, *, inbound: bool = False, outbound: bool = False) -> None:
        """Let nothing in, or out, and tell nobody; for loss one way or both."""
        self._rule("drop", inbound=inbound, outbound=outbound)

    def lose(self, percent: int) -> None:
        """Lose that much of what comes in and of what goes out, at random."""
        self._rule(f"numgen random mod 100 < {percent} drop", inbound=True, outbound=True)

    def reset(self) -> None:
        """Answer every TCP segment, in or out, with a reset: both sides lose their connections."""
        # Not the resets themselves, which pass the chains as well.
        self._rule("tcp flags & rst == 0 reject with tcp reset", inbound=True, outbound=True)

    def heal(self) -> None:
        """End all faults."""
        self.run("nft", "flush ruleset")

    def _rule(self, rule: str, *, inbound: bool, outbound: bool) -> None:
        chains = [
            f"chain {hook} {{ type filter hook {hook} priority 0; {words} {rule}; }}"
            for hook, words, wanted in (
                ("input", 'iifname "wire"', inbound),
                ("output", 'oifname "wire"', outbound),
            )
            if wanted
        ]
        # One transaction: the old faults end when the new one begins.
        self.run(
            "nft", "-f", "-", stdin="\n".join(["flush ruleset", "table inet t {", *chains, "}\n"])
        )


class Wire:
    """Two hosts that reach each other."""

    def __init__(self, server: Host, client: Host) -> None:
        self.server = server
        self.client = client


@contextlib.contextmanager
def wire() -> Generator[Wire]:
    """Two hosts with a wire between them; gone afterwards, with the processes in them ended.

    :raises OSError: where that is not possible here; :func:`why_not` has the reason.
    """
    _remove_what_others_left()
    number = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    hosts = Wire(Host(f"{number}-s", "192.0.2.1"), Host(f"{number}-c", "192.0.2.2"))
    both = (hosts.server, hosts.client)
    with contextlib.ExitStack() as stack:
        for host in both:
            _run("ip", "netns", "add", host.name)
            stack.callback(_run, "ip", "netns", "del", host.name)
        # Made inside: never to be seen in the namespace of the machine.
        _run(
            *("ip", "-n", hosts.server.name, "link", "add", "wire", "type", "veth"),
            *("peer", "name", "wire", "netns", hosts.client.name),
        )
        for host in both:
            _run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "wire")
            _run("ip", "-n", host.name, "link", "set", "lo", "up")
            _run("ip", "-n", host.name, "link", "set", "wire", "up")
        yield hosts


@functools.cache
def why_not() -> str:
    """Why there can be no :func:`wire` here; empty if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid():
        return "making network namespaces takes root"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian: apt-get install {package})"
    try:
        with wire() as hosts:
            hosts.server.drop(inbound=True, outbound=True)
            hosts.server.lose(1)
            hosts.server.reset()
            hosts.server.heal()
            with hosts.client.entered():
                pass
    except OSError as error:
        return f"this kernel or container does not let us: {error}"
    return ""


def needs_wire() -> None:
    """Skip the test, with the reason, where there can be no :func:`wire`."""
    if reason := why_not():
        pytest.skip(reason)


def _remove_what_others_left() -> None:
    for name in _names():
        pid = name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):  # another test run was faster
                _run("ip", "netns", "del", name)


def _names() -> list[str]:
    try:
        return [name for name in os.listdir("/run/netns") if name.startswith(_PREFIX)]
    except OSError:
        return []
