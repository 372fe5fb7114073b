"""A container of ``examples/kubernetes``, as a process: its command line, probes and signals."""

from __future__ import annotations

import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

pytest.importorskip("click", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from tests.examples.image import ENTRYPOINT, build
from tests.examples.manifests import container_of, environment
from tests.kubelet import Volume
from tests.programs import PATIENCE, started
from tests.rpc.service import text
from tests.serve.supervised import Supervised
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials, CurveKeyPair
from txzmq.rpc import Channel, Method

ANY_PORT = "tcp://127.0.0.1:*"
#: Their messages have one field of text first, as this one.
SAY_HELLO = Method("/demo.greeter.v1.Greeter/SayHello", "say_hello", StringValue, StringValue)
WATCH = Method("/demo.streams.v1.Market/Watch", "watch", StringValue, StringValue)

SERVER_KEYS = CurveKeyPair.generate()
CLIENT_KEYS = CurveKeyPair.generate()
CREDENTIALS = CurveClientCredentials(CLIENT_KEYS, server_keys=[SERVER_KEYS.public_key])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system: the image's ``/app``, and in ``/etc/greeter`` what the kubelet mounts."""
    root = tmp_path_factory.mktemp("root")
    build(root / "app")
    SERVER_KEYS.save(root / "server")
    CLIENT_KEYS.save(root / "client")
    mounted = root / "etc/greeter"
    mounted.mkdir(parents=True)
    for folder, file in (
        ("keys", "server.key_secret"),
        ("clients", "client.key"),
        ("client", "client.key_secret"),
    ):
        Volume(mounted / folder, {file: (root / file).read_text()})
    return root


def arguments_of(file: str, root: Path) -> list[str]:
    """A container's arguments, on this machine: its folders, loopback, and ports that are free."""
    found: list[str] = []
    for argument in container_of(file)["args"]:
        flag, equals, value = argument.partition("=")
        if flag in ("--listen", "--publisher"):
            first, _, last = value.rpartition(":")[2].partition("-")
            found += [f"{flag}={ANY_PORT}"] * (int(last or first) - int(first) + 1)
        elif flag == "--metrics":
            found.append(f"{flag}=127.0.0.1:0")
        elif flag == "--log":
            continue  # Supervised reads text
        else:
            found.append(f"{flag}{equals}{value.replace('/etc/', f'{root}/etc/')}")
    return found


@pytest.fixture
def pod(root: Path) -> Iterator[Supervised]:
    assert ENTRYPOINT[0] == "txzmq"
    command = ("-u", "-m", *ENTRYPOINT, *arguments_of("greeter.yaml", root))
    with started(sys.executable, *command, cwd=root / "app") as program:
        supervised = Supervised(program)
        supervised.wait_until_ready()
        yield supervised


def status_of(pod: Supervised, path: str) -> int:
    """What a probe is answered."""
    try:
        with urllib.request.urlopen(f"{pod.metrics}{path}", timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_pod_serves_is_probed_and_drains(pod: Supervised, root: Path, one_loop: Loop) -> None:
    probes = {
        name: container_of("greeter.yaml")[f"{name}Probe"] for name in ("readiness", "liveness")
    }
    readiness, liveness = (probe["httpGet"]["path"] for probe in probes.values())

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        channel = Channel(factory, pod.addresses, credentials=CREDENTIALS)
        assert (status_of(pod, readiness), status_of(pod, liveness)) == (200, 200)
        async with channel.unary_stream(WATCH, text("ACME"), timeout=PATIENCE) as prices:
            assert (await anext(prices)).value == "ACME"
            slow = channel.unary_unary(SAY_HELLO, text("Sloth"), timeout=PATIENCE)
            # It comes after the slow one, which runs by then.
            answer = await channel.unary_unary(SAY_HELLO, text("Ada"), timeout=PATIENCE)
            assert answer.value == "Hello, Ada!"
            pod.signal(signal.SIGTERM)
            await one_loop.until(lambda: pod.has_said("the server drains"))
            # As long as the stream is open, it drains: taken out of the DNS, and not killed.
            assert (status_of(pod, readiness), status_of(pod, liveness)) == (503, 200)
            assert (await slow).value == "Hello, Sloth!"
        factory.shutdown()

    with started(
        sys.executable,
        *("-u", *container_of("client.yaml")["command"][1:]),
        cwd=root / "app",
        env={
            **environment(),
            "GREETER": pod.addresses[0],
            "GREETER_KEYS": f"{root}/etc/greeter/client/client.key_secret",
            "GREETER_SERVER_KEY": SERVER_KEYS.public_key,
        },
    ) as client:
        client.expect("Hello, Ada!")
        assert client.terminate() == 0
    one_loop.run(main)
    assert pod.program.wait() == 0
