"""A server on real sockets that Prometheus scrapes, and a real Prometheus that does so."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.prometheus import listen

T = TypeVar("T")

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
NEEDS_PROMETHEUS = pytest.mark.skipif(
    PROMTOOL is None or PROMETHEUS is None, reason="needs Debian's package prometheus"
)


def fetch(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=20) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Scraped:
    """A server, a channel and what Prometheus scrapes, on real sockets."""

    # Any: services, and options of a server.
    def __init__(
        self, loop: Loop, services: Sequence[Any], metrics: Metrics, **options: Any
    ) -> None:
        self.loop = loop
        self.metrics = metrics
        self.factory = ZmqFactory(loop.reactor)
        options.setdefault("observer", metrics)
        self.server = Server(self.factory, services, **options)
        self.address = self.server.listen("tcp://127.0.0.1:*")
        self.channel = self.connect(self.address)
        self.is_ready = True
        self.port: Any = listen(self.metrics, reactor=loop.reactor, is_ready=lambda: self.is_ready)
        self.host = f"127.0.0.1:{self.port.getHost().port}"
        self.pool = ThreadPool(0, 1)
        self.pool.start()

    def connect(self, address: str) -> Channel:
        return Channel(self.factory, address, observer=self.metrics)

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """What a function returns that waits."""
        found: T = await deferToThreadPool(self.loop.reactor, self.pool, function, *arguments)
        return found

    async def get(self, path: str, host: str = "") -> tuple[int, str]:
        return await self.in_thread(fetch, f"http://{host or self.host}/{path}")

    async def close(self) -> None:
        self.channel.close()
        await self.server.stop(0)
        await self.port.stopListening()
        self.pool.stop()
        self.factory.shutdown()


CONFIG = """
global:
  scrape_interval: 100ms
  scrape_timeout: 100ms
scrape_configs:
  - job_name: txzmq
    static_configs:
      - targets: ["{host}"]
"""


@contextmanager
def prometheus(folder: Path, host: str) -> Generator[subprocess.Popen[str]]:
    """A Prometheus that scrapes; it is killed at the end."""
    assert PROMETHEUS is not None
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(host=host))
    command = [
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()
            assert process.stderr is not None
            process.stderr.read()


def address_of(process: subprocess.Popen[str]) -> str:
    """Where it listens, as its log says."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r'msg="Listening on" address=(\S+)', line)
        if found:
            return found[1]
    raise AssertionError("it has ended")
