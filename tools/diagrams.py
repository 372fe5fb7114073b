"""Draws the diagrams of the documentation from text: ``python -m tools.diagrams``.

Each file ``docs/diagrams/*.txt`` becomes an SVG beside it, which pages show as an image. It has a
background of its own, and takes the reader's light or dark scheme where it is told one. The
text of a diagram is lines of these forms; the first three are needed::

    title: Whose picture it is, in a few words
    description: What it shows, in a sentence or two, for who cannot see it
    kind: sequence, states or layers

    actors: client | server        of a sequence, from left to right
    == a heading                   of what follows
    client -> server: a message    --> for what comes back, dashed
    note server: what it does meanwhile

    state opening: what it means   of states, from the top downwards
    opening -> open: what happens

    layer a | b: what is there     of layers, from the top downwards
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs/diagrams"

_WIDTH: Final = 640
_CHARACTER: Final = 7.2  # pixels, of the widest fonts that browsers have for these names
_STYLE: Final = """
.ground { fill: #ffffff } text { fill: #1b1f24; font: 13px ui-sans-serif, system-ui, sans-serif }
.box { fill: #eef3fb; stroke: #4a6fa5 } .line { stroke: #4a5568; fill: none }
.head { fill: #4a5568 }
.note { fill: #fff6d6; stroke: #9a7b1c } .name { font-weight: 600 } .life { stroke: #a0aec0 }
.dashed { stroke-dasharray: 5 4 } .said { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
@media (prefers-color-scheme: dark) {
.ground { fill: #131416 } text { fill: #e6e8eb } .box { fill: #1f2b3d; stroke: #7ea2d6 }
.line { stroke: #b6bfcc } .head { fill: #b6bfcc } .note { fill: #3a3216; stroke: #cdb04f }
.life { stroke: #56606f } .said { stroke: #131416 } }
"""
_HEAD: Final = """
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
 orient="auto"><path d="M0 0 L8 4 L0 8 z" class="head"/></marker></defs>
"""
_MESSAGE: Final = re.compile(r"(\w+) (--?>) (\w+): (.+)")


class DiagramError(ValueError):
    """A line of a diagram that cannot be read; the message says which and why."""


@dataclass
class Diagram:
    """What the text of a diagram says, and the shapes that are drawn of it."""

    fields: dict[str, str] = field(default_factory=dict[str, str])
    lines: list[str] = field(default_factory=list[str])
    shapes: list[str] = field(default_factory=list[str])

    def text(self, x: float, y: float, words: str, css: str = "", anchor: str = "middle") -> None:
        """Write words around a point, or from it on."""
        room = {"start": _WIDTH - x, "end": x, "middle": 2 * min(x, _WIDTH - x)}[anchor]
        if len(words) * _CHARACTER > room:
            raise DiagramError(
                f"{words!r} is {len(words)} characters long, and there is room for "
                f"{int(room / _CHARACTER)}: write less, or draw it elsewhere"
            )
        self.shapes.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{css}">{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, css: str = "box") -> None:
        """Draw a box with round corners."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'rx="5" class="{css}"/>'
        )

    def path(self, path: str, css: str = "line", *, head: bool = False) -> None:
        """Draw a line, with the head of an arrow at its end or none."""
        end = ' marker-end="url(#head)"' if head else ""
        self.shapes.append(f'<path d="{path}" class="{css}"{end}/>')


def parse(text: str) -> Diagram:
    """Read the text of a diagram.

    :raises DiagramError: what every diagram needs is not there.
    """
    diagram = Diagram()
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"(title|description|kind|actors): (.+)", line)
        if match:
            diagram.fields[match[1]] = match[2]
        else:
            diagram.lines.append(line)
    for name in ("title", "description", "kind"):
        if name not in diagram.fields:
            raise DiagramError(f"there is no line {name!r}")
    if diagram.fields["kind"] not in _KINDS:
        raise DiagramError(f"the kind is one of {', '.join(_KINDS)}, not {diagram.fields['kind']}")
    return diagram


def _place(name: str, places: dict[str, float], line: str) -> float:
    if name not in places:
        raise DiagramError(f"{line!r} names {name}, and there are {', '.join(places) or 'none'}")
    return places[name]


def _sequence(diagram: Diagram) -> float:
    if "actors" not in diagram.fields:
        raise DiagramError("a sequence needs a line 'actors'")
    names = [name.strip() for name in diagram.fields["actors"].split("|")]
    step = _WIDTH / len(names)
    places = {name: step * (index + 0.5) for index, name in enumerate(names)}
    y = 70.0
    for line in diagram.lines:
        message, note = _MESSAGE.fullmatch(line), re.fullmatch(r"note (\w+): (.+)", line)
        if line.startswith("== "):
            diagram.text(12, y + 14, line[3:], "said name", "start")
            y += 32
        elif note:
            x, width = _place(note[1], places, line), len(note[2]) * _CHARACTER + 16
            left = min(max(x - width / 2, 4), _WIDTH - 4 - width)
            diagram.box(left, y - 8, width, 24, "note")
            diagram.text(left + width / 2, y + 9, note[2])
            y += 34
        elif message:
            start, end = (_place(message[index], places, line) for index in (1, 3))
            diagram.text((start + end) / 2, y + 4, message[4], "said")
            dashed = "line dashed" if message[2] == "-->" else "line"
            diagram.path(
                f"M{start:g} {y + 11:g} H{end + (4 if start > end else -4):g}", dashed, head=True
            )
            y += 32
        else:
            raise DiagramError(f"a sequence has no line {line!r}")
    lives = [f'<path d="M{x:g} 40 V{y:g}" class="life"/>' for x in places.values()]
    diagram.shapes[:0] = lives
    for name, x in places.items():
        diagram.box(x - 55, 12, 110, 28)
        diagram.text(x, 31, name, "name")
    return y + 8


def _states(diagram: Diagram) -> float:
    left, right, gap = 120.0, 340.0, 96.0
    beyond = 470.0  # the words of straight arrows
    places: dict[str, float] = {}
    sides = {"left": 0, "right": 0}
    for line in diagram.lines:
        state, arrow = re.fullmatch(r"state (\w+): (.+)", line), _MESSAGE.fullmatch(line)
        if state:
            places[state[1]] = y = 12 + gap * len(places)
            diagram.box(left, y, right - left, 44)
            diagram.text((left + right) / 2, y + 18, state[1], "name")
            diagram.text((left + right) / 2, y + 35, state[2])
        elif arrow:
            start, end = (_place(arrow[index], places, line) for index in (1, 3))
            words = arrow[4].split(" / ")
            if end - start == gap:
                middle = (left + right) / 2
                diagram.path(f"M{middle:g} {start + 44:g} V{end - 3:g}", head=True)
                for index, part in enumerate(words):
                    diagram.text(middle + 10, start + 66 + index * 16, part, "", "start")
            else:
                side = "right" if end > start else "left"
                sides[side] += 1
                edge, out, anchor = (right, 1, "start") if end > start else (left, -1, "end")
                x = (beyond if end > start else left) + out * 18 * sides[side]
                a, b = start + 14 + 7 * sides[side], end + 14 + 7 * sides[side]
                diagram.path(f"M{edge:g} {a:g} H{x:g} V{b:g} H{edge + out * 4:g}", head=True)
                for index, part in enumerate(words):
                    diagram.text(x + out * 8, (a + b) / 2 + index * 16, part, "", anchor)
        else:
            raise DiagramError(f"states have no line {line!r}")
    return 12 + gap * len(places) - gap + 56


def _layers(diagram: Diagram) -> float:
    y = 12.0
    for line in diagram.lines:
        layer = re.fullmatch(r"layer ([^:]+): (.+)", line)
        if not layer:
            raise DiagramError(f"layers have no line {line!r}")
        names = [name.strip() for name in layer[1].split("|")]
        if y > 12:
            diagram.path(f"M{_WIDTH / 2:g} {y - 18:g} V{y - 3:g}", head=True)
        width = (_WIDTH - 24 - 12 * (len(names) - 1)) / len(names)
        for index, name in enumerate(names):
            x = 12 + index * (width + 12)
            diagram.box(x, y, width, 30)
            diagram.text(x + width / 2, y + 20, name, "name")
        diagram.text(_WIDTH / 2, y + 47, layer[2])
        y += 74
    return y - 12


_KINDS: Final = {"sequence": _sequence, "states": _states, "layers": _layers}


def draw(text: str) -> str:
    """Return the SVG of a diagram's text.

    :raises DiagramError: a line cannot be read, names what is not there, or does not fit.
    """
    diagram = parse(text)
    height = _KINDS[diagram.fields["kind"]](diagram)
    title, description = (escape(diagram.fields[name]) for name in ("title", "description"))
    size = f'width="{_WIDTH}" height="{height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" {size}',
        ' role="img" aria-labelledby="title description">',
        f'<title id="title">{title}</title>',
        f'<desc id="description">{description}</desc>',
        f"<style>{_STYLE}</style>",
        _HEAD,
        f'<rect {size} class="ground"/>',
        *diagram.shapes,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def drawings() -> Iterator[tuple[Path, str]]:
    """Each file of a drawing, and what its text draws."""
    for path in sorted(FOLDER.glob("*.txt")):
        try:
            yield path.with_suffix(".svg"), draw(path.read_text(encoding="utf-8"))
        except DiagramError as error:
            raise DiagramError(f"{path}: {error}") from None


if __name__ == "__main__":
    try:
        for target, svg in drawings():
            target.write_text(svg, encoding="utf-8")
    except DiagramError as wrong:
        sys.exit(str(wrong))
