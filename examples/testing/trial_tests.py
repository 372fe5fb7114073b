"""The same for trial: ``trial examples.testing.trial_tests``."""

from __future__ import annotations

from examples.testing.services import Greeter, Slow
from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from txzmq.rpc import DeadlineExceeded
from txzmq.testing import Faults
from txzmq.testing.trial import MemoryTestCase, SocketTestCase


class GreeterTests(MemoryTestCase):
    faults = Faults(delay=0.1)

    def test_call(self) -> None:
        greeter = GreeterClient(self.serve(Greeter()))
        reply = self.result(greeter.say_hello(HelloRequest(name="Ada")), within=5)
        assert reply.message == "Hello, Ada!"

    def test_deadline(self) -> None:
        greeter = GreeterClient(self.serve(Slow()))
        call = greeter.say_hello(HelloRequest(name="Ada"), timeout=60)
        self.network.advance(60)
        try:
            self.result(call, within=1)
        except DeadlineExceeded:
            return
        raise AssertionError("the call has no end")


class GreeterSocketTests(SocketTestCase):
    async def test_call(self) -> None:
        greeter = GreeterClient(self.serve(Greeter()))
        reply = await greeter.say_hello(HelloRequest(name="Ada"))
        assert reply.message == "Hello, Ada!"
