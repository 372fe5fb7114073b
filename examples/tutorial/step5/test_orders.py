"""Tests the service in memory: without sockets, and without waiting."""

from collections.abc import Iterator

import pytest
from server import LONGEST_IMPORT, TIME_TO_PAY, Orders
from twisted.internet.defer import Deferred

from generated.orders.v1.orders_pb2 import (
    STATE_EXPIRED,
    STATE_PAID,
    GetOrderRequest,
    ImportStockRequest,
    OutOfStock,
    PayOrderRequest,
    PlaceOrderRequest,
    State,
    WatchOrdersRequest,
)
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq.rpc import Channel, FailedPrecondition, InvalidArgument, ResourceExhausted, Server
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


def test_an_import_adds_to_the_stock(
    network: MemoryNetwork, orders: Orders, client: OrdersClient
) -> None:
    items = [ImportStockRequest(product=name, quantity=4) for name in ("tea", "cocoa", "tea")]
    assert network.result(client.import_stock(items)).items == 3
    assert orders.stock == {"tea": 18, "coffee": 3, "cocoa": 4}


def test_an_import_with_a_fault_adds_nothing(
    network: MemoryNetwork, orders: Orders, client: OrdersClient
) -> None:
    items = [ImportStockRequest(product="tea", quantity=4), ImportStockRequest()]
    with pytest.raises(InvalidArgument, match="item 2 has no product"):
        network.result(client.import_stock(items))
    assert orders.stock == {"tea": 10, "coffee": 3}


def test_a_long_import_is_refused_before_its_end(
    network: MemoryNetwork, orders: Orders, client: OrdersClient
) -> None:
    given = 0

    def items() -> Iterator[ImportStockRequest]:
        nonlocal given
        while given < 100 * LONGEST_IMPORT:
            given += 1
            yield ImportStockRequest(product="tea", quantity=1)

    with pytest.raises(ResourceExhausted, match="10,000 items at most"):
        network.result(client.import_stock(items()))
    assert given < 2 * LONGEST_IMPORT  # the client was not asked for the rest
    assert orders.stock["tea"] == 10
