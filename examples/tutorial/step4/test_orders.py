"""Tests the service in memory: without sockets, and without waiting."""

import pytest
from server import TIME_TO_PAY, Orders
from twisted.internet.defer import Deferred

from generated.orders.v1.orders_pb2 import (
    STATE_EXPIRED,
    STATE_PAID,
    GetOrderRequest,
    OutOfStock,
    PayOrderRequest,
    PlaceOrderRequest,
    State,
    WatchOrdersRequest,
)
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq.rpc import Channel, FailedPrecondition, Server
from txzmq.testing import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def orders(network: MemoryNetwork) -> Orders:
    return Orders(network.clock)


@pytest.fixture
def client(network: MemoryNetwork, orders: Orders) -> OrdersClient:
    server = Server(network, [orders])
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


def test_all_watchers_share_a_stream(
    network: MemoryNetwork, orders: Orders, client: OrdersClient
) -> None:
    async def watch() -> list[str]:
        states: list[str] = []
        async with client.watch_orders(WatchOrdersRequest()) as events:
            async for event in events:
                states.append(State.Name(event.order.state))
                if len(states) == 2:
                    break
        return states

    watching = [Deferred.fromCoroutine(watch()) for _ in range(3)]
    network.run()
    assert len(orders.watched) == 1  # the handler ran once, for all three
    order_id = place(network, client, 1)
    network.result(client.pay_order(PayOrderRequest(id=order_id)))
    for watcher in watching:
        assert network.result(watcher) == ["STATE_PLACED", "STATE_PAID"]
    network.advance(1)
    assert not orders.watched  # the last one has left
