"""What ``--listen``, ``--publisher`` and ``--metrics`` stand for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis.strategies import integers, text

from txzmq._serve.addresses import each_address, publishers_of
from txzmq._serve.running import metrics_address


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["tcp://127.0.0.1:5000"], ["tcp://127.0.0.1:5000"]),
        (["tcp://[::1]:5000-5001"], ["tcp://[::1]:5000", "tcp://[::1]:5001"]),
        (["tcp://*:*", "tcp://*:*"], ["tcp://*:*", "tcp://*:*"]),
        (["ipc:///run/x", "ipc://@x"], ["ipc:///run/x", "ipc://@x"]),
        (["systemd", "systemd:grpc"], ["systemd", "systemd:grpc"]),
    ],
)
def test_each_stands_for_addresses(given: list[str], meant: list[str]) -> None:
    assert each_address(given) == meant


@given(integers(1, 65_535), integers(0, 255))
def test_a_range_stands_for_its_ports(first: int, more: int) -> None:
    last = min(first + more, 65_535)
    addresses = each_address([f"tcp://127.0.0.1:{first}-{last}"])
    assert addresses == [f"tcp://127.0.0.1:{port}" for port in range(first, last + 1)]


@given(text(max_size=30))
def test_other_text_is_refused_in_a_sentence(given: str) -> None:
    said = ""
    try:
        each_address([given])
    except ValueError as error:
        said = str(error)
    is_right = given == "systemd" or given.startswith(("systemd:", "tcp://", "ipc://"))
    assert is_right or re.match("--listen[^\n]+$", said)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("tcp://127.0.0.1:5003-5000", "reversed: use 5000-5003"),
        ("tcp://127.0.0.1:1-1000", "may have 256"),
        ("tcp://127.0.0.1", "the port is missing"),
        ("inproc://x", "inproc is for one process"),
        ("ipc://*", "name the path"),
        ("127.0.0.1:5000", "tcp://127.0.0.1:5000 perhaps"),
        ("systemds", "it has no scheme"),
    ],
)
def test_wrong_ones_are_refused(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        each_address([given])


def test_each_process_has_an_address_of_its_own() -> None:
    with pytest.raises(ValueError, match="5001 is given twice"):
        each_address(["tcp://127.0.0.1:5000-5001", "tcp://127.0.0.1:5001"])


def test_publishers_have_two_ports_for_each_process() -> None:
    assert publishers_of(["tcp://127.0.0.1:6000-6003"], 2) == [
        ("tcp://127.0.0.1:6000", "tcp://127.0.0.1:6001"),
        ("tcp://127.0.0.1:6002", "tcp://127.0.0.1:6003"),
    ]
    assert publishers_of([], 2) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("tcp://127.0.0.1:6000-6002", "has 3 ports, and 2 processes need 4"),
        ("ipc:///run/x", "chooses a path beside its own address"),
        ("systemd", "it must be an address"),
    ],
)
def test_wrong_publishers_are_refused(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        publishers_of([given], 2)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (":9090", ("127.0.0.1", 9090)),
        ("localhost:9090", ("127.0.0.1", 9090)),
        ("*:0", ("0.0.0.0", 0)),
        ("[::1]:9090", ("::1", 9090)),
    ],
)
def test_metrics_are_for_this_machine_unless_said_otherwise(
    given: str, meant: tuple[str, int]
) -> None:
    assert metrics_address(given) == meant


@pytest.mark.parametrize("given", ["9090", "", "host:9090", "127.0.0.1:", "::1:5", "127.0.0.1:x"])
def test_wrong_addresses_of_metrics_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="--metrics="):
        metrics_address(given)
