"""Keys as Stripe answers for them, on the stand-in: whose they are, what they may do, and a Stripe that is not well."""

import time
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import pm2
from opslib.payments import stripe_account, trace, webhook
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import RunbookError
from tests.drills import stripe_agreement as dashboard
from tests.drills.standing import soon

pytestmark = pytest.mark.usefixtures("sandbox")

NEEDS = {"balance", "charges", "events", "payment_intents", "refunds", "webhook_endpoints"}


@pytest.fixture(name="env")
def _env() -> PropertyPulse:
    return propertypulse.load("sandbox")


def test_a_key_of_this_account_belongs_and_may_all(env: PropertyPulse) -> None:
    key = dashboard.create_key()
    row = stripe_account.identity(env, "new", key)
    assert (row["account"], row["mode"]) == ("acct_1PropertyPulseTest", "test")
    assert stripe_account.belongs(env, [row])
    assert key not in str(row)
    answers = stripe_account.permissions(env, key)
    assert {one["needs"] for one in answers if one["answer"] == "permitted"} == NEEDS


def test_a_restricted_key_is_taken_at_its_mode_and_told_what_it_lacks(env: PropertyPulse) -> None:
    key = dashboard.create_key(permissions=sorted(NEEDS - {"refunds"}))
    row = stripe_account.identity(env, "new", key)
    assert row["account"] == stripe_account.NOT_PERMITTED
    assert stripe_account.belongs(env, [row])
    lacking = [one["needs"] for one in stripe_account.permissions(env, key) if one["answer"] != "permitted"]
    assert lacking == ["refunds"]


@pytest.mark.parametrize(
    ("account", "mode", "old", "belongs"),
    [
        ("acct_1PropertyPulseTest", "test", "acct_1PropertyPulseTest", True),
        ("acct_1PropertyPulseTest", "live", "acct_1PropertyPulseTest", False),
        ("acct_other", "test", "acct_1PropertyPulseTest", False),
        ("acct_1PropertyPulseTest", "test", stripe_account.BAD_KEY, True),  # the old one was expired
        ("acct_1PropertyPulseTest", "test", "acct_other", False),
        ("HTTP 500: …", "test", "acct_1PropertyPulseTest", False),
        (stripe_account.BAD_KEY, stripe_account.BAD_KEY, "acct_1PropertyPulseTest", False),
    ],
)
def test_a_key_of_another_account_or_mode_does_not_belong(
    env: PropertyPulse, account: str, mode: str, old: str, belongs: bool
) -> None:
    rows = [{"account": account, "mode": mode}, {"account": old, "mode": "test"}]
    assert stripe_account.belongs(env, rows) is belongs


def test_only_a_refusal_is_a_refusal(env: PropertyPulse) -> None:
    key = dashboard.create_key()
    assert stripe_account.accepted(env, key)[0] and not stripe_account.refused(env, key)[0]
    dashboard.dashboard("faults", status=500, times=3)
    refused, row = stripe_account.refused(env, key)
    assert not refused and "HTTP 500" in str(row)
    dashboard.dashboard("keys/expire", secret=key)
    assert stripe_account.refused(env, key)[0] and not stripe_account.accepted(env, key)[0]


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ({"status": 429, "times": 2}, "accepted"),
        ({"status": 500, "times": 2}, "accepted"),
        ({"status": 0, "times": 2}, "accepted"),
        ({"seconds": 2, "times": 9}, "accepted"),
        ({"status": 429, "times": 9}, "limits the rate"),
        ({"status": 0, "times": 9}, "no answer"),
        ({"seconds": 2, "status": 500, "times": 9}, "no answer"),
        ({"status": 403, "times": 9}, stripe_account.NOT_PERMITTED),
        ({"status": 401, "times": 9}, stripe_account.BAD_KEY),
    ],
    ids=str,
)
def test_what_may_be_asked_again_is(
    env: PropertyPulse, fault: dict[str, Any], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = dashboard.create_key()
    monkeypatch.setattr(stripe_account, "PAUSES", (0.05, 0.05, 0.05))
    monkeypatch.setattr(stripe_account, "TIMEOUT", 1 if "status" in fault else 5)
    dashboard.dashboard("faults", **fault)
    try:
        assert answer in stripe_account.accepted(env, key)[1]["v1.balance.retrieve()"]
    finally:
        dashboard.dashboard("faults")


def test_events_that_are_not_taken_are_found_and_sent_again(env: PropertyPulse) -> None:
    stripe = stripe_account.reader(env, dashboard.held("STRIPE_SECRET_KEY"))
    began, token = time.time() - 1, dashboard.login()
    dashboard.dashboard("deliveries", enabled=False)
    _, made = dashboard.intent(token)
    dashboard.cancel(dashboard.held("STRIPE_SECRET_KEY"), made["payment"]["providerIntentId"])
    dashboard.dashboard("deliveries", enabled=True)
    missed = webhook.undelivered(stripe, began, began + 60)
    assert len(missed) == 1 and not webhook.all_taken(stripe, began, began + 60)[0]
    webhook.deliver(stripe, webhook.endpoint(env, stripe), began).do()
    assert webhook.all_taken(stripe, began, began + 60) == (True, [])
    dashboard.dashboard("faults", status=500, times=9)
    taken, rows = webhook.all_taken(stripe, began, began + 60)
    assert not taken and "not known" in str(rows)
    dashboard.dashboard("faults")


def test_the_live_route_is_asked_with_good_and_bad_signatures(env: PropertyPulse) -> None:
    secret = dashboard.held("STRIPE_WEBHOOK_SECRET")
    found = webhook.answers(env, {"good": secret, "bad": "whsec_bad", "none": ""})
    assert {name: row["answer"] for name, row in found.items()} == {
        "good": "taken ×8",
        "bad": "refused ×8",
        "good, 400 s old": "refused ×8",
    }
    assert webhook.judged(found, {"good": "taken", "bad": "refused"})[0]
    assert not webhook.judged(found, {"bad": "taken"})[0]


def test_what_was_asked_of_the_live_route_is_no_delivery_to_who_reads_the_log(env: PropertyPulse) -> None:
    begun = time.time()
    webhook.answers(env, {"good": dashboard.held("STRIPE_WEBHOOK_SECRET"), "bad": "whsec_bad"})

    def logged() -> list[trace.Trace]:
        return trace.read(env, trace.beginnings(position for worker in pm2.workers(env) for position in worker.logs))

    assert soon(lambda: len([one for one in logged() if one.cause and one.at >= begun]) == 2 * webhook.ASKS)
    assert soon(lambda: trace.of_stripe(logged(), since=begun) == [])


def test_a_signature_is_what_stripe_s_library_takes() -> None:
    from stripe import Webhook

    payload = b'{ "id": "evt_1",\n"object":"event" }'
    assert Webhook.construct_event(payload, webhook.header("whsec_x%", payload), "whsec_x%").id == "evt_1"


def test_what_retry_after_asks_for_is_waited_for(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("opslib.payments.stripe_account.time.sleep", waits.append)
    stripe = stripe_account.client(env, dashboard.create_key())
    dashboard.dashboard("faults", status=429, retry_after=7)
    dashboard.dashboard("faults", status=429)
    balance, problem = stripe_account.said(lambda: stripe.v1.balance.retrieve())
    assert balance and not problem
    assert waits == [7, 2]
    dashboard.dashboard("faults", status=429, retry_after=3600)
    assert stripe_account.said(lambda: stripe.v1.balance.retrieve()) == (
        None,
        "Stripe limits the rate, still after 0 s (HTTP 429), and asks for 3600 s more",
    )
    assert waits == [7, 2]
    dashboard.dashboard("faults")


def test_a_list_is_given_page_by_page_each_asked_again(env: PropertyPulse) -> None:
    stripe = stripe_account.client(env, dashboard.create_key())
    try:
        dashboard.dashboard("payment_intents", payments=[{"amount": 100, "age": 10**8}] * 205)
        dashboard.dashboard("faults", path="/v1/payment_intents", status=429)
        span = {"lte": int(time.time()) - 10**8 + 60}
        found = [one.id for one in stripe_account.pages(stripe.v1.payment_intents.list, created=span)]
        assert len(found) == len(set(found)) == 205
        dashboard.dashboard("faults", path="/v1/payment_intents", status=200, times=1)
        dashboard.dashboard("faults", path="/v1/payment_intents", status=403, times=9)
        with pytest.raises(RunbookError, match="what Stripe lists is not known: not permitted"):
            list(stripe_account.pages(stripe.v1.payment_intents.list, created=span))
    finally:
        dashboard.dashboard("faults")
        dashboard.dashboard("payment_intents/forget")
