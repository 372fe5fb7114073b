"""Writes the checked-in output of the golden cases anew: ``python -m tests.codegen.update``.

So it does with the messages of the erroneous cases. Read the difference before it goes in.
"""

from __future__ import annotations

import json
import sys

from tests.codegen.support import GOLDEN, TOOLS, run, tool_versions
from tests.codegen.test_errors import CASES, EXPECTED, report


def update() -> int:
    ran = run(GOLDEN, "-o", GOLDEN, "--prune")
    sys.stderr.write(ran.err)
    for case in CASES:
        (case / EXPECTED).write_text(report(case), "utf-8")
    TOOLS.write_text(json.dumps(tool_versions(), indent=2) + "\n", "utf-8")
    return ran.status


if __name__ == "__main__":
    sys.exit(update())
