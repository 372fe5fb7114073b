"""libzmq's own proxy, a ROUTER for clients and a DEALER for workers, as a process.

Arguments: the two addresses to bind. It prints where they are.
"""

from __future__ import annotations

import sys

import zmq


def main() -> None:
    context = zmq.Context()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for name, socket, address in zip(
        ("clients", "workers"), (frontend, backend), sys.argv[1:], strict=True
    ):
        socket.bind(address)
        endpoint = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        print(f"{name} at {endpoint}", flush=True)
    zmq.proxy(frontend, backend)


if __name__ == "__main__":
    main()
