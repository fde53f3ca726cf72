"""Endpoints: which is the API's, and what keeps Stripe from sending it events."""

import pytest
from stripe import WebhookEndpoint

from opslib import propertypulse
from opslib.payments import webhook_endpoint
from opslib.payments.delivery_cause import Cause
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import RunbookError

ENV = propertypulse.load("sandbox")
ROUTE = "https://api.example.com/api/webhooks/stripe"


def listed(name: str, url: str = ROUTE, status: str = "enabled", *events: str) -> WebhookEndpoint:
    """An endpoint as the library gives it."""
    fields = {"id": name, "object": "webhook_endpoint", "url": url, "status": status, "created": 5}
    return WebhookEndpoint.construct_from(fields | {"enabled_events": list(events or ("*",))}, "sk_test_none")


@pytest.mark.parametrize(
    ("found", "reached", "causes"),
    [
        (listed("we_1"), "taken", []),
        (listed("we_1"), "refused", []),  # the live route is as ill, and is asked directly
        (listed("we_1"), "HTTP 301", [Cause.WRONG_URL]),  # Stripe follows no redirect
        (listed("we_1", ROUTE, "disabled"), "taken", [Cause.DISABLED]),
        (listed("we_1", ROUTE, "enabled", "charge.refunded"), "taken", [Cause.NOT_ENABLED]),
        (listed("we_1", ROUTE, "disabled", "charge.refunded"), "taken", [Cause.DISABLED, Cause.NOT_ENABLED]),
    ],
)
def test_says_what_is_wrong(found: WebhookEndpoint, reached: str, causes: list[Cause]) -> None:
    assert webhook_endpoint.causes(ENV, found, reached) == causes


def test_lacks_the_types_that_the_api_acts_on_and_no_others() -> None:
    some = listed("we_1", ROUTE, "enabled", "charge.refunded", "payment_intent.succeeded")
    assert webhook_endpoint.lacks(ENV, some) == ["payment_intent.canceled", "payment_intent.payment_failed"]
    assert webhook_endpoint.complete(ENV, some) == {
        "disabled": False,
        "enabled_events": [*some.enabled_events, "payment_intent.canceled", "payment_intent.payment_failed"],
    }


ELSEWHERE = listed("we_0", "https://api.example.com/hooks")


@pytest.mark.parametrize(
    ("found", "named", "chosen"),
    [
        ([ELSEWHERE, listed("we_1")], "", "we_1"),
        ([listed("we_1", ROUTE, "disabled")], "", "we_1"),
        ([listed("we_2", ROUTE, "disabled"), listed("we_1")], "", "we_1"),
        ([listed("we_2"), listed("we_1")], "we_1", "we_1"),
        ([listed("we_2"), listed("we_1", ROUTE, "disabled")], "we_1", "we_1"),
        ([ELSEWHERE, listed("we_1")], "we_0", "we_0"),  # behind a proxy that rewrites the path
    ],
)
def test_the_api_s_endpoint_is_the_one_at_its_route_or_the_one_that_is_named(
    found: list[WebhookEndpoint], named: str, chosen: str
) -> None:
    assert webhook_endpoint.the_one(naming(named), found).id == chosen


@pytest.mark.parametrize(
    ("found", "named", "says", "candidates"),
    [
        ([], "", "found 0 webhook endpoints at /api/webhooks/stripe, expected one", []),
        ([ELSEWHERE], "", "found 0 webhook endpoints at", ["we_0"]),
        ([listed("we_1"), listed("we_2")], "", "found 2 webhook endpoints at", ["we_1", "we_2"]),
        ([listed("we_1")], "we_9", "found 0 webhook endpoints named we_9", ["we_1"]),
    ],
)
def test_where_it_is_not_clear_it_says_which_there_are_and_where_to_say_so(
    found: list[WebhookEndpoint], named: str, says: str, candidates: list[str]
) -> None:
    with pytest.raises(RunbookError, match=says) as raised:
        webhook_endpoint.the_one(naming(named), found)
    assert "stripe.endpoint" in str(raised.value)
    assert [one["endpoint"] for one in raised.value.evidence] == candidates


def naming(name: str) -> PropertyPulse:
    """The stand-in, whose file names this endpoint."""
    assert ENV.stripe
    return ENV.model_copy(update={"stripe": ENV.stripe.model_copy(update={"endpoint": name})})
