"""``python -m benchmarks.native``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.arguments import count, seconds
from benchmarks.generate import with_txzmq
from benchmarks.native.loads import LOADS
from benchmarks.native.measure import Plan, Results, run
from benchmarks.native.peers import PEERS, debian_versions
from benchmarks.native.report import as_json, as_markdown, introduction
from benchmarks.report import machine

__all__ = ["main"]

_ROOT: Final = Path(__file__).parent.parent.parent
_BUILD: Final = _ROOT / "build" / "native"
_PAGE: Final = _ROOT / "docs" / "performance" / "native.md"
#: Seconds from which on a turn is no mere trial, and needs a warm-up.
_LONG: Final = 0.5
_PROTOS: Final = Path(__file__).parent / "protos"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables.

    :returns: the exit status: 1 if a peer failed or is not there, 130 after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    plan = Plan(
        loads=[load for load in LOADS if load.name in (parsed.load or _NAMES)],
        seconds=parsed.seconds,
        rounds=parsed.rounds,
        warm_up=Plan.warm_up if parsed.seconds >= _LONG else parsed.seconds,
        unix=parsed.unix,
    )
    peers = {name: peer for name, peer in PEERS.items() if name in (parsed.only or PEERS)}
    with_txzmq(_BUILD, _PROTOS)
    where = machine([])
    day = datetime.now(UTC).date().isoformat()
    try:
        results = run(peers, plan, _BUILD, _progress)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    _tell(parsed, plan, where, day, results)
    return 1 if results.failures else 0


def _tell(
    parsed: argparse.Namespace, plan: Plan, where: Mapping[str, Any], day: str, results: Results
) -> None:
    debian = debian_versions()
    page = f"{introduction(where, plan, results, day, debian)}\n\n{as_markdown(results)}"
    print(page, end="")
    if parsed.json is not None:
        text = json.dumps(as_json(where, plan, results, debian), indent=1, ensure_ascii=False)
        parsed.json.write_text(text + "\n", encoding="utf-8")
    if parsed.write and results.failures:
        print("not written into the documentation: a peer failed", file=sys.stderr)
    elif parsed.write:
        _PAGE.write_text(f"<!-- Written by make bench-native. -->\n\n{page}", encoding="utf-8")


_NAMES: Final = tuple(dict.fromkeys(load.name for load in LOADS))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.native",
        description="Measures txzmq beside gRPC in C++, Go and Node, in the same run.",
    )
    add = parser.add_argument
    add("--seconds", type=seconds(30), default=1.0, help="of each turn (%(default)s)")
    add("--rounds", type=count, default=5, help="how many (%(default)s)")
    add("--load", action="append", choices=_NAMES, help="instead of all; may be given again")
    add("--only", action="append", choices=list(PEERS), help="may be given several times")
    add("--unix", action="store_true", help="over a Unix socket (ipc) instead of TCP")
    add("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    add("--write", action="store_true", help="write the tables into docs/performance")
    return parser


def _progress(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # SIGTERM as Ctrl-C, so that the processes of the peers are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
