"""A plain ROUTER-DEALER proxy in a process of its own, as anybody would write it.

Arguments: where clients connect, and where servers do. Says where it listens.
"""

from __future__ import annotations

import sys

import zmq


def main() -> None:
    context = zmq.Context()
    clients, servers = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    clients.bind(sys.argv[1])
    servers.bind(sys.argv[2])
    for name, socket in (("clients", clients), ("servers", servers)):
        print(f"{name} at {socket.get_string(zmq.LAST_ENDPOINT)}", flush=True)
    zmq.proxy(clients, servers)


if __name__ == "__main__":
    main()
