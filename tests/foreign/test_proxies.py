"""What nginx sees of calls, and tells the gateways of who makes them."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.foreign.calls import PACKAGE, Protocol
from tests.foreign.cases import World, get
from tests.foreign.clients import CLIENTS
from tests.foreign.served import Served
from tests.foreign.service import NAME, WHO
from tests.programs import PATIENCE

#: Not where nginx connects from, which the gateways trust.
_CLIENT = "127.0.0.5"
_CALL = f"/{PACKAGE}.TestService/EmptyCall"


@pytest.fixture(autouse=True)
def curl() -> None:
    if CLIENTS["curl"].missing:
        pytest.skip(CLIENTS["curl"].missing)


@pytest.mark.parametrize("nginx", [True, False])
@pytest.mark.parametrize("protocol", ["grpc", "connect"])
def test_who_calls_is_told_and_nobody_can_lie(
    served: Served, tmp_path: Path, protocol: Protocol, nginx: bool
) -> None:
    name = f"who-{protocol}-{nginx}"
    # A message without fields; gRPC has it in an envelope.
    (body := tmp_path / "body").write_bytes(bytes(5 if protocol == "grpc" else 0))
    kind = "grpc" if protocol == "grpc" else "proto"
    headers = [f"content-type: application/{kind}", "te: trailers", f"{NAME}: {name}", f"{WHO}: 1"]
    headers.append("x-forwarded-for: 192.0.2.1")  # a lie
    command = ["curl", "-sS", "--fail", "--interface", _CLIENT, "--data-binary", f"@{body}"]
    command += [part for header in headers for part in ("-H", header)]
    if protocol == "grpc":
        command.append("--http2-prior-knowledge")
    url = f"http://{served.target(protocol, nginx=nginx)}{_CALL}"
    subprocess.run([*command, url], check=True, capture_output=True, timeout=PATIENCE)
    proxies = " by 127.0.0.1" if nginx else ""
    served.until(f"{name} from {_CLIENT}{proxies}")


@pytest.mark.parametrize("client", ["curl", "connect-node", "connectrpc"])
def test_what_is_asked_for_by_get_is(served: Served, client: str) -> None:
    found = CLIENTS[client]
    if found.missing:
        pytest.skip(found.missing)
    assert found.start is not None
    target = served.target("connect-json", nginx=True)
    before = verbs(served)
    get(World(served, partial(found.start, target, "connect-json")))
    end = time.monotonic() + PATIENCE
    while len(verbs(served)) < len(before) + 2:
        assert time.monotonic() < end
        time.sleep(0.01)  # nginx writes it behind the response
    assert verbs(served)[len(before) :] == ["GET", "GET"]


def verbs(served: Served) -> list[str]:
    """The methods of HTTP by which nginx was asked."""
    return [line.split()[0] for line in served.nginx_log.read_text().splitlines()]
