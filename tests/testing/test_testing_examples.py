"""The examples of tests, as users run them; and the recipes of the guide for other plugins."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.programs import ROOT, succeeds
from tests.testing.support import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and the code that they need."""
    pytest.importorskip("grpc_tools", reason="the generator needs grpcio-tools")
    folder = tmp_path_factory.mktemp("users")
    (folder / "examples").mkdir()
    shutil.copytree(ROOT / "examples/testing", folder / "examples/testing")
    protos = ROOT / "protos"
    succeeds(["-m", "txzmq.codegen", protos / "demo", "--include", protos], folder)
    return folder


def test_the_tests_of_pytest_pass(folder: Path) -> None:
    options = ["-p", "no:cacheprovider", "--import-mode=importlib", "--strict-markers"]
    options += ["-c", "/dev/null", "--rootdir=.", "--txzmq-seed", "1"]
    status, output = run(folder, "-m", "pytest", "examples/testing", *options)
    assert status == 0, output
    assert re.search(r"\d\d passed", output)


def test_those_of_trial_pass(folder: Path) -> None:
    status, output = run(folder, "-m", "twisted.trial", "examples.testing.trial_tests")
    assert (status, "PASSED (successes=3)" in output) == (0, True), output


@pytest.mark.parametrize("plugin", ["pytest_asyncio", "pytest_twisted"])
def test_the_recipes_for_other_plugins_work(folder: Path, tmp_path: Path, plugin: str) -> None:
    plugins = os.environ.get("TXZMQ_TEST_PLUGINS")
    if plugins is None:
        pytest.skip("make test-recipes does it: the plugins would take part in every test here")
    page = (ROOT / "docs/guide/testing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if block.startswith(f"# With {plugin}"))
    shutil.copytree(folder / "examples", tmp_path / "examples")
    (tmp_path / "examples/testing/conftest.py").unlink()
    shutil.copytree(folder / "generated", tmp_path / "generated")
    (tmp_path / "test_recipe.py").write_text(code, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    )
    asked = [] if plugin == "pytest_twisted" else ["-p", "no:twisted"]
    found = os.pathsep.join([plugins, str(ROOT), str(ROOT / "codegen")])
    status, output = run(tmp_path, "-m", "pytest", "test_recipe.py", *asked, PYTHONPATH=found)
    assert (status, "1 passed" in output) == (0, True), output
