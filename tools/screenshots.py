"""Takes the pictures of the command line in the documentation: ``python -m tools.screenshots``.

The starter's service is generated and served by ``txzmq serve``, and each command runs as a reader
would type it. What it prints becomes ``docs/screenshots/*.svg``. Figures in them are those of the
run, so the pictures differ each time; take them anew when what is printed has changed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from txzmq_codegen.starter import starter

_ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = _ROOT / "docs/screenshots"
#: The address that pictures show, whichever port the kernel has chosen.
SHOWN: Final = "tcp://127.0.0.1:5555"
_METHOD: Final = "hello.v1.Hello/SayHello"
_REQUEST: Final = ["-d", '{"name": "World"}']
_WIDTH: Final = 100
_MARGIN: Final = (0, 1, 1, 1)  # lines and characters around what is printed
#: By the name of the picture: its commands, without the program and the address.
SHOTS: Final[dict[str, list[list[str]]]] = {
    "list": [["list"], ["list", "hello.v1.Hello"], ["health"]],
    "call": [["call", _METHOD, *_REQUEST], ["call", _METHOD, "-d", "{}"]],  # the latter fails
    "bench": [["bench", _METHOD, *_REQUEST, "-z", "2s"]],
    "top": [["top", "--once"]],
}
#: rich's own has fonts of another site and the frame of a window around it.
_FORMAT: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}" \
width="{terminal_width}" role="img">
<style>.{unique_id}-matrix {{ font: {char_height}px ui-monospace, monospace }}
{styles}</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="6" fill="#292929"/>
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</svg>
"""


@contextmanager
def _served(folder: Path) -> Generator[str]:
    """Serve the starter's service; gives its address."""
    for name, text in starter("Hello").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "txzmq.codegen"], cwd=folder, check=True)
    command = [sys.executable, "-m", "txzmq", "serve", "server:Hello", "--admin"]
    with subprocess.Popen(
        [*command, "--listen", "tcp://127.0.0.1:*"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r" at (tcp://\S+)", line):
                    yield found[1]
                    return
            raise RuntimeError(f"{' '.join(command)} ended with status {process.wait()}")
        finally:
            process.terminate()


def _printed(address: str, command: list[str], folder: Path) -> str:
    """What a command prints, with its colours; load is put on the server where it looks on."""
    verb, *rest = command
    program = [sys.executable, "-m", "txzmq"]
    busy = [*program, "bench", address, _METHOD, *_REQUEST, "-z", "5s", "--rps", "200"]
    load = (
        subprocess.Popen(busy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if verb == "top"
        else None
    )
    try:
        done = subprocess.run(
            [*program, verb, address, *rest],
            cwd=folder,
            env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(_WIDTH - 2)},
            stdout=subprocess.PIPE,
            # The bar of progress is there, which is drawn over.
            stderr=subprocess.DEVNULL if verb == "bench" else subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        if load is not None:
            load.wait()
    if done.returncode and "{}" not in command:
        raise RuntimeError(f"{verb} ended with status {done.returncode}: {done.stdout}")
    return done.stdout


def picture(shown: list[tuple[str, str]]) -> str:
    """Return the SVG of commands and what they printed, with the colours of a terminal."""
    console = Console(
        record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for command, printed in shown:
        console.print(Padding(Text.assemble(("$ ", "green"), (command, "bold")), (0, 1)))
        console.print(Padding(Text.from_ansi(printed.rstrip()), _MARGIN))
    return console.export_svg(code_format=_FORMAT, unique_id="shot")


def _typed(command: list[str]) -> str:
    verb, *rest = command
    words = [f"'{word}'" if re.search(r'[ "{]', word) else word for word in rest]
    return " ".join(["txzmq", verb, SHOWN, *words])


def main() -> None:
    """Take all of them."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, _served(Path(name)) as address:
        for shot, commands in SHOTS.items():
            shown = [
                (_typed(command), _printed(address, command, Path(name)).replace(address, SHOWN))
                for command in commands
            ]
            (FOLDER / f"{shot}.svg").write_text(picture(shown), encoding="utf-8")


if __name__ == "__main__":
    main()
