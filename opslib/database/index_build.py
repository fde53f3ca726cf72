"""The build of an index, beside the work that goes on, and what is left of one that failed or was killed.

CREATE INDEX CONCURRENTLY lets reads and writes go on, and leaves an invalid index behind where it fails or is cut off:
postgresql.org/docs/current/sql-createindex.html.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import sql

from opslib.database.index import drop, read
from opslib.database.index_proposal import Proposal
from opslib.database.postgres import NAME, Connection
from opslib.runbook.act import act
from opslib.runbook.change import Change
from opslib.runbook.errors import RunbookError, UndoFailed
from opslib.runbook.step import Display, step

LOCK_TIMEOUT = 60
"""Seconds for which a build waits for older transactions, in each of its phases. No request waits behind it."""


def create(connect: Callable[[], Connection], wanted: Proposal, *, seconds: float) -> Change:
    """Make the change that builds an index concurrently within `seconds`, shown as it goes on.

    What a killed run has left is found: a build under way is ended, an invalid index is dropped. Undone by dropping it.
    """
    schema, name, statement = wanted.schema, wanted.name, wanted.create

    def do() -> None:
        with connect() as watching, connect() as building, ThreadPoolExecutor(1) as pool:
            _patient(building, seconds)
            _clear(building, schema, name)
            future = pool.submit(building.execute, statement)
            try:
                _show_progress(watching, name, future.done)
            except BaseException:
                building.cancel_safe()
                raise
            future.result()
        found = state(connect, schema, name)
        if found != "valid":
            raise RunbookError(f"{name} is {found} after its build, expected valid")

    def undo() -> None:
        try:
            with connect() as connection:
                _patient(connection, seconds)
                _end_build(connection, name)
                connection.execute(drop(schema, name))
        except psycopg.Error as error:
            left = f"{drop(schema, name).as_string(None)};"
            raise UndoFailed(f"{str(error).strip()} When older transactions have ended: {left}") from None
        if (found := state(connect, schema, name)) != "not there":
            raise UndoFailed(f"{name} is still there ({found}): {drop(schema, name).as_string(None)};")

    return Change(
        f"Create the index {name}",
        [act(f"{drop(schema, name).as_string(None)} (if it is invalid)", statement.as_string(None), run=do)],
        undo=[act(drop(schema, name).as_string(None), run=undo)],
        replaces=lambda: f"{name}: {state(connect, schema, name)}",
    )


def state(connect: Callable[[], Connection], schema: str, name: str) -> str:
    """Say how an index is: not there, valid, invalid or being built."""
    with connect() as connection:
        one = next((one for one in read(connection) if (one.schema, one.name) == (schema, name)), None)
    if one is None:
        return "not there"
    return "being built" if one.building else "valid" if one.valid else "invalid"


def _patient(connection: Connection, seconds: float) -> None:
    connection.execute(sql.SQL("SET statement_timeout = {}").format(f"{seconds:.0f}s"))
    connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{LOCK_TIMEOUT}s"))


def _clear(connection: Connection, schema: str, name: str) -> None:
    """Remove what a killed run has left: its server process may still be building, and nobody waits for it any more."""
    _end_build(connection, name)
    if any((one.schema, one.name, one.valid) == (schema, name, False) for one in read(connection)):
        connection.execute(drop(schema, name))


def _end_build(connection: Connection, name: str) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(p.pid, 5000) FROM pg_stat_progress_create_index p JOIN pg_stat_activity s"
        " USING (pid) JOIN pg_class c ON c.oid = index_relid WHERE relname = %s AND application_name = %s",
        [name, NAME],
    )


def _show_progress(connection: Connection, name: str, done: Callable[[], bool]) -> None:
    display, began, said = Display(), time.monotonic(), ""
    while not done():
        time.sleep(0.05)
        if time.monotonic() - began < 1:  # a short build needs no progress
            continue
        found = connection.execute(
            "SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total FROM pg_stat_progress_create_index p"
            " JOIN pg_class c ON c.oid = index_relid WHERE relname = %s",
            [name],
        ).fetchone()
        if found and found["phase"] != said:
            said = found["phase"]
            counts = f"{found['blocks_done']} of {found['blocks_total']} blocks"
            counts += f", {found['tuples_done']} of {found['tuples_total']} rows" if found["tuples_total"] else ""
            display.show(step("note", f"{name}: {said}", None, note=counts))
        time.sleep(0.5)
