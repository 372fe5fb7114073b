"""The door to the generator: ``python -m txzmq.codegen protos/``.

The generator is a package of its own, because it needs a compiler that no running service needs:
``pip install txzmq[codegen]``.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from txzmq_codegen.cli import main

    sys.exit(main())
