"""``python -m benchmarks.secure``: each part, for a moment."""

from __future__ import annotations

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")
pytest.importorskip("trustme", reason="trustme is not installed")

from benchmarks.secure.__main__ import CALLS, STREAMS, main
from benchmarks.secure.connecting import VARIANTS
from benchmarks.trust import curve_client, curve_server, new_curve, new_tls, tls_client

MOMENT = ["--seconds", "0.05", "--rounds", "1", "--clients", "5"]


@pytest.mark.parametrize(
    ("part", "names", "lines"),
    [
        ("calls", [stack.name for stack in CALLS], ["1 in flight", "100 in flight"]),
        ("streams", [name for name, _, _ in STREAMS], ["from the server", "to the server"]),
        (
            "connections",
            [name for name, _, _ in VARIANTS],
            ["connect, call once, leave", "5 clients back after a restart"],
        ),
    ],
)
def test_a_part_is_measured(
    part: str, names: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*MOMENT, "--only", part]) == 0
    said = capsys.readouterr().out
    for line in lines:
        assert line in said
    for name in names:
        rows = [row for row in said.splitlines() if row.startswith(f"{name}  ")]
        assert len(rows) >= len(lines), said
        assert all("nan" not in row and " 0 " not in row for row in rows)


def test_a_line_without_keys_has_no_credentials() -> None:
    assert curve_client("tcp://127.0.0.1:5000") == ("tcp://127.0.0.1:5000", None)
    assert tls_client("127.0.0.1:5000") == ("127.0.0.1:5000", None)


def test_the_keys_in_a_line_are_those_of_both() -> None:
    keys = new_curve()
    address, client = curve_client(f"tcp://127.0.0.1:5000{keys}")
    server = curve_server(keys)
    assert address == "tcp://127.0.0.1:5000"
    assert client is not None
    assert client.server_keys == (server.keys.public_key,)
    assert client.keys.public_key != server.keys.public_key
    identity = server.clients.get(client.keys.public_key)
    assert identity is not None


def test_certificates_fit_into_a_line() -> None:
    assert "\n" not in new_tls()
    # A pipe passes on so much in one piece, in a line of JSON that doubles each backslash.
    assert len(new_tls().replace("\\", "\\\\")) < 4000
