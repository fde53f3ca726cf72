"""Drills of `recover_database` while people pay: what came since the backup is lost, and told of exactly."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from opslib import propertypulse
from opslib.backups import database_copy
from opslib.payments import missed_event
from tests.drills import recovery, stripe_agreement as dashboard
from tests.drills.recovery import problems, proven, recover
from tests.sandbox import fault, postgres
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import API, STRIPE, url

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2040", "cvc": "123"}
MANY = 10_000
PREFIX = "evt_since_"
SWAP = 2.0
"""Seconds in which requests may fail."""


@pytest.fixture(autouse=True)
def one_database() -> Iterator[None]:
    """Begin and end with the live database only, the payments that it had, and no backup or event of these drills."""
    recovery.clean()
    with recovery.same_payments():
        yield
    dashboard.dashboard("events/forget", prefix=PREFIX)
    with postgres.connect_admin(Credentials.load()) as connection:
        connection.execute("DELETE FROM webhook_events WHERE id LIKE %s", (f"{PREFIX}%",))


class People:
    """They read, pay and are written to, each in a thread of its own; what the API did not answer well is noted."""

    def __init__(self) -> None:
        self.failures: list[tuple[float, float, str]] = []
        """When each began and ended, in seconds since 1970, and what came instead."""
        self.asked = self.paid = self.mailed = 0
        self._over = threading.Event()
        self._token = dashboard.login()
        self._key = dashboard.create_key()

    @contextmanager
    def about(self) -> Iterator["People"]:
        """Have them about while the block runs."""
        does: list[tuple[Callable[[], None], float]] = [(self._read, 0.05), (self._pay, 2.0), (self._mail, 1.0)]
        threads = [threading.Thread(target=self._again, args=pair) for pair in does]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _again(self, do: Callable[[], None], every: float) -> None:
        while not self._over.wait(every):
            do()

    def _read(self) -> None:
        self._ask("GET", "/api/properties")

    def _mail(self) -> None:
        self.mailed += self._ask("POST", "/api/email/test", to=f"tenant-{self.asked}@tenant.example") is not None

    def _pay(self) -> None:
        if answer := self._ask("POST", "/api/payments/intent", tenantId=1, amount=100):
            intent = f"payment_intents/{answer['payment']['providerIntentId']}"
            card = self._stripe("payment_methods", type="card", **{f"card[{name}]": CARD[name] for name in CARD})
            self._stripe(intent, payment_method=card["id"])
            self._stripe(f"{intent}/confirm")
            self.paid += 1

    def _ask(self, method: str, path: str, **data: Any) -> dict[str, Any] | None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json", "Connection": "close"}
        begun, body = time.time(), json.dumps(data) if method == "POST" else None
        self.asked += 1
        try:
            got = urllib3.request(method, f"{url(API)}{path}", body=body, headers=headers, retries=False, timeout=15)
            if got.status < 400:
                return {"found": json.loads(got.data)} if got.data.startswith(b"[") else dict(json.loads(got.data))
            problem = f"HTTP {got.status} {got.data[:80]!r}"
        except urllib3.exceptions.HTTPError as error:
            problem = type(error).__name__
        self.failures.append((begun, time.time(), f"{method} {path}: {problem}"))
        return None

    def _stripe(self, path: str, **data: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/x-www-form-urlencoded"}
        got = urllib3.request(
            "POST", f"{url(STRIPE)}/v1/{path}", body=urlencode(data), headers=headers, retries=False, timeout=15
        )
        assert got.status == 200, got.data
        return dict(json.loads(got.data))


def noted(database: str) -> set[str]:
    """The events that a database has noted."""
    with postgres.connect_admin(Credentials.load(), database) as connection:
        return {name for (name,) in connection.execute("SELECT id FROM webhook_events").fetchall()}


def events() -> dict[str, int]:
    """When each event of Stripe's was made, in seconds since 1970."""
    made: dict[str, int] = {}
    more, last = True, ""
    while more:
        asked = urlencode({"limit": 100, **({"starting_after": last} if last else {})})
        _, page = dashboard.ask("GET", f"{url(STRIPE)}/v1/events?{asked}", token=dashboard.held(dashboard.KEY))
        made |= {one["id"]: one["created"] for one in page["data"]}
        more, last = page["has_more"], page["data"][-1]["id"] if page["data"] else ""
    return made


def since_then(count: int) -> None:
    """Have Stripe make so many events now, and the API have noted them."""
    names, thing = [f"{PREFIX}{number:06}" for number in range(count)], {"object": "payment_intent", "amount": 100}
    about = {"object": "event", "type": "payment_intent.succeeded", "created": int(time.time())}
    made = [
        {**about, "id": name, "data": {"object": {**thing, "id": f"pi_{name}", "status": "succeeded"}}}
        for name in names
    ]
    for start in range(0, count, 1000):
        fault.stripe("/_sandbox/events", events=made[start : start + 1000])
    with postgres.connect_admin(Credentials.load()) as connection:
        note = "INSERT INTO webhook_events (id, type) SELECT unnest(%s::text[]), 'payment_intent.succeeded'"
        connection.execute(note, (names,))


def steps(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a run, as its end repeats them."""
    outputs = [output["metadata"].get("opslib", {}) for cell in record["cells"] for output in cell.get("outputs", [])]
    return next(list(one["steps"]) for one in reversed(outputs) if one.get("step") == "end")


@pytest.mark.parametrize("count", [0, MANY])
def test_what_was_paid_since_the_backup_is_listed_and_nothing_else(count: int) -> None:
    people, lacked = People(), events().keys() - noted(postgres.DATABASE)  # by what was done here before
    with people.about():
        proven()
        time.sleep(5)  # they pay
        if count:
            since_then(count)
        code, record, said = recover("--reason", "drill")
        time.sleep(5)
    about = record["metadata"]["opslib"]
    assert (code, about["outcome"], about["why"]) == (0, "applied", "all checks held"), said
    assert people.paid > 2 and people.mailed > 2
    assert problems() == []

    happened = steps(record)
    looks = {one["title"]: one for one in happened}
    away = float(looks["How long was the API away, at most?"]["evidence"][0]["away"].removesuffix(" s"))
    swapped = datetime.fromisoformat(looks["Swap the databases and reload the workers"]["at"]).timestamp()
    begins, ends = [begun for begun, _, _ in people.failures], [end for _, end, _ in people.failures]
    failing = max(ends) - min(begins) if people.failures else 0
    number = happened.index(looks["Events to send again"])
    begun, ended = (datetime.fromisoformat(one["at"]) for one in happened[number - 1 : number + 1])
    size = len(json.dumps(record, indent=1, ensure_ascii=False).encode())
    print(
        f"{people.asked} asked, {len(people.failures)} failed within {failing:.2f} s, away {away} s; "
        f"listed in {(ended - begun).total_seconds():.1f} s, record {size} bytes; {looks['Events to send again']}"
    )
    assert away <= SWAP
    assert failing <= SWAP, people.failures

    old = next(one.name for one in database_copy.listed(propertypulse.load("sandbox")) if one.kind == "old")
    lost = noted(old) - noted(postgres.DATABASE)
    assert len(lost) >= count + 2
    *rows, last = looks["In this order"]["evidence"]
    shown, made = [row["event"] for row in [*rows, last] if row["made"] != "…"], events()
    assert [made[name] for name in shown] == sorted(made[name] for name in shown)
    total = int(looks["Events to send again"]["evidence"][-1]["events"])
    # Stripe goes on trying what it could not deliver in the swap, or had made just before it was asked.
    on_the_way = {name for name in made if made[name] >= swapped - 1} - lost
    assert len(lost) <= total <= len(lost | on_the_way | lacked)
    assert set(shown) <= lost | on_the_way | lacked
    if total <= missed_event.SHOWN:
        assert lost <= set(shown)
    else:
        assert last["event"] == f"and {total - missed_event.SHOWN} more, in order"
        assert size < 1_000_000
