"""Places an order and lists all: python script.py PRODUCT QUANTITY [ENDPOINT]"""

import sys

from connection import connect

from generated.orders.v1.orders_pb2 import ListOrdersRequest, OutOfStock, PlaceOrderRequest
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq.rpc import FailedPrecondition, RpcError
from txzmq.rpc.threads import blocking_channel


def main(product: str, quantity: str, endpoint: str = "tcp://127.0.0.1:5555") -> None:
    with blocking_channel(lambda factory: connect(factory, endpoint)) as channel:
        orders = OrdersClient(channel)
        request = PlaceOrderRequest(product=product, quantity=int(quantity))
        try:
            placed = channel(orders.place_order, request, timeout=5)
        except FailedPrecondition as error:
            detail = error.detail(OutOfStock)
            print("only", detail.left if detail else "fewer", "are left")
        except RpcError as error:
            print(error)
        else:
            print("placed order", placed.order.id)
        for order in channel(orders.list_orders, ListOrdersRequest(), timeout=5).orders:
            print(f"{order.id}: {order.quantity} x {order.product}")


if __name__ == "__main__":
    main(*sys.argv[1:])
