"""Type the steps of the tutorial, each of which is a project of its own: part of ``make types``.

Each step has modules of the same names, and code that is generated into it. So mypy runs once for
each, and pyright once with a root for each.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TUTORIAL = Path(__file__).parent.parent / "examples" / "tutorial"


def main() -> int:
    """Generate the code of copies of all steps, and check them.

    :returns: the exit status: 1 if a checker has found something, which is printed.
    """
    with tempfile.TemporaryDirectory(prefix="txzmq-tutorial-") as name:
        return check(TUTORIAL, Path(name))


def check(tutorial: Path, folder: Path) -> int:
    """Copy the steps of *tutorial* into *folder*, and check them there; the exit status."""
    steps = sorted(path.name for path in tutorial.glob("step*"))
    failed = False
    for step in steps:
        unwanted = shutil.ignore_patterns("generated", "__pycache__", ".*")
        shutil.copytree(tutorial / step, folder / step, ignore=unwanted)
        run("txzmq.codegen", cwd=folder / step).check_returncode()
        # A cache that all share: what they import of txzmq and Twisted is read once.
        typed = run("mypy", "--cache-dir", str(folder / "cache"), cwd=folder / step)
        if typed.returncode:
            print(f"mypy, {tutorial / step}:", typed.stdout, sep="\n")
            failed = True
    settings = {
        "typeCheckingMode": "strict",
        "executionEnvironments": [{"root": step} for step in steps],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    # Outside of the checkout, pyright does not look into the environment that it runs in.
    typed = run("pyright", "--pythonpath", sys.executable, cwd=folder)
    if typed.returncode:
        print(f"pyright, {tutorial}:", typed.stdout, sep="\n")
        failed = True
    if not failed:
        print(f"mypy and pyright: no issues found in {len(steps)} steps of the tutorial")
    return int(failed)


def run(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a module of this Python; standard error goes where standard output goes."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
