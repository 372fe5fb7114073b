"""Writes the checked-in output of the golden cases anew: ``python -m tests.codegen.update``.

So it does with the messages of the erroneous cases. Read the difference before it goes in.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.codegen.support import (
    GOLDEN,
    TEXT,
    TOOLS,
    generate_goldens,
    kept,
    knows_edition_2024,
    tool_versions,
    tree,
)
from tests.codegen.test_errors import CASES, EXPECTED, report


def update() -> None:
    if not knows_edition_2024():
        sys.exit("the installed grpcio-tools do not know edition 2024: install newer ones")
    with tempfile.TemporaryDirectory() as folder:
        generate_goldens(Path(folder))
        made = tree(Path(folder, "golden"))
    for path in GOLDEN.rglob(f"*{TEXT}"):
        path.unlink()
    for name in kept(made):
        Path(GOLDEN, name + TEXT).write_bytes(made[name].encode("utf-8", "surrogateescape"))
    for case in CASES:
        (case / EXPECTED).write_text(report(case), "utf-8")
    TOOLS.write_text(json.dumps(tool_versions(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    update()
