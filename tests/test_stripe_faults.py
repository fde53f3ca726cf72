"""Stripe failing at each call of the Stripe rotation: asked again where that is safe, and never taken for a yes."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe._http_client
from stripe import StripeClient

from opslib import propertypulse
from opslib.payments import event, stripe_account, webhook_endpoint
from opslib.propertypulse import PropertyPulse
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from tests.drills import stripe_agreement as dashboard

pytestmark = pytest.mark.usefixtures("sandbox", "quick")

PASSING: dict[str, dict[str, float]] = {
    "429": {"status": 429, "times": 2},
    "429 with Retry-After": {"status": 429, "times": 2, "retry_after": 0},
    "500": {"status": 500, "times": 2},
    "no answer": {"status": 0, "times": 2},
    "slow": {"seconds": 0.5, "times": 9},
}
LASTING: dict[str, dict[str, float]] = {
    "limits the rate": {"status": 429, "times": 99},
    "HTTP 500": {"status": 500, "times": 99},
    "HTTP 503": {"status": 503, "times": 99, "retry_after": 0},
    "no answer": {"status": 0, "times": 99},
    "no answer from Stripe within 1 s": {"seconds": 1.5, "times": 99},
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses; no fault at the end."""
    monkeypatch.setattr(stripe_account, "PAUSES", (0.02, 0.02, 0.02))
    monkeypatch.setattr(stripe_account, "TIMEOUT", 1)
    monkeypatch.setattr(stripe._http_client.HTTPClient, "INITIAL_DELAY", 0.02)
    monkeypatch.setattr(stripe._http_client.HTTPClient, "MAX_DELAY", 0.02)
    yield
    dashboard.dashboard("faults")


@pytest.fixture
def env() -> PropertyPulse:
    return propertypulse.load("sandbox")


def belongs(env: PropertyPulse, key: str) -> Answer:
    return stripe_account.belongs(env, {"new": key})


def endpoints(env: PropertyPulse, key: str) -> Answer:
    return Answer(webhook_endpoint.enabled(env, stripe_account.reader(env, key)).id == dashboard.ENDPOINT)


def untaken(env: PropertyPulse, key: str) -> Answer:
    return event.untaken(stripe_account.reader(env, key), time.time() - 1, time.time())


CALLS: list[tuple[str, Callable[[PropertyPulse, str], Answer]]] = [
    ("/v1/account", belongs),
    ("/v1/balance", belongs),
    *(
        (f"/v1/{name}", stripe_account.permitted)
        for name in ("balance", "charges", "events", "payment_intents", "refunds")
    ),
    ("/v1/webhook_endpoints", stripe_account.permitted),
    ("/v1/balance", stripe_account.accepted),
    ("/v1/webhook_endpoints", endpoints),
    ("/v1/events", untaken),
]
each_call = pytest.mark.parametrize(("path", "question"), CALLS, ids=[f"{q.__name__} {p}" for p, q in CALLS])


def asked(question: Callable[[PropertyPulse, str], Answer], env: PropertyPulse, key: str) -> Answer:
    """Ask; an error is no, with what it says."""
    try:
        return question(env, key)
    except RunbookError as error:
        return Answer(False, str(error))


@each_call
def test_what_passes_is_asked_again(
    env: PropertyPulse, path: str, question: Callable[[PropertyPulse, str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe_account, "TIMEOUT", 5)  # far from what a slow answer takes, also on a busy machine
    key = dashboard.create_key()
    for name, fault in PASSING.items():
        dashboard.dashboard("faults", path=path, **fault)
        assert asked(question, env, key), name
        dashboard.dashboard("faults")


@each_call
def test_what_lasts_is_no_yes_and_is_named(
    env: PropertyPulse, path: str, question: Callable[[PropertyPulse, str], Answer]
) -> None:
    key = dashboard.create_key()
    for name, fault in LASTING.items():
        dashboard.dashboard("faults", path=path, **fault)
        answer = asked(question, env, key)
        dashboard.dashboard("faults")
        assert not answer and name in str(answer.evidence), (name, answer)
        assert not stripe_account.refused(env, key)
    assert asked(question, env, key)


def test_stripe_that_cannot_be_reached_is_no_yes(env: PropertyPulse) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert env.stripe
    gone = env.model_copy(update={"stripe": env.stripe.model_copy(update={"url": f"http://127.0.0.1:{port}"})})
    key = dashboard.create_key()
    for _, question in CALLS:
        answer = asked(question, gone, key)
        assert not answer and "no answer from Stripe" in str(answer.evidence)
    assert not stripe_account.refused(gone, key)


def test_stripe_s_own_pause_is_kept(env: PropertyPulse) -> None:
    dashboard.dashboard("faults", path="/v1/balance", status=429, retry_after=2)
    began = time.monotonic()
    assert stripe_account.accepted(env, dashboard.create_key())
    assert time.monotonic() - began >= 2


def missed() -> float:
    """Have an event go undelivered; give when that began."""
    began, token = time.time() - 1, dashboard.login()
    dashboard.dashboard("deliveries", enabled=False)
    _, made = dashboard.intent(token)
    dashboard.cancel(dashboard.held("STRIPE_SECRET_KEY"), made["payment"]["providerIntentId"])
    dashboard.dashboard("deliveries", enabled=True)
    return began


@pytest.mark.parametrize("call", ["list", "retry"])
def test_an_event_is_sent_again_in_spite_of_faults_or_the_person_is_told_how(env: PropertyPulse, call: str) -> None:
    stripe = stripe_account.reader(env, dashboard.held("STRIPE_SECRET_KEY"))
    target, began = webhook_endpoint.enabled(env, stripe), missed()
    (missing,) = event.untaken(stripe, began, time.time() + 1).evidence
    path = "/v1/events" if call == "list" else f"/v1/events/{missing['event']}/retry"
    deliver = event.deliver(stripe, target, began)
    for name, fault in LASTING.items():
        dashboard.dashboard("faults", path=path, **fault)
        with pytest.raises(RunbookError) as raised:
            deliver.do()
        dashboard.dashboard("faults")
        assert name in str(raised.value)
        told = (
            "Run again when Stripe answers"
            if call == "list"
            else f"stripe events resend {missing['event']} --webhook-end"
        )
        assert told in str(raised.value)
        assert not event.untaken(stripe, began, time.time() + 1)
    for fault in PASSING.values():
        dashboard.dashboard("faults", path=path, **fault)
        deliver.do()
        dashboard.dashboard("faults")
        assert event.untaken(stripe, began, time.time() + 1)


def test_the_reader_s_key_reads_events_where_the_api_s_may_not(env: PropertyPulse, tmp_path: Any) -> None:
    weak, reading = (
        dashboard.create_key(permissions=["balance"]),
        dashboard.create_key(permissions=["events", "webhook_endpoints"]),
    )
    assert env.stripe

    def client(reference: str) -> StripeClient:
        assert env.stripe
        stripe = env.stripe.model_copy(update={"reader": reference})
        return stripe_account.reader(env.model_copy(update={"stripe": stripe}), weak)

    with pytest.raises(RunbookError, match="not permitted to this key"):
        webhook_endpoint.enabled(env, client(""))
    assert "not permitted to this key" in str(event.untaken(client(""), time.time() - 1, time.time()).evidence)
    reader = client(dashboard.put(tmp_path, reading))
    assert webhook_endpoint.enabled(env, reader).id == dashboard.ENDPOINT
    assert event.untaken(reader, time.time() - 1, time.time())
    assert dashboard.dashboard("keys/last_used", secret=reading)["last_used"]
    with pytest.raises(RunbookError, match=r"STRIPE_READER: .*cannot be read"):
        client(f"file:{tmp_path}/nowhere")
