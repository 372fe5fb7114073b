"""Prints each change of an order until Ctrl-C: python watch.py [ENDPOINT]"""

import sys
from typing import Any

from connection import connect
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater, react

from generated.orders.v1.orders_pb2 import State, WatchOrdersRequest
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq import ZmqFactory
from txzmq.rpc import RpcError, Unavailable


async def main(reactor: Any, endpoint: str = "tcp://127.0.0.1:5555") -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    orders = OrdersClient(connect(factory, endpoint))
    seen = 0
    while True:
        try:
            async with orders.watch_orders(WatchOrdersRequest()) as events:
                async for event in events:
                    if event.number > seen:
                        seen = event.number
                        state = State.Name(event.order.state)
                        print(f"order {event.order.id}: {state}", flush=True)
        except Unavailable:
            await deferLater(reactor, 1)  # its process has ended; another one goes on
        except RpcError as error:
            print(error)
            return
        except CancelledError:
            return  # Ctrl-C has closed the channel


if __name__ == "__main__":
    react(main, sys.argv[1:])
