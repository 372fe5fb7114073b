"""What a JSON Web Token says of itself; nothing is verified here."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

__all__ = ["expiry_of"]


def expiry_of(token: str) -> float:
    """When a JSON Web Token expires, by its own words; infinite where it does not say so.

    :return: seconds since 1970.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return math.inf
    try:
        payload: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires = payload["exp"]
        seconds = float(expires) if type(expires) in (int, float) else math.inf
    except (binascii.Error, ValueError, OverflowError, RecursionError, TypeError, LookupError):
        return math.inf
    return math.inf if seconds != seconds else seconds
