"""Build the wheel of an older commit, for tests of mixed versions: ``python tools/baseline.py``.

It prints the folder in which the wheel is unpacked: with it as PYTHONPATH, programs run on that
version, and on the dependencies that are installed. What was built stays in ``build/compat``, by
commit.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: A file with the full hash of a commit.
BASELINE = ROOT / "tests" / "compat" / "BASELINE"
#: What of the commit's sources is kept beside the wheel, and by which names.
_KEPT = {"golden": "tests/codegen/golden", "vectors": "tests/vectors"}


class NoHistoryError(Exception):
    """The commit is not there: a shallow clone, or no clone at all. The text says so."""


def baseline_commit() -> str:
    """The commit that the tests compare with.

    :raises ValueError: if the file does not hold the full hash of a commit.
    """
    text = BASELINE.read_text("ascii").strip()
    if len(text) != 40 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{BASELINE.relative_to(ROOT)} must hold the full hash of a commit")
    return text


def unpacked(commit: str) -> Path:
    """The folder in which the wheel of *commit* is unpacked; builds it if there is none.

    It also has ``golden``, the cases of the generator's tests, and ``vectors``, the examples of the
    protocol, as that commit has them.

    :raises NoHistoryError: if git does not have the commit here.
    :raises subprocess.CalledProcessError: if the wheel cannot be built; its output says why.
    """
    target = ROOT / "build" / "compat" / commit
    if target.exists():
        return target
    sources = _sources(commit)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own and then renamed: others may build at the same time, or be interrupted.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as name:
        folder = Path(name)
        with zipfile.ZipFile(io.BytesIO(sources)) as archive:
            archive.extractall(folder / "sources")  # they are ours
        _run(
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", folder / "dist", folder / "sources"),
        )
        [wheel] = (folder / "dist").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "made")  # we have built it
        for kept, source in _KEPT.items():
            (folder / "sources" / source).rename(folder / "made" / kept)
        try:
            (folder / "made").rename(target)
        except OSError:
            if not target.exists():  # else somebody else was faster
                raise
    return target


def _sources(commit: str) -> bytes:
    """The sources of a commit, as a zip."""
    try:
        known = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True
        )
    except FileNotFoundError:
        raise NoHistoryError("git is not installed, so there is no baseline to build") from None
    if known.returncode:
        raise NoHistoryError(
            f"git has no commit {commit[:12]} here, the baseline: this is a shallow clone, which "
            "`git fetch --unshallow` completes, or an archive of the sources "
            f"({known.stderr.decode().strip()})"
        )
    return _run("git", "archive", "--format=zip", commit)


def _run(*command: str | Path) -> bytes:
    """Run a command to its end; what it wrote."""
    # The wheel is that of the commit, whatever the caller can import.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        done.check_returncode()
    return done.stdout


def main() -> None:
    """Print the folder; with an argument, that of another commit."""
    try:
        print(unpacked(sys.argv[1] if len(sys.argv) > 1 else baseline_commit()))
    except NoHistoryError as error:
        sys.exit(f"baseline: {error}")


if __name__ == "__main__":
    main()
