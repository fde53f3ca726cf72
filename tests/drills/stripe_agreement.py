"""Stripe's key and webhook secret on the stand-in: what the Dashboard does, the states that their rotation starts from,
and what must hold at its end.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from opslib.deployment import env_file, staged_secret
from opslib.payments import webhook_route
from opslib.propertypulse import PropertyPulse
from opslib.runbook.step import now
from tests.drills import standing
from tests.drills.standing import nothing, sandbox
from tests.sandbox.credentials import Credentials, write_private
from tests.sandbox.layout import ADMIN, API, STRIPE, url

ENDPOINT = "we_1PropertyPulse"
KEY, SECRET = "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"
NOTHING = nothing(KEY, SECRET)


def ask(method: str, address: str, *, token: str = "", **data: Any) -> tuple[int, dict[str, Any]]:
    """Ask over a connection of its own; give the status and the JSON."""
    headers = {"Connection": "close", "Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    body = json.dumps(data) if method == "POST" else None
    got = urllib3.request(method, address, body=body, headers=headers, retries=False, timeout=15)
    return got.status, json.loads(got.data or b"{}")


def dashboard(action: str, /, **data: Any) -> dict[str, Any]:
    """Do what only the Dashboard, or the stand-in, can."""
    status, answer = ask(
        "POST", f"{url(STRIPE)}/_sandbox/{action}", token=Credentials.load().stripe_admin_token, **data
    )
    assert status == 200, answer
    return answer


def create_key(**data: Any) -> str:
    """Make another key in the Dashboard."""
    return str(dashboard("keys", **data)["secret"])


def roll(overlap: int = 600) -> str:
    """Roll the webhook secret in the Dashboard; both sign for that many seconds."""
    return str(dashboard(f"webhook_endpoints/{ENDPOINT}/roll", overlap_seconds=overlap)["secret"])


def login() -> str:
    """Sign in to the API; give the token."""
    known = Credentials.load()
    status, answer = ask("POST", f"{url(API)}/api/auth/login", email=known.login_email, password=known.login_password)
    assert status == 200, answer
    return str(answer["accessToken"])


def held(key: str) -> str:
    """Give the value of a key of the `.env`."""
    return env_file.read(sandbox().api.env_file).get(key, "")


def intent(token: str) -> tuple[int, dict[str, Any]]:
    """Have the API make a payment intent, for which it needs its Stripe key."""
    return ask("POST", f"{url(API)}/api/payments/intent", token=token, tenantId=1, amount=100)


def cancel(key: str, name: str) -> None:
    """Cancel a payment intent at Stripe, which causes an event."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    address = f"{url(STRIPE)}/v1/payment_intents/{name}/cancel"
    got = urllib3.request("POST", address, headers=headers, retries=False, timeout=15)
    assert got.status == 200, got.data


def key_accepted(key: str) -> bool:
    """Whether Stripe takes this key."""
    return ask("GET", f"{url(STRIPE)}/v1/balance", token=key)[0] == 200


def idle() -> None:
    """Nothing waits to be retired: Stripe has one key for the API, and one webhook secret that it takes."""
    old = staged_secret.Staged(sandbox(), KEY).previous
    if old and old != held(KEY):
        dashboard("keys/expire", secret=old)
    standing.stage(NOTHING)
    if held(f"{SECRET}_PREVIOUS") or problems():
        new = {KEY: create_key(), SECRET: roll(overlap=0), f"{SECRET}_PREVIOUS": None}
        standing.put(new, NOTHING)
        dashboard("deliveries/retry")


def first() -> None:
    """The key that the stand-in was started with is in force again: faults and other tests ask Stripe with it."""
    idle()
    key = create_key(secret=Credentials.load().stripe_secret_key)
    if held(KEY) != key:
        standing.put({KEY: key}, NOTHING)


def new_key() -> None:
    """As `idle`, and a key was made in the Dashboard, which lies where the environment says."""
    idle()
    write_private(ADMIN / "new_stripe_secret_key", create_key())


def old_key() -> None:
    """A new key is in force, and the one before it was expired in the Dashboard."""
    if not staged_secret.Staged(sandbox(), KEY).previous or problems():
        new_key()
        standing.run("rotate_stripe_key")
    dashboard("keys/expire", secret=staged_secret.Staged(sandbox(), KEY).previous)


def new_secret() -> None:
    """As `idle`, and the webhook secret was rolled in the Dashboard; the new one lies where the environment says."""
    idle()
    write_private(ADMIN / "new_stripe_webhook_secret", roll())


def old_secret() -> None:
    """A new webhook secret is in force, and the API takes the one before it too."""
    if not held(f"{SECRET}_PREVIOUS") or problems():
        new_secret()
        standing.run("rotate_webhook_secret")


@contextmanager
def kept(key: str) -> Iterator[None]:
    """An old value of this key is kept, and no worker or Stripe takes it: where the plan of its retirement begins."""
    value = create_key() if key == KEY else "whsec_" + secrets.token_hex(16)
    values = {f"{SECRET}_PREVIOUS": value} if key == SECRET else {}
    if key == KEY:
        dashboard("keys/expire", secret=value)
    standing.stage({f"{key}_PREVIOUS": value, f"{key}_SINCE": now()})
    made = env_file.edit(sandbox().api.env_file, values)
    try:
        yield
    finally:
        if made:
            env_file.restore(made)
            env_file.drop(made)
        standing.stage(nothing(key))


def problems(*retired: str) -> list[str]:
    """Say what is wrong, if anything: the API's health, the `.env` against Stripe, more than one secret in force.

    `retired` are values that must be refused by now. To be asked when a procedure has ended as applied or undone.
    """
    env = sandbox()
    wrong = standing.problems() + _key(env) + _secret(env)
    for value in retired:
        if value.startswith("whsec_"):
            taken = not webhook_route.tells(env, takes={"current": held(SECRET)}, refuses={"retired": value})
        else:
            taken = key_accepted(value)
        wrong += ["a retired value is still taken"] if taken else []
    return wrong


def _key(env: PropertyPulse) -> list[str]:
    """The key in the `.env` must be the one that every worker uses, and nothing may be pending."""
    kept = staged_secret.Staged(env, KEY)
    wrong = ["a key is still pending"] if kept.pending else []
    begun, token = time.time(), login()
    answers = [intent(token) for _ in range(6)]  # in turn, so that each worker is asked
    if {status for status, _ in answers} == {201}:
        cancel(kept.current, answers[0][1]["payment"]["providerIntentId"])
    else:
        wrong.append(f"payment intents are answered {[status for status, _ in answers]}")
    if not (dashboard("keys/last_used", secret=kept.current)["last_used"] or 0) >= begun - 0.5:
        wrong.append("the key in the .env is not what the workers use")
    if kept.previous and (dashboard("keys/last_used", secret=kept.previous)["last_used"] or 0) > begun:
        wrong.append("a worker uses the previous key")
    return wrong


def _secret(env: PropertyPulse) -> list[str]:
    """Each worker must take the secret in the `.env`, and no event may be left, nor one secret too many."""
    kept = staged_secret.Staged(env, SECRET)
    wrong = ["a webhook secret is still pending"] if kept.pending else []
    second = held(f"{SECRET}_PREVIOUS")
    current, previous = {"current": kept.current}, {"previous": kept.previous}
    takes, refuses = (current | previous, {}) if second else (current, previous)
    if not (told := webhook_route.tells(env, takes=takes, refuses=refuses)):
        wrong.append(f"webhooks: {told.evidence}")
    if second and second != kept.previous:
        wrong.append("the .env takes a second webhook secret that is not the one kept as previous")
    return wrong + ([f"events not taken: {left}"] if (left := untaken()) else [])


def untaken(within: float = 20) -> list[str]:
    """Give the events that the API has not taken, after waiting a while for those on their way."""
    ends = time.monotonic() + within
    while True:
        key, left = held(KEY), []
        _, answer = ask("GET", f"{url(STRIPE)}/v1/events?delivery_success=false&limit=100", token=key)
        left = [event["id"] for event in answer["data"]]
        if not left or time.monotonic() > ends:
            return left
        time.sleep(0.5)


def put(folder: Path, value: str) -> str:
    """Put a value where only its owner reads it; give the reference."""
    file = folder / "value"
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as written:
        written.write(value)
    return f"file:{file}"
