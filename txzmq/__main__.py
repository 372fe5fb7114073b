"""The command line, ``python -m txzmq``; it needs the extra ``txzmq[cli]``."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main() -> int:
    """Do what the process's arguments say; the exit status."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"txzmq: the command line needs {' and '.join(missing)}: pip install 'txzmq[cli]'\n"
        )
        return 2
    from txzmq._cli.program import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
