"""A replay: the events of Stripe that were made since some time, which the API may have to be sent again."""

import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from stripe import Event, StripeClient

from opslib.errors import RunbookError
from opslib.stripe_account import said

KEPT = 30 * 86400
"""Seconds for which Stripe gives out an event (docs.stripe.com/api/events)."""
OVERLAP = 300
"""Seconds before a time in which an event may have been made that was only taken after it."""

Rows = list[dict[str, str]]


def since(stripe: StripeClient, begun: datetime, wanted: Iterable[str] = ("*",)) -> Rows:
    """Give the events of the wanted types that were made since then, in the order in which they must be taken.

    Of each event only what names it is kept, as there may be many. The API takes one that it has had already without
    effect, so it does not hurt that some are from a little before. Raise RunbookError if Stripe does not say.
    """
    types = set(wanted)
    earliest = int(max(begun.timestamp() - OVERLAP, time.time() - KEPT))

    def read() -> Rows:
        pages = stripe.v1.events.list({"created": {"gte": earliest}, "limit": 100}).auto_paging_iter()
        return [_row(one) for one in pages if "*" in types or one.type in types]

    newest_first, problem = said(read)
    if newest_first is None:
        raise RunbookError(f"the events since {begun:%Y-%m-%dT%H:%M:%SZ} are not known: {problem}")
    return newest_first[::-1]


def counted(rows: Rows) -> Rows:
    """Give how many there are of each type, most first."""
    return [{"type": kind, "events": str(n)} for kind, n in Counter(row["type"] for row in rows).most_common()]


def _row(one: Event) -> dict[str, str]:
    made = f"{datetime.fromtimestamp(one.created, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {"event": one.id, "type": one.type, "made": made, "object": str(one.data.object.get("id", ""))}
