"""``python -m txzmq_codegen``: the generator where the runtime is not installed."""

import sys

from txzmq_codegen.cli import main

sys.exit(main())
