"""The demo: a server process and a client process, ``make demo``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        endpoints = ["tcp://127.0.0.1:*", f"ipc://{Path(folder, 'greeter')}"]
        server = subprocess.Popen(
            [sys.executable, "-m", "examples.demo.server", *endpoints],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            bound = wait_until_ready(server.stdout)
            # What the server says from now on appears between the client's lines.
            copy = threading.Thread(target=print_all, args=[server.stdout])
            copy.start()
            client = subprocess.run([sys.executable, "-m", "examples.demo.client", *bound])
        finally:
            server.terminate()
            server.wait()
        copy.join()
        server.stdout.close()
    return client.returncode


def wait_until_ready(output: IO[str]) -> list[str]:
    """Print what the server says until it is ready; the endpoints that it names."""
    bound: list[str] = []
    for line in output:
        print(line, end="", flush=True)
        _, listening, endpoint = line.partition("listening on ")
        if listening:
            bound.append(endpoint.strip())
        if line.strip().endswith("ready"):
            return bound
    sys.exit("the server did not start")


def print_all(output: IO[str]) -> None:
    for line in output:
        print(line, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
