"""The service orders.v1.Orders, which txzmq serve runs in each process: server:service"""

import sqlite3
from pathlib import Path
from typing import Any

from store import change, connect
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from generated.orders.v1.orders_pb2 import (
    STATE_EXPIRED,
    STATE_PAID,
    STATE_PLACED,
    GetOrderRequest,
    GetOrderResponse,
    ImportStockRequest,
    ImportStockResponse,
    ListOrdersRequest,
    ListOrdersResponse,
    Order,
    OutOfStock,
    PayOrderRequest,
    PayOrderResponse,
    PlaceOrderRequest,
    PlaceOrderResponse,
    State,
    WatchOrdersRequest,
    WatchOrdersResponse,
)
from generated.orders.v1.orders_txzmq import OrdersBase
from txzmq.rpc import (
    Context,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RequestStream,
    ResourceExhausted,
    StreamWriter,
)
from txzmq.rpc.authorization import permissions
from txzmq.rpc.tokens import BearerTokens

log = Logger()

#: Seconds in which an order has to be paid.
TIME_TO_PAY = 15 * 60

#: Seconds between two looks for what other processes have done.
LOOK_EVERY = 0.5

#: Items that one import may have.
LONGEST_IMPORT = 10_000

#: The groups whose members may call a method.
WHO_MAY = permissions(
    {
        "/orders.v1.Orders/*": {"sales", "stock", "operators"},
        "/orders.v1.Orders/PlaceOrder": {"sales"},
        "/orders.v1.Orders/PayOrder": {"sales"},
        "/orders.v1.Orders/ImportStock": {"stock"},
        "*": {"operators"},
    }
)


class Orders(OrdersBase):
    """Keeps the orders of a shop in a database, which other processes use, too."""

    def __init__(self, clock: Any, path: str) -> None:
        self.clock = clock  # the reactor, or the Clock of a test
        self.database = connect(path)
        self.watched: set[StreamWriter[WatchOrdersResponse]] = set()
        self.told = 0  # the number of the last event that watchers were told
        self.looking = LoopingCall(self.look)
        self.looking.clock = clock
        self.looking.start(LOOK_EVERY)

    def place_order(self, request: PlaceOrderRequest, context: Context) -> PlaceOrderResponse:
        pay_until = self.clock.seconds() + TIME_TO_PAY
        with change(self.database):
            self.take(request.product, request.quantity)
            placed = self.database.execute(
                "INSERT INTO orders (product, quantity, state, pay_until) VALUES (?, ?, ?, ?)",
                (request.product, request.quantity, STATE_PLACED, pay_until),
            )
            self.note(placed.lastrowid, STATE_PLACED)
        return PlaceOrderResponse(order=self.find(str(placed.lastrowid)))

    def pay_order(self, request: PayOrderRequest, context: Context) -> PayOrderResponse:
        with change(self.database):
            order = self.find(request.id)
            if order.state == STATE_EXPIRED:
                raise FailedPrecondition(f"order {order.id!r} has expired; place it again")
            if order.state == STATE_PLACED:
                self.note(int(order.id), STATE_PAID)
        return PayOrderResponse(order=self.find(request.id))

    def look(self) -> None:
        try:
            self.expire()
            self.tell()
        except sqlite3.OperationalError:  # such as: another process writes for more than 5 s
            log.failure("cannot look into the database; the next look is in {s} s", s=LOOK_EVERY)

    def tell(self) -> None:
        """Tell the watchers what any process has done."""
        if not self.watched:
            return
        for number, order_id, state in self.database.execute(
            "SELECT number, id, state FROM events WHERE number > ? ORDER BY number", (self.told,)
        ).fetchall():
            self.told = number
            order = self.find(str(order_id))
            order.state = state  # as it was then
            for writer in self.watched:
                writer.write(WatchOrdersResponse(order=order, number=number))

    def expire(self) -> None:
        overdue = "FROM orders WHERE state = 1 AND pay_until <= ?"
        now = (self.clock.seconds(),)
        if self.database.execute(f"SELECT 1 {overdue}", now).fetchone() is None:
            return
        with change(self.database):
            # Asked again: another process may have been faster.
            for order_id, product, quantity in self.database.execute(
                f"SELECT id, product, quantity {overdue}", now
            ).fetchall():
                self.note(order_id, STATE_EXPIRED)
                self.database.execute(
                    "UPDATE stock SET quantity = quantity + ? WHERE product = ?",
                    (quantity, product),
                )

    def note(self, order_id: int | None, state: "State.ValueType") -> None:
        """Give an order its state, and write down that it has it now."""
        self.database.execute("UPDATE orders SET state = ? WHERE id = ?", (state, order_id))
        self.database.execute("INSERT INTO events (id, state) VALUES (?, ?)", (order_id, state))

    def watch_orders(
        self, request: WatchOrdersRequest, context: Context
    ) -> StreamWriter[WatchOrdersResponse]:
        writer: StreamWriter[WatchOrdersResponse] = StreamWriter()
        if not self.watched:
            (last,) = self.database.execute("SELECT max(number) FROM events").fetchone()
            self.told = max((last or 0) - 100, 0)  # begin with the last 100 events
        self.watched.add(writer)
        context.cancelled.addCallback(lambda reason: self.watched.discard(writer))
        return writer

    def get_order(self, request: GetOrderRequest, context: Context) -> GetOrderResponse:
        return GetOrderResponse(order=self.find(request.id))

    def list_orders(self, request: ListOrdersRequest, context: Context) -> ListOrdersResponse:
        rows = self.database.execute("SELECT id, product, quantity, state FROM orders ORDER BY id")
        return ListOrdersResponse(orders=[to_order(row) for row in rows])

    def take(self, product: str, quantity: int) -> None:
        if quantity == 0:
            raise InvalidArgument("the quantity must be 1 or more")
        row = self.database.execute(
            "SELECT quantity FROM stock WHERE product = ?", (product,)
        ).fetchone()
        if row is None:
            raise NotFound(f"there is no product {product!r}")
        left = row[0]
        if quantity > left:
            raise FailedPrecondition(
                f"{quantity} of {product!r} were ordered, and {left} are left",
                details=[OutOfStock(product=product, left=left)],
            )
        self.database.execute(
            "UPDATE stock SET quantity = quantity - ? WHERE product = ?", (quantity, product)
        )

    async def import_stock(
        self, requests: RequestStream[ImportStockRequest], context: Context
    ) -> ImportStockResponse:
        items = 0
        added: dict[str, int] = {}
        async for request in requests:
            items += 1
            if items > LONGEST_IMPORT:
                raise ResourceExhausted(f"an import has {LONGEST_IMPORT:,} items at most")
            if not request.product:
                raise InvalidArgument(f"item {items} has no product")
            added[request.product] = added.get(request.product, 0) + request.quantity
        with change(self.database):
            self.database.executemany(
                "INSERT INTO stock VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
                added.items(),
            )
        return ImportStockResponse(items=items)

    def find(self, order_id: str) -> Order:
        row = self.database.execute(
            "SELECT id, product, quantity, state FROM orders WHERE id = ?", (order_id,)
        ).fetchone()
        if row is None:
            raise NotFound(f"there is no order {order_id!r}")
        return to_order(row)


def to_order(row: tuple[int, str, int, "State.ValueType"]) -> Order:
    order_id, product, quantity, state = row
    return Order(id=str(order_id), product=product, quantity=quantity, state=state)


def tokens(secret: str) -> BearerTokens:
    return BearerTokens(
        secret, algorithms=["HS256"], issuer="shop", audience="orders", required=False
    )


def service() -> Orders:
    from twisted.internet import reactor

    return Orders(reactor, "shop.db")


def options() -> dict[str, Any]:
    secret = Path("tokens.secret").read_text().strip()
    return {"authenticate": tokens(secret), "authorize": WHO_MAY}
