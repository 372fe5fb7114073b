"""The layers of a call: each does its work, and takes some time."""

from __future__ import annotations

from benchmarks.layers import measure


def test_each_layer_does_its_work() -> None:
    layers = measure(0.001, 2)
    assert [layer.name for layer in layers] == [
        "protobuf",
        "Deferred",
        "wire",
        "pyzmq",
        "all but sockets",
    ]
    assert all(0 < layer.microseconds < float("inf") for layer in layers)
