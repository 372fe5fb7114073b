"""Tests the service in memory: without sockets, and without waiting."""

import pytest
from server import TIME_TO_PAY, Orders

from generated.orders.v1.orders_pb2 import (
    STATE_EXPIRED,
    STATE_PAID,
    GetOrderRequest,
    OutOfStock,
    PayOrderRequest,
    PlaceOrderRequest,
)
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq.rpc import Channel, FailedPrecondition, Server
from txzmq.testing import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def client(network: MemoryNetwork) -> OrdersClient:
    server = Server(network, [Orders(network.clock)])
    return OrdersClient(Channel(network, server.listen("inproc://server")))


def place(network: MemoryNetwork, client: OrdersClient, quantity: int) -> str:
    request = PlaceOrderRequest(product="coffee", quantity=quantity)
    return network.result(client.place_order(request)).order.id


def test_no_more_is_sold_than_there_is(network: MemoryNetwork, client: OrdersClient) -> None:
    place(network, client, 2)
    with pytest.raises(FailedPrecondition) as caught:
        place(network, client, 2)
    assert caught.value.detail(OutOfStock) == OutOfStock(product="coffee", left=1)


def test_an_unpaid_order_expires(network: MemoryNetwork, client: OrdersClient) -> None:
    order_id = place(network, client, 3)
    network.advance(TIME_TO_PAY)
    found = network.result(client.get_order(GetOrderRequest(id=order_id)))
    assert found.order.state == STATE_EXPIRED
    with pytest.raises(FailedPrecondition, match="place it again"):
        network.result(client.pay_order(PayOrderRequest(id=order_id)))
    place(network, client, 3)  # the coffee is there again


def test_a_paid_order_does_not_expire(network: MemoryNetwork, client: OrdersClient) -> None:
    order_id = place(network, client, 3)
    network.result(client.pay_order(PayOrderRequest(id=order_id)))
    network.advance(TIME_TO_PAY)
    found = network.result(client.get_order(GetOrderRequest(id=order_id)))
    assert found.order.state == STATE_PAID
