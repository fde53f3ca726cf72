"""Endpoints: which is the API's, and what keeps Stripe from sending it events."""

import pytest
from stripe import WebhookEndpoint

from opslib import propertypulse
from opslib.payments import endpoint
from opslib.payments.cause import Cause
from opslib.payments.endpoint import Endpoints
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
        ([listed("we_1")], "taken", []),
        ([listed("we_1")], "refused", []),  # the live route is as ill, and is asked directly
        ([listed("we_1")], "HTTP 301", [Cause.WRONG_URL]),  # Stripe follows no redirect
        ([listed("we_1", "https://api.example.com/hooks")], "", [Cause.WRONG_URL]),
        ([], "", [Cause.WRONG_URL]),
        ([listed("we_1", ROUTE, "disabled")], "taken", [Cause.DISABLED]),
        ([listed("we_2", ROUTE, "disabled"), listed("we_1")], "taken", []),
        ([listed("we_1", ROUTE, "enabled", "charge.refunded")], "taken", [Cause.NOT_ENABLED]),
        ([listed("we_1", ROUTE, "disabled", "charge.refunded")], "taken", [Cause.DISABLED, Cause.NOT_ENABLED]),
    ],
)
def test_says_what_is_wrong(found: list[WebhookEndpoint], reached: str, causes: list[Cause]) -> None:
    assert Endpoints(ENV, found, {"we_1": reached}).causes == causes


def test_lacks_the_types_that_the_api_acts_on_and_no_others() -> None:
    some = Endpoints(ENV, [listed("we_1", ROUTE, "enabled", "charge.refunded", "payment_intent.succeeded")], {})
    assert some.lacks == ["payment_intent.canceled", "payment_intent.payment_failed"]


def test_without_an_endpoint_says_where_to_look() -> None:
    with pytest.raises(RunbookError, match="found no webhook endpoint at /api/webhooks/stripe, expected one"):
        endpoint.the_one(Endpoints(ENV, [], {}))
