"""How far a command is: a bar on a terminal, on standard error; nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.progress_bar import ProgressBar

from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer

__all__ = ["State", "show_progress"]

#: Seconds between two looks.
_INTERVAL: Final = 0.2
#: Columns of the bar, and what is left beside it and the text.
_LEAST: Final = 4
_MOST: Final = 40
_BESIDE: Final = 4


class State(NamedTuple):
    """How far it is.

    :ivar done: the part that is done, at most 1.
    :ivar text: what else there is to say.
    """

    done: float
    text: str


class _Bar(BarColumn):
    """As wide as there is room beside the text.

    Not to the end of the line: there the terminal writes ^C when that is pressed.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> ProgressBar:
        room = self._console.width - _BESIDE - len(task.description)
        self.bar_width = max(_LEAST, min(_MOST, room))
        return super().render(task)


def show_progress(console: Console, clock: Clock, look: Callable[[], State]) -> Callable[[], None]:
    """Show a bar until what is returned is called, which takes it away.

    :param console: no bar if it is no terminal.
    :param look: says how far it is; asked again and again.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        return lambda: None
    progress = Progress(
        _Bar(console),
        TextColumn("{task.description}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = progress.add_task("", total=1.0)

    def show() -> None:
        state = look()
        progress.update(task, completed=state.done, description=state.text, refresh=True)
        timer.start(_INTERVAL)

    def stop() -> None:
        timer.stop()
        progress.stop()

    timer = ResettableTimer(clock, show)
    progress.start()
    show()
    return stop
