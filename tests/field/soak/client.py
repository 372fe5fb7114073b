"""A client process of a soak: makes calls for a while, closes everything, and says what is left.

Arguments: its name, the seed, seconds, the file of its history, where a proxy has workers, and the
endpoints of servers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher

from tests.field.network import QuickNetwork
from tests.field.soak.history import History
from tests.field.soak.server import print_errors
from tests.field.soak.state import resources
from tests.field.soak.traffic import Traffic, left_over
from tests.support import fresh_loop
from txzmq import ZmqFactory


def main() -> None:
    name, seed, seconds, path, workers, *endpoints = sys.argv[1:]
    observer: Any = print_errors
    globalLogPublisher.addObserver(observer)

    with fresh_loop("epoll") as loop:

        async def run() -> list[str]:
            await loop.sleep(0)  # the loop itself has a delayed call from then on
            before = resources(loop.reactor)
            history = History(Path(path))
            factory = ZmqFactory(loop.reactor)
            network = QuickNetwork(factory)
            traffic = Traffic(loop, int(seed), name, history, network, endpoints, workers)
            print("begins", flush=True)
            await traffic.run(float(seconds))
            traffic.close()
            factory.shutdown()
            history.close()
            return [*traffic.wrong, *await left_over(loop, name, before)]

        print(f"left {json.dumps(loop.run(run, patience=3600))}", flush=True)


if __name__ == "__main__":
    main()
