"""Proofs of what an environment's file says of payments and events in the database: names, types, unit."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once
from opslib.payments import payment, payment_table, stripe_account, stripe_rotation
from opslib.payments.settings import Stripe
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError

_SOME = 5
"""Payments whose amounts are compared with Stripe's."""
_LATEST = "p.{intent} LIKE 'pi\\_%%' ORDER BY p.{created} DESC LIMIT %s"

Row = Mapping[str, object]
Rows = Callable[[], Mapping[str, Row]]


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs, all by SELECTs and, for the unit, a GET of each of a few payments."""
    stripe, database = stripe_account.settings(environment), "PostgreSQL"
    rows = once(lambda: _rows(environment))
    yield Proof("stripe.payments.table", database, partial(_named, "payments.table", stripe.payments.table, rows))
    for field, name in stripe.payments.columns:
        place = f"payments.columns.{field}"
        yield Proof(f"stripe.{place}", database, partial(_column, place, name, rows))
    yield Proof("stripe.payments.id_type", database, partial(_id_type, stripe, rows))
    yield Proof("stripe.payments.statuses", database, partial(_statuses, rows))
    yield Proof("stripe.payments.unit", stripe.url, partial(_unit, environment, stripe, rows))
    if stripe.events:
        yield Proof("stripe.events.table", database, partial(_named, "events.table", stripe.events.table, rows))
        for field in ("id", "received"):
            place, name = f"events.{field}", getattr(stripe.events, field)
            yield Proof(f"stripe.{place}", database, partial(_column, place, name, rows))


def key_in_force(environment: Deployment) -> str:
    """Give the key in force. Raise RunbookError if the `.env` has none."""
    if not (found := stripe_rotation.in_force(environment, stripe_rotation.KEY)):
        raise RunbookError(f"the .env has no {stripe_rotation.KEY}")
    return found


def _rows(environment: Deployment) -> Mapping[str, Row]:
    """Give what the tables are not as the file says, by its place below `stripe`."""
    with payment.connect(environment, within=0) as connection:
        answer = payment_table.fits(environment, connection, events=True)
    return {} if answer else {str(row["in the file"]): row for row in answer.evidence}


def _named(place: str, name: str, rows: Rows) -> Answer:
    row = rows().get(place)
    return _judged(row) if row else Answer(True, f"the database has {name}")


def _column(place: str, name: str, rows: Rows) -> Answer:
    if f"{place.partition('.')[0]}.table" in rows():
        raise RunbookError("there is no such table to look into")
    return _named(place, name, rows)


def _judged(row: Row) -> Answer:
    name, instead = row["name"], str(row["instead"])
    if instead.startswith("it is "):
        return Answer(False, f"{name}: {instead}", "Name the column that has it.")
    has = "nor anything like it" if instead.startswith("nothing") else f"and has {instead}"
    return Answer(False, f"the database has no {name}, {has}", "Spell it as PostgreSQL does.")


def _id_type(stripe: Stripe, rows: Rows) -> Answer:
    if {"payments.table", "payments.columns.id"} & (found := rows()).keys():
        raise RunbookError("there is no such column to look at")
    if row := found.get("payments.id_type"):
        return Answer(False, f"the column is of the type {row['instead']}", "Name that type: integer, text or uuid.")
    return Answer(True, f"the column is of a type that {stripe.payments.id_type} means")


def _statuses(rows: Rows) -> Answer:
    if {"payments.table", "payments.columns.status"} & (found := rows()).keys():
        raise RunbookError("there is no such column to look at")
    wrong = [row for place, row in found.items() if place.startswith("payments.statuses.")]
    if wrong:
        names = ", ".join(str(row["name"]) for row in wrong)
        return Answer(False, f"the column has no {names}, but {wrong[0]['instead']}", "Name those that it has.")
    return Answer(True, "the column takes each of them")


def _unit(environment: Deployment, stripe: Stripe, rows: Rows) -> Answer:
    """Whether amounts are what Stripe has of the same payments; cents taken for dollars differ a hundredfold."""
    if any(place.startswith(("payments.table", "payments.columns")) for place in rows()):
        raise RunbookError("the amounts cannot be read until the table's lines are right")
    table = stripe.payments
    with payment.connect(environment, within=0) as connection:
        found = connection.execute(payment_table.fill(table, payment.READ + _LATEST), [_SOME]).fetchall()
    client, compared = stripe_account.client(environment, key_in_force(environment)), list[bool]()
    for row in found:
        theirs, _ = stripe_account.ask(partial(client.v1.payment_intents.retrieve, row["intent"]))
        if theirs and theirs.amount:
            compared.append(payment.minor(row["written"], row["currency"], table) == theirs.amount)
    if not compared:
        raise RunbookError(f"none of the newest {_SOME} payments with an intent is known to Stripe, to compare amounts")
    said = f"{sum(compared)} of {len(compared)} amounts are what Stripe has, if they are in {table.unit} units"
    return Answer(any(compared), said, "minor is cents, major is dollars.")
