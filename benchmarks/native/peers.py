"""Who is measured: how each program is started, and what it is made of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Final

__all__ = ["BASELINE", "PEERS", "Peer", "debian_versions", "own_versions"]

_ROOT: Final = Path(__file__).parent.parent.parent
#: Where protos are: the benchmarks' own, and those that they import.
_PROTOS: Final = (str(Path(__file__).parent / "protos"), str(_ROOT / "protos"))
#: What the builds use of Debian that no program tells by itself.
_PACKAGES: Final = ("golang-goprotobuf-dev", "protoc-gen-go-grpc", "protobuf-compiler-grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One of those compared.

    :ivar name: as in the tables.
    :ivar command: makes the command from the build's folder; role and address come behind it.
    :ivar needs: what must be there, below the build's folder.
    :ivar arguments: what comes behind role and address.
    :ivar warm_up: seconds of a load until it is as fast as it becomes.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    needs: str
    arguments: Sequence[str] = ()
    warm_up: float = 1.0

    def missing(self, build: Path) -> str | None:
        """Why it cannot be started; None if it can."""
        if not (build / self.needs).exists():
            return f"{build / self.needs} is not there: tools/native-peers builds it"
        program = self.command(build)[0]
        return None if which(program) else f"{program} is not there"


def _ours(build: Path) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.native.txzmq_", str(build)]


#: The name of the one that the others are compared with.
BASELINE: Final = "txzmq"

#: All by their names, in the tables' order.
PEERS: Final[Mapping[str, Peer]] = {
    peer.name: peer
    for peer in (
        Peer(name=BASELINE, command=_ours, needs="generated"),
        Peer(
            name="C++",
            command=lambda build: [str(build / "cpp" / "main")],
            needs="cpp/main",
        ),
        Peer(
            name="Go",
            command=lambda build: [str(build / "go" / "main")],
            needs="go/main",
        ),
        Peer(
            name="Node",
            command=lambda build: ["node", str(build / "node" / "main.mjs")],
            needs="node/main.mjs",
            arguments=_PROTOS,
            warm_up=5.0,  # its compiler works along; its rate grew for four seconds
        ),
    )
}


def own_versions() -> dict[str, str]:
    """What ours is made of."""
    return {name: version(name) for name in ("txzmq", "twisted", "pyzmq", "protobuf")}


def debian_versions() -> dict[str, str]:
    """Versions of the packages that the builds use; none where there is no dpkg."""
    if which("dpkg-query") is None:
        return {}
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *_PACKAGES],
        capture_output=True,
        text=True,
        check=False,  # it fails where one is missing, and tells of the others
    )
    pairs = (line.split(" ", 1) for line in done.stdout.splitlines())
    return {name: number for name, number in pairs if number}
