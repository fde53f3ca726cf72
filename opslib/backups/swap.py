"""A swap: the live database exchanged for one that stands beside it, by two renames in one transaction."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from psycopg import errors, sql

from opslib.api import pm2
from opslib.api.pm2 import Worker
from opslib.backups import sibling
from opslib.backups.sibling import Sibling
from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.database.settings import RecoveryGoals
from opslib.deployment.environment import Deployment
from opslib.runbook import act as acts
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed, UndoFailed

SETTLE = 2
"""Seconds that a new worker must stay up."""
DRAIN = 0.3
"""Seconds in which a session may end the statement that it is in the middle of."""
TRIES = 5
PASSES = (errors.ObjectInUse, errors.QueryCanceled, errors.DeadlockDetected, errors.LockNotAvailable)


def swap(
    environment: Deployment, workers: Sequence[Worker], incoming: str, *, aside: str, note: dict[str, str]
) -> Change:
    """Make the change that gives the live name to the database `incoming` and reloads the workers, one by one.

    What was live stays, under a name of the kind `aside`. A run that was killed may have swapped already: then only the
    workers are left. Undone by the same swap the other way round; what was written meanwhile stays too.
    """
    live = admin.database(environment)

    def do() -> None:
        if any(one.name == incoming for one in siblings(environment)):
            exchange(environment, incoming, aside, {**note, "incoming": incoming})
        pm2.replace(environment, workers, settle=SETTLE)

    def undo() -> None:
        if noted := swapped(environment):
            if not noted["before"]:
                raise UndoFailed(f"there was no database {live} before, so the one that is live now was left there")
            exchange(environment, noted["before"], "undone" if aside == "old" else "old", {})
        pm2.put_back(environment, workers, reread=True)

    def replaces() -> str:
        if swapped(environment).get("incoming") == incoming:
            return f"{live}, which a run that was killed has swapped already"
        oid = next((one.oid for one in siblings(environment) if one.kind == "live"), None)
        return f"{live} (oid {oid})" if oid else f"{live}, which is not there"

    return Change(
        "Swap the databases and reload the workers",
        [
            acts.act(
                "LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE (new logins wait)",
                f"pg_terminate_backend of every session of {live}",
                f"ALTER DATABASE {live} RENAME TO {live}_{aside}_TIME",
                f"ALTER DATABASE {incoming} RENAME TO {live}",
                "COMMIT of these four",
                *pm2.reloads(environment, workers),
                run=do,
            )
        ],
        undo=[
            acts.act(
                "the two renames the other way round, in one transaction", *pm2.reloads(environment, workers), run=undo
            )
        ],
        replaces=replaces,
    )


def close(environment: Deployment) -> Change:
    """Make the change that says on the live database that the swap is done with. Until then a run carries it on."""
    live = admin.database(environment)

    def do() -> None:
        with admin.connect(environment, admin.MAINTENANCE) as connection:
            sibling.note(connection, live, {})

    return Change(
        "Close the swap",
        [acts.act(f"COMMENT ON DATABASE {live}: no run is under way any more", run=do)],
        undo=Kept("nothing depends on it", matters=False),
        replaces=lambda: live,
    )


def drop(environment: Deployment, one: Sibling) -> Change:
    """Make the change that drops a database which was live once. Whoever is logged in to it is not disconnected."""
    maintenance = partial(admin.connect, environment, admin.MAINTENANCE)
    return Change(
        f"Drop {one.name}",
        [acts.sql(maintenance, "DROP DATABASE {name}", name=one.name)],
        undo=Kept("a dropped database does not come back; its last backup stays"),
        replaces=lambda: f"{one.name}, {one.size / 1e6:.0f} MB, not live since {one.at:%Y-%m-%dT%H:%M:%SZ}",
    )


def siblings(environment: Deployment) -> list[Sibling]:
    """Give the live database, where there is one, then those beside it, newest first."""
    with admin.connect(environment, admin.MAINTENANCE) as connection:
        return sibling.read(connection, admin.database(environment))


def candidates(environment: Deployment, stage: str) -> list[Sibling]:
    """Give what a stage is for: `swap-back` what was replaced, `drop-old` all that was live and is old enough."""
    if stage == "swap-back":
        return [one for one in siblings(environment) if one.kind == "old"]
    days = environment.part(RecoveryGoals).keep_days
    return [one for one in siblings(environment) if one.kind in ("old", "undone") and one.days >= days]


def swapped(environment: Deployment) -> dict[str, str]:
    """Give what the run has noted that has swapped and not closed; empty if there is none."""
    noted = next((one.note for one in siblings(environment) if one.kind == "live"), {})
    return noted if noted.get("state") == "swapped" else {}


def exchange(environment: Deployment, incoming: str, aside: str, note: dict[str, str]) -> None:
    """Give the live name to `incoming`, and one of the kind `aside` to the database that had it, if there is one.

    Whoever is logged in to either is disconnected, but only while new logins wait for the end of the transaction. It
    is PostgreSQL that takes it back where the run is killed. Raise ChangeFailed with who could not be disconnected.
    """
    live = admin.database(environment)
    with (
        admin.connect(environment, admin.MAINTENANCE) as acting,
        admin.connect(environment, admin.MAINTENANCE) as ending,
    ):
        for attempt in range(TRIES):
            time.sleep(min(attempt, 1))
            with suppress(*PASSES), acting.transaction():
                acting.execute("SET LOCAL statement_timeout = '1s'")
                found = {one.name: one.oid for one in sibling.read(acting, live) if one.name in (live, incoming)}
                before = sibling.name(live, aside) if live in found else ""
                _let_logins_wait(acting)
                with _disconnected(ending, list(found.values())):
                    if before:
                        sibling.note(acting, live, {})
                        acting.execute(rename(live, before))
                    acting.execute(rename(incoming, live))
                sibling.note(acting, live, {**note, "state": "swapped", "before": before} if note else {})
                return
        held = acting.execute(
            "SELECT usename AS role, application_name AS application, datname AS database FROM pg_stat_activity"
            " WHERE datname = ANY(%(names)s) UNION ALL SELECT owner, 'prepared transaction ' || gid, database"
            " FROM pg_prepared_xacts WHERE database = ANY(%(names)s)",
            {"names": [live, incoming]},
        ).fetchall()
    raise ChangeFailed(f"{live} was not renamed, in {TRIES} tries: somebody holds it who cannot be disconnected", held)


def rename(old: str, new: str) -> sql.Composed:
    """The statement that gives a database another name; nobody may be logged in to it."""
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))


def _let_logins_wait(connection: Connection) -> None:
    """Let every new login of the server wait for the end of the transaction; then it finds the new database.

    Measured at 100 requests a second: none failed, of 2 to 13 with ALLOW_CONNECTIONS false, which outlives a run that
    is killed besides. An administrator who is no superuser may not do this: then a login fails for a tenth of a second.
    """
    # Somebody who has read the catalog in a long transaction, such as pg_dump, would make all of them wait long.
    with suppress(errors.InsufficientPrivilege, errors.LockNotAvailable), connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '300ms'")
        connection.execute("LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE")
        # A login that is half done may hold what the rename waits for, and wait for this lock.
        connection.execute("SET LOCAL deadlock_timeout = '100ms'")


@contextmanager
def _disconnected(connection: Connection, oids: list[int]) -> Iterator[None]:
    """Disconnect whoever is in these databases, or still comes in, from a thread: a rename waits for them to go."""
    over, begun = threading.Event(), time.monotonic()

    def end() -> None:
        with suppress(errors.Error):  # who cannot be disconnected is named once the rename has failed
            while not over.is_set():
                # Not pg_stat_activity, which reads pg_database and would wait too.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)"
                    " WHERE datid = ANY(%s::oid[]) AND (state = 'idle' OR %s)",
                    [oids, time.monotonic() - begun > DRAIN],
                )
                over.wait(0.01)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
