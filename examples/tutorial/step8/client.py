"""Looks an order up, by Twisted: python client.py ID [ENDPOINT]"""

import sys
from typing import Any

from connection import connect
from twisted.internet.task import react

from generated.orders.v1.orders_pb2 import GetOrderRequest
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq import ZmqFactory
from txzmq.rpc import RpcError


async def main(reactor: Any, order_id: str, endpoint: str = "tcp://127.0.0.1:5555") -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    orders = OrdersClient(connect(factory, endpoint))
    try:
        found = await orders.get_order(GetOrderRequest(id=order_id), timeout=5)
    except RpcError as error:
        print(error)
    else:
        print(f"{found.order.quantity} x {found.order.product}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
