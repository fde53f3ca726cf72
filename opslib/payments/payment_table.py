"""The table of payments: statements with the names that an environment gives it, and whether the database has those."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from psycopg import sql

from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.payments.settings import Payments
from opslib.payments.stripe_account import settings
from opslib.runbook.answer import Answer

TYPES = {
    "integer": ("smallint", "integer", "bigint"),
    "text": ("text", "character varying", "character"),
    "uuid": ("uuid",),
}
"""The types that an id may be of, by what the environment's file calls them."""
_TEXT = (*TYPES["text"], "citext")
TIME = ("timestamp without time zone", "timestamp with time zone", "date")
OF = {
    "intent": _TEXT,
    "amount": (*TYPES["integer"], "numeric", "double precision", "real"),
    "currency": _TEXT,
    "paid": TIME,
    "created": TIME,
    "updated": TIME,
}
"""The types that the other columns may be of."""

# Not information_schema, which leaves out what this role may not read.
_TABLES = """SELECT relname AS name FROM pg_catalog.pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'f') ORDER BY 1"""
_COLUMNS = """SELECT attname AS name, format_type(atttypid, NULL) AS type,
  ARRAY(SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = atttypid ORDER BY enumsortorder) AS labels
FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_class c ON c.oid = attrelid
WHERE relnamespace = current_schema()::regnamespace AND relname = %s AND attnum > 0 AND NOT attisdropped
ORDER BY attnum"""

Rows = list[dict[str, object]]


def fill(table: Payments, statement: str, **more: sql.Composable) -> sql.Composed:
    """Put the names of the table, its columns and its statuses into a statement: `{table}`, `{intent}`, `{PAID}`."""
    columns = {field: sql.Identifier(name) for field, name in table.columns.model_dump().items()}
    statuses = sql.SQL(", ").join(map(sql.Literal, table.statuses.open))
    given = {"open": statuses, "PAID": sql.Literal(table.statuses.paid), "table": sql.Identifier(table.table)}
    return sql.SQL(statement).format(**columns, **given, **more)


def lines(statement: sql.Composable) -> list[str]:
    """Give a statement as a plan shows it."""
    return [line.strip() for line in statement.as_string().splitlines()]


def fits(environment: Deployment, connection: Connection, *, events: bool = False) -> Answer:
    """Whether the table of payments, and that of `events`, has the columns, types and statuses that the file names."""
    stripe, rows = settings(environment), list[dict[str, object]]()
    if found := _columns(connection, "payments", stripe.payments.table, stripe.payments.columns.model_dump(), rows):
        rows += _values(stripe.payments, found)
    if events and stripe.events:
        _columns(connection, "events", stripe.events.table, stripe.events.model_dump(exclude={"table"}), rows)
    wrong = [row for row in rows if row["there"] != "yes"]
    noted = any(str(row["in the file"]).startswith("events") for row in wrong)
    none = " `events: null` if the API notes no events." if noted else ""
    file = f"parameters/{environment.name}.yaml"
    tables = [row["name"] for row in rows if str(row["in the file"]).endswith(".table")]
    well = {"tables": ", ".join(map(str, tables)), "names found": len(rows)}
    return Answer(not wrong, wrong or well, f"Write what the database has below `stripe:` of {file}.{none}")


def _columns(
    connection: Connection, part: str, table: str, wanted: Mapping[str, str], rows: Rows
) -> dict[str, tuple[str, list[str]]]:
    """Note for a table and its columns whether they are there; give type and labels of those that are."""
    tables = [str(row["name"]) for row in connection.execute(_TABLES)]
    rows.append(_row(f"{part}.table", table, tables))
    if table not in tables:
        return {}
    has = {row["name"]: (str(row["type"]), list(row["labels"])) for row in connection.execute(_COLUMNS, [table])}
    where = "payments.columns" if part == "payments" else part
    rows += [_row(f"{where}.{field}", name, has) for field, name in wanted.items()]
    return {field: has[name] for field, name in wanted.items() if name in has}


def _values(table: Payments, found: Mapping[str, tuple[str, list[str]]]) -> Rows:
    """Say which columns are of another type than can be worked with, and whether an enum has the statuses."""
    rows = list[dict[str, object]]()
    if "id" in found and found["id"][0] not in TYPES[table.id_type]:
        rows.append(_row("payments.id_type", table.id_type, (), [found["id"][0]]))
    for field, types in OF.items():
        if field in found and found[field][0] not in types:
            name = str(getattr(table.columns, field))
            rows.append(_row(f"payments.columns.{field}", name, (), [f"it is {found[field][0]}, not {types[0]}"]))
    if "status" in found and (labels := found["status"][1]):  # a column of text may hold any
        statuses = table.statuses
        named = {f"open.{n}": one for n, one in enumerate(statuses.open)} | {"paid": statuses.paid}
        named |= {"refunded": statuses.refunded} if statuses.refunded else {}
        rows += [_row(f"payments.statuses.{field}", one, labels, labels) for field, one in named.items()]
    return rows


def _row(field: str, name: str, there: Iterable[str], like: Iterable[str] | None = None) -> dict[str, object]:
    names = [*there]
    if name in names:
        return {"in the file": field, "name": name, "there": "yes", "instead": ""}
    instead = ", ".join(_alike(name, names) if like is None else like)
    return {"in the file": field, "name": name, "there": "no", "instead": instead or "nothing like it is there"}


def _alike(name: str, others: Iterable[str]) -> list[str]:
    """Give what may be meant: first what is spelt alike but for capitals and underscores."""
    plain = {other: other.replace("_", "").lower() for other in others}
    asked = name.replace("_", "").lower()
    close = get_close_matches(asked, plain.values(), 3)
    return [other for other, word in plain.items() if word == asked] or [
        o for o, word in plain.items() if word in close
    ]
