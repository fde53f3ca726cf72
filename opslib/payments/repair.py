"""The repair of a payment that Stripe says is paid: its row marked so, with a note of what was there.

Each row is changed in a transaction of its own, together with its note: a run that is killed leaves both or neither.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from psycopg.errors import LockNotAvailable
from stripe import StripeClient

from opslib.database import admin, database_url, postgres
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.deployment.env_file import fingerprint
from opslib.payments import intent, payment, payment_table, repair_audit
from opslib.payments.comparison import Comparison
from opslib.payments.settings import Payments
from opslib.payments.stripe_account import ask, settings
from opslib.runbook.act import act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed
from opslib.runbook.mask import mask
from opslib.runbook.session import operator

PATIENCE = 5
"""Seconds for which a row that somebody else has locked is tried again."""

LOCK = "SELECT to_jsonb(p) AS row FROM {table} AS p WHERE {intent} = %(intent)s FOR UPDATE NOWAIT"
# The amount as it is written: no two doubles are, and none is compared.
UPDATE = """\
UPDATE {table} AS p SET {status} = {PAID}, {paid} = to_timestamp(%(charged)s), {updated} = now()
WHERE {id} = %(id)s AND {status} IN ({open}) AND {amount}::text = %(amount)s
AND {currency} = %(currency)s AND {intent} = %(intent)s RETURNING to_jsonb(p) AS row"""


@dataclass(frozen=True)
class Repair:
    """How one run marks payments paid: who it is, why, and the client that asks Stripe again."""

    environment: Deployment
    stripe: StripeClient
    run: str
    reason: str
    incident: str

    @property
    def table(self) -> Payments:
        """The table of payments."""
        return settings(self.environment).payments

    def mark(self, planned: Sequence[Comparison]) -> list[Change]:
        """Make the change that marks those paid that no event has marked by then."""
        if not planned:
            return []
        shown, done = partial(payment_table.fill, self.table), self.table.statuses.paid

        def do() -> None:
            with payment.connect(self.environment) as connection:
                for one in planned:
                    self._mark(connection, one)

        return [
            Change(
                "Mark paid what no event has marked",
                [
                    act(
                        f"for each in a transaction of its own, unless its row is {done} by then:",
                        "v1.payment_intents.retrieve(intent, {'expand': ['latest_charge']})",
                        "every field compared again",
                        *payment_table.lines(shown(LOCK)),
                        *payment_table.lines(shown(UPDATE)),
                        "exactly one row, or nothing",
                        *repair_audit.NOTE.splitlines(),
                        *(
                            f"{one.title}: {one.payment and one.payment.status} → {done}, {one.paid:%Y-%m-%dT%H:%M:%SZ}"
                            for one in planned
                        ),
                        run=do,
                    )
                ],
                undo=[
                    act(
                        *payment_table.lines(repair_audit.back(self.table)),
                        "all rows that this run has marked, or none",
                        run=lambda: repair_audit.undo_run(self.environment, self.run),
                    )
                ],
                replaces=lambda: self._said_now(planned),
            )
        ]

    def _mark(self, connection: Connection, one: Comparison) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                _, problem = ask(lambda: self._once(connection, one))
                break
            except LockNotAvailable:
                if time.monotonic() > ends:
                    raise ChangeFailed(
                        f"{one.title}: somebody else has held its row for {PATIENCE} s. troubleshoot_database says who."
                    ) from None
            time.sleep(0.2)
        if problem:
            raise ChangeFailed(f"{one.title}: Stripe was asked again whether it is paid, and did not say: {problem}")

    def _once(self, connection: Connection, one: Comparison) -> None:
        """Mark one row, in one transaction; nothing if it is paid by now. What Stripe raises passes."""
        # Not under the lock, for which the API would have to wait as long as Stripe takes. A refund from here on is
        # found by the verify, which asks again.
        there = intent.retrieve(self.stripe, one.key)
        given = {"intent": one.key}
        with connection.transaction():
            before = [
                found["row"] for found in connection.execute(payment_table.fill(self.table, LOCK), given).fetchall()
            ]
            rows = payment.named(connection, self.table, [one.key])[one.key]
            live, statuses = settings(self.environment).mode == "live", self.table.statuses
            now = Comparison(one.name, rows[0] if rows else None, there, live, statuses)
            if now.verdict == "agrees":
                return
            if now.verdict != "repair" or now.payment is None or there is None or len(before) != 1:
                raise ChangeFailed(f"{one.title} may not be marked paid any more: {'; '.join(now.why)}. Run again.")
            row = {"id": now.payment.id, "amount": now.payment.written, "currency": now.payment.currency}
            update = payment_table.fill(self.table, UPDATE)
            after = connection.execute(update, given | row | {"charged": there.charged}).fetchall()
            if len(after) != 1:
                raise ChangeFailed(f"{one.title}: the update met {len(after)} rows, expected 1; nothing was written.")
            words = {"operator": operator(), "reason": mask.text(self.reason), "incident": mask.text(self.incident)}
            words |= {"run": self.run, "charge": there.charge}
            repair_audit.note(connection, before[0], after[0]["row"], id=now.payment.id, **given, **words)

    def _said_now(self, planned: Sequence[Comparison]) -> str:
        known = intent.ask(self.stripe, {one.key: one.payment.created.timestamp() for one in planned if one.payment})
        facts = "; ".join(str(known.get(one.key)) for one in planned)
        return f"rows of {len(planned)} payments; digest of what Stripe says of them: {fingerprint(facts)}"


def rights(environment: Deployment, connection: Connection) -> Answer:
    """Whether the administrator may do what a repair needs."""
    table = settings(environment).payments.table
    questions = {
        f"may read and update {table}": "has_table_privilege(quote_ident(%(table)s), 'SELECT')"
        " AND has_table_privilege(quote_ident(%(table)s), 'UPDATE')",
        f"owns {repair_audit.TABLE}, or may make it": "coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class"
        f" WHERE oid = to_regclass('{repair_audit.TABLE}')), has_database_privilege(current_database(), 'CREATE'))",
        "is not the API's own role": "current_user <> %(api)s",
    }
    asked = ", ".join(f"{question} AS answer_{n}" for n, question in enumerate(questions.values()))
    role = database_url.user(admin.api_url(environment))
    answer = connection.execute(f"SELECT {asked}".encode(), {"api": role, "table": table}).fetchone()
    assert answer is not None
    found = dict(zip(questions, answer.values(), strict=True))
    return Answer(all(found.values()), found, "Grant what is missing, or name another administrator: `database.admin`.")


def same_database(environment: Deployment, connection: Connection) -> Answer:
    """Whether the administrator is in the API's database, asked of PostgreSQL itself."""
    with postgres.connect(admin.api_url(environment)) as api:
        same = postgres.server(api) == postgres.server(connection)
    return Answer(same, None, "Correct `database.admin` of the environment: it leads to another server or database.")
