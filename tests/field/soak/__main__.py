"""Soak the library: all kinds of call for a long time, while all that can break breaks.

``make soak SECONDS=300 SEED=7``. It goes in rounds: calls from this process and from one client
process, and faults of processes and wires; then the faults are over, all calls end, and memory is
measured. In the end everything is closed, and nothing may be left. The exit status is 1 if
something did not hold, and each such thing is printed in a sentence.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.field.soak.rounds import Soak
from tests.support import fresh_loop

#: Sentences that are printed; the first ones tell most.
_SENTENCES = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.field.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="txzmq-soak-"))
    # A server that is restarted gets another proxy for what it publishes.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"seed {arguments.seed}, for {arguments.seconds:g} s", flush=True)
    with fresh_loop("epoll") as loop:
        soak = Soak(loop, folder, arguments.seed)
        try:
            loop.run(lambda: soak.run(arguments.seconds), patience=arguments.seconds * 3 + 300)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was seen is told
            traceback.print_exc()
            soak.wrong.append(f"The soak was cut short by {error!r}.")
    wrong = soak.check()
    print(soak.summary())
    if wrong:
        print(f"seed {arguments.seed}: {len(wrong)} did not hold; the history is in {folder}")
        print("\n".join(wrong[:_SENTENCES]))
        sys.exit(1)
    shutil.rmtree(folder)
    print(f"seed {arguments.seed}: everything held")


if __name__ == "__main__":
    main()
