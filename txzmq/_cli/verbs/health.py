"""``txzmq health``: whether a server and its services take calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import click

from txzmq._cli.output import Output
from txzmq._cli.problems import FAILED, Problem, did_you_mean
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import Session, Target, target_options
from txzmq.rpc.errors import NotFound, RpcError, Unimplemented
from txzmq.rpc.health import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthClient,
    HealthListRequest,
)
from txzmq.rpc.metadata import Metadata

__all__ = ["command"]

_SERVING: Final = "SERVING"
_COLOURS: Final = {_SERVING: "green", "NOT_SERVING": "red"}


@click.command("health")
@click.argument("endpoint")
@click.argument("service", default="")
@click.option("--list", "listed", is_flag=True, help="Of all services, and the server as a whole.")
@click.option("--watch", is_flag=True, help="Print each new status, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@target_options
@click.pass_obj
def command(
    runtime: Callable[[], Any],
    endpoint: str,
    service: str,
    listed: bool,
    watch: bool,
    as_json: bool,
    target: Target,
) -> int:
    """Say whether a server, or one of its services, takes calls.

    The exit status is 0 if it is SERVING, and 1 if not.
    """
    if listed and (watch or service):
        raise Problem("--list goes with neither --watch nor a service")
    metadata = target.metadata()
    made: Runtime = runtime()

    async def run() -> int:
        with Session(made, endpoint, target) as session:
            await session.connect()
            asking = _Asking(session, metadata, Output(), as_json)
            with _hints():
                if listed:
                    return await asking.list()
                if watch:
                    return await asking.watch(service)
                return await asking.check(service)

    return made.run(run)


class _Asking:
    def __init__(self, session: Session, metadata: Metadata, output: Output, as_json: bool) -> None:
        self._session = session
        self._metadata = metadata
        self._output = output
        self._as_json = as_json
        self._client = HealthClient(session.channel)

    async def check(self, service: str) -> int:
        request = HealthCheckRequest(service=service)
        try:
            response = await self._client.check(
                request, timeout=self._session.left(), metadata=self._metadata
            )
        except NotFound as error:
            raise await self._unknown(service, error) from None
        return self._say(service, _name(response))

    async def watch(self, service: str) -> int:
        request = HealthCheckRequest(service=service)
        timeout = self._session.left(None)
        status = FAILED
        stream = self._client.watch(request, timeout=timeout, metadata=self._metadata)
        async with stream:
            async for response in stream:
                status = self._say(service, _name(response))
        return status

    async def list(self) -> int:
        statuses = await self._statuses()
        rows = [(service, _name(statuses[service])) for service in sorted(statuses)]
        if self._as_json:
            for service, status in rows:
                self._say(service, status)
        else:
            shown = [(service or "(the server)", status) for service, status in rows]
            self._output.table(["SERVICE", "STATUS"], shown)
        return 0 if all(status == _SERVING for _, status in rows) else FAILED

    # Any: a map of protobuf's.
    async def _statuses(self) -> Any:
        response = await self._client.list(
            HealthListRequest(), timeout=self._session.left(), metadata=self._metadata
        )
        return response.statuses

    async def _unknown(self, service: str, error: NotFound) -> Problem:
        try:
            known = [name for name in await self._statuses() if name]
        except RpcError:  # an older server, or one of a hundred services
            known = []
        hint = did_you_mean(service, known, among="it knows")
        return Problem(f"the server knows no service {service}", hint, code=error.code)

    def _say(self, service: str, status: str) -> int:
        if self._as_json:
            self._output.json(json.dumps({"service": service, "status": status}))
        else:
            self._output.line(status, _COLOURS.get(status, "yellow"))
        return 0 if status == _SERVING else FAILED


def _name(response: HealthCheckResponse) -> str:
    known = HealthCheckResponse.ServingStatus
    return known.Name(response.status) if response.status in known.values() else "UNKNOWN"


@contextmanager
def _hints() -> Generator[None]:
    try:
        yield
    except Unimplemented as error:
        raise Problem(
            "the server has no health service",
            "give it Health() of txzmq.rpc.health",
            code=error.code,
        ) from None
