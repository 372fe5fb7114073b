"""What somebody does by mistake, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Mistake(NamedTuple):
    """What somebody does, and what is said of it."""

    make: Callable[..., Any]
    #: Exactly this one, and no subclass.
    error: type[Exception]
    words: str


def told(mistake: Mistake, *arguments: Any) -> None:
    """The mistake is told where it is made."""
    with pytest.raises(mistake.error) as caught:
        mistake.make(*arguments)
    assert type(caught.value) is mistake.error
    assert mistake.words in str(caught.value)
