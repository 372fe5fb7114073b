"""The client of a test of mixed versions: plays each case, and prints how it ended, as JSON.

Arguments: a file with the client's keys, the server's public key, and where the servers are, as
JSON.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

import txzmq
from tests.compat import cases
from tests.compat.words import services
from txzmq.auth import CurveKeyPair

#: Seconds that a case may take.
PATIENCE = 15
#: After so many failures the other cases are not played: each may wait in vain.
ENOUGH = 3


async def play(arguments: list[str]) -> None:
    keys, server_key = CurveKeyPair.load(arguments[0]), arguments[1]
    print(json.dumps({"txzmq": txzmq.__file__, "generated": services.__file__}), flush=True)
    failures = 0
    for name, case in vars(cases).items():
        if name.startswith("case_"):
            began = time.monotonic()
            error = f"not played, after {ENOUGH} failures"
            if failures < ENOUGH:
                error = await ended(case, cases.World(json.loads(arguments[2]), keys, server_key))
                failures += bool(error)
            seconds = time.monotonic() - began
            print(json.dumps({"case": name, "seconds": seconds, "error": error}), flush=True)


async def ended(case: Any, world: cases.World) -> str:
    """Play a case; what was wrong."""
    try:
        await Deferred.fromCoroutine(case(world)).addTimeout(PATIENCE, cases.reactor)
    except Exception:  # noqa: BLE001  # each is told, whatever it is
        return traceback.format_exc()
    finally:
        world.close()
    return ""


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    return Deferred.fromCoroutine(play(list(arguments)))


if __name__ == "__main__":
    react(main, sys.argv[1:])
