"""Proofs of what an environment's file says of Stripe: the key in force, those to come, and the webhook endpoint."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from stripe import WebhookEndpoint

from opslib.deployment import proof
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once
from opslib.payments import stripe_account, stripe_rotation, table_proof, webhook_endpoint
from opslib.payments.settings import Stripe
from opslib.payments.stripe_account import BAD_KEY, KEY, NOT_PERMITTED, Identity
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError

_ROTATION = "a rotation"

Endpoints = Callable[[], list[WebhookEndpoint]]


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs, all by GETs and SELECTs."""
    if (stripe := environment.find(Stripe)) is None:
        return
    url = stripe.url
    identity = once(lambda: _identity(environment))
    endpoints = once(
        lambda: webhook_endpoint.read(stripe_account.reader(environment, table_proof.key_in_force(environment)))
    )
    yield Proof("stripe.mode", url, partial(_mode, stripe, identity))
    if stripe.account:
        yield Proof("stripe.account", url, partial(_account, stripe, identity))
    yield Proof("stripe.needs", url, partial(_needs, environment, stripe, identity))
    if stripe.reader:
        yield Proof("stripe.reader", url, partial(_reader, environment, stripe.reader))
    if stripe.endpoint:
        yield Proof("stripe.endpoint", url, partial(_endpoint, environment, stripe, endpoints))
    yield Proof("stripe.webhook", url, partial(_webhook, environment, stripe, endpoints))
    yield Proof("stripe.handles", url, partial(_handles, environment, endpoints))
    for key, name in (("new_key", stripe_rotation.KEY), ("new_webhook_secret", stripe_rotation.SECRET)):
        given = partial(proof.reference, getattr(stripe, key), name, until=_ROTATION)
        yield Proof(f"stripe.{key}", "the disk", given)
    yield from table_proof.prove(environment)


def _identity(environment: Deployment) -> Identity:
    key = table_proof.key_in_force(environment)
    found = stripe_account.identity(environment, stripe_rotation.KEY, key)
    if found.no_mode == NOT_PERMITTED and (form := KEY.fullmatch(key)):  # a restricted key still says its mode
        return replace(found, live=form["mode"] == "live")
    return found


def _refused(found: Identity) -> bool:
    return BAD_KEY in (found.no_mode, found.no_account)


def _mode(stripe: Stripe, identity: Callable[[], Identity]) -> Answer:
    if _refused(found := identity()):
        return Answer(False, f"Stripe does not take {found.key} of the .env", "Put a key there that is in force.")
    if found.live is None:
        raise RunbookError(f"Stripe does not say of which mode the key is: {found.no_mode}")
    mend = f"Put a key of {stripe.mode} mode into the .env, or correct the mode."
    mode = "live" if found.live else "test"
    return Answer(mode == stripe.mode, f"{found.key} of the .env is of {mode} mode", mend)


def _account(stripe: Stripe, identity: Callable[[], Identity]) -> Answer:
    found = identity()
    if not found.account:
        permit = "Permit it in the Dashboard." if found.no_account == NOT_PERMITTED else ""
        return Answer(None, f"Stripe does not say whose the key is: {found.no_account}", permit)
    mend = "Put a key of this account into the .env, or correct the account."
    return Answer(found.account == stripe.account, f"the key is of {found.account}", mend)


def _needs(environment: Deployment, stripe: Stripe, identity: Callable[[], Identity]) -> Answer:
    services = stripe_account.client(environment, table_proof.key_in_force(environment)).v1
    if unknown := [name for name in stripe.needs if not hasattr(services, name)]:
        return Answer(False, f"Stripe has no service {', '.join(unknown)}", "Name services of `StripeClient.v1`.")
    if _refused(found := identity()):
        raise RunbookError(f"Stripe does not take {found.key} of the .env")
    may = stripe_account.permitted(environment, table_proof.key_in_force(environment))
    wrong = [f"{one.needs}: {one.said}" for one in may.evidence if one.permitted is not True]
    if wrong:
        return Answer(may.ok, f"the key may not be shown to have {'; '.join(wrong)}", may.otherwise)
    return Answer(True, f"the key may read {', '.join(one.needs for one in may.evidence)}")


def _endpoint(environment: Deployment, stripe: Stripe, endpoints: Endpoints) -> Answer:
    one = next((one for one in endpoints() if one.id == stripe.endpoint), None)
    if one is None:
        return Answer(False, f"Stripe has no endpoint {stripe.endpoint}", "Take its id from the Dashboard.")
    return _sent(one)


def _sent(one: WebhookEndpoint) -> Answer:
    said = f"the webhook endpoint {one.id} ({one.url}) is {one.status}"
    return Answer(one.status == "enabled", said, "Stripe sends it nothing: open enable_webhook_endpoint.")


def _webhook(environment: Deployment, stripe: Stripe, endpoints: Endpoints) -> Answer:
    if not stripe.endpoint:
        found = endpoints()
        try:
            return _sent(webhook_endpoint.the_one(environment, found))
        except RunbookError as error:
            return Answer(False, str(error))
    one = _the_one(environment, endpoints)
    path = urlsplit(one.url).path
    mend = "Correct it here, or the endpoint's URL in the Dashboard."
    return Answer(path == stripe.webhook, f"Stripe delivers to {path} of {urlsplit(one.url).netloc}", mend)


def _handles(environment: Deployment, endpoints: Endpoints) -> Answer:
    one = _the_one(environment, endpoints)
    if lacking := webhook_endpoint.lacks(environment, one):
        return Answer(False, f"{one.id} is not sent {', '.join(lacking)}", "Open enable_webhook_endpoint.")
    return Answer(True, f"{one.id} is sent all of these")


def _the_one(environment: Deployment, endpoints: Endpoints) -> WebhookEndpoint:
    """Give the endpoint that delivers to the API. Raise RunbookError, in few words, if it is not known."""
    found = endpoints()
    try:
        return webhook_endpoint.the_one(environment, found)
    except RunbookError:
        raise RunbookError("which webhook endpoint delivers to the API is not known") from None


def _reader(environment: Deployment, reference: str) -> Answer:
    if not (given := proof.reference(reference, "STRIPE_READER")):
        return given
    stripe = stripe_account.reader(environment, "")
    for name, list_ in (("events", stripe.v1.events.list), ("webhook_endpoints", stripe.v1.webhook_endpoints.list)):
        problem = stripe_account.ask(partial(list_, {"limit": 1}))[1]
        if problem in (BAD_KEY, NOT_PERMITTED):
            return Answer(False, f"{name}: {problem}", "Put a key there that may read events and webhook endpoints.")
        if problem:
            raise RunbookError(f"{name}: {problem}")
    return Answer(True, "it may read events and webhook endpoints")
