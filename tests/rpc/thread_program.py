"""A program without Twisted: ``python -m tests.rpc.thread_program MODE ENDPOINT``.

Modes are ``script``, ``open`` (it ends with its channel open), ``fork`` and ``twisted`` (it
runs the process's reactor). The server is that of ``test_blocking_streams``.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from twisted.internet import task, threads

from tests.rpc.service import text
from tests.rpc.test_blocking_streams import Client
from txzmq import WrongThreadError
from txzmq.rpc.threads import BlockingChannel, blocking_channel


def calls(channel: BlockingChannel, client: Client) -> None:
    print([item.value for item in channel(client.count, text("3"))])
    with channel(client.count, text("1000000")) as stream:
        print(next(stream).value)


def fork(channel: BlockingChannel, client: Client, name: str, again: bool = True) -> None:
    sys.stdout.flush()
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status == 0, status
        return
    try:
        print(name)
        calls(channel, client)
        if again:
            fork(channel, client, "grandchild", again=False)
        sys.stdout.flush()
    except Exception:  # noqa: BLE001 - the child must not go on as the parent
        traceback.print_exc()
        os._exit(1)
    sys.exit(0)  # with all that runs at exit


def twisted(channel: BlockingChannel, client: Client) -> None:
    def in_reactor(function: Callable[[], object]) -> None:
        try:
            print(function())
        except WrongThreadError as error:
            print(f"{type(error).__name__}: {error}")

    async def use(reactor: Any) -> None:
        await task.deferLater(reactor, 0)  # before that it does not run
        in_reactor(lambda: channel(client.count, text("3")))
        in_reactor(lambda: next(opened))
        first = await threads.deferToThread(lambda: next(channel(client.count, text("3"))))
        print("in a thread:", first.value)

    opened = channel(client.count, text("3"))
    task.react(use)


def main() -> None:
    mode, endpoint = sys.argv[1:]
    channel = blocking_channel(endpoint)
    client = Client(channel)
    if mode == "twisted":
        twisted(channel, client)
    if mode == "fork":
        stream = channel(client.count, text("1000000"))
        next(stream)
        fork(channel, client, "child")
        assert next(stream).value == "1", "a child has no effect on it"
        print("parent")
    calls(channel, client)
    if mode != "open":
        channel.close()
    print("done")


if __name__ == "__main__":
    main()
