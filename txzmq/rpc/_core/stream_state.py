"""The states of a stream of responses: the same words on both sides."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["ENDED", "ENDING", "OPEN", "OPENING", "StreamLife", "StreamState"]


class StreamState(Enum):
    """Where a stream is in its life. docs/inside.md has the table of what leads where."""

    #: The call that opens it is on its way, or is answered and nobody listens yet.
    OPENING = "opening"
    #: Items come.
    OPEN = "open"
    #: Its end is known, and whoever reads it has not had it.
    ENDING = "ending"
    #: Nothing is to come, and nothing is kept.
    ENDED = "ended"


# By these names, because to look one up in the class takes longer.
OPENING: Final = StreamState.OPENING
OPEN: Final = StreamState.OPEN
ENDING: Final = StreamState.ENDING
ENDED: Final = StreamState.ENDED

#: What may follow a state. Only a client opens a stream again.
_NEXT: Final = {
    OPENING: (OPEN, ENDING, ENDED),
    OPEN: (OPENING, ENDING, ENDED),
    ENDING: (ENDED,),
    ENDED: (),
}


class StreamLife:
    """Something that has the states of a stream, and goes from one to the next."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = OPENING

    @property
    def is_over(self) -> bool:
        """Whether its end is known."""
        return self.state is ENDING or self.state is ENDED

    def _enter(self, state: StreamState) -> None:
        assert state in _NEXT[self.state], f"{state.value} does not follow {self.state.value}"
        self.state = state
