"""Missed events: those of Stripe that were made since some time, which the API may have to be sent again."""

import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from stripe import Event, StripeClient

from opslib import env_file
from opslib.environment import Environment
from opslib.errors import RunbookError
from opslib.payments import stripe_account, webhook

KEPT = 30 * 86400
"""Seconds for which Stripe gives out an event (docs.stripe.com/api/events)."""
OVERLAP = 300
"""Seconds before a time in which an event may have been made that was only taken after it."""

Rows = list[dict[str, str]]


def missed(environment: Environment, since: datetime) -> tuple[Rows, str]:
    """Give what the API's webhook endpoint was to be sent since then, or why that is not known. Raises nothing."""
    if environment.stripe is None:
        return [], f"parameters/{environment.name}.yaml has no `stripe`"
    try:
        key = env_file.read(environment.api.env_file).get("STRIPE_SECRET_KEY", "")
        stripe = stripe_account.reader(environment, key)
        return made(stripe, since, webhook.endpoint(environment, stripe).enabled_events), ""
    except RunbookError as error:
        return [], str(error)


def made(stripe: StripeClient, since: datetime, types: Iterable[str] = ("*",)) -> Rows:
    """Give the events of these types that were made since then, in the order in which they must be taken.

    Of each only what names it is kept, as there may be many. The API takes an event that it has had already without
    effect, so it does not hurt that some are from a little before. Raise RunbookError if Stripe does not say.
    """
    wanted = set(types)
    earliest = int(max(since.timestamp() - OVERLAP, time.time() - KEPT))
    newest_first = stripe_account.pages(stripe.v1.events.list, created={"gte": earliest})
    return [_row(one) for one in newest_first if "*" in wanted or one.type in wanted][::-1]


def counted(rows: Rows) -> Rows:
    """Give how many there are of each type, most first, and the times of the first and the last."""
    return [
        {"type": kind, "events": str(n), "first": of[0], "last": of[-1]}
        for kind, n in Counter(row["type"] for row in rows).most_common()
        if (of := [row["made"] for row in rows if row["type"] == kind])
    ]


def _row(one: Event) -> dict[str, str]:
    at = f"{datetime.fromtimestamp(one.created, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {"event": one.id, "type": one.type, "made": at, "object": str(one.data.object.get("id", ""))}
