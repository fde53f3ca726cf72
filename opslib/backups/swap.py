"""A swap: the live database exchanged for one that stands beside it, by two renames in one transaction."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from psycopg import errors
from psycopg.sql import SQL, Identifier, Literal

from opslib.api import replacement
from opslib.api.pm2 import Worker
from opslib.backups import database_copy
from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.runbook import act as acts
from opslib.runbook.act import Act, Later
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed, UndoFailed

SETTLE = 2
"""Seconds that a new worker must stay up."""
DRAIN = 0.3
"""Seconds in which a session may end the statement that it is in the middle of."""
TRIES = 5
PASSES = (errors.ObjectInUse, errors.QueryCanceled, errors.DeadlockDetected, errors.LockNotAvailable)
LIMIT = "SET LOCAL statement_timeout = '1s'"
LOCK = (
    # Somebody who has read the catalog in a long transaction, such as pg_dump, would make all of them wait long.
    "SET LOCAL lock_timeout = '300ms'",
    "LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE",
    # A login that is half done may hold what the rename waits for, and wait for this lock.
    "SET LOCAL deadlock_timeout = '100ms'",
)
"""Let every new login of the server wait for the end of the transaction; then it finds the new database.

Measured at 100 requests a second: none failed, of 2 to 13 with ALLOW_CONNECTIONS false, which outlives a run that
is killed besides. An administrator who is no superuser may not do this: then a login fails for a tenth of a second.
"""
# Not pg_stat_activity, which reads pg_database and would wait too.
END = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)"
    " WHERE datid = ANY({oids}::oid[]) AND (state = 'idle' OR {drained})"
)
RENAME = "ALTER DATABASE {old} RENAME TO {new}"
COMMENT = "COMMENT ON DATABASE {old} IS {text}"

TAKE_BACK = {"procedure": "take_recovery_back"}
"""What is noted while a recovery is taken back."""

Statement = tuple[str, Mapping[str, Any]]


def swap(
    environment: Deployment, workers: Sequence[Worker], incoming: str, *, aside: str, note: Mapping[str, str]
) -> Change:
    """Make the change that gives the live name to the database `incoming` and reloads the workers, one by one.

    What was live stays, under a name of the kind `aside`. A run that was killed may have swapped already: then only the
    workers are left. Undone by the same swap the other way round; what was written meanwhile stays too.
    """
    live, found = admin.database(environment), {one.name: one for one in database_copy.listed(environment)}
    now, noted = found.get(live), database_copy.swapped(environment)
    done = noted.get("incoming") == incoming
    before = noted["before"] if done else str(now.oid) if now else ""
    comment = _own_comment(environment, incoming)
    text = database_copy.noted(comment, **note, incoming=incoming, before=before, state="swapped")
    cleared = now.comment if now and now.note else None
    first = exchange(environment, incoming, aside if now else "", before=cleared, after=text)
    reloads = [replacement.replace(environment, worker, settle=SETTLE) for worker in workers]
    back = exchange(
        environment,
        Later(f"{live}_{aside}_TIME", lambda: _named(environment, before)),
        "undone" if aside == "old" else "old",
        before=comment,
    )

    def undo() -> None:
        if database_copy.swapped(environment).get("incoming") == incoming:  # the swap itself may have failed
            back.run()

    def replaces() -> str:
        if database_copy.swapped(environment).get("incoming") == incoming:
            return f"{live}, which a run that was killed has swapped already"
        one = database_copy.live(environment)
        return f"{live} (oid {one.oid})" if one else f"{live}, which is not there"

    return Change(
        "Swap the databases and reload the workers",
        reloads if done else [first, *reloads],
        undo=[
            Act(back.shown, undo),
            acts.act(
                *replacement.commands(environment, workers),
                run=lambda: replacement.put_back(environment, workers, reread=True),
            ),
        ]
        if before
        else Kept(f"there was no database {live} before, so the one that is live now is left there"),
        replaces=replaces,
    )


def close(environment: Deployment, incoming: str) -> Change:
    """Make the change that says on the live database that the swap is done with. Until then a run carries it on."""
    live = admin.database(environment)
    return Change(
        "Close the swap",
        [database_copy.comment(environment, live, _own_comment(environment, incoming))],
        undo=Kept("nothing depends on it", matters=False),
        replaces=lambda: live,
    )


def way_back(environment: Deployment) -> str:
    """Give the name of the database that the last recovery replaced; empty if there is none.

    Of one that a run which was killed has begun to take back, the name that it had.
    """
    if (noted := database_copy.swapped(environment)).get("procedure") == TAKE_BACK["procedure"]:
        return noted["incoming"]
    one = database_copy.last_replaced(environment)
    return one.name if one else ""


def idle(environment: Deployment) -> Answer:
    """Whether no run that was killed has left a swap half way."""
    noted = database_copy.swapped(environment)
    advice = "Finish it with its backup, or take it back: take_recovery_back."
    return Answer(not noted, noted or None, advice)


def exchange(
    environment: Deployment, incoming: str | Later, aside: str, *, before: str | None = None, after: str | None = None
) -> Act:
    """Make the act that gives the live name to `incoming`, and one of the kind `aside` to the database that has it.

    With no `aside` there is none that has it. `before` is the comment that this one gets, `after` that of the new live
    one. Whoever is logged in to either is disconnected, but only while new logins wait for the end of the transaction.
    It is PostgreSQL that takes it back where the run is killed. Raise ChangeFailed with who could not be disconnected.
    """
    live = admin.database(environment)
    name = Later(f"{live}_{aside}_TIME", lambda: Identifier(database_copy.name(live, aside)))
    named, given = incoming, incoming
    if isinstance(incoming, Later):
        named, given = incoming.name, Later(incoming.name, lambda: Identifier(incoming.read()))
    statements: list[Statement] = []
    if before is not None:
        statements.append((COMMENT, {"old": live, "text": Literal(before or None)}))
    if aside:
        statements.append((RENAME, {"old": live, "new": name}))
    statements.append((RENAME, {"old": given, "new": live}))
    if after is not None:
        statements.append((COMMENT, {"old": live, "text": Literal(after or None)}))
    ends = {"oids": SQL(f"‹oids of {live} and {named}›"), "drained": SQL(f"‹{DRAIN} s have passed›")}
    lines = ["BEGIN", LIMIT, *LOCK, f"{acts.composed(END, ends).as_string()} -- until nobody is left"]
    shown = [acts.composed(*statement).as_string() for statement in statements]

    def run() -> None:
        names = [live, incoming.read() if isinstance(incoming, Later) else incoming]
        _carry_out(environment, names, statements)

    return acts.act(*lines, *shown, "COMMIT", run=run)


def _carry_out(environment: Deployment, names: Sequence[str], statements: Sequence[Statement]) -> None:
    """Run these statements in one transaction while nobody is logged in to the databases of these names."""
    with (
        admin.connect(environment, admin.MAINTENANCE) as acting,
        admin.connect(environment, admin.MAINTENANCE) as ending,
    ):
        for attempt in range(TRIES):
            time.sleep(min(attempt, 1))
            with suppress(*PASSES), acting.transaction():
                acting.execute(LIMIT.encode())
                # Read before the lock, which their own logins would wait for.
                read = [acts.composed(*statement, read=True) for statement in statements]
                oids = acting.execute("SELECT oid FROM pg_database WHERE datname = ANY(%s)", [list(names)]).fetchall()
                _let_logins_wait(acting)
                with _disconnected(ending, [row["oid"] for row in oids]):
                    for statement in read:
                        acting.execute(statement)
                return
        held = acting.execute(
            "SELECT usename AS role, application_name AS application, datname AS database FROM pg_stat_activity"
            " WHERE datname = ANY(%(names)s) UNION ALL SELECT owner, 'prepared transaction ' || gid, database"
            " FROM pg_prepared_xacts WHERE database = ANY(%(names)s)",
            {"names": list(names)},
        ).fetchall()
    raise ChangeFailed(
        f"{names[0]} was not renamed, in {TRIES} tries: somebody holds it who cannot be disconnected", held
    )


def _own_comment(environment: Deployment, incoming: str) -> str:
    """Give what a person has noted on the database that becomes live; a restored one gets what the live one has."""
    copies = database_copy.listed(environment)
    kept = next((one for one in copies if one.name == incoming and one.kind != "new"), None)
    one = kept or next((one for one in copies if one.kind == "live"), None)
    return one.comment if one else ""


def _named(environment: Deployment, oid: str) -> str:
    for one in database_copy.listed(environment):
        if str(one.oid) == oid:
            return one.name
    raise UndoFailed(f"the database that was live before (oid {oid}) is not there any more")


def _let_logins_wait(connection: Connection) -> None:
    with suppress(errors.InsufficientPrivilege, errors.LockNotAvailable), connection.transaction():
        for statement in LOCK:
            connection.execute(statement.encode())


@contextmanager
def _disconnected(connection: Connection, oids: list[int]) -> Iterator[None]:
    """Disconnect whoever is in these databases, or still comes in, from a thread: a rename waits for them to go."""
    over, begun = threading.Event(), time.monotonic()

    def end() -> None:
        with suppress(errors.Error):  # who cannot be disconnected is named once the rename has failed
            while not over.is_set():
                drained = Literal(time.monotonic() - begun > DRAIN)
                connection.execute(acts.composed(END, {"oids": Literal(oids), "drained": drained}))
                over.wait(0.01)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
