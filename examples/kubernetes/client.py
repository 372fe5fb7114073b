"""A client of the pods: ``python -m examples.kubernetes.client``, which ``client.yaml`` runs.

The environment says where they are, ``GREETER``, and which keys it uses: ``GREETER_KEYS`` is a file
with its own, ``GREETER_SERVER_KEY`` the server's public key.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.task import deferLater, react

from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from txzmq import ZmqFactory
from txzmq.auth import CurveClientCredentials, CurveKeyPair
from txzmq.rpc import Channel, RpcError


async def main(reactor: Any) -> None:
    """Call once a second, until SIGTERM."""
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    keys = CurveKeyPair.load(os.environ["GREETER_KEYS"], allow_group=True)
    credentials = CurveClientCredentials(keys, server_keys=[os.environ["GREETER_SERVER_KEY"]])
    # While no pod is there, calls wait for one until their time is up.
    channel = Channel(factory, os.environ["GREETER"], credentials=credentials, wait_for_ready=True)
    greeter = GreeterClient(channel)
    while True:
        try:
            reply = await greeter.say_hello(HelloRequest(name="Ada"), timeout=5.0)
        except RpcError as error:
            print(error, flush=True)
        else:
            print(reply.message, flush=True)
        await deferLater(reactor, 1.0)


if __name__ == "__main__":
    react(main)
