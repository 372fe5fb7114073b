"""A connection that loses a reply, and the attempt that asks for it again: row C13."""

from __future__ import annotations

import pytest

from tests.field.proxy import Proxy
from tests.rpc.retried_calls import IDEMPOTENT, PLAIN, RETRY, config
from tests.rpc.service import Waiting, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server, Unavailable


class _Line:
    """A server and a channel, and a proxy between them that is told to lose a reply."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.service = Waiting()
        self.factory = ZmqFactory(loop.reactor)
        self.server = Server(self.factory, [self.service])
        self.proxy = Proxy(loop.reactor, self.server.listen("tcp://127.0.0.1:*"))
        self.channel = Channel(self.factory, self.proxy.endpoint, service_config=config(RETRY))

    async def lose_the_reply(self) -> None:
        await self.loop.until(lambda: bool(self.service.seen))
        self.proxy.black_hole = True
        self.service.results[0].callback(text("done"))
        await self.loop.sleep(0.05)  # it is written, and comes no further than the proxy
        self.proxy.reset()
        self.proxy.black_hole = False

    async def close(self) -> None:
        self.channel.close()
        await self.server.stop(0)
        await self.proxy.close()
        self.factory.shutdown()


def test_c13_a_lost_reply_is_asked_for_again_and_the_handler_runs_once(one_loop: Loop) -> None:
    async def main() -> None:
        line = _Line(one_loop)
        answer = line.channel.unary_unary(IDEMPOTENT, text("x"), wait_for_ready=True)
        await line.lose_the_reply()
        assert (await answer).value == "done"
        assert line.service.seen == ["x"]
        assert line.server.counters["repeated request"] == 1
        assert line.channel.counters["retry"] == 1
        await line.close()

    one_loop.run(main)


def test_c13_a_lost_reply_of_any_other_method_is_an_error(one_loop: Loop) -> None:
    async def main() -> None:
        line = _Line(one_loop)
        answer = line.channel.unary_unary(PLAIN, text("x"), wait_for_ready=True)
        await line.lose_the_reply()
        with pytest.raises(Unavailable, match="may have been executed"):
            await answer
        assert line.service.seen == ["x"]
        await line.close()

    one_loop.run(main)
