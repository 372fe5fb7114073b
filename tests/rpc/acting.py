"""A service whose handlers do what the request says, for games of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.python.failure import Failure

from tests.rpc.service import ECHO, text
from tests.support import error_of
from txzmq.rpc import Aborted, Channel, Context, NotFound, RpcError, Server, Service

#: What handlers do.
LEAVES = ["value", "error", "crash", "large", "wrong", "later", "coroutine", "never", "stubborn"]
NESTED = ["nested-coroutine", "nested-generator", "nested-deferred"]


@dataclass(eq=False)
class Job:
    """A handler that runs."""

    name: str
    behaviour: str
    server: Server
    #: What it waits for now, and may be given by the test.
    step: Deferred[StringValue] | None = None


class Game(Protocol):
    """What the handlers of an actor use and change."""

    #: How often each call was executed, by its name.
    executed: Counter[str]
    #: Those that run now.
    jobs: list[Job]
    #: For the calls that handlers make.
    nested: Channel


class Crash(Exception):
    """What a handler did not expect."""


class Actor:
    """A service whose handlers do what the request says: its name, and what to do."""

    __txzmq_service__: ClassVar[Service] = Service("test.Echo", (ECHO,))

    def __init__(self, game: Game) -> None:
        self.game = game
        self.server: Server | None = None

    def echo(self, request: StringValue, context: Context) -> Any:
        # Any: a wrong type is one of the results.
        name, behaviour, *inner = request.value.split()
        assert self.server is not None
        job = Job(name, behaviour, self.server)
        self.game.executed[name] += 1
        if behaviour == "value":
            return answer(name)
        if behaviour == "error":
            raise NotFound(name)
        if behaviour == "crash":
            raise Crash
        if behaviour == "large":
            return text("x" * 2_000)
        if behaviour == "wrong":
            return Int64Value(value=1)
        self.game.jobs.append(job)
        if behaviour == "coroutine":
            return self.coroutine(job)
        if behaviour == "stubborn":
            return self.stubborn(job)
        if behaviour == "nested-coroutine":
            return self.nested_coroutine(job, inner[0])
        if behaviour == "nested-generator":
            return self.nested_generator(job, inner[0])
        if behaviour == "nested-deferred":
            nested = self.nested(job, inner[0])
            nested.addCallbacks(partial(enclosed, name), wrapped)
            return nested.addBoth(self.done, job)
        job.step = Deferred()
        return job.step.addBoth(self.done, job)

    def done(self, result: object, job: Job) -> object:
        self.game.jobs.remove(job)
        return result

    def nested(self, job: Job, behaviour: str) -> Deferred[StringValue]:
        return self.game.nested.unary_unary(ECHO, text(f"{job.name}-inner {behaviour}"))

    async def coroutine(self, job: Job) -> StringValue:
        try:
            job.step = Deferred()
            return await job.step
        finally:
            self.game.jobs.remove(job)

    async def stubborn(self, job: Job) -> StringValue:
        try:
            while True:
                job.step = Deferred()
                with suppress(CancelledError):
                    return await job.step
        finally:
            self.game.jobs.remove(job)

    async def nested_coroutine(self, job: Job, behaviour: str) -> StringValue:
        try:
            reply = await self.nested(job, behaviour)
            return enclosed(job.name, reply)
        except RpcError as error:
            raise Aborted(f"nested: {error}") from error
        finally:
            self.game.jobs.remove(job)

    @inlineCallbacks
    def nested_generator(
        self, job: Job, behaviour: str
    ) -> Generator[Deferred[Any], Any, StringValue]:
        try:
            reply: StringValue = yield self.nested(job, behaviour)
            return enclosed(job.name, reply)
        except RpcError as error:
            raise Aborted(f"nested: {error}") from error
        finally:
            self.game.jobs.remove(job)


def answer(name: str) -> StringValue:
    return text(f"answer to {name}")


def enclosed(name: str, reply: StringValue) -> StringValue:
    return answer(f"{name} {reply.value}")


def wrapped(failure: Failure) -> Failure:
    error = error_of(failure)
    if isinstance(error, RpcError):
        raise Aborted(f"nested: {error}")
    return failure
