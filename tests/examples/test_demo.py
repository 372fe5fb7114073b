"""``make demo``, in a folder of its own: what it shows is what it promises to show."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.programs import ROOT, succeeds


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the demo prints."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(ROOT / "examples" / "demo", folder / "examples" / "demo")
    succeeds(
        ["-m", "txzmq.codegen", ROOT / "protos" / "demo", "--include", ROOT / "protos"], folder
    )
    return succeeds(["-m", "examples.demo"], cwd=folder).splitlines()


@pytest.mark.parametrize(
    "line",
    [
        r"server \| listening on tcp://127\.0\.0\.1:\d+",
        r"server \| listening on ipc://.+",
        r"client \| a call over tcp://127\.0\.0\.1:\d+",
        r"client \| a call over ipc://.+",
        r"server \| /demo\.greeter\.v1\.Greeter/SayHello for 'Ada', (?:5\.0|4\.\d) s left",
        r"client \|   say_hello\('Ada'\) -> 'Hello, Ada!'  \(\d+\.\d ms\)",
        r"client \|   say_hello\(''\) -> INVALID_ARGUMENT: whom shall I greet\?  \(\d+\.\d ms\)",
        r"client \|   say_hello\('Bug'\) -> UNKNOWN: .+  \(\d+\.\d ms\)",
        r"client \|   say_hello\('Sloth'\) -> DEADLINE_EXCEEDED: .+  \([56]\d\d\.\d ms\)",
        r"client \|   say_hello\('anybody'\) -> UNAVAILABLE: .+  \(\d+\.\d ms\)",
    ],
)
def test_a_line_is_shown(shown: list[str], line: str) -> None:
    assert [text for text in shown if re.fullmatch(line, text)], "\n".join(shown)


def test_no_secret_of_the_server_reaches_the_client(shown: list[str]) -> None:
    assert not [line for line in shown if line.startswith("client") and "secret" in line]
