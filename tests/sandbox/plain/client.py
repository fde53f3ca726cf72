"""A badly behaved client, for the faults that need one: it runs until it is ended."""

import sys
import threading
import time
from contextlib import suppress

import psycopg

from ..layout import HOST, PYTHON
from . import database
from .credentials import Credentials
from .layout import API, SAVED, STATE

NAME = "nightly-report"
PORT_HOLDER = (PYTHON, "-m", "http.server", str(API), "--bind", HOST, "--directory", str(SAVED))
SATURATOR = (PYTHON, "-m", "tests.sandbox.plain.client", str(STATE), "saturate")
IDLER = (PYTHON, "-m", "tests.sandbox.plain.client", str(STATE), "idle-in-transaction")
COMMANDS = (PORT_HOLDER, SATURATOR, IDLER)


def connect() -> psycopg.Connection:
    """Connect as the API's role, under the name of the client that is to blame."""
    connection = database.connect(Credentials.load())
    connection.execute(f"SET application_name = '{NAME}'".encode())
    return connection


def saturate() -> None:
    """Take every connection that the role may have, and each that becomes free."""
    held = []
    while True:
        with suppress(psycopg.OperationalError):
            held.append(connect())
            continue
        time.sleep(0.1)


def idle_in_transaction() -> None:
    """Lock the pending payments and do nothing, with a second session waiting for them."""
    change = b"""UPDATE payments SET "updatedAt" = now() WHERE status = 'PENDING'"""
    holder, waiter = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(change)
    threading.Thread(target=waiter.execute, args=(change,), daemon=True).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    {"saturate": saturate, "idle-in-transaction": idle_in_transaction}[sys.argv[2]]()
