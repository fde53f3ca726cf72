"""Drills of `check_webhook_signatures` and `resend_stripe_event`: causes by their names, also hidden ones."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.payments import webhook_route
from tests import sandbox
from tests.drills import stripe_agreement as stripe
from tests.drills.webhooks import Ran, run
from tests.sandbox import backlog
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import PM2_HOME

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

NAME = "check_webhook_signatures"
RESEND = "resend_stripe_event"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Nothing broken, before and after."""
    for after in (False, True):
        sandbox.mend()
        backlog.clear()
        for log in (PM2_HOME / "logs").glob("*.log"):
            os.truncate(log, 0)
        if not after:
            yield


def causes(ran: Ran) -> list[str]:
    """What it says is wrong."""
    return [what.removesuffix(": this stands now") for what in ran.found]


def test_all_is_well_and_stripes_own_event_is_taken(tmp_path: Path) -> None:
    own = stripe.put(tmp_path, Credentials.load().stripe_webhook_secret)
    well = run(NAME, "-p", "endpoint_secret", own)
    assert (well.outcome, causes(well)) == ("planned", []), well.end
    rows = well.rows("What the live route answers")
    assert [row[row["expected"]] for row in rows] == ["8"] * 9
    assert [row["endpoints_own"] for row in well.rows("The secrets")] == ["yes", "yes"]
    assert {row["asked"] for row in well.rows("The workers")} == {"yes"}
    assert Credentials.load().stripe_webhook_secret not in well.text
    sent = run(RESEND, apply=True)
    assert sent.outcome == "applied", sent.end
    assert sent.rows("What Stripe itself signs is taken")[-1]["event"].startswith("evt_")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("wrong-webhook-secret", "wrong secret"),
        ("parsed-body", "parsed instead of raw body"),
        ("clock-off", "clock off"),
        ("endpoint-disabled", "endpoint disabled"),
    ],
)
def test_names_a_fault_without_the_secret_from_the_dashboard(fault: str, cause: str) -> None:
    sandbox.break_(fault)
    backlog.pile_up(2, refused=2, attempts=1, seconds=0)
    ran = run(NAME)
    assert (ran.outcome, causes(ran)) == ("planned", [cause])


def test_a_signature_that_has_lost_its_v1_on_the_way_is_named() -> None:
    assert webhook_route.send(propertypulse.load("sandbox"), b"{}", f"t={int(time.time())}") == "refused"
    assert causes(run(NAME)) == ["a signature without v1"]


def test_a_secret_that_stripe_does_not_sign_with_is_found_behind_everything_else(tmp_path: Path) -> None:
    for fault in ("clock-off", "parsed-body", "endpoint-disabled", "wrong-webhook-secret"):
        sandbox.break_(fault)
    ran = run(NAME, "-p", "endpoint_secret", stripe.put(tmp_path, Credentials.load().stripe_webhook_secret))
    assert set(causes(ran)) == {"wrong secret", "parsed instead of raw body", "clock off", "endpoint disabled"}


def test_stripes_own_event_shows_a_wrong_secret_that_nothing_has_logged() -> None:
    sandbox.break_("wrong-webhook-secret")
    ran = run(RESEND, apply=True)
    assert ran.outcome == "undone"
    assert ran.rows("What Stripe itself signs is taken")[-1]["cause"] == "wrong secret"
    assert causes(run(NAME)) == ["wrong secret"]


def test_workers_that_have_not_read_the_env_anew_are_named() -> None:
    file = propertypulse.load("sandbox").api.env_file
    made = env_file.edit(file, {"STRIPE_WEBHOOK_SECRET": "whsec_newer"})
    assert made is not None
    try:
        assert causes(run(NAME)) == ["workers hold another secret than the .env"]
    finally:
        env_file.restore(made)
        env_file.drop(made)


def test_a_stopped_api_is_named() -> None:
    sandbox.break_("port-taken")
    assert "API unreachable" in causes(run(NAME))
