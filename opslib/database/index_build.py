"""The build of an index, beside the work that goes on, and what is left of one that failed or was killed.

CREATE INDEX CONCURRENTLY lets reads and writes go on, and leaves an invalid index behind where it fails or is cut off:
postgresql.org/docs/current/sql-createindex.html.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from psycopg import sql

from opslib.database import admin
from opslib.database.index import DROP, read
from opslib.database.index_proposal import Proposal
from opslib.database.postgres import NAME, Connection
from opslib.deployment.deployment import Deployment
from opslib.runbook import progress
from opslib.runbook.act import Act, act, composed, sql as statement
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change

LOCK_TIMEOUT = 60
"""Seconds for which a build waits for older transactions, in each of its phases. No request waits behind it."""

_END = (
    "SELECT pg_terminate_backend(p.pid, 5000) FROM pg_stat_progress_create_index p JOIN pg_stat_activity USING (pid)"
    " JOIN pg_class c ON c.oid = index_relid WHERE relname = {relation} AND application_name = {ours}"
)
"""Ends a build of ours that nobody waits for any more: the server goes on with it where its run was killed."""


def create(environment: Deployment, wanted: Proposal, *, seconds: float) -> Change:
    """Make the change that builds an index concurrently within `seconds`. Undone by dropping it."""
    schema, name = wanted.schema, wanted.name
    timeouts = _timeouts(seconds)
    building = [*(composed(one, {}) for one in timeouts), wanted.create]
    return Change(
        f"Create the index {name}",
        [
            *drop(environment, schema, name, seconds=seconds),
            act(
                *(one.as_string(None) for one in building),
                run=lambda: _build(environment, building, name),
            ),
        ],
        undo=drop(environment, schema, name, seconds=seconds),
        replaces=lambda: f"{name}: {state(environment, schema, name)}",
    )


def drop(environment: Deployment, schema: str, name: str, *, seconds: float) -> list[Act]:
    """Make the acts that drop an index, or what is left of one, having ended a build of it that was left alone."""
    connect = partial(admin.connect, environment)
    return [
        statement(connect, _END, relation=sql.Literal(name), ours=sql.Literal(NAME)),
        statement(connect, *_timeouts(seconds), DROP, index=sql.Identifier(schema, name)),
    ]


def state(environment: Deployment, schema: str, name: str) -> str:
    """Say how an index is: not there, valid, invalid or being built."""
    with admin.connect(environment) as connection:
        one = next((one for one in read(connection) if (one.schema, one.name) == (schema, name)), None)
    if one is None:
        return "not there"
    return "being built" if one.building else "valid" if one.valid else "invalid"


def valid(environment: Deployment, schema: str, *names: str) -> Answer:
    """Whether these indexes are there and may be used."""
    found = {name: state(environment, schema, name) for name in names}
    evidence = [{"index": name, "is": how} for name, how in found.items()]
    return Answer(all(how == "valid" for how in found.values()), evidence, "Run this again: it builds it anew.")


def gone(environment: Deployment, schema: str, name: str) -> Answer:
    """Whether there is no index of this name."""
    found = state(environment, schema, name)
    return Answer(found == "not there", {"index": name, "is": found}, "Wait until older transactions have ended.")


def _timeouts(seconds: float) -> Sequence[str]:
    return f"SET statement_timeout = '{seconds:.0f}s'", f"SET lock_timeout = '{LOCK_TIMEOUT}s'"


def _build(environment: Deployment, statements: Sequence[sql.Composed], name: str) -> None:
    """Run the statements, and say meanwhile how far the build is."""
    connect = partial(admin.connect, environment)
    with connect() as watching, connect() as building, ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: [building.execute(one) for one in statements])
        try:
            while not done.done():
                time.sleep(0.1)
                progress.report(_far(watching, name))
        except BaseException:
            building.cancel_safe()
            raise
        done.result()


def _far(connection: Connection, name: str) -> str:
    found = connection.execute(
        "SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total FROM pg_stat_progress_create_index p"
        " JOIN pg_class c ON c.oid = index_relid WHERE relname = %s",
        [name],
    ).fetchone()
    if found is None:
        return f"{name}: not begun"
    counts = f"{found['blocks_done']} of {found['blocks_total']} blocks"
    counts += f", {found['tuples_done']} of {found['tuples_total']} rows" if found["tuples_total"] else ""
    return f"{name}: {found['phase']}, {counts}"
