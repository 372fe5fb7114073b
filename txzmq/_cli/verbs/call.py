"""``txzmq call``: makes a call, with requests and responses as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, get_args

import click
from google.protobuf.message import Message
from twisted.internet.defer import CancelledError

from txzmq._cli.given import given_values
from txzmq._cli.headers import shown
from txzmq._cli.messages import Format, Writer, parse
from txzmq._cli.output import Output
from txzmq._cli.problems import RPC, Problem
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import Session, Target, TypeSources, target_options, type_options
from txzmq._cli.types import Types, find_method, to_method
from txzmq._escape import escaped
from txzmq.rpc.client import ResponseMetadata
from txzmq.rpc.errors import RpcError
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.method import Method

__all__ = ["command"]


@click.command("call")
@click.argument("endpoint")
@click.argument("method", metavar="PACKAGE.SERVICE/METHOD")
@click.option(
    "-d",
    "--data",
    metavar="DATA",
    help="The request, or several one after another; @ reads them from standard input as they "
    "come, @FILE from a file. Without it, the request is empty, or there is none where the method "
    "takes a stream.",
)
@click.option(
    "--format",
    "wanted",
    type=click.Choice(get_args(Format)),
    default="json",
    show_default=True,
    help="Of requests and responses; in text, the character U+001E stands between requests.",
)
@click.option(
    "--emit-defaults", is_flag=True, help="Print fields, too, that have their default value."
)
@click.option(
    "--allow-unknown-fields", is_flag=True, help="Ignore what the request's message does not have."
)
@click.option(
    "--rpc-header",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Metadata of the call alone, not of questions to the reflection service.",
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Print the metadata of call and response, to standard error.",
)
@target_options
@type_options
@click.pass_obj
def command(
    runtime: Callable[[], Any],
    endpoint: str,
    method: str,
    data: str | None,
    wanted: Format,
    emit_defaults: bool,
    allow_unknown_fields: bool,
    rpc_header: tuple[str, ...],
    verbose: bool,
    target: Target,
    sources: TypeSources,
) -> int:
    """Make a call, of any of the four kinds.

    Responses are JSON: one a line where another program reads them, indented on a terminal. The
    exit status is 64 and the code of an RPC that failed.
    """
    metadata = target.metadata(rpc_header)
    made: Runtime = runtime()
    types = sources.from_files() if sources.are_files else None

    async def run() -> int:
        with Session(made, endpoint, target) as session:
            await session.connect()
            found = types or sources.of_server(session, target)
            described = await find_method(found, method)
            requests = _Requests(
                made, found, to_method(described, found.pool), data, wanted, allow_unknown_fields
            )
            writer = Writer(found, wanted, emit_defaults=emit_defaults)
            call = _Call(session, requests, writer, metadata, verbose, Output())
            return await call.make()

    return made.run(run)


@dataclass(slots=True)
class _Requests:
    """The requests that the user gives."""

    runtime: Runtime
    types: Types
    method: Method[Any, Any]
    data: str | None
    format: Format
    allow_unknown: bool
    #: Why no more could be read.
    problem: Problem | None = None

    async def one(self) -> Message:
        """The request of a method that takes one.

        :raises Problem: if there is another one, or one is malformed.
        """
        found = [request async for request in self._read()]
        if len(found) > 1:
            raise Problem(
                f"{self.method.path} takes one request, and there are {len(found)}",
                "call it once for each",
            )
        request: Message = found[0] if found else self.method.request_type()
        return request

    async def __aiter__(self) -> AsyncIterator[Message]:
        try:
            async for request in self._read():
                yield request
        except Problem as problem:
            self.problem = problem
            raise

    async def _read(self) -> AsyncIterator[Message]:
        async for value in given_values(self.runtime, self.data, self.format):
            yield parse(
                value,
                self.method.request_type,
                self.types.pool,
                self.format,
                allow_unknown=self.allow_unknown,
            )


@dataclass(slots=True)
class _Call:
    session: Session
    requests: _Requests
    writer: Writer
    metadata: Metadata
    verbose: bool
    output: Output

    async def make(self) -> int:
        """Make the call; the exit status."""
        try:
            if self.requests.method.kind.response_streaming:
                await self._stream()
            else:
                await self._unary()
        except (RpcError, CancelledError, Problem) as error:
            # What reading the requests has raised ends the call, as whichever error.
            if self.requests.problem is not None:
                raise self.requests.problem from None
            if isinstance(error, RpcError):
                return await self._say(error)
            raise
        return 0

    async def _unary(self) -> None:
        method, channel = self.requests.method, self.session.channel
        if method.kind.request_streaming:
            self._say_metadata(">", self.metadata)
            with ResponseMetadata() as metadata:
                called = channel.stream_unary(
                    method,
                    aiter(self.requests),
                    timeout=self.session.left(None),
                    metadata=self.metadata,
                )
        else:
            request = await self.requests.one()
            self._say_metadata(">", self.metadata)
            with ResponseMetadata() as metadata:
                called = channel.unary_unary(
                    method, request, timeout=self.session.left(None), metadata=self.metadata
                )
        try:
            response = await called
        finally:
            self._say_metadata("<", metadata.initial)
        await self._print(response)
        self._say_metadata("<", metadata.trailing)

    async def _stream(self) -> None:
        method, channel = self.requests.method, self.session.channel
        timeout = self.session.left(None)
        if method.kind.request_streaming:
            self._say_metadata(">", self.metadata)
            stream = channel.stream_stream(
                method, aiter(self.requests), timeout=timeout, metadata=self.metadata
            )
        else:
            request = await self.requests.one()
            self._say_metadata(">", self.metadata)
            timeout = self.session.left(None)
            stream = channel.unary_stream(method, request, timeout=timeout, metadata=self.metadata)
        async with stream:
            said = False
            try:
                async for response in stream:
                    if not said:
                        said = True
                        self._say_metadata("<", stream.initial_metadata)
                    await self._print(response)
            finally:
                if not said:
                    self._say_metadata("<", stream.initial_metadata)
            self._say_metadata("<", stream.trailing_metadata)

    async def _print(self, response: Message) -> None:
        terminal = self.output.is_terminal
        text = await self.writer.text(response, indent=terminal)
        if self.requests.format == "json":
            self.output.json(text)
        else:
            self.output.line(text)

    def _say_metadata(self, direction: str, metadata: Metadata) -> None:
        if self.verbose:
            for pair in metadata:
                self.output.note(f"{direction} {shown(pair)}")

    async def _say(self, error: RpcError) -> int:
        """Say how the call has failed; the exit status."""
        details: list[str] = []
        for detail in error.details:
            try:
                text = await self.writer.text(detail, indent=False)
            except (Problem, RpcError) as reason:
                text = f"{escaped(detail.type_url)}, which cannot be shown: {reason}"
            details.append(f"detail: {text}")
        self._say_metadata("<", error.metadata)
        self.output.error("ERROR:", str(error), details)
        return RPC + error.code
