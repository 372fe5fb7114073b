"""What a server makes of more calls than it can serve."""

from __future__ import annotations

from collections import Counter

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from tests.rpc.service import Echo, World
from txzmq.rpc import Context, RpcError, ServerLimits

#: Seconds that a call takes, how many run at a time, and so how many a second can be served.
WORK, RUNNING = 0.1, 10
PEAK = RUNNING / WORK


class Working(Echo):
    """Takes its time; the world is given to it later."""

    world: World

    async def echo(self, request: StringValue, context: Context) -> StringValue:
        done: Deferred[None] = Deferred()
        self.world.network.clock.callLater(WORK, done.callback, None)
        await done
        return request


def offer(limits: ServerLimits, load: float, seconds: float = 10) -> Counter[str]:
    """How calls end that come at *load* times the peak, whatever becomes of them."""
    service = Working()
    world = service.world = World(service, limits=limits)
    outcomes: Counter[str] = Counter()

    def succeeded(_: StringValue) -> None:
        outcomes["OK"] += 1

    def failed(failure: object) -> None:
        error = getattr(failure, "value", None)
        assert isinstance(error, RpcError)
        outcomes[error.code.name] += 1

    for _ in range(round(PEAK * load * seconds)):
        world.call(timeout=1).addCallbacks(succeeded, failed)
        world.network.advance(1 / (PEAK * load))
    world.network.advance(2)
    world.close()
    return outcomes


@pytest.mark.parametrize("queued", [10_000, 95, 20], ids="queued={}".format)
@pytest.mark.parametrize("load", [0.9, 1.2, 3])
def test_l5_overload_costs_no_more_than_a_fifth_of_what_gets_done(load: float, queued: int) -> None:
    outcomes = offer(ServerLimits(running=RUNNING, queued=queued), load)
    if load < 1:
        assert outcomes == {"OK": PEAK * load * 10}
    assert outcomes["OK"] >= 0.8 * min(load, 1) * PEAK * 10
