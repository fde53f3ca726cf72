"""A payment compared with Stripe, field by field: may its row be marked paid, and if not, why not."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from stripe import StripeClient

from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.payments import intent, payment
from opslib.payments.intent import Intent
from opslib.payments.payment import INTENT, Payment
from opslib.payments.settings import Payments, Statuses
from opslib.payments.stripe_account import settings
from opslib.runbook.answer import Answer

Verdict = Literal["repair", "agrees", "unpaid", "refused"]

SHOWN = 200
"""Payments of which a row is shown; of more than that, how many more."""
GRACE = 600
"""Seconds after a charge in which its event may be on its way: `all` leaves such a payment alone."""


@dataclass(frozen=True)
class Comparison:
    """One payment beside its intent; either may be missing. `name` is what it was asked for by."""

    name: str
    payment: Payment | None
    intent: Intent | None
    live: bool
    statuses: Statuses
    grace: float = 0

    @property
    def facts(self) -> list[tuple[str, Any, Any]]:
        """What Stripe must say of this payment before its row may be marked paid: field, found, expected."""
        here, there = self.payment, self.intent
        if here is None or there is None:
            return []
        return [
            ("id", there.id, here.intent),
            ("status", there.status, "succeeded"),
            ("amount", there.amount, here.amount),
            ("amount_received", there.received, here.amount),
            ("currency", there.currency, here.currency.lower()),
            ("livemode", there.live, self.live),
            ("charge.paid", there.charge_paid, True),
            ("charge.captured", there.captured, True),
            ("charge.currency", there.charge_currency, here.currency.lower()),
            ("charge.refunded", there.refunded, False),
            ("charge.amount_refunded", there.amount_refunded, 0),
            ("charge.disputed", there.disputed, False),
        ]

    @property
    def why(self) -> list[str]:
        """Why this payment may not be marked paid; empty if it may, or is."""
        here, there = self.payment, self.intent
        if here is None:
            return ["no payment here has this id or intent"]
        if here.intent is None:
            return ["a manual payment, left alone: the row has no intent"]
        if not INTENT.fullmatch(here.intent):
            return ["what the row has for an intent is no id of Stripe's, and was not asked for"]
        reasons = [f"{here.rows} rows have this intent"] if here.rows != 1 else []
        if here.status not in (*self.statuses.open, self.statuses.paid):
            reasons.append(f"the row is {here.status}")
        if there is None:
            return [*reasons, "Stripe does not know the intent"]
        # True is 1 to Python and not to anybody's money.
        differ = [fact for fact in self.facts if fact[1] != fact[2] or type(fact[1]) is not type(fact[2])]
        reasons += [f"{field} is {_said(found)}, not {_said(expected)}" for field, found, expected in differ]
        if type(there.charged) is not int or not isinstance(there.charge, str):
            reasons.append("Stripe does not say when the charge was made")
        elif not reasons and here.status != self.statuses.paid and time.time() - there.charged < self.grace:
            reasons.append(f"paid less than {self.grace:g} s ago, its event may be on its way")
        return reasons

    @property
    def verdict(self) -> Verdict:
        """`repair`: to be marked paid; `agrees`: nothing to do; `unpaid`: at neither; else `refused`."""
        here, there = self.payment, self.intent
        if here is None or there is None or here.rows != 1:
            return "refused"
        if not self.why:
            return "agrees" if here.status == self.statuses.paid else "repair"
        if here.status == self.statuses.refunded and there.refunded is True:
            return "agrees"
        return "unpaid" if here.status in self.statuses.open and there.status != "succeeded" else "refused"

    @property
    def key(self) -> str:
        """The intent that the row names."""
        return (self.payment.intent if self.payment else None) or ""

    @property
    def title(self) -> str:
        """The payment in a few words."""
        assert self.payment is not None
        return f"payment {self.payment.id} ({self.key}, {payment.money(self.payment.amount, self.payment.currency)})"

    @property
    def paid(self) -> datetime:
        """When the charge was made, which is when the payment was paid."""
        assert self.intent is not None
        return datetime.fromtimestamp(self.intent.charged, UTC)

    def row(self) -> dict[str, object]:
        """What people are shown of it."""
        here, there = self.payment, self.intent
        return {
            "payment": here.id if here else self.name,
            "intent": ((here.intent if here else None) or "none")[:80],
            "amount": payment.money(here.amount, here.currency) if here else "",
            "here": here.status if here else "no row",
            "at Stripe": str(there.status) if there else "unknown",
            "verdict": self.verdict,
            "why": "; ".join(self.why),
        }


def compare(
    environment: Deployment, connection: Connection, stripe: StripeClient, payments: str, *, days: int = 0
) -> list[Comparison]:
    """Compare these payments (names, or `all` of the last days) with Stripe. Raise BadParameter, RunbookError."""
    table = settings(environment).payments
    make = partial(Comparison, live=settings(environment).mode == "live", statuses=table.statuses)
    if payments.strip() == payment.ALL:
        return _all(connection, stripe, table, make, datetime.now(UTC) - timedelta(days=days))
    found = payment.named(connection, table, payment.names(payments, table))
    known = _asked(stripe, [one for rows in found.values() for one in rows])
    compared = {one.id: make(name, one, known.get(one.intent or "")) for name in found for one in found[name]}
    return [*compared.values(), *(make(name, None, None) for name in found if not found[name])]


def summary(environment: Deployment, compared: Sequence[Comparison]) -> list[dict[str, object]]:
    """Count the verdicts for each state that a row can have."""
    counts = Counter((one.payment.status if one.payment else "no row", one.verdict) for one in compared)
    known = settings(environment).payments.statuses
    named = [*known.open, known.paid, *([known.refunded] if known.refunded else [])]
    states = [*named, *sorted({state for state, _ in counts} - {*named, "no row"}), "no row"]
    verdicts: list[Verdict] = ["agrees", "unpaid", "repair", "refused"]
    return [{"here": state} | {verdict: counts[state, verdict] for verdict in verdicts} for state in states]


def of_note(compared: Sequence[Comparison], payments: str) -> list[dict[str, object]]:
    """Give what people have to look at: all that were named, or of `all` what is not as it should be."""
    named = payments.strip() != payment.ALL
    rows: list[dict[str, object]] = [one.row() for one in compared if named or one.verdict in ("repair", "refused")]
    more = len(rows) - SHOWN
    cut: list[dict[str, object]] = [{"payment": f"… and {more} more"}] if more > 0 else []
    return rows[:SHOWN] + cut


def settled(compared: Sequence[Comparison]) -> Answer:
    """Whether one of these may be repaired, or is paid at both already, as after a run that was killed."""
    return Answer(
        any(one.verdict in ("repair", "agrees") for one in compared), None, "None may be marked paid: see why."
    )


def agree(compared: Sequence[Comparison]) -> Answer:
    """Whether each is paid here and at Stripe."""
    return Answer(all(one.verdict == "agrees" for one in compared), [one.row() for one in compared])


def _all(
    connection: Connection, stripe: StripeClient, table: Payments, make: Callable[..., Comparison], when: datetime
) -> list[Comparison]:
    rows = payment.since(connection, table, when)
    span = {"gte": int(when.timestamp()) - intent.SLACK}
    listed = {one.id: one for one in intent.listed(stripe, span)}
    rest = {row.id: row for row in rows if row.intent not in listed}
    listed |= _asked(stripe, list(rest.values()))
    paid = {str(name) for name, one in listed.items() if one.status == "succeeded"} - {row.intent for row in rows}
    older = payment.named(connection, table, sorted(paid))
    rows += [row for found in older.values() for row in found]
    compared = [make(row.id, row, listed.get(row.intent or ""), grace=GRACE) for row in rows]
    return compared + [make(name, None, listed[name]) for name in older if not older[name]]


def _asked(stripe: StripeClient, rows: Sequence[Payment]) -> Mapping[str, Intent]:
    wanted = {row.intent: row.created.timestamp() for row in rows if row.intent and INTENT.fullmatch(row.intent)}
    return intent.ask(stripe, wanted)


def _said(value: object) -> str:
    return "not said" if value is None else str(value)[:40].lower() if isinstance(value, bool) else str(value)[:40]
