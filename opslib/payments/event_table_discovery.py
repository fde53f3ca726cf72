"""What an environment's file says of the table of events: that in which the API notes which of Stripe's it has had."""

import re
from collections.abc import Iterator

from opslib.database import schema
from opslib.database.postgres import Connection
from opslib.database.schema import Column, Table
from opslib.deployment.line import Asked, Line
from opslib.payments import payment_table

ID = "^evt_[A-Za-z0-9_]+$"
"""What an id of an event is like, to PostgreSQL."""
RECEIVED = (("receivedat", "received"), ("processedat", "handledat"), ("createdat", "created"))
"""What the time is called at which an event came, the surest first."""
EVENTS = "The table of the events that the API has taken, or null where it notes none."
EXAMPLE = "{table: webhook_events, id: id, received: received_at}"

_CALLED = re.compile(r"(stripe|webhook|processed)\w*event")
_NOT_ALL = re.compile(r"fail|error|dead|retry|queue|skip|ignor|pending")
"""In the name of a table that has some events only."""


def discover(connection: Connection) -> Iterator[Line | Asked]:
    """Find the table: by ids of Stripe's in a column in which each stands once, or while it is empty, by its name."""
    sure, likely = [], []
    for table in schema.tables(connection):
        texts = [one for one in table.columns if one.type in schema.TEXT]
        held = schema.holding(connection, table, texts, ID)
        ids = [one for one in texts if held[one.name]]
        called = not ids and bool(_CALLED.search(schema.word(table.name)))
        ids = ids or [one for one in texts if called and one.unique and held[one.name] is None]
        if len(ids) == 1 and ids[0].unique and not _NOT_ALL.search(schema.word(table.name)):
            sure.append((table, ids[0]))
        elif ids or called:
            likely.append(table.name)
    if len(sure) == 1 and not likely:
        yield from _lines(*sure[0])
    elif sure or likely:
        names = ", ".join([*(table.name for table, _ in sure), *likely])
        yield Asked("stripe.events", f"{EVENTS} Those that may be it: {names}.", EXAMPLE)
    else:
        none = "no table holds ids of Stripe's events, nor is called as if it did"
        yield Line("stripe.events", None, f"{schema.SOURCE}: {none}")


def _lines(table: Table, id: Column) -> Iterator[Line | Asked]:
    yield Line("stripe.events.table", table.name, f"{schema.SOURCE}: it alone notes Stripe's events")
    yield Line("stripe.events.id", id.name, schema.shown(table, id))
    named = [[one for one in table.named(*words) if one.type in payment_table.TIME] for words in RECEIVED]
    times = next(filter(None, named), [])
    if len(times) == 1:
        yield Line("stripe.events.received", times[0].name, schema.shown(table, times[0]))
    else:
        names = ", ".join(one.name for one in times) or "none"
        what = f"The column with the time at which an event came. Those that may be it: {names}."
        yield Asked("stripe.events.received", what, "received_at")
