"""The Dockerfile of ``examples/kubernetes``, read and done without Docker."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Final

from tests.programs import ROOT, succeeds

FOLDER: Final = ROOT / "examples/kubernetes"
IMAGE: Final = FOLDER / "Dockerfile"


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of a kind, in their order."""
    text = re.sub(r"^#.*\n", "", IMAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == name]


def _entrypoint() -> list[str]:
    (given,) = instructions("ENTRYPOINT")
    words: list[str] = json.loads(given)
    return words


#: What a container starts, before the arguments of its manifest.
ENTRYPOINT: Final = _entrypoint()


def build(app: Path) -> None:
    """Have in a folder what the image has in ``/app``."""
    (generates,) = (run for run in instructions("RUN") if "txzmq.codegen" in run)
    program, *arguments = shlex.split(generates)
    assert program == "python"
    succeeds([word.replace("/app", str(app)) for word in arguments])
    for copied in instructions("COPY"):
        *sources, to = copied.split()
        if not to.startswith("examples/"):
            continue  # of the first stage, or what was generated
        (app / to).mkdir(parents=True)
        for source in sources:
            shutil.copy(ROOT / source, app / to)
