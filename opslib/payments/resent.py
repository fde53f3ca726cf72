"""One event that Stripe is asked to send again, and what tells that the API has taken it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from stripe import StripeClient

from opslib.api import log
from opslib.api.log import Position
from opslib.api.settings import Log
from opslib.database import admin, postgres
from opslib.deployment.deployment import Deployment
from opslib.payments import delivery_trace, reception
from opslib.payments.delivery_cause import NEXT
from opslib.payments.reception import SUCCEEDED, Reception
from opslib.payments.stripe_account import ask, settings
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError


@dataclass(frozen=True)
class Resent:
    """An event as it stands before it is sent again."""

    event: str
    type: str
    pending: int
    """How many endpoints have not taken it, as Stripe counts."""
    intent: str = field(repr=False)
    payment: str
    """The payment that it is about, and its status; empty where there is none."""
    status: str

    @property
    def about(self) -> set[str]:
        """What a line of the log may name instead of the event."""
        return {self.intent, self.payment} - {""} if self.type == SUCCEEDED else set()


def before(stripe: StripeClient, received: Reception, event: str) -> Resent:
    """Look how an event stands. Raise RunbookError if Stripe does not say."""
    found, problem = ask(partial(stripe.v1.events.retrieve, event))
    if found is None:
        raise RunbookError(f"{event} is not known: {problem}. Name an event of this account, or run again.")
    thing = found.to_dict()["data"]["object"]
    intent = str(thing.get("id") or "") if thing.get("object") == "payment_intent" else ""
    payment = received.payment(intent) if intent else ""
    status = received.states([intent]).get(intent, "") if payment else ""
    return Resent(event, found.type, found.pending_webhooks, intent, payment, status)


def taken(environment: Deployment, stripe: StripeClient, marks: Sequence[Position], one: Resent) -> Answer:
    """Whether the API has taken the event since the logs were marked, by what tells: its log, Stripe, the payment.

    It cannot be told where none of them does.
    """
    found = delivery_trace.read(environment, marks)
    shown = found[-5:]
    if any(trace.event == one.event or (not trace.cause and trace.object in one.about) for trace in found):
        return Answer(True, shown)
    if why := next((trace.cause for trace in reversed(found) if trace.cause), None):
        return Answer(False, shown, f"It was refused: {why.value}. {NEXT[why]}.")
    told = [*_by_stripe(stripe, one), *_by_payment(environment, one)]
    if told:
        return Answer(all(ok for ok, _ in told), [said for _, said in told], told[0][1])
    logs = log.beginnings(marks, environment.find(Log) or Log())
    if settings(environment).events is not None and delivery_trace.legible(environment, logs):
        return Answer(False, shown, "The API has logged nothing of it.")
    said = "The API does not say which events it takes, nor does Stripe or a payment of this one: see its answer to"
    return Answer(None, shown, f"{said} {one.event} in the Dashboard (Developers).")


def _by_stripe(stripe: StripeClient, one: Resent) -> Iterator[tuple[bool, str]]:
    """Give what Stripe tells: whether fewer endpoints have not taken it than before, or more."""
    found, _ = ask(partial(stripe.v1.events.retrieve, one.event))
    if found is not None and found.pending_webhooks != one.pending:
        fell = found.pending_webhooks < one.pending
        yield fell, f"Stripe: pending_webhooks was {one.pending} and is {found.pending_webhooks}"


def _by_payment(environment: Deployment, one: Resent) -> Iterator[tuple[bool, str]]:
    """Give what the payment tells, if it was open before."""
    if one.type != SUCCEEDED or one.status not in settings(environment).payments.statuses.open:
        return
    with postgres.connect(admin.api_url(environment), within=10) as database:
        received = reception.of(environment, database)
        status = received.states([one.intent]).get(one.intent, "")
    if received.settled(status):
        yield True, f"the payment {one.payment} was {one.status} and is {status}"
