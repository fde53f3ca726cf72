"""Whether the API, its `.env` and Stripe agree about the key and the webhook secret; and what the Dashboard does."""

import json
import os
import time
from pathlib import Path
from typing import Any

import urllib3

from opslib import env_file, environment, health, pm2, secret, webhook
from opslib.environment import Environment
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import API, STRIPE, url

ENDPOINT = "we_1PropertyPulse"


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
    return env_file.read(environment.load("sandbox").api.env_file).get(key, "")


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


def agree(*, retired: tuple[str, ...] = ()) -> list[str]:
    """Say what is wrong, if anything: the API's health, the `.env` against Stripe, more than one secret in force.

    `retired` are values that must be refused by now. To be asked when a procedure has ended as applied or undone.
    """
    env = environment.load("sandbox")
    wrong = [] if health.steady(env.api.health_url, 10)[0] else ["the API does not answer"]
    workers = pm2.workers(env)
    if len(workers) != 2 or {worker.status for worker in workers} != {"online"}:
        wrong.append(f"workers {[(worker.id, worker.status) for worker in workers]}")
    wrong += _key(env)
    wrong += _secret(env)
    for value in retired:
        if value.startswith("whsec_"):
            taken = webhook.answers(env, {"retired": value})["retired"]["answer"] != f"refused ×{webhook.ASKS}"
        else:
            taken = key_accepted(value)
        wrong += ["a retired value is still taken"] if taken else []
    left = [path.name for path in env.api.env_file.resolve().parent.iterdir() if path.name.endswith(".tmp")]
    return wrong + [f"left behind: {left}" for _ in left[:1]]


def _key(env: Environment) -> list[str]:
    """The key in the `.env` must be the one that every worker uses, and nothing may be pending."""
    staged = secret.Staged(env, "STRIPE_SECRET_KEY")
    wrong = ["a key is still pending"] if staged.pending else []
    begun, token = time.time(), login()
    answers = [intent(token) for _ in range(6)]  # in turn, so that each worker is asked
    if {status for status, _ in answers} == {201}:
        cancel(staged.current, answers[0][1]["payment"]["providerIntentId"])
    else:
        wrong.append(f"payment intents are answered {[status for status, _ in answers]}")
    if not (dashboard("keys/last_used", secret=staged.current)["last_used"] or 0) >= begun - 0.5:
        wrong.append("the key in the .env is not what the workers use")
    if staged.previous and (dashboard("keys/last_used", secret=staged.previous)["last_used"] or 0) > begun:
        wrong.append("a worker uses the previous key")
    return wrong


def _secret(env: Environment) -> list[str]:
    """Each worker must take the secret in the `.env`, and no event may be left, nor one secret too many."""
    staged = secret.Staged(env, "STRIPE_WEBHOOK_SECRET")
    wrong = ["a webhook secret is still pending"] if staged.pending else []
    got = webhook.answers(env, {"current": staged.current, "previous": staged.previous, "made up": "whsec_x"})
    second = held("STRIPE_WEBHOOK_SECRET_PREVIOUS")
    expected = {"current": "taken", "made up": "refused", "previous": "taken" if second else "refused"}
    if not webhook.judged(got, expected)[0]:
        wrong.append(f"webhooks: {list(got.values())}, expected {expected}")
    if second and second != staged.previous:
        wrong.append("the .env takes a second webhook secret that is not the one kept as previous")
    return wrong + ([f"events not taken: {left}"] if (left := untaken()) else [])


def untaken(within: float = 20) -> list[str]:
    """Give the events that the API has not taken, after waiting a while for those on their way."""
    ends = time.monotonic() + within
    while True:
        key, left = held("STRIPE_SECRET_KEY"), []
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
