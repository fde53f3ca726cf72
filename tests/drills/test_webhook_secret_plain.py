"""Drills of the webhook secret on an API that takes one alone: what the new one has signed, from the switch on."""

from pathlib import Path

import pytest

from opslib.deployment import env_file
from tests.drills import backups, stripe_agreement as stripe
from tests.sandbox import fault
from tests.sandbox.plain import database
from tests.sandbox.plain.account import ENDPOINT
from tests.sandbox.plain.credentials import Credentials
from tests.sandbox.plain.layout import DOTENV

pytestmark = [pytest.mark.usefixtures("plain"), pytest.mark.long]

OPEN = (
    """SELECT "providerIntentId" AS intent FROM payments WHERE status = 'PENDING' AND "providerIntentId" IS NOT NULL"""
)
ALONE = ("-p", "accept_new_alone", "True", "-p", "accept_downtime", "True", "-p", "settle_seconds", "2")


def rotate(name: str, *words: str) -> tuple[str, str]:
    """Apply it; give its outcome and what the terminal showed."""
    _, record, said = backups.run("-e", "plain", "--reason", "drill", *words, name=name)
    return record["metadata"]["opslib"]["outcome"], said


def roll() -> str:
    return str(stripe.dashboard(f"webhook_endpoints/{ENDPOINT}/roll", overlap_seconds=600)["secret"])


def held() -> str:
    return env_file.read(DOTENV)["STRIPE_WEBHOOK_SECRET"]


def pay() -> None:
    """Have Stripe tell the API of a payment, so that there is an event to send again."""
    with database.connect(Credentials.load()) as connection:
        row = connection.execute(OPEN).fetchone()
    assert row
    fault.pay(row[0])


def test_it_says_before_that_the_code_takes_one_alone(tmp_path: Path) -> None:
    before = held()
    outcome, said = rotate("rotate_webhook_secret", "-p", "new_secret", stripe.put(tmp_path, roll()), *ALONE[3:])
    assert outcome == "failed" and "-p accept_new_alone True" in said, said
    assert held() == before


def test_rolled_with_an_overlap_it_is_switched_and_retired(tmp_path: Path) -> None:
    pay()
    new = roll()
    outcome, said = rotate("rotate_webhook_secret", "-p", "new_secret", stripe.put(tmp_path, new), *ALONE)
    assert outcome == "applied", said
    assert held() == new and "STRIPE_WEBHOOK_SECRET_PREVIOUS" not in env_file.read(DOTENV)
    outcome, said = rotate("retire_webhook_secret")
    assert outcome == "applied" and "pm2" not in said, said  # nothing is restarted for what the code does not read
    pay()


def test_one_with_which_stripe_does_not_sign_is_undone(tmp_path: Path) -> None:
    pay()
    before = held()
    outcome, said = rotate(
        "rotate_webhook_secret", "-p", "new_secret", stripe.put(tmp_path, "whsec_" + "n" * 24), *ALONE
    )
    assert outcome == "undone", said
    assert "✗ Every event since an hour before, or the newest, was taken" in said and held() == before
    pay()
