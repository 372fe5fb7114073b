"""Serves orders.v1.Orders until Ctrl-C: python server.py [ENDPOINT]"""

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from generated.orders.v1.orders_pb2 import (
    STATE_EXPIRED,
    STATE_PAID,
    STATE_PLACED,
    GetOrderRequest,
    GetOrderResponse,
    ListOrdersRequest,
    ListOrdersResponse,
    Order,
    OutOfStock,
    PayOrderRequest,
    PayOrderResponse,
    PlaceOrderRequest,
    PlaceOrderResponse,
    WatchOrdersRequest,
    WatchOrdersResponse,
)
from generated.orders.v1.orders_txzmq import OrdersBase
from txzmq import ZmqFactory
from txzmq.rpc import Context, FailedPrecondition, InvalidArgument, NotFound, Server, StreamWriter

#: Seconds in which an order has to be paid.
TIME_TO_PAY = 15 * 60


class Orders(OrdersBase):
    """Keeps the orders of a shop in memory."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock  # the reactor, or the Clock of a test
        self.orders: dict[str, Order] = {}
        self.stock = {"tea": 10, "coffee": 3}
        self.watched: set[StreamWriter[WatchOrdersResponse]] = set()

    def place_order(self, request: PlaceOrderRequest, context: Context) -> PlaceOrderResponse:
        self.take(request.product, request.quantity)
        order = Order(
            id=str(len(self.orders) + 1),
            product=request.product,
            quantity=request.quantity,
            state=STATE_PLACED,
        )
        self.orders[order.id] = order
        self.tell(order)
        self.clock.callLater(TIME_TO_PAY, self.expire, order)
        return PlaceOrderResponse(order=order)

    def pay_order(self, request: PayOrderRequest, context: Context) -> PayOrderResponse:
        order = self.find(request.id)
        if order.state == STATE_EXPIRED:
            raise FailedPrecondition(f"order {order.id!r} has expired; place it again")
        if order.state == STATE_PLACED:
            order.state = STATE_PAID
            self.tell(order)
        return PayOrderResponse(order=order)

    def expire(self, order: Order) -> None:
        if order.state == STATE_PLACED:
            order.state = STATE_EXPIRED
            self.stock[order.product] += order.quantity
            self.tell(order)

    def watch_orders(
        self, request: WatchOrdersRequest, context: Context
    ) -> StreamWriter[WatchOrdersResponse]:
        writer: StreamWriter[WatchOrdersResponse] = StreamWriter()
        self.watched.add(writer)
        context.cancelled.addCallback(lambda reason: self.watched.discard(writer))
        return writer

    def tell(self, order: Order) -> None:
        for writer in self.watched:
            writer.write(WatchOrdersResponse(order=order))

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
    server = Server(factory, [Orders(reactor)])
    print("listening on", server.listen(endpoint), flush=True)
    return Deferred()  # runs until Ctrl-C


if __name__ == "__main__":
    react(main, sys.argv[1:])
