"""How all plots look: the same figures give the same file, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

__all__ = ["PAIR", "STYLE", "end_lines"]

STYLE: Final[dict[str, Any]] = {
    # Names in the file would be random otherwise.
    "svg.hashsalt": "txzmq",
    # Text as text: it is smaller, and can be searched.
    "svg.fonttype": "none",
    "font.size": 9,
    "xtick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
#: Two colours that are told apart by anybody who sees colours differently, too.
PAIR: Final = ("#0072b2", "#d55e00")


def end_lines(file: Path) -> None:
    """Leave no blank at a line's end, which git would complain of."""
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
