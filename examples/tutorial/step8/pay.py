"""Notes that an order is paid: python pay.py ID [ENDPOINT]"""

import sys

from connection import connect

from generated.orders.v1.orders_pb2 import PayOrderRequest
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq.rpc import RpcError
from txzmq.rpc.threads import blocking_channel


def main(order_id: str, endpoint: str = "tcp://127.0.0.1:5555") -> None:
    with blocking_channel(lambda factory: connect(factory, endpoint)) as channel:
        orders = OrdersClient(channel)
        try:
            channel(orders.pay_order, PayOrderRequest(id=order_id), timeout=5)
        except RpcError as error:
            print(error)
        else:
            print("paid order", order_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
