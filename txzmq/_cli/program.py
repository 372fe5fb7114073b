"""The program ``txzmq``: its verbs, and what becomes of errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

import txzmq
from txzmq._cli.output import Output, say_problem
from txzmq._cli.problems import BROKEN_PIPE, RPC, USAGE, Interrupted, NobodyReads, Problem
from txzmq._cli.runtime import ReactorRuntime
from txzmq._escape import escaped
from txzmq.rpc.errors import RpcError

__all__ = ["VERBS", "invoke", "main", "program"]

#: The verbs, in the order of the help; each with its module in ``txzmq._cli.verbs``.
VERBS: Final = {
    "list": "list_services",
    "describe": "describe",
    "call": "call",
    "health": "health",
    "top": "top",
    "bench": "bench",
    **dict.fromkeys(("peers", "methods", "streams", "limits", "endpoints"), "admin"),
    "serve": "serve",
    "proxy": "proxy",
    "gateway": "gateway",
    **dict.fromkeys(("keys", "codegen"), "tools"),
}


class _Program(click.Group):
    """Imports a verb when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = VERBS.get(cmd_name)
        if name is None:
            return None
        module = importlib.import_module(f"txzmq._cli.verbs.{name}")
        command: click.Command = getattr(module, "command", None) or module.COMMANDS[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            from txzmq._cli.problems import did_you_mean

            hint = did_you_mean(name, VERBS) or "txzmq --help lists the verbs"
            raise Problem(f"there is no verb {escaped(name)}", hint)
        return super().resolve_command(ctx, args)


@click.group(
    name="txzmq",
    cls=_Program,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(txzmq.__version__, prog_name="txzmq", message="%(prog)s %(version)s")
def program() -> None:
    """Ask and call txzmq's servers.

    An ENDPOINT is like tcp://127.0.0.1:5000. Exit status: 0 fine, 1 not so, 2 wrong usage, 64 and
    the code of an RPC that failed, 130 after Ctrl-C.
    """


def main() -> int:
    """Do what the process's arguments say; the exit status."""
    return invoke(sys.argv[1:])


# Any: the runtime, which is made when a verb needs it, or a test's.
def invoke(arguments: Sequence[str], runtime: Any = ReactorRuntime) -> int:
    """Do what arguments say, and say what is wrong; the exit status.

    :param runtime: makes what the verb runs on.
    """
    try:
        return _run(arguments, runtime)
    except NobodyReads:
        # Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(arguments: Sequence[str], runtime: Any) -> int:
    verb = "txzmq"
    if arguments and arguments[0] in VERBS:
        verb = f"txzmq {arguments[0]}"
    try:
        status = program.main([*arguments], prog_name="txzmq", standalone_mode=False, obj=runtime)
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        said = escaped(error.format_message().rstrip("."))
        problem = Problem(f"{said[:1].lower()}{said[1:]}", f"{verb} --help shows how to use it")
        say_problem(problem, verb)
    except Problem as error:
        say_problem(error, verb)
        return error.status
    except RpcError as error:
        # That of the call itself is told by its verb, with its details.
        Output().error("ERROR:", str(error))
        return RPC + error.code
    except Interrupted as error:
        return error.status
    except (KeyboardInterrupt, click.Abort):
        return 130
    return USAGE
