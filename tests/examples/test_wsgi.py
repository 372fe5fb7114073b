"""The example of a web application: gunicorn forks its workers, before and after it is loaded."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.programs import ROOT, started, succeeds
from tests.support import is_installed

pytestmark = pytest.mark.skipif(
    not is_installed("gunicorn"), reason="gunicorn is not installed (the group test)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and the code generated for them."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("wsgi")
    for name in ("demo", "wsgi.py"):
        source = ROOT / "examples" / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        (folder / "examples").mkdir(exist_ok=True)
        copy(source, folder / "examples" / name)
    succeeds(
        ["-m", "txzmq.codegen", ROOT / "protos" / "demo", "--include", ROOT / "protos"], folder
    )
    return folder


@pytest.fixture
def greeter(folder: Path) -> Iterator[str]:
    """Where a server greets."""
    command = (sys.executable, "-u", "-m", "examples.demo.server")
    with started(*command, "tcp://127.0.0.1:*", cwd=folder) as server:
        yield server.expect(r".*(tcp://127\.0\.0\.1:\d+).*")[1]


@pytest.mark.parametrize("preload", [True, False])
def test_each_worker_calls(folder: Path, greeter: str, preload: bool) -> None:
    command = [sys.executable, "-u", "-m", "gunicorn", "--workers", "2", "--threads", "4"]
    command += ["--bind", "127.0.0.1:0", *(["--preload"] if preload else [])]
    # Python warns where a process with threads forks.
    env = {"GREETER": greeter, "PYTHONWARNINGS": ""}
    with started(*command, "examples.wsgi:application", cwd=folder, env=env) as web:
        url = web.expect(r".*Listening at: (http://127\.0\.0\.1:\d+).*")[1]
        processes: set[str] = set()
        for _ in range(1_000):  # the kernel chooses a worker
            with urlopen(f"{url}/?name=Ada") as response:
                said = re.fullmatch(r"Hello, Ada! \(by process (\d+)\)\n", response.read().decode())
            assert said is not None
            processes.add(said[1])
            if len(processes) == 2:
                break
        assert len(processes) == 2
        with pytest.raises(HTTPError, match="400"):
            urlopen(f"{url}/")
        assert web.terminate() == 0
