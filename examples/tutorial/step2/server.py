"""Serves orders.v1.Orders until Ctrl-C: python server.py [ENDPOINT]"""

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from generated.orders.v1.orders_pb2 import (
    GetOrderRequest,
    GetOrderResponse,
    ListOrdersRequest,
    ListOrdersResponse,
    Order,
    OutOfStock,
    PlaceOrderRequest,
    PlaceOrderResponse,
)
from generated.orders.v1.orders_txzmq import OrdersBase
from txzmq import ZmqFactory
from txzmq.rpc import Context, FailedPrecondition, InvalidArgument, NotFound, Server


class Orders(OrdersBase):
    """Keeps the orders of a shop in memory."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.stock = {"tea": 10, "coffee": 3}

    def place_order(self, request: PlaceOrderRequest, context: Context) -> PlaceOrderResponse:
        self.take(request.product, request.quantity)
        order = Order(
            id=str(len(self.orders) + 1),
            product=request.product,
            quantity=request.quantity,
        )
        self.orders[order.id] = order
        return PlaceOrderResponse(order=order)

    def get_order(self, request: GetOrderRequest, context: Context) -> GetOrderResponse:
        return GetOrderResponse(order=self.find(request.id))

    def list_orders(self, request: ListOrdersRequest, context: Context) -> ListOrdersResponse:
        return ListOrdersResponse(orders=self.orders.values())

    def take(self, product: str, quantity: int) -> None:
        if quantity == 0:
            raise InvalidArgument("the quantity must be 1 or more")
        if product not in self.stock:
            raise NotFound(f"there is no product {product!r}")
        left = self.stock[product]
        if quantity > left:
            raise FailedPrecondition(
                f"{quantity} of {product!r} were ordered, and {left} are left",
                details=[OutOfStock(product=product, left=left)],
            )
        self.stock[product] = left - quantity

    def find(self, order_id: str) -> Order:
        if order_id not in self.orders:
            raise NotFound(f"there is no order {order_id!r}")
        return self.orders[order_id]


def main(reactor: Any, endpoint: str = "tcp://127.0.0.1:5555") -> Deferred[None]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [Orders()])
    print("listening on", server.listen(endpoint), flush=True)
    return Deferred()  # runs until Ctrl-C


if __name__ == "__main__":
    react(main, sys.argv[1:])
