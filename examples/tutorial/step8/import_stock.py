"""Adds a list to the stock: python import_stock.py FILE.csv [ENDPOINT]"""

import csv
import sys
from collections.abc import Iterator

from connection import connect

from generated.orders.v1.orders_pb2 import ImportStockRequest
from generated.orders.v1.orders_txzmq import OrdersClient
from txzmq.rpc import RpcError
from txzmq.rpc.threads import blocking_channel


def items(path: str) -> Iterator[ImportStockRequest]:
    with open(path, newline="", encoding="utf-8") as file:
        for number, (product, quantity) in enumerate(csv.reader(file), start=1):
            yield ImportStockRequest(product=product, quantity=int(quantity))
            if number % 1000 == 0:
                print(f"{number:,} items were given")


def main(path: str, endpoint: str = "tcp://127.0.0.1:5555") -> None:
    with blocking_channel(lambda factory: connect(factory, endpoint)) as channel:
        orders = OrdersClient(channel)
        try:
            answer = channel(orders.import_stock, items(path), timeout=60)
        except RpcError as error:
            print(error)
        else:
            print(f"{answer.items:,} items were added to the stock")


if __name__ == "__main__":
    main(*sys.argv[1:])
