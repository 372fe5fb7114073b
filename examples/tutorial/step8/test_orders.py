"""Tests the service without sockets, and without waiting."""

from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from server import LONGEST_IMPORT, LOOK_EVERY, TIME_TO_PAY, WHO_MAY, Orders, tokens
from store import create
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
from txzmq.rpc import (
    Channel,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Server,
    Unauthenticated,
)
from txzmq.rpc.authentication import BearerCredentials
from txzmq.testing import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "shop.db")
    create(path)
    return path


@pytest.fixture
def orders(network: MemoryNetwork, path: str) -> Iterator[Orders]:
    orders = Orders(network.clock, path)
    yield orders
    orders.database.close()


def stock(orders: Orders) -> dict[str, int]:
    return dict(orders.database.execute("SELECT product, quantity FROM stock"))


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
        assert network.result(watcher, within=LOOK_EVERY) == ["STATE_PLACED", "STATE_PAID"]
    network.advance(1)
    assert not orders.watched  # the last one has left


def test_an_import_adds_to_the_stock(
    network: MemoryNetwork, orders: Orders, client: OrdersClient
) -> None:
    items = [ImportStockRequest(product=name, quantity=4) for name in ("tea", "cocoa", "tea")]
    assert network.result(client.import_stock(items)).items == 3
    assert stock(orders) == {"tea": 18, "coffee": 3, "cocoa": 4}


def test_an_import_with_a_fault_adds_nothing(
    network: MemoryNetwork, orders: Orders, client: OrdersClient
) -> None:
    items = [ImportStockRequest(product="tea", quantity=4), ImportStockRequest()]
    with pytest.raises(InvalidArgument, match="item 2 has no product"):
        network.result(client.import_stock(items))
    assert stock(orders) == {"tea": 10, "coffee": 3}


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
    assert stock(orders)["tea"] == 10


SIGNED_BY = "a secret of the tests, of 32 bytes and more"


def client_with(
    network: MemoryNetwork, orders: Orders, secret: str, groups: list[str]
) -> OrdersClient:
    server = Server(network, [orders], authenticate=tokens(SIGNED_BY), authorize=WHO_MAY)
    claims = {"iss": "shop", "aud": "orders", "sub": "ada", "groups": groups, "exp": 4_000_000_000}
    token = jwt.encode(claims, secret, algorithm="HS256")
    endpoint = server.listen("inproc://with-tokens")
    return OrdersClient(
        Channel(network, endpoint, call_credentials=BearerCredentials(lambda: token))
    )


def test_who_sells_does_not_import(network: MemoryNetwork, orders: Orders) -> None:
    client = client_with(network, orders, SIGNED_BY, ["sales"])
    place(network, client, 1)
    with pytest.raises(PermissionDenied):
        network.result(client.import_stock([ImportStockRequest(product="tea", quantity=4)]))
    assert stock(orders) == {"tea": 10, "coffee": 2}


def test_a_token_of_another_secret_is_refused(network: MemoryNetwork, orders: Orders) -> None:
    client = client_with(network, orders, SIGNED_BY[::-1], ["sales"])
    with pytest.raises(Unauthenticated):
        place(network, client, 1)


def test_watchers_hear_what_another_process_does(
    network: MemoryNetwork, orders: Orders, client: OrdersClient, path: str
) -> None:
    async def watch() -> str:
        async with client.watch_orders(WatchOrdersRequest()) as events:
            async for event in events:
                return State.Name(event.order.state)
        return "the stream has ended"

    watching = Deferred.fromCoroutine(watch())
    network.run()
    other = Orders(network.clock, path)
    server = Server(network, [other])
    place(network, OrdersClient(Channel(network, server.listen("inproc://other"))), 1)
    assert network.result(watching, within=LOOK_EVERY) == "STATE_PLACED"
    other.database.close()
