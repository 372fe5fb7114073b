"""``txzmq describe``: services, messages and all else that protos define."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from txzmq._cli.asking import ask_types
from txzmq._cli.output import Output
from txzmq._cli.render import kind_of, render
from txzmq._cli.session import Target, TypeSources, target_options, type_options
from txzmq._cli.types import Types, find_symbol

__all__ = ["command"]


@click.command("describe")
@click.argument("names", nargs=-1, metavar="[ENDPOINT] [SYMBOL]")
@target_options
@type_options
@click.pass_obj
def command(
    runtime: Callable[[], Any], names: tuple[str, ...], target: Target, sources: TypeSources
) -> None:
    """Show a service, message or other symbol as its proto has it.

    SYMBOL is a full name, such as acme.orders.v1.Orders; without one, all services are shown.
    ENDPOINT may be left out where --protoset or --proto has the types.
    """
    output = Output()

    async def show(types: Types, symbol: str | None) -> None:
        for name in [symbol] if symbol is not None else await types.services():
            found = await find_symbol(types, name)
            output.line(f"{found.full_name} is {kind_of(found)}:", "bold")
            output.proto(render(found, types.pool))

    ask_types(runtime, names, target, sources, show)
