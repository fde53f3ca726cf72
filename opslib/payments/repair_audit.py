"""The audit table: what a repair has changed in payments, by whom and why, with the row before it, which is the undo.

It belongs to the administrator. The API may not write it, and may read it, so that its own role can dump the database.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.payments import payment, payment_table
from opslib.payments.settings import Payments
from opslib.payments.stripe_account import settings
from opslib.runbook.act import act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed, RunbookError, UndoFailed

TABLE = "runbook.payment_repairs"
SHOWN = 50
_TYPES = {"integer": "bigint", "text": "text", "uuid": "uuid"}
# Two runs on two machines would collide in the catalogue.
ALONE = f"SELECT pg_advisory_xact_lock(hashtext('{TABLE}'))"
CREATE = f"""\
CREATE SCHEMA IF NOT EXISTS runbook;
CREATE TABLE IF NOT EXISTS {TABLE} (
  payment_id {{type}} NOT NULL, run text NOT NULL, intent text NOT NULL, charge text NOT NULL,
  operator text NOT NULL, reason text NOT NULL, incident text NOT NULL,
  before jsonb NOT NULL, after jsonb NOT NULL, at timestamptz NOT NULL DEFAULT now(),
  undone_at timestamptz, undone_run text, PRIMARY KEY (payment_id, run));"""
NOTE = f"""\
INSERT INTO {TABLE} (payment_id, run, intent, charge, operator, reason, incident, before, after)
VALUES (%(id)s, %(run)s, %(intent)s, %(charge)s, %(operator)s, %(reason)s, %(incident)s, %(before)s, %(after)s)"""
_SET = """\
UPDATE {table} AS p SET {status} = was.{status}, {paid} = was.{paid}, {updated} = was.{updated}
FROM runbook.payment_repairs AS r, jsonb_populate_record(NULL::{table}, r.{was}) AS was
WHERE r.payment_id = %(id)s AND r.run = %(repair)s AND r.undone_at {undone}
AND p.{id} = r.payment_id AND to_jsonb(p) @> r.{now}"""
_UNDONE = f"UPDATE {TABLE} SET undone_at = now(), undone_run = %(run)s WHERE payment_id = %(id)s AND run = %(repair)s"
_REDONE = f"UPDATE {TABLE} SET undone_at = NULL, undone_run = NULL WHERE payment_id = %(id)s AND run = %(repair)s"


def back(table: Payments) -> sql.Composed:
    """The statement that puts a row back as it was before its repair."""
    names = {"was": sql.Identifier("before"), "now": sql.Identifier("after")}
    return payment_table.fill(table, _SET, undone=sql.SQL("IS NULL"), **names)


def again(table: Payments) -> sql.Composed:
    """The statement that puts a row back as its repair had left it."""
    names = {"was": sql.Identifier("after"), "now": sql.Identifier("before")}
    return payment_table.fill(table, _SET, undone=sql.SQL("IS NOT NULL"), **names)


def exists(connection: Connection) -> bool:
    """Whether there is a table yet."""
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL AS there", [TABLE]).fetchone()
    return bool(found and found["there"])


def prepare(environment: Deployment, connection: Connection, repairs: Sequence[object]) -> list[Change]:
    """Make the change that makes the table for these repairs, where there is none."""
    if not repairs or exists(connection):
        return []

    table = settings(environment).payments
    query = "SELECT relowner::regrole::text AS owner FROM pg_class WHERE oid = quote_ident(%s)::regclass"
    found = connection.execute(query, [table.table]).fetchone()
    assert found is not None
    # regrole quotes what has to be quoted
    grants = f"GRANT USAGE ON SCHEMA runbook TO {found['owner']};\nGRANT SELECT ON {TABLE} TO {found['owner']}"
    make = f"{ALONE};\n{CREATE.format(type=_TYPES[table.id_type])}\n{grants}"

    def do() -> None:
        with payment.connect(environment) as admin, admin.transaction():
            admin.execute(make.encode())

    def undo() -> None:
        with payment.connect(environment, within=payment.PATIENCE) as admin, admin.transaction():
            admin.execute(ALONE.encode())
            if not exists(admin):
                return
            admin.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE".encode())
            if admin.execute(f"SELECT 1 FROM {TABLE} LIMIT 1".encode()).fetchone() is None:
                admin.execute(f"DROP TABLE {TABLE}".encode())
                others = "SELECT 1 FROM pg_class WHERE relnamespace = 'runbook'::regnamespace LIMIT 1"
                if admin.execute(others).fetchone() is None:
                    admin.execute("DROP SCHEMA runbook")

    return [
        Change(
            "Make the table that notes repairs",
            [act(*(line.strip() for line in make.splitlines()), run=do)],
            undo=[
                act(f"DROP TABLE {TABLE}, if nothing stands in it; DROP SCHEMA runbook, if nothing else is", run=undo)
            ],
            replaces=lambda: "not there, or made by another run meanwhile",
        )
    ]


def note(connection: Connection, before: Mapping[str, Any], after: Mapping[str, Any], **given: Any) -> None:
    """Write down a repair, in the transaction that makes it."""
    connection.execute(NOTE.encode(), given | {"before": Jsonb(before), "after": Jsonb(after)})


def newest(connection: Connection, payments: Sequence[str]) -> list[DictRow]:
    """Give the newest repair of each of these payments that has one."""
    if not exists(connection):
        return []
    query = (
        f"SELECT DISTINCT ON (payment_id) * FROM {TABLE} WHERE payment_id::text = ANY(%s) ORDER BY payment_id, at DESC"
    )
    return connection.execute(query.encode(), [list(payments)]).fetchall()


def latest(connection: Connection) -> list[DictRow]:
    """Give the newest repairs of all, at most SHOWN."""
    if not exists(connection):
        return []
    return connection.execute(f"SELECT * FROM {TABLE} ORDER BY at DESC LIMIT {SHOWN}".encode()).fetchall()


def noted(environment: Deployment, rows: Sequence[DictRow], payments: Sequence[str]) -> Answer:
    """Whether each of these payments has a repair among these."""
    left = sorted({*payments} - {str(row["payment_id"]) for row in rows})
    return Answer(not left, shown(environment, rows), f"No repair is noted of payment {', '.join(left)}: leave it out.")


def undone(environment: Deployment, rows: Sequence[DictRow]) -> Answer:
    """Whether each of these repairs was taken back."""
    return Answer(all(row["undone_at"] for row in rows), shown(environment, rows))


def shown(environment: Deployment, rows: Sequence[DictRow]) -> list[dict[str, object]]:
    """Give what people are shown of repairs."""
    name = settings(environment).payments.columns
    return [
        {
            "payment": row["payment_id"],
            "charge": row["charge"],
            "before": row["before"][name.status],
            "after": f"{row['after'][name.status]}, paid {row['after'][name.paid]}",
            "run": row["run"],
            "by": row["operator"],
            "reason": row["reason"],
            "undone": row["undone_at"],
        }
        for row in rows
    ]


def undo_run(environment: Deployment, run: str) -> None:
    """Put back what a run has repaired, all of it or none. Raise UndoFailed for a row that has gone on since."""
    table = settings(environment).payments
    with payment.connect(environment, within=payment.PATIENCE) as connection:
        if not exists(connection):
            return
        query = f"SELECT payment_id FROM {TABLE} WHERE run = %s AND undone_at IS NULL"
        made = [(row["payment_id"], run) for row in connection.execute(query.encode(), [run]).fetchall()]
        _set(connection, back(table), _UNDONE, made, run, UndoFailed)


def put_back(environment: Deployment, rows: Sequence[DictRow], run: str) -> list[Change]:
    """Make the change that takes repairs of earlier runs back, all of them or none."""
    repairs = [(row["payment_id"], row["run"]) for row in rows if row["undone_at"] is None]
    if not repairs:
        return []
    table = settings(environment).payments

    def do() -> None:
        with payment.connect(environment) as connection:
            _set(connection, back(table), _UNDONE, repairs, run, ChangeFailed)

    def undo() -> None:
        with payment.connect(environment, within=payment.PATIENCE) as connection:
            query = f"SELECT payment_id, run FROM {TABLE} WHERE undone_run = %s"
            mine = [(row["payment_id"], row["run"]) for row in connection.execute(query.encode(), [run]).fetchall()]
            _set(connection, again(table), _REDONE, mine, run, UndoFailed)

    return [
        Change(
            "Put the rows back as they were before their repair",
            [
                act(
                    *payment_table.lines(back(table)),
                    _UNDONE,
                    *(f"payment {number}, repaired by run {by}" for number, by in repairs),
                    run=do,
                )
            ],
            undo=[act(*payment_table.lines(again(table)), run=undo)],
            replaces=lambda: f"{len(repairs)} rows that are as their repair left them, or else nothing",
        )
    ]


def _set(
    connection: Connection,
    statement: sql.Composed,
    mark: str,
    repairs: Sequence[tuple[object, str]],
    run: str,
    wrong: type[RunbookError],
) -> None:
    left = []
    with connection.transaction() as transaction:
        for number, repair in repairs:
            given = {"id": number, "repair": repair, "run": run}
            if connection.execute(statement, given).rowcount != 1:
                left.append(str(number))
            connection.execute(mark.encode(), given)
        if left:
            raise psycopg.Rollback(transaction)
    if left:
        raise wrong(
            f"payment {', '.join(left)}: the row is no longer as the repair left it, so no row was put back. Somebody "
            "or some event has changed it since: look at it, and leave it out."
        )
