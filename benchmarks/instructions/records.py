"""What was counted of each release, in ``records.json`` beside this file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

__all__ = ["FILE", "Record", "change", "last_like", "load", "put", "save"]

FILE: Final = Path(__file__).parent / "records.json"
_LIBRARIES: Final = ("protobuf", "twisted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What calls and items took in one release of txzmq, on one interpreter, by one tool."""

    txzmq: str
    #: Implementation, version and architecture; two of one version may be built differently.
    python: str
    tool: str
    libraries: Mapping[str, str]
    #: Instructions by scenario, per call or per item of a stream.
    per_call: Mapping[str, int]

    @classmethod
    def of_today(cls, tool: str, per_call: Mapping[str, int]) -> Record:
        """What is installed here."""
        python = (
            platform.python_implementation(),
            platform.python_version(),
            platform.machine(),
        )
        return cls(
            txzmq=version("txzmq"),
            python=" ".join(python),
            tool=tool,
            libraries={name: version(name) for name in _LIBRARIES},
            per_call=per_call,
        )

    def is_like(self, other: Record) -> bool:
        """Whether the counts can be compared."""
        return (self.python, self.tool) == (other.python, other.tool)


def load(file: Path) -> list[Record]:
    """The records in *file*, the oldest first; none if there is no such file."""
    if not file.exists():
        return []
    return [Record(**each) for each in json.loads(file.read_text(encoding="utf-8"))]


def save(file: Path, records: Sequence[Record]) -> None:
    """Write *records* so that a diff shows what changed."""
    text = json.dumps([asdict(each) for each in records], indent=2)
    file.write_text(text + "\n", encoding="utf-8")


def put(records: Sequence[Record], new: Record) -> list[Record]:
    """*records* with *new*, which replaces that of the same release."""
    kept = [each for each in records if each.txzmq != new.txzmq or not each.is_like(new)]
    return [*kept, new]


def last_like(records: Sequence[Record], new: Record) -> Record | None:
    """The last record that *new* can be compared with."""
    return next((each for each in reversed(records) if each.is_like(new)), None)


def change(before: int, now: int) -> float:
    """In per cent; more instructions are a positive change."""
    return (now - before) / before * 100
