"""``python -m benchmarks``."""

import signal
import sys

from benchmarks.cli import main

if __name__ == "__main__":
    # SIGTERM as Ctrl-C, so that the processes of the stacks are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
