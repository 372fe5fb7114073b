"""``txzmq keys`` and ``txzmq codegen``: programs of their own, which are found here, too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

import click

from txzmq._cli.problems import Problem

__all__ = ["COMMANDS"]


def _keys(arguments: Sequence[str]) -> int:
    from txzmq._auth_command import main

    return main(arguments, program="txzmq keys")


def _codegen(arguments: Sequence[str]) -> int:
    try:
        from txzmq_codegen.cli import main
    except ImportError as error:
        raise Problem(
            f"the generator cannot be imported: {error}", "pip install 'txzmq[codegen]'"
        ) from None
    return main(arguments)


def _command(name: str, run: Callable[[Sequence[str]], int], help_text: str) -> click.Command:
    # All that follows is for the other program, --help too.
    settings = {"ignore_unknown_options": True, "help_option_names": list[str]()}

    @click.command(name, context_settings=settings, add_help_option=False, help=help_text)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> int:
        try:
            return run(arguments)
        except SystemExit as error:  # argparse has said what is wrong, or shown its help
            sys.stdout.flush()
            return error.code if isinstance(error.code, int) else 0

    return command


#: The verbs, by their names.
COMMANDS: Final = {
    "keys": _command("keys", _keys, "Make and show CURVE keys, as python -m txzmq.auth."),
    "codegen": _command("codegen", _codegen, "Generate code, as python -m txzmq.codegen."),
}
