"""A payment beside what Stripe says: paid only if every field says so."""

import dataclasses
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from opslib import propertypulse
from opslib.payments import comparison, intent, stripe_account
from opslib.payments.comparison import Comparison
from opslib.payments.intent import Intent
from opslib.payments.payment import Payment
from opslib.payments.settings import Statuses
from tests.drills import stripe_agreement as dashboard

NOW = datetime.now(UTC)
ROW = Payment("7", "pi_7", 150_000, "usd", "PENDING", NOW, 1)
STATUSES = Statuses()
SAYS = Intent(
    id="pi_7",
    status="succeeded",
    amount=150_000,
    received=150_000,
    currency="usd",
    live=False,
    charge="ch_7",
    charged=1_700_000_000,
    charge_currency="usd",
    charge_paid=True,
    captured=True,
    refunded=False,
    amount_refunded=0,
    disputed=False,
)
FIELDS = [field.name for field in dataclasses.fields(Intent)]


def compared(row: Payment | None = ROW, says: Intent | None = SAYS, **more: Any) -> Comparison:
    return Comparison("7", row, says, live=False, statuses=STATUSES, **more)


@pytest.mark.parametrize("status", STATUSES.open)
def test_paid_at_stripe_and_open_here_is_to_be_repaired(status: str) -> None:
    one = compared(dataclasses.replace(ROW, status=status))
    assert (one.verdict, one.why) == ("repair", [])
    assert one.paid == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_stripe_does_not_give_is_not_a_yes(field: str) -> None:
    one = compared(says=dataclasses.replace(SAYS, **{field: None}))
    assert one.verdict in ("refused", "unpaid") and one.why


@given(
    field=st.sampled_from(FIELDS),
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
)
def test_a_field_that_differs_is_never_repaired(field: str, value: Any) -> None:
    same = type(value) is type(getattr(SAYS, field)) and value == getattr(SAYS, field)
    free = (field == "charge" and isinstance(value, str)) or (field == "charged" and type(value) is int)
    one = compared(says=dataclasses.replace(SAYS, **{field: value}))
    assert (one.verdict == "repair") == (same or free)
    assert (one.why == []) == (one.verdict == "repair")


@pytest.mark.parametrize(
    ("row", "verdict", "why"),
    [
        ({"status": "PAID"}, "agrees", ""),
        ({"status": "REFUNDED"}, "refused", "the row is REFUNDED"),
        ({"rows": 2}, "refused", "2 rows have this intent"),
        ({"intent": None}, "refused", "the row has no intent"),
        ({"intent": "pi_7/x"}, "refused", "no id of Stripe's"),
        ({"intent": "pi_8"}, "refused", "id is pi_7, not pi_8"),
        ({"amount": 1500}, "refused", "amount is 150000, not 1500"),
        ({"amount": Decimal(150_000)}, "refused", "amount is 150000, not 150000"),  # no whole number, as it was read
        ({"amount": Decimal("NaN")}, "refused", "amount is 150000, not NaN"),
        ({"currency": "jpy"}, "refused", "currency is usd, not jpy"),
        ({"currency": "USD"}, "repair", ""),
        ({"status": "SOMETHING"}, "refused", "the row is SOMETHING"),
    ],
)
def test_the_row_counts_too(row: dict[str, Any], verdict: str, why: str) -> None:
    one = compared(dataclasses.replace(ROW, **row))
    assert one.verdict == verdict
    assert why in "; ".join(one.why)


def test_what_is_not_paid_at_either_is_told_from_what_is_paid_here_only() -> None:
    says = dataclasses.replace(SAYS, status="processing")
    assert compared(says=says).verdict == "unpaid"
    assert compared(dataclasses.replace(ROW, status="PAID"), says).verdict == "refused"
    refunded = dataclasses.replace(SAYS, refunded=True, amount_refunded=150_000)
    assert compared(dataclasses.replace(ROW, status="REFUNDED"), refunded).verdict == "agrees"
    assert compared(None, None).verdict == compared(says=None).verdict == "refused"


def test_a_fresh_charge_is_left_to_its_event_for_a_while() -> None:
    fresh = dataclasses.replace(SAYS, charged=int(time.time()) - 5)
    assert compared(says=fresh).verdict == "repair"
    assert compared(says=fresh, grace=600).verdict == "refused"
    assert compared(grace=600).verdict == "repair"
    assert compared(dataclasses.replace(ROW, status="PAID"), fresh, grace=600).verdict == "agrees"


def test_the_summary_counts_every_payment_once() -> None:
    some = [compared(), compared(says=None), compared(None, None), compared(dataclasses.replace(ROW, status="PAID"))]
    table = comparison.summary(propertypulse.load("sandbox"), some)
    assert sum(cast(int, row[name]) for row in table for name in ("agrees", "unpaid", "repair", "refused")) == 4
    assert table[0] == {"here": "PENDING", "agrees": 0, "unpaid": 0, "repair": 1, "refused": 1}
    assert comparison.agree(some).ok is False and comparison.agree(some[3:]).ok is True


@pytest.mark.usefixtures("sandbox")
def test_an_intent_is_read_from_what_the_library_gives_with_its_charge_or_without_one() -> None:
    stripe = stripe_account.client(propertypulse.load("sandbox"), dashboard.held(dashboard.KEY))
    made = [{"amount": 150_000}, {"amount": 1, "status": "requires_payment_method"}]
    paid, open_ = dashboard.dashboard("payment_intents", payments=made)["ids"]
    try:
        known = {one.id: one for one in intent.listed(stripe, {"gte": int(time.time()) - 7200})}
        assert known[paid] == intent.retrieve(stripe, paid)
        assert known[open_] == intent.retrieve(stripe, open_)
        assert intent.retrieve(stripe, "pi_unknown") is None
        says = dataclasses.replace(SAYS, id=paid, charge=known[paid].charge, charged=known[paid].charged)
        assert known[paid] == says and str(says.charge).startswith("ch_")
        assert (known[open_].charge, known[open_].captured, known[open_].refunded) == (None, None, None)
    finally:
        dashboard.dashboard("payment_intents/forget")
