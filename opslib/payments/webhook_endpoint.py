"""Webhook endpoints: where Stripe sends events, which is the API's, and whether it is sent what it should be."""

from collections.abc import Sequence

import urllib3
from stripe import StripeClient, WebhookEndpoint

from opslib.deployment.deployment import Deployment
from opslib.payments import webhook_route
from opslib.payments.delivery_cause import Cause
from opslib.payments.stripe_account import ask, pages, settings
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError


def read(stripe: StripeClient) -> list[WebhookEndpoint]:
    """Give all endpoints of the account. Raise RunbookError if Stripe does not say."""
    return list(pages(stripe.v1.webhook_endpoints.list))


def shown(environment: Deployment, found: Sequence[WebhookEndpoint]) -> list[dict[str, object]]:
    """Give what people are shown of endpoints."""
    return [
        {
            "endpoint": one.id,
            "address": one.url,
            "state": one.status,
            "events": ", ".join(one.enabled_events),
            "the API's route": _is_route(environment, one),
        }
        for one in found
    ]


def the_one(environment: Deployment, found: Sequence[WebhookEndpoint]) -> WebhookEndpoint:
    """Give the endpoint that delivers to the API: the one that the environment's file names, else the one at its route.

    Of several at its route, the one that is enabled. Raise RunbookError, with those there are, where that is not one.
    """
    path, named = settings(environment).webhook, settings(environment).endpoint
    there = [one for one in found if (one.id == named if named else _is_route(environment, one))]
    candidates = [one for one in there if one.status == "enabled"] or there
    if len(candidates) == 1:
        return candidates[0]
    what = f"named {named}" if named else f"at {path}"
    raise RunbookError(
        f"found {len(candidates)} webhook endpoints {what}, expected one. Correct the endpoint's URL in the Dashboard "
        "(Developers > Webhooks), or in the environment's file `stripe.webhook`, which is its path, or "
        "`stripe.endpoint`, which is its id.",
        shown(environment, candidates or found),
    )


def enabled(environment: Deployment, stripe: StripeClient) -> WebhookEndpoint:
    """Give the endpoint that delivers to the API now. Raise RunbookError if there is none, or it is disabled."""
    one = the_one(environment, read(stripe))
    if one.status != "enabled":
        raise RunbookError(
            f"{one.id} ({one.url}) is {one.status}: Stripe sends it nothing. Run enable_webhook_endpoint."
        )
    return one


def lacks(environment: Deployment, one: WebhookEndpoint) -> list[str]:
    """Give the types that the API acts on and that this endpoint is not sent."""
    sent = one.enabled_events
    return [] if "*" in sent else [kind for kind in settings(environment).handles if kind not in sent]


def complete(environment: Deployment, one: WebhookEndpoint) -> dict[str, object]:
    """Give what an endpoint has to be set to for Stripe to send it all that the API acts on."""
    return {"disabled": False, "enabled_events": [*one.enabled_events, *lacks(environment, one)]}


def setting(one: WebhookEndpoint) -> dict[str, object]:
    """Give what it is set to."""
    return {"disabled": one.status != "enabled", "enabled_events": list(one.enabled_events)}


def state(stripe: StripeClient, name: str) -> str:
    """Say how an endpoint is now."""
    found, problem = ask(lambda: stripe.v1.webhook_endpoints.retrieve(name))
    return f"{name}: {problem or (found and f'{found.status}, ' + ', '.join(found.enabled_events))}"


def sends(environment: Deployment, stripe: StripeClient) -> Answer:
    """Whether Stripe sends the API's endpoint all that the API acts on."""
    one = the_one(environment, read(stripe))
    wrong = one.status != "enabled" or lacks(environment, one)
    return Answer(not wrong, shown(environment, [one]), "Enable it in the Dashboard, Developers > Webhooks.")


def reached(environment: Deployment, one: WebhookEndpoint, secret: str) -> str:
    """Send the endpoint's own address a probe that this secret has signed; say what it answers."""
    payload = webhook_route.body(webhook_route.probe(environment))
    return webhook_route.send(environment, payload, webhook_route.header(secret, payload), one.url)


def causes(environment: Deployment, one: WebhookEndpoint, reached: str = "") -> list[Cause]:
    """Give what keeps Stripe from sending events to the API now."""
    found = [Cause.DISABLED] if one.status != "enabled" else []
    found += [Cause.NOT_ENABLED] if lacks(environment, one) else []
    # Not all that the address answers: its route may be as ill as the one that is asked directly.
    return found + ([Cause.WRONG_URL] if reached.startswith(("HTTP 3", "HTTP 4")) else [])


def _is_route(environment: Deployment, one: WebhookEndpoint) -> bool:
    return urllib3.util.parse_url(one.url).path == settings(environment).webhook
