"""Calls of every kind, by a seed, from one process."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from tests.field.soak.calls import CONFIG, Caller, Link, any_call
from tests.field.soak.history import Call, History
from tests.field.soak.interceptors import AroundCalls
from tests.field.soak.state import more, resources
from tests.field.support import QUICK
from tests.support import Loop
from txzmq.rpc import Channel
from txzmq.rpc.transport import Network
from txzmq.testing._leftovers import leftovers

#: Calls that are open at one time, at most.
_OPEN = 100
#: Seconds after which no call may be open any more: more than their timeouts.
_PATIENCE = 40.0
_log = Logger()


class Traffic:
    """Makes calls on channels, some that stay and others that come and go.

    :ivar interceptor: goes around the calls of some channels.
    :ivar wrong: what did not hold, besides what the history says, each in a sentence.
    """

    def __init__(
        self,
        loop: Loop,
        seed: int,
        name: str,
        history: History,
        network: Network,
        endpoints: Sequence[str],
        workers: str,
    ) -> None:
        """
        :param endpoints: of servers.
        :param workers: where a proxy gives calls to workers.
        """
        self._loop = loop
        self._random = random.Random(f"{seed} {name}")
        self._name = name
        self._history = history
        self._network = network
        self._endpoints = endpoints
        self._workers = workers
        self._caller = Caller(loop, self._random, history)
        self._open: dict[str, tuple[Call, Channel]] = {}
        self.interceptor = AroundCalls()
        self.wrong: list[str] = []
        self._links = [
            self._connect(),
            self._connect(repeats=True, intercepted=True),
            self._connect(repeats=True, by_workers=True),
        ]
        self._staying = len(self._links)

    async def run(self, seconds: float) -> None:
        """Make calls for so long, then wait until all of them have ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(self._open) < _OPEN:
                self._begin()
            if self._random.random() < 0.01:
                self._replace()
            await self._loop.sleep(self._random.uniform(0, 0.03))
        patience = time.monotonic() + _PATIENCE
        while self._open and time.monotonic() < patience:
            await self._loop.sleep(0.05)

    def close(self) -> None:
        """Close all channels."""
        while self._links:
            self._close(self._links.pop())
        self.wrong += self.interceptor.wrong
        if self.interceptor.inside:
            self.wrong.append(f"{self._name}: {self.interceptor.inside} calls in interceptors.")

    def _connect(
        self, *, repeats: bool = False, intercepted: bool = False, by_workers: bool = False
    ) -> Link:
        channel = Channel(
            self._network,
            self._workers if by_workers else self._endpoints,
            liveness=QUICK,
            stream_window=64,
            service_config=CONFIG if repeats else None,
            interceptors=[self.interceptor] if intercepted else (),
        )
        return Link(channel, repeats, intercepted, by_workers)

    def _replace(self) -> None:
        """Close the channel that came last, or open another one."""
        if len(self._links) > self._staying:
            self._close(self._links.pop())
            return
        chance = self._random.random
        self._links.append(
            self._connect(
                repeats=chance() < 0.5, intercepted=chance() < 0.5, by_workers=chance() < 0.2
            )
        )

    def _close(self, link: Link) -> None:
        for call, its_channel in self._open.values():
            if its_channel is link.channel:
                call.cancelled = True
        link.channel.close()
        left = leftovers(link.channel)
        self.wrong += [f"{self._name}: a closed channel has {each}." for each in left]

    def _begin(self) -> None:
        link = self._random.choice(self._links)
        call = any_call(self._random, f"{self._name}-{self._history.begun}", link)
        self._open[call.name] = call, link.channel
        self._history.begin(call)
        done = Deferred.fromCoroutine(self._caller.make(call, link.channel))
        # Any: of no use to anybody.
        ended: Deferred[Any] = done.addErrback(
            lambda failure: _log.failure("a call of the soak", failure)
        )
        ended.addBoth(lambda _: self._open.pop(call.name))


async def left_over(loop: Loop, who: str, before: dict[str, int]) -> list[str]:
    """What a process still has more than *before*, when it has had time to let go."""
    patience = time.monotonic() + 10
    while (wrong := more(resources(loop.reactor), before)) and time.monotonic() < patience:
        await loop.sleep(0.1)
    if wrong:
        wrong += map(str, loop.reactor.getDelayedCalls())
        wrong += [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
    return [f"{who}: {each}." for each in wrong]
