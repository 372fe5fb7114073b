"""The generated code of ``compat.proto``, by whichever version wrote it: PYTHONPATH says which.

The programs of this folder run on the version under test and on an older one. They are copied away
from the checkout, and import nothing of it but each other; of txzmq, they use what is public.
"""

from __future__ import annotations

import importlib
from typing import Any

# Any: there is no generated code where types are checked.
messages: Any = importlib.import_module("compat.v1.compat_pb2")
services: Any = importlib.import_module("compat.v1.compat_txzmq")
