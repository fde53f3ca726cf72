"""Stripe's events: listed, those that were not taken, and sent again by Stripe."""

import shlex
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import quote

from stripe import Event, StripeClient, WebhookEndpoint

from opslib.deployment.deployment import Deployment
from opslib.payments.reception import SUCCEEDED, Reception
from opslib.payments.stripe_account import ask, pages, settings
from opslib.payments.webhook_route import PROBE
from opslib.runbook.act import Act, act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed, RunbookError

KEPT = 30 * 86400
"""Seconds for which Stripe lists an event (docs.stripe.com/api/events)."""
LOOKED = 500
"""Events among which one is looked for that would change nothing."""


def listed(
    stripe: StripeClient,
    *,
    since: float,
    before: float | None = None,
    types: Collection[str] = (),
    undelivered: bool = False,
) -> Iterator[Event]:
    """Give the events made in that time (seconds since 1970), newest first, page by page; of these types, or of all.

    `undelivered` are those that not every endpoint has taken; Stripe counts what it is still trying among them. Raise
    RunbookError if Stripe does not say.
    """
    created = {"gte": int(since)} | ({} if before is None else {"lt": int(before)})
    asked: dict[str, Any] = {"created": created} | ({"types": [*types]} if types else {})
    return pages(stripe.v1.events.list, **asked, **({"delivery_success": False} if undelivered else {}))


def since_newest(stripe: StripeClient, since: float) -> float:
    """Give this time, or that of Stripe's newest event where it is older: so that what is sent again is looked at."""
    found, _ = ask(lambda: stripe.v1.events.list({"limit": 1}).data)
    return min([since, *(float(one.created) for one in found or ())])


def untaken(stripe: StripeClient, since: float, before: float) -> Answer:
    """Whether every event of that time was taken; with those that were not, oldest first."""
    try:
        events = [*listed(stripe, since=since, before=before, undelivered=True)][::-1]
    except RunbookError as error:
        return Answer(False, {"not known": str(error)}, "Run again when Stripe answers.")
    found = [
        {
            "event": one.id,
            "type": one.type,
            "made": datetime.fromtimestamp(one.created, UTC),
            "pending": one.pending_webhooks,
        }
        for one in events
    ]
    return Answer(
        not found,
        found,
        "The API or another endpoint does not take them, or Stripe does not sign with "
        "the secret in force. Once that is mended: stripe events resend EVENT --webhook-endpoint ENDPOINT",
    )


def resend(stripe: StripeClient, event: str, target: WebhookEndpoint) -> Act:
    """Make the act that has Stripe send an event to an endpoint once more, as `stripe events resend` does.

    The API must take an event twice without effect, as Stripe demands anyway.
    """

    def run() -> None:
        if problem := ask(_retry(stripe, event, target))[1]:
            raise ChangeFailed(
                f"{event} was not sent again: {problem}. By hand: stripe events resend {shlex.quote(event)} "
                f"--webhook-endpoint {target.id}, with --live in live mode."
            )

    return act(f"POST /v1/events/{event}/retry webhook_endpoint={target.id}", run=run)


def deliver(stripe: StripeClient, target: WebhookEndpoint, since: float, *, newest: bool = False) -> Change:
    """Make the change that has Stripe send again what was not taken since then, and if asked its newest event too."""

    def do() -> None:
        again = [one.id for one in listed(stripe, since=since, before=time.time() + 1, undelivered=True)][::-1]
        if newest and not again:
            found, problem = ask(lambda: stripe.v1.events.list({"limit": 1}).data)
            if not found:
                raise ChangeFailed(
                    f"nothing shows with which secret Stripe signs: {problem or 'it has no event of 30 days'}. "
                    "Make one in its Dashboard, as a payment or a test event, and run again."
                )
            again = [one.id for one in found]
        for event in again:
            resend(stripe, event, target).run()

    extra = ", else for the newest event" if newest else ""
    return Change(
        "Have Stripe send again what was not taken",
        [
            act(
                "v1.events.list({'delivery_success': False, 'created': {'gte': ‹since›}})",
                f"{resend(stripe, '‹event›', target).shown} for each{extra}",
                run=do,
            )
        ],
        undo=Kept("an event that was taken stays taken", matters=False),
        replaces=lambda: f"endpoint {target.id} ({target.url})",
    )


def harmless(environment: Deployment, stripe: StripeClient, reception: Reception) -> str:
    """Give an event that the API has taken before, else one that it does not act on, else of a payment that is paid.

    Of those that it does not act on one that Stripe has not delivered, as of that Stripe tells whether it is taken.
    Raise RunbookError if Stripe has neither, or does not say.
    """
    for name in reception.latest(PROBE):
        if ask(partial(stripe.v1.events.retrieve, name))[0] is not None:
            return name
    acted_on = settings(environment).handles
    since = time.time() - KEPT
    first = () if reception.noted else islice(listed(stripe, since=since, undelivered=True), LOOKED)
    for event in (*(one for one in first if one.type not in acted_on), *islice(listed(stripe, since=since), LOOKED)):
        if event.type not in acted_on:
            return str(event.id)
        intent = str(event.data.object.id) if event.type == SUCCEEDED else ""
        if intent and reception.settled(reception.states([intent]).get(intent, "")):
            return str(event.id)
    raise RunbookError(
        "found no event at Stripe that would change nothing, expected one that the API has taken in the last 30 days. "
        "Send one from the Dashboard (Developers > Events > Resend), and look into the API's log."
    )


def _retry(stripe: StripeClient, event: str, target: WebhookEndpoint) -> Callable[[], object]:
    return lambda: stripe.raw_request("post", f"/v1/events/{quote(event, safe='')}/retry", webhook_endpoint=target.id)
