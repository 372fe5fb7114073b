"""How Tasks of asyncio's wait for Deferreds of any library's.

Twisted logs an error of a Deferred of which nobody has asked, and a test that has it do so fails.
"""

from __future__ import annotations

import asyncio

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from txzmq.rpc._core.asyncio_loop import wait_for


async def outcome(deferred: Deferred[str]) -> str:
    return await wait_for(deferred)


async def _started(deferred: Deferred[str]) -> asyncio.Task[str]:
    task = asyncio.create_task(outcome(deferred))
    await asyncio.sleep(0)
    return task


def test_a_result_is_had() -> None:
    async def main() -> None:
        assert await outcome(succeed("at once")) == "at once"
        later: Deferred[str] = Deferred()
        task = await _started(later)
        assert not task.done()
        later.callback("later")
        assert await task == "later"

    asyncio.run(main())


def test_a_deferred_that_waits_for_another_is_waited_for() -> None:
    async def main() -> None:
        inner: Deferred[str] = Deferred()
        outer: Deferred[None] = Deferred()
        chained = outer.addCallback(lambda _: inner)
        outer.callback(None)
        task = await _started(chained)
        assert not task.done()
        inner.callback("inner")
        assert await task == "inner"

    asyncio.run(main())


def test_an_error_is_raised_and_not_logged() -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="at once"):
            await outcome(fail(LookupError("at once")))
        later: Deferred[str] = Deferred()
        task = await _started(later)
        later.errback(Failure(LookupError("later")))  # type: ignore[no-untyped-call]  # Twisted's
        with pytest.raises(LookupError, match="later"):
            await task

    asyncio.run(main())


def test_a_task_that_is_cancelled_cancels_what_it_waits_for() -> None:
    async def main() -> None:
        cancelled: list[Deferred[str]] = []
        waits: Deferred[str] = Deferred(cancelled.append)
        task = await _started(waits)
        task.cancel()
        assert cancelled == [waits], "at once"
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_what_somebody_else_has_cancelled_is_an_error_as_any() -> None:
    async def main() -> None:
        waits: Deferred[str] = Deferred()
        task = await _started(waits)
        waits.cancel()
        with pytest.raises(CancelledError):
            await task
        assert not task.cancelled()

    asyncio.run(main())
