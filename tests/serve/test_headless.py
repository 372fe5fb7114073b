"""Pods behind a headless service of Kubernetes, as the DNS shows them: they come and go under load.

Each pod is a ``txzmq serve`` at an address of its own of this machine, all with the same port. The
cluster's DNS is a dnsmasq, which is told of pods as the cluster is: late.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("click", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from tests.programs import Program
from tests.rpc.dns_server import NEEDS_DNSMASQ, dnsmasq, free_port
from tests.serve.supervised import Load, Supervised, started_serving
from tests.support import Loop
from txzmq.rpc import DnsResolver

pytestmark = [
    NEEDS_DNSMASQ,
    pytest.mark.skipif(
        sys.platform != "linux", reason="elsewhere, 127.0.0.1 is the only address of loopback"
    ),
]


class Cluster:
    """The DNS of a cluster, and the pods that it knows."""

    def __init__(self, folder: Path) -> None:
        self._hosts = folder / "hosts"
        self._hosts.touch()
        self.port = free_port()
        self._dns_port = free_port()
        self._dns: Program | None = None

    @contextlib.contextmanager
    def dns(self) -> Generator[None]:
        options = (f"--addn-hosts={self._hosts}", "--local-ttl=1", "--auth-ttl=1")
        with dnsmasq(self._dns_port, *options) as self._dns:
            yield

    def resolver(self) -> DnsResolver:
        """What a channel has for ``dns:///greeter.default.svc...``, in a hurry."""
        target = f"dns://127.0.0.1:{self._dns_port}/greeter.test:{self.port}"
        return DnsResolver(target, min_interval=0.1, max_interval=0.2)

    def load(self, loop: Loop) -> Load:
        """A client that calls all the time."""
        return Load(loop, self.resolver(), callers=6, streams=2)

    def knows(self, ips: Sequence[str]) -> None:
        """The answer of the DNS from now on."""
        self._hosts.write_text("".join(f"{ip} greeter.test\n" for ip in ips))
        assert self._dns is not None, "it runs"
        self._dns.hang_up()
        self._dns.expect(rf"dnsmasq: read {self._hosts} - {len(ips)} names")


def test_pods_come_and_go_and_no_call_fails(tmp_path: Path, one_loop: Loop) -> None:
    """A rolling update and a scaling down. No pod sleeps before it drains, and no call may be made
    twice: clients are told, and the DNS may be late.
    """
    cluster = Cluster(tmp_path)
    ips = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster.dns())
        pods: dict[str, Supervised] = {}
        starting = [
            stack.enter_context(started_serving("--listen", f"tcp://{ip}:{cluster.port}"))
            for ip in ips
        ]
        for ip, pod in zip(ips, starting, strict=True):
            pod.wait_until_ready()
            pods[ip] = pod
        cluster.knows(ips[:2])

        async def main() -> list[Load]:
            loads = [cluster.load(one_loop)]
            old = loads[0]

            def until(condition: Callable[[], bool]) -> Deferred[None]:
                return Deferred.fromCoroutine(one_loop.until(condition))

            def get_calls(load: Load, *ips: str) -> Deferred[None]:
                """Wait until these pods serve this client, and no other pod does."""
                seen = dict(load.pids)
                pids = {pods[ip].pids[1] for ip in ips}

                def served() -> bool:
                    new = {pid for pid, count in load.pids.items() if count > seen.get(pid, 0)}
                    if new == pids:
                        return True
                    if not new <= pids:  # answers that were on their way
                        seen.update(load.pids)
                    return False

                return until(served)

            await get_calls(old, *ips[:2])
            # A new pod is ready. The next does not go before clients have had the time to learn of
            # it: minReadySeconds.
            cluster.knows(ips)
            await get_calls(old, *ips)
            # It goes, and the DNS has not heard of it: who comes now is given its address.
            pods[ips[0]].signal(signal.SIGTERM)
            loads.append(cluster.load(one_loop))
            await get_calls(loads[1], *ips[1:])
            await until(lambda: pods[ips[0]].program.process.poll() is not None)
            loads.append(cluster.load(one_loop))
            await get_calls(loads[2], *ips[1:])
            await get_calls(old, *ips[1:])
            cluster.knows(ips[1:])
            # The other order: the DNS has heard of it, and it still serves who does not know.
            cluster.knows(ips[2:])
            await get_calls(old, ips[2])
            pods[ips[1]].signal(signal.SIGTERM)
            await until(lambda: pods[ips[1]].program.process.poll() is not None)
            # Nobody is ready any more, says the DNS: what is there goes on serving.
            cluster.knows([])
            served = old.ended
            await until(lambda: old.ended > served + 200)
            for load in loads:
                await load.stop()
                load.factory.shutdown()
            return loads

        loads = one_loop.run(main)
        for ip in ips[:2]:
            assert pods[ip].program.wait() == 0
    assert [load.errors for load in loads] == [[], [], []]
    assert loads[0].streams
