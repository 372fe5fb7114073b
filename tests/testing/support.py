"""Tests under test: pytest and trial in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.programs import PATIENCE, ROOT

#: A service with a handler that echoes, and some that do not end.
SERVICE = """
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import ECHO, OTHER, WATCH, Echo, Stubborn, Waiting, text
from tests.rpc.streaming import COUNT, Streaming
from txzmq.rpc import Channel, Unavailable
from txzmq.testing import MemoryNetwork, ServeBySockets, ServeInMemory
"""


def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run Python in a folder, where warnings are errors; its status, and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'codegen'}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3 * PATIENCE,  # a run of many tests, and where others use the machine
        check=False,
    )
    return done.returncode, done.stdout


def run_tests(folder: Path, tests: str, *options: str, plugin: bool = True) -> tuple[int, str]:
    """Run tests by pytest.

    :param tests: the source of a module, behind the imports of :data:`SERVICE`.
    :param plugin: whether the tests ask for the plugin.
    """
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider -p no:xdist --strict-markers\n"
        "filterwarnings = error\n"
    )
    (folder / "test_it.py").write_text(f"{SERVICE}\nimport pytest\n{tests}")
    asked = ["-p", "txzmq.testing.pytest"] if plugin else []
    return run(folder, "-m", "pytest", "test_it.py", *asked, *options)
