"""``txzmq list``: the services of a server, or the methods of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from txzmq._cli.asking import ask_types
from txzmq._cli.output import Output
from txzmq._cli.session import Target, TypeSources, target_options, type_options
from txzmq._cli.types import Types, find_service

__all__ = ["command"]


@click.command("list")
@click.argument("names", nargs=-1, metavar="[ENDPOINT] [SERVICE]")
@target_options
@type_options
@click.pass_obj
def command(
    runtime: Callable[[], Any], names: tuple[str, ...], target: Target, sources: TypeSources
) -> None:
    """List the services of a server, or the methods of one.

    ENDPOINT may be left out where --protoset or --proto has the types.
    """
    output = Output()

    async def show(types: Types, service: str | None) -> None:
        for line in await _lines(types, service):
            output.line(line)

    ask_types(runtime, names, target, sources, show)


async def _lines(types: Types, service: str | None) -> list[str]:
    if service is None:
        return [*await types.services()]
    found = await find_service(types, service)
    return sorted(f"{found.full_name}/{name}" for name in found.methods_by_name)
