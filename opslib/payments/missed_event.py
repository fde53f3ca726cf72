"""Missed events: those of Stripe that were made since some time, which the API may have to be sent again."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from functools import cache, partial

from stripe import Event, StripeClient

from opslib.database import postgres
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.payments import event, reception, stripe_account, webhook_endpoint
from opslib.payments.delivery import lacking
from opslib.payments.delivery_trace import moment
from opslib.payments.event import KEPT
from opslib.runbook import progress
from opslib.runbook.errors import RunbookError

OVERLAP = 300
"""Seconds before a time in which an event may have been made that was only taken after it."""
MOST = 50_000
"""Events that are listed at most, a hundred at a time: some minutes."""
SHOWN = 100
"""Events of which a row is shown; of more than that, how many more."""

Rows = list[dict[str, str]]


class Missed:
    """Events, counted by type as they come, newest first; of the oldest so much is kept as is shown of them."""

    def __init__(self, newest_first: Iterable[Event]) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}
        self._oldest: deque[dict[str, str]] = deque(maxlen=SHOWN)
        for one in newest_first:
            count, _, last = self._counts.get(one.type, (0, 0, one.created))
            self._counts[one.type] = count + 1, one.created, last
            thing = str(getattr(one.data.object, "id", None) or "")  # a balance has none
            self._oldest.append({"made": moment(one.created), "event": one.id, "type": one.type, "object": thing})

    def __len__(self) -> int:
        return sum(count for count, _, _ in self._counts.values())

    @property
    def counted(self) -> Rows:
        """How many there are of each type, most first, and when the first and the last was made; then of all."""
        most_first = sorted(self._counts.items(), key=lambda item: -item[1][0])
        rows = [
            {"type": kind, "events": str(count), "first": moment(first), "last": moment(last)}
            for kind, (count, first, last) in most_first
        ]
        return [*rows, {"type": "all", "events": str(len(self))}]

    @property
    def rows(self) -> Rows:
        """The oldest, in the order in which they must be taken; of many the first ones and how many more there are."""
        more = len(self) - len(self._oldest)
        return [*reversed(self._oldest), *([{"made": "…", "event": f"and {more} more, in order"}] if more else [])]


def since(environment: Deployment, backup: datetime, *, recovered: bool) -> Callable[[], Missed]:
    """Give what finds, once, the events that the API's webhook endpoint was to be sent since the backup.

    Those that a `recovered` database has noted are left out. Raises RunbookError if Stripe, or that, does not say.
    """
    return cache(partial(_find, environment, backup, recovered))


def _find(environment: Deployment, backup: datetime, recovered: bool) -> Missed:
    held = env_file.read(environment.api.env_file)
    stripe = stripe_account.reader(environment, held.get("STRIPE_SECRET_KEY", ""))
    events = made(stripe, backup, webhook_endpoint.enabled(environment, stripe).enabled_events)
    if not recovered:
        return Missed(events)
    with postgres.connect(held.get("DATABASE_URL", ""), within=10) as database:
        table = stripe_account.settings(environment).events
        notes = table and database.execute("SELECT to_regclass(quote_ident(%s)) AS it", [table.table]).fetchone()
        return Missed(lacking(events, reception.of(environment, database)) if notes and notes["it"] else events)


def made(stripe: StripeClient, since: datetime, types: Collection[str] = ("*",)) -> Iterator[Event]:
    """Give the events of these types that were made since then, or a little before, newest first, page by page.

    Raise RunbookError if Stripe does not say, or if there are more than MOST.
    """
    earliest = int(max(since.timestamp() - OVERLAP, time.time() - KEPT))
    for number, one in enumerate(event.listed(stripe, since=earliest), 1):
        if number > MOST:
            raise RunbookError(
                f"found more than {MOST} events since {moment(earliest)}, the {MOST} newest back to "
                f"{moment(one.created)}, and did not go on. triage_stripe_webhooks finds all that the API has not."
            )
        progress.report(f"{number} events, back to {moment(one.created)}")
        if "*" in types or one.type in types:
            yield one
