"""What is found of Stripe where a key may little, nothing answers, or two things may be meant."""

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import stripe._http_client

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.payments import discovery, stripe_account
from tests.drills import stripe_agreement as dashboard
from tests.sandbox.credentials import write_private
from tests.sandbox.layout import DOTENV

pytestmark = pytest.mark.usefixtures("sandbox", "quick")

OTHER = "we_1Other"
Found = Mapping[str, Line | Asked]
Discover = Callable[..., Found]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses."""
    monkeypatch.setattr(stripe_account, "PAUSES", (0.02,))
    monkeypatch.setattr(stripe._http_client.HTTPClient, "INITIAL_DELAY", 0.02)
    monkeypatch.setattr(stripe._http_client.HTTPClient, "MAX_DELAY", 0.02)


@pytest.fixture
def found(tmp_path: Path) -> Discover:
    """What is found where the `.env` has these other values; by key."""

    def discover(given: Mapping[str, Any] | None = None, api: str = "", /, **values: str | None) -> Found:
        held = {key: value for key, value in (env_file.read(DOTENV) | values).items() if value is not None}
        write_private(tmp_path / ".env", "".join(f"{key}='{value}'\n" for key, value in held.items()))
        known: Deployment = propertypulse.load("sandbox")
        changed = {"env_file": tmp_path / ".env", "url": api or known.api.url}
        known = known.model_copy(update={"stripe": None, "api": known.api.model_copy(update=changed)})
        all = list(discovery.discover(known, given or {}))
        assert len({one.key for one in all}) == len(all)
        secrets = [value for key, value in held.items() if key in known.secrets]
        assert not [one for one in all if any(secret in str(one) for secret in secrets)]
        return {one.key: one for one in all}

    return discover


@pytest.fixture
def other() -> Iterator[None]:
    """Another endpoint of the account, with the same path."""
    address = "https://staging.example.com/api/webhooks/stripe?token=hunter2"
    dashboard.dashboard("webhook_endpoints", id=OTHER, url=address, secret="whsec_x", status="disabled")
    yield
    dashboard.dashboard("webhook_endpoints/forget", id=OTHER)


def asked(one: Line | Asked) -> str:
    assert isinstance(one, Asked)
    return one.what


def test_a_key_that_stripe_refuses_leaves_what_the_code_and_the_catalogue_tell(found: Discover) -> None:
    key = dashboard.create_key()
    dashboard.dashboard("keys/expire", secret=key)
    said = found(STRIPE_SECRET_KEY=key)
    for name in ("stripe.account", "stripe.endpoint"):
        assert "refused: the key is wrong or expired" in asked(said[name])
    assert {"stripe.mode", "stripe.webhook", "stripe.handles", "stripe.payments.table"} <= {*lines(said)}
    assert "Stripe could not be asked of a row" in lines(said)["stripe.payments.unit"].source


def test_a_restricted_key_asks_for_a_reader_and_with_one_all_is_found(found: Discover, tmp_path: Path) -> None:
    key = dashboard.create_key(permissions=["balance", "payment_intents"])
    said = found(STRIPE_SECRET_KEY=key)
    assert "not permitted to this key" in asked(said["stripe.account"])
    assert "not permitted to this key" in asked(said["stripe.endpoint"])
    assert "could not list webhook endpoints" in asked(said["stripe.reader"])
    assert "a row has" in lines(said)["stripe.payments.unit"].source
    write_private(tmp_path / "reader", dashboard.create_key(permissions=["events", "webhook_endpoints"]))
    said = found({"stripe.reader": f"file:{tmp_path / 'reader'}"}, STRIPE_SECRET_KEY=key)
    assert lines(said)["stripe.endpoint"].value == dashboard.ENDPOINT
    assert "stripe.reader" not in said
    said = found({"stripe.reader": f"file:{tmp_path / 'nobody'}"}, STRIPE_SECRET_KEY=key)
    assert "cannot be read" in asked(said["stripe.reader"])


def test_events_that_may_not_be_listed_ask_for_a_reader_too(found: Discover) -> None:
    said = found(STRIPE_SECRET_KEY=dashboard.create_key(permissions=["account", "webhook_endpoints"]))
    assert "could not list events" in asked(said["stripe.reader"])
    assert lines(said)["stripe.endpoint"].value == dashboard.ENDPOINT


def test_where_nothing_answers_it_says_so(found: Discover) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = found(STRIPE_API_BASE=f"http://127.0.0.1:{port}")
    assert "no answer from Stripe" in asked(said["stripe.account"]) and "no answer" in asked(said["stripe.endpoint"])
    assert "stripe.reader" not in said


@pytest.mark.parametrize("base", ["127.0.0.1:25003", "http://user:hunter2@127.0.0.1:25003"])
def test_no_key_is_sent_to_an_address_that_is_not_clear(found: Discover, base: str) -> None:
    said = found(STRIPE_API_BASE=base)
    assert "STRIPE_API_BASE of the .env" in asked(said["stripe.url"]) and "hunter2" not in str(said)
    assert "where Stripe answers is not known" in asked(said["stripe.endpoint"])
    assert lines(found({"stripe.url": "http://127.0.0.1:25003"}, STRIPE_API_BASE=base))["stripe.account"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"STRIPE_SECRET_KEY": None}, "it has no other"),
        ({"STRIPE_SECRET_KEY": "whsec_1", "STRIPE_KEY": "sk_live_12345678"}, "it has STRIPE_KEY; rename that"),
    ],
)
def test_without_a_key_where_procedures_look_it_says_so(
    found: Discover, values: dict[str, str | None], says: str
) -> None:
    said = found(**values)
    assert says in asked(said["stripe.mode"]) and "sk_live" not in str(said)
    assert "stripe.webhook" in lines(said)


def test_two_endpoints_with_the_path_are_told_apart_by_the_address_or_not_at_all(found: Discover, other: None) -> None:
    assert lines(found())["stripe.endpoint"].value == dashboard.ENDPOINT
    said = asked(found({}, "http://127.0.0.1:5055")["stripe.endpoint"])
    assert f"{dashboard.ENDPOINT} (127.0.0.1/api/webhooks/stripe, enabled)" in said
    assert f"{OTHER} (staging.example.com/api/webhooks/stripe, disabled)" in said and "hunter2" not in said


def test_what_cannot_be_read_is_said(found: Discover, tmp_path: Path) -> None:
    known: Deployment = propertypulse.load("sandbox")
    lacks = known.api.model_copy(update={"env_file": tmp_path / "none"})
    said = {one.key: one for one in discovery.discover(known.model_copy(update={"stripe": None, "api": lacks}), {})}
    assert {*said} == {"stripe.mode", "stripe.webhook"}
    assert "No such file" in asked(said["stripe.mode"])


def test_an_address_that_was_given_and_is_none_is_said_without_repeating_it(found: Discover) -> None:
    said = found({"stripe.url": "hunter2"})
    assert "Stripe" in asked(said["stripe.mode"]) and "hunter2" not in str(said)


def lines(said: Found) -> dict[str, Line]:
    return {key: one for key, one in said.items() if isinstance(one, Line)}
