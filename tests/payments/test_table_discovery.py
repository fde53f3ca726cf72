"""What is found of tables of payments and events, in schemas such as others may have."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from psycopg import sql

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.payments import stripe_account, table_discovery
from tests.drills.stripe_agreement import dashboard, held
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials, write_private

pytestmark = pytest.mark.usefixtures("sandbox")

SCHEMA = "discovery"
PAYMENTS = """CREATE TABLE {name} (id text PRIMARY KEY, amount {amount}, currency text, status {status},
"paidAt" timestamp, "stripePaymentIntentId" text, "createdAt" timestamp, "updatedAt" timestamp)"""
Found = Mapping[str, Line | Asked]
Discover = Callable[..., Found]


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Discover]:
    """What is found after these statements in a schema of their own; by key, without what stands before it."""
    url = Credentials.load().database_url.replace("schema=public", f"schema={SCHEMA}")
    write_private(tmp_path / ".env", f"DATABASE_URL='{url}'\n")
    known: Deployment = propertypulse.load("sandbox")
    known = known.model_copy(update={"api": known.api.model_copy(update={"env_file": tmp_path / ".env"})})
    client = stripe_account.client(known, held("STRIPE_SECRET_KEY"))

    def discover(*statements: str, stripe: bool = False) -> Found:
        with postgres.connect(Credentials.load()) as connection:
            name = sql.Identifier(SCHEMA)
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {0} CASCADE; CREATE SCHEMA {0}").format(name))
            connection.execute(sql.SQL("SET search_path = {}").format(name))
            for statement in statements:
                connection.execute(statement.encode())
        found = list(table_discovery.discover(known, client if stripe else None))
        assert len({one.key for one in found}) == len(found)
        return {one.key.removeprefix("stripe.").removeprefix("payments."): one for one in found}

    yield discover
    with postgres.connect(Credentials.load()) as connection:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))


def table(name: str = "payments", amount: str = "integer", status: str = "text") -> str:
    return PAYMENTS.format(name=name, amount=amount, status=status)


def row(intent: str, amount: str = "1500", status: str = "PENDING", into: str = "payments", id: str = "c1") -> str:
    return f"INSERT INTO {into} VALUES ('{id}', {amount}, 'usd', '{status}', now(), '{intent}', now(), now())"


def value(one: Line | Asked) -> object:
    assert isinstance(one, Line), one
    return one.value


def asked(one: Line | Asked) -> str:
    assert isinstance(one, Asked), one
    return one.what


def intent(amount: int, currency: str = "usd") -> str:
    payment = {"amount": amount, "currency": currency, "status": "succeeded"}
    return str(dashboard("payment_intents", payments=[payment])["ids"][0])


def test_names_of_any_spelling_are_found_also_while_the_table_is_empty(found: Discover) -> None:
    said = found(table("invoice_payments"))
    assert value(said["table"]) == "invoice_payments"
    assert value(said["columns.intent"]) == "stripePaymentIntentId"
    assert value(said["columns.paid"]) == "paidAt"
    assert value(said["id_type"]) == "text"
    assert said["events"] == Line("stripe.events", None, said["events"].source)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("amount", "written", "unit"),
    [
        ("integer", "1500", "minor"),
        ("integer", "15", "major"),  # whole dollars, whatever the type suggests
        ("double precision", "1500", "minor"),
        ("double precision", "15", "major"),
        ("numeric(10,2)", "15.00", "major"),
    ],
)
def test_what_stripe_has_of_a_row_decides_the_unit(found: Discover, amount: str, written: str, unit: str) -> None:
    said = found(table(amount=amount), row(intent(1500), written), stripe=True)
    assert value(said["unit"]) == unit


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("1499", 1500)], "1499 where Stripe has 1500 usd"),
        ([("1500", 1500), ("15", 1500)], "1500 where Stripe has 1500 usd; 15 where"),
        ([("1500", 1500), ("17.5", None)], "some have fractions"),  # cents for dollars, once
        ([("15", 1500), ("14", 1500)], "Rows do not agree"),
    ],
)
def test_rows_that_contradict_each_other_are_shown(
    found: Discover, rows: list[tuple[str, int | None]], says: str
) -> None:
    made = [row(intent(cents) if cents else "pi_1", written, id=f"c{number}")
            for number, (written, cents) in enumerate(reversed(rows))]  # fmt: skip
    assert says in asked(found(table(amount="double precision"), *made, stripe=True)["unit"])


def test_one_odd_row_among_three_is_outvoted(found: Discover) -> None:
    rows = [row(intent(1500), written, id=f"c{written}") for written in ("15", "15.00", "14")]
    assert value(found(table(amount="double precision"), *rows, stripe=True)["unit"]) == "major"


def test_a_currency_without_decimals_tells_nothing_and_the_next_row_does(found: Discover) -> None:
    rows = [row(intent(1500, "jpy"), "1500", id="c2"), row(intent(1500), "15", id="c1")]
    assert value(found(table(), *rows, stripe=True)["unit"]) == "major"


@pytest.mark.parametrize(
    ("amount", "written", "unit"),
    [
        ("integer", "1500", "minor"),
        ("double precision", "15.5", "major"),
        ("double precision", "1500", None),
        ("double precision", "12.37 * 100", None),  # cents that a double has almost
        ("double precision", "'NaN'", None),
    ],
)
def test_without_stripe_the_type_and_fractions_tell_or_it_is_asked(
    found: Discover, amount: str, written: str, unit: str | None
) -> None:
    said = found(table(amount=amount), row("pi_1", written))["unit"]
    assert (said.value if isinstance(said, Line) else None) == unit


@pytest.mark.parametrize(
    ("status", "open", "paid", "refunded"),
    [
        (
            "text CHECK (status IN ('pending', 'succeeded', 'refunded', 'canceled'))",
            ["pending"],
            "succeeded",
            "refunded",
        ),
        ("text CHECK (status IN ('PENDING', 'PAID', 'VOID'))", ["PENDING"], "PAID", ""),
        ("text CHECK (status <> 'PAID')", None, None, None),
        ("text CHECK (status IN ('PENDING', 'PAID', 'SUCCEEDED'))", ["PENDING"], None, ""),
        ("text CHECK (status IN ('NEW', 'PAID'))", None, "PAID", ""),
        ("text", None, None, None),
    ],
)
def test_statuses_are_sorted_by_their_words_where_all_of_them_are_known(
    found: Discover, status: str, open: list[str] | None, paid: str | None, refunded: str | None
) -> None:
    said = found(table(status=status))
    got = [said[f"statuses.{kind}"] for kind in ("open", "paid", "refunded")]
    assert [one.value if isinstance(one, Line) else None for one in got] == [open, paid, refunded]


def test_statuses_that_rows_have_are_not_all_there_may_be(found: Discover) -> None:
    said = found(table(), row("pi_1", status="PAID"), row("pi_2", status="PENDING", id="c2"))
    assert value(said["statuses.paid"]) == "PAID"
    assert "rows have PAID, PENDING" in asked(said["statuses.open"]) and "PAID" in asked(said["statuses.refunded"])


def test_two_tables_of_payments_are_both_named(found: Discover) -> None:
    said = found(table(), table("refunds"))
    assert "payments, refunds" in asked(said["table"]) and "stripe.payments.table" in asked(said["unit"])


def test_a_table_with_intents_is_told_from_one_that_only_sounds_so(found: Discover) -> None:
    statements = [table(), row("pi_1"), table("bookings"), row("paypal-17", into="bookings")]
    assert value(found(*statements)["table"]) == "payments"


def test_two_columns_that_may_be_meant_are_both_named(found: Discover) -> None:
    said = found(table(), 'ALTER TABLE payments ADD COLUMN "paidDate" timestamp, ADD COLUMN "isPaid" boolean')
    assert "paidAt, paidDate" in asked(said["columns.paid"])
    said = found(table(), "ALTER TABLE payments DROP COLUMN currency, ALTER COLUMN amount TYPE text")
    assert "none" in asked(said["table"])  # no amount


@pytest.mark.parametrize(
    ("statements", "events"),
    [
        (["CREATE TABLE stripe_events (id text PRIMARY KEY, created date)"], ("stripe_events", "id", "created")),
        (
            ["CREATE TABLE inbox (id serial PRIMARY KEY, evt text UNIQUE, created_at date, received_at date)",
             "INSERT INTO inbox VALUES (1, 'evt_1')"],
            ("inbox", "evt", "received_at"),
        ),
        (
            ["CREATE TABLE failed_webhooks (id text PRIMARY KEY)", "INSERT INTO failed_webhooks VALUES ('evt_1')"],
            "failed_webhooks",
        ),
        (["CREATE TABLE webhook_events (id serial PRIMARY KEY, kind text)"], "webhook_events"),
        (["CREATE TABLE log (id serial PRIMARY KEY, evt text)", "INSERT INTO log VALUES (1, 'evt_1')"], "log"),
        (
            ["CREATE TABLE stripe_events (id text PRIMARY KEY)", "CREATE TABLE webhook_events (id text PRIMARY KEY)"],
            "stripe_events, webhook_events",
        ),
        (["CREATE TABLE events (id text PRIMARY KEY)", "INSERT INTO events VALUES ('party')"], None),
    ],
)  # fmt: skip
def test_the_table_of_events_is_found_or_named_or_is_none(
    found: Discover, statements: list[str], events: tuple[str, ...] | str | None
) -> None:
    said = found(table(), *statements)
    if isinstance(events, tuple):
        assert tuple(value(said[f"events.{key}"]) for key in ("table", "id", "received")) == events
    elif events:
        assert events in asked(said["events"])
    else:
        assert value(said["events"]) is None


def test_a_login_that_fails_is_said_of_each(found: Discover, tmp_path: Path) -> None:
    env_file.edit(tmp_path / ".env", {"DATABASE_URL": "postgresql://propertypulse:hunter2@127.0.0.1:25432/x"})
    said = found(table())
    assert len(said) == 6 and all(isinstance(one, Asked) for one in said.values())
    assert "PostgreSQL could not be asked: DATABASE_URL" in asked(said["table"])
    assert "hunter2" not in str(said)
