"""A badly behaved client of the database, for the faults that need one: it runs until it is ended."""

import sys
import threading
import time
from contextlib import suppress

import psycopg

from . import postgres
from .credentials import Credentials

NAME = "reporting-export"


def connect() -> psycopg.Connection:
    """Connect as the API's role, under the name of the client that is to blame."""
    connection = postgres.connect(Credentials.load())
    connection.execute(f"SET application_name = '{NAME}'")
    return connection


def saturate() -> None:
    """Take every connection that there is, and each that becomes free."""
    held = []
    while True:
        with suppress(psycopg.OperationalError):
            held.append(connect())
            continue
        time.sleep(0.1)


def idle_in_transaction() -> None:
    """Lock the pending payments and do nothing, with a second session waiting for them."""
    change = "UPDATE payments SET updated_at = now() WHERE status = 'PENDING'"
    holder, waiter = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(change)
    threading.Thread(target=waiter.execute, args=(change,), daemon=True).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    {"saturate": saturate, "idle-in-transaction": idle_in_transaction}[sys.argv[2]]()
