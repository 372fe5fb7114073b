"""Keeps orders, stock and events in a file of sqlite; makes one: python store.py FILE"""

import sqlite3
import sys
from collections.abc import Generator
from contextlib import contextmanager

SCHEMA = """
CREATE TABLE stock (product TEXT PRIMARY KEY, quantity INTEGER NOT NULL CHECK (quantity >= 0));
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    product TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    state INTEGER NOT NULL,
    pay_until REAL NOT NULL
);
CREATE INDEX unpaid ON orders (pay_until) WHERE state = 1;
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id INTEGER NOT NULL,
    state INTEGER NOT NULL
);
INSERT INTO stock VALUES ('tea', 10), ('coffee', 3);
"""


def connect(path: str) -> sqlite3.Connection:
    # No transaction but those of change(), and 5 s for those of other processes to end.
    return sqlite3.connect(path, isolation_level=None, timeout=5)


@contextmanager
def change(database: sqlite3.Connection) -> Generator[None]:
    """All that is done to the database in this block, or none of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def create(path: str) -> None:
    database = connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(SCHEMA)
    database.close()


if __name__ == "__main__":
    create(sys.argv[1])
