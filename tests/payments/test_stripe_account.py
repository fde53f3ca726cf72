"""Keys as Stripe answers for them, on the stand-in: whose they are, what they may do, and a Stripe that is not well."""

import time
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import pm2
from opslib.payments import delivery_trace, event, stripe_account, webhook_endpoint, webhook_route
from opslib.payments.stripe_account import Identity
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
    answer = stripe_account.belongs(env, {"new": key})
    (one,) = answer.evidence
    assert answer and (one.account, one.live) == ("acct_1PropertyPulseTest", False)
    assert key not in str(answer)
    assert {one.needs for one in stripe_account.permitted(env, key).evidence if one.permitted} == NEEDS


def test_a_restricted_key_is_taken_at_its_mode_and_told_what_it_lacks(env: PropertyPulse) -> None:
    key = dashboard.create_key(permissions=sorted(NEEDS - {"refunds"}))
    belongs = stripe_account.belongs(env, {"new": key})
    assert belongs and belongs.evidence[0].no_account == stripe_account.NOT_PERMITTED
    answer = stripe_account.permitted(env, key)
    assert answer.ok is False and "refunds" in answer.otherwise
    assert [one.needs for one in answer.evidence if not one.permitted] == ["refunds"]


OURS = "acct_1PropertyPulseTest"


@pytest.mark.parametrize(
    ("new", "old", "belongs"),
    [
        (Identity("new", "", OURS, False), Identity("old", "", OURS, False), True),
        (Identity("new", "", OURS, True), Identity("old", "", OURS, False), False),
        (Identity("new", "", "acct_other", False), Identity("old", "", OURS, False), False),
        (Identity("new", "", OURS, False), Identity("old", "", "", None, stripe_account.BAD_KEY), True),  # expired
        (Identity("new", "", OURS, False), Identity("old", "", "acct_other", False), False),
        (Identity("new", "", "", False, "HTTP 500: …"), Identity("old", "", OURS, False), None),
        (Identity("new", "", OURS, None, "", "HTTP 500: …"), Identity("old", "", OURS, False), None),
        (Identity("new", "", "", None, *[stripe_account.BAD_KEY] * 2), Identity("old", "", OURS, False), False),
    ],
)
def test_a_key_of_another_account_or_mode_does_not_belong(
    env: PropertyPulse, new: Identity, old: Identity, belongs: bool | None
) -> None:
    assert stripe_account.same(env, [new, old]).ok is belongs


def test_only_a_refusal_is_a_refusal(env: PropertyPulse) -> None:
    key = dashboard.create_key()
    assert stripe_account.accepted(env, key) and not stripe_account.refused(env, key)
    dashboard.dashboard("faults", status=500, times=3)
    answer = stripe_account.refused(env, key)
    assert answer.ok is None and "HTTP 500" in str(answer.evidence)
    dashboard.dashboard("keys/expire", secret=key)
    assert stripe_account.refused(env, key) and not stripe_account.accepted(env, key)


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
        assert answer in stripe_account.accepted(env, key).evidence["v1.balance.retrieve()"]
    finally:
        dashboard.dashboard("faults")


def test_events_that_are_not_taken_are_found_and_sent_again(env: PropertyPulse) -> None:
    stripe = stripe_account.reader(env, dashboard.held("STRIPE_SECRET_KEY"))
    began, token = time.time() - 1, dashboard.login()
    dashboard.dashboard("deliveries", enabled=False)
    _, made = dashboard.intent(token)
    dashboard.cancel(dashboard.held("STRIPE_SECRET_KEY"), made["payment"]["providerIntentId"])
    dashboard.dashboard("deliveries", enabled=True)
    untaken = event.untaken(stripe, began, began + 60)
    assert untaken.ok is False and len(untaken.evidence) == 1
    event.deliver(stripe, webhook_endpoint.enabled(env, stripe), began).do()
    assert event.untaken(stripe, began, began + 60)
    dashboard.dashboard("faults", status=500, times=9)
    untaken = event.untaken(stripe, began, began + 60)
    assert not untaken and "not known" in str(untaken.evidence)
    dashboard.dashboard("faults")


def test_the_live_route_is_asked_with_good_and_bad_signatures(env: PropertyPulse) -> None:
    secret = dashboard.held("STRIPE_WEBHOOK_SECRET")
    answer = webhook_route.tells(env, takes={"good": secret, "none": ""}, refuses={"bad": "whsec_bad"})
    assert answer
    assert [(one.signature, one.taken, one.refused) for one in answer.evidence] == [
        ("good", 8, 0),
        ("bad", 0, 8),
        ("one made up", 0, 8),
        ("good, 400 s old", 0, 8),
    ]
    assert not webhook_route.tells(env, takes={"good": secret}, refuses={"good too": secret})
    assert not webhook_route.tells(env, takes={"good": secret, "bad": "whsec_bad"})
    assert not webhook_route.tells(env, takes={"bad": "whsec_bad"})


def test_what_was_asked_of_the_live_route_is_no_delivery_to_who_reads_the_log(env: PropertyPulse) -> None:
    begun = time.time()
    webhook_route.tells(env, takes={"good": dashboard.held("STRIPE_WEBHOOK_SECRET")})

    def logged() -> list[delivery_trace.Trace]:
        return delivery_trace.read(env, delivery_trace.beginnings(env, pm2.workers(env)))

    assert soon(lambda: len([one for one in logged() if one.cause and one.at >= begun]) == 2 * webhook_route.ASKS)
    assert soon(lambda: delivery_trace.of_stripe(logged(), since=begun) == [])


def test_a_signature_is_what_stripe_s_library_takes() -> None:
    from stripe import Webhook

    payload = b'{ "id": "evt_1",\n"object":"event" }'
    assert Webhook.construct_event(payload, webhook_route.header("whsec_x%", payload), "whsec_x%").id == "evt_1"


def test_what_retry_after_asks_for_is_waited_for(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("opslib.payments.stripe_account.time.sleep", waits.append)
    stripe = stripe_account.client(env, dashboard.create_key())
    dashboard.dashboard("faults", status=429, retry_after=7)
    dashboard.dashboard("faults", status=429)
    balance, problem = stripe_account.ask(lambda: stripe.v1.balance.retrieve())
    assert balance and not problem
    assert waits == [7, 2]
    dashboard.dashboard("faults", status=429, retry_after=3600)
    assert stripe_account.ask(lambda: stripe.v1.balance.retrieve()) == (
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
