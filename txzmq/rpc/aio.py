"""Runs programs of asyncio's that use txzmq: ``aio.run(main)``, not ``asyncio.run(main())``.

::

    import asyncio

    from txzmq import ZmqFactory
    from txzmq.rpc import Channel, aio

    async def main() -> None:
        factory = ZmqFactory()
        channel = Channel(factory, "tcp://127.0.0.1:5000")
        client = GreeterClient(channel)
        async with asyncio.timeout(5):
            reply = await client.say_hello(HelloRequest(name="Ada"))
        print(reply.message)
        factory.shutdown()

    aio.run(main)
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from txzmq import _check

__all__ = ["run"]

T = TypeVar("T")


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    debug: bool | None = None,
) -> T:
    """Run *main* as a Task, with Twisted's reactor on the same loop; once in a process.

    It ends as ``asyncio.run`` does. Ctrl-C cancels the Task; when that has ended, ``run`` raises
    ``KeyboardInterrupt``, and a second Ctrl-C raises it at once. SIGTERM cancels the Task, too, and
    then ``run`` raises ``SystemExit`` with 143, as a shell has it. A Task that handles its
    cancellation, and returns, has its result returned all the same. Tasks that are left when *main*
    has ended are cancelled and waited for; then the reactor is shut down, and the loop is closed.

    In another thread than the main one, no signal is handled.

    :param main: a coroutine function without parameters: ``aio.run(main)``, not
        ``aio.run(main())``.
    :param loop_factory: makes the loop, as ``uvloop.new_event_loop`` does; None for asyncio's own,
        and on Windows for ``asyncio.SelectorEventLoop``, since Twisted takes no proactor's.
    :param debug: asyncio's debug mode; None for what ``PYTHONASYNCIODEBUG`` says.
    :return: what *main* has returned.
    :raises RuntimeError: if a reactor is installed already, or a loop of asyncio's runs in this
        thread.
    :raises TypeError: if *main* is no coroutine function, or *loop_factory* no function.
    """
    _check_main(main)
    if loop_factory is not None:
        _check.function("loop_factory", loop_factory, ())
    elif sys.platform == "win32":
        loop_factory = asyncio.SelectorEventLoop
    _check_alone()
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        asyncioreactor.install(loop)  # type: ignore[no-untyped-call]  # Twisted's
        # Any: reactors are typed with zope interfaces.
        reactor: Any = sys.modules["twisted.internet.reactor"]
        try:
            result = runner.run(_with_reactor(main, reactor))
        except asyncio.CancelledError:
            # The name is private to Twisted, which tells by it what has stopped the reactor.
            if getattr(reactor, "_exitSignal", None) == signal.SIGTERM:
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        finally:
            if reactor.running:
                reactor.stop()
                loop.run_forever()  # until the reactor is shut down
    return result


def _check_main(main: object) -> None:
    if inspect.iscoroutine(main):
        main.close()  # or it would complain that nobody awaits it
        hint = f"; pass the function, {main.__name__}, and do not call it yourself"
        raise _check.wrong_type("main", main, "a coroutine function", hint)
    if not callable(main):
        raise _check.wrong_type("main", main, "a coroutine function")


def _check_alone() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            "aio.run() cannot be called while asyncio's loop runs: there, begin with "
            "asyncioreactor.install(asyncio.get_running_loop()), of twisted.internet, and "
            "reactor.startRunning(installSignalHandlers=False)"
        )
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None:
        raise RuntimeError(
            f"{type(reactor).__name__} is installed already, and a process has one reactor: call "
            "aio.run() once, and before anything imports twisted.internet.reactor"
        )


async def _with_reactor(main: Callable[[], Coroutine[Any, Any, T]], reactor: Any) -> T:
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    ended: Deferred[None] = Deferred()

    def end_task() -> Deferred[None]:
        """Somebody stops the reactor: the Task ends before the sockets do."""
        if not ended.called:
            task.cancel()
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", end_task)
    is_main = threading.current_thread() is threading.main_thread()
    reactor.startRunning(installSignalHandlers=is_main)
    try:
        running = main()
        if not inspect.isawaitable(running):
            raise _check.wrong_type("main", main, "a coroutine function")
        return await running
    finally:
        await _end_others(task)
        ended.callback(None)


async def _end_others(task: asyncio.Task[Any]) -> None:
    """Cancel the Tasks that are left, while the network is still there for them to clean up."""
    loop = asyncio.get_running_loop()
    others = asyncio.all_tasks(loop) - {task}
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for other in others:
        if not other.cancelled() and other.exception() is not None:
            loop.call_exception_handler(
                {
                    "message": "a Task failed while aio.run() ended it",
                    "exception": other.exception(),
                    "task": other,
                }
            )
