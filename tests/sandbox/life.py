"""What a living PropertyPulse does: people log in, read, pay, upload and get mail; and what of all that was lost."""

import asyncio
import json
import random
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from . import postgres
from .errors import SandboxError
from .layout import PYTHON, SENDGRID, STRIPE, url
from .sender import HEALTH_SECONDS, Sender
from .traffic import ARRIVAL_SECONDS, MOST_SECONDS, Result, Traffic

# Odd, as in the traffic. A login costs the API more than all of the others.
LIFE = (
    *(*5 * ("properties", "refresh", "me", "rent"), "login", "me", "pay", "properties", "mail"),
    *(*5 * ("properties", "refresh", "me", "rent"), "upload", "me", "pay", "properties"),
)
CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2040", "cvc": "123"}
MOST_AMOUNT = 2**31 - 1
HEALTH_RATE = round(1 / HEALTH_SECONDS)


@dataclass(kw_only=True)
class Lived(Result):
    """What came of a life. Of `writes`, `events` and `mails` that were acknowledged, those that are nowhere by name.

    A write is a payment's id and its amount, which no other one has: after a recovery ids are given once more.
    """

    failures: list[tuple[float, str]] = field(default_factory=list)
    """When each failed request was sent, in seconds since 1970, and why it failed."""
    mails: int = 0
    uploads: int = 0
    lost_writes: list[tuple[int, int]] = field(default_factory=list)
    lost_events: list[str] = field(default_factory=list)
    lost_mails: list[str] = field(default_factory=list)
    unpaid: list[str] = field(default_factory=list)
    """Intents that have succeeded, whose rows are there and do not say so."""

    def __str__(self) -> str:
        lost: dict[str, Sequence[object]] = {"writes": self.lost_writes, "events": self.lost_events}
        lost |= {"mails": self.lost_mails, "unpaid": self.unpaid}
        lines = [f"{self.mails} mails and {self.uploads} uploads accepted", *self.first_failures]
        lines += [f"lost {name}: {len(these)}, {these[:5]}" for name, these in lost.items() if these]
        return "\n".join([super().__str__(), *lines])

    @property
    def lossless(self) -> bool:
        """Whether all that was acknowledged is there."""
        return super().lossless and self.mails > 0 and not (self.lost_mails or self.unpaid)

    def failed_within(self, begun: float, ended: float) -> list[str]:
        """Give why requests failed that were sent between two times, in seconds since 1970."""
        return [reason for at, reason in self.failures if begun <= at <= ended]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what the sender has printed."""
        made = super().read(text)
        made.failures = [(at, reason) for at, reason in made.failures]
        made.lost_writes = [(row, amount) for row, amount in made.lost_writes]
        return made


class Life(Traffic):
    """The life of PropertyPulse while the block runs, or for `seconds`; `result` is there once it has ended.

    Of `rate` requests a second most are authenticated reads; the others log in, write rows, pay, which has Stripe send
    an event, mail, and upload. What has not arrived when it ends is waited for, at most `arrival` seconds.
    """

    result: Lived

    def __init__(self, *, rate: int = 60, seconds: float = MOST_SECONDS, arrival: float = ARRIVAL_SECONDS) -> None:
        if rate <= HEALTH_RATE:
            raise SandboxError(f"rate {rate}: the rate must be more than {HEALTH_RATE}, which are health checks")
        super().__init__(rate=rate, seconds=seconds, writes=True)
        self.arrival = arrival
        self.result = Lived()

    @property
    def _command(self) -> tuple[str, ...]:
        return (PYTHON, "-m", __name__, str(self.rate), str(self.seconds), str(self.arrival))


class Living(Sender):
    """What is sent, and what came of it. Health checks are part of the rate."""

    result: Lived

    def __init__(self, rate: int, seconds: float, arrival: float) -> None:
        super().__init__(rate - HEALTH_RATE, seconds, LIFE)
        self.arrival = arrival
        self.result = Lived()
        self.rows: set[tuple[int, int]] = set()
        self.paid: list[str] = []
        self.mailed: list[str] = []
        self.name = secrets.token_hex(4)
        self.began = int(time.time())
        self.method = ""

    async def _login(self) -> None:
        login = {"email": self.credentials.login_email, "password": self.credentials.login_password}
        if answer := await self._ask("POST", "/api/auth/login", json=login):
            self._carry(answer)

    async def _rent(self) -> None:
        await self._written("/api/payments")

    async def _pay(self) -> None:
        """Have the API make a payment intent, and pay it at Stripe, which tells the API."""
        if not (payment := await self._written("/api/payments/intent")):
            return
        # One card pays for all: Stripe keeps it, as of a tenant who pays each month.
        self.method = self.method or (await self._card() or {}).get("id", "")
        address = f"v1/payment_intents/{payment['providerIntentId']}"
        given = await self._stripe(address, self.key, payment_method=self.method)
        if given and await self._stripe(f"{address}/confirm", self.key):
            self.paid.append(payment["providerIntentId"])

    async def _card(self) -> Any:
        fields = {f"card[{name}]": value for name, value in CARD.items()}
        return await self._stripe("v1/payment_methods", self.key, type="card", **fields)

    async def _mail(self) -> None:
        to = f"{self.name}-{self.result.asked}@tenant.example"
        if await self._ask("POST", "/api/email/test", json={"to": to}):
            self.mailed.append(to)

    async def _upload(self) -> None:
        if await super()._upload():
            self.result.uploads += 1

    async def _written(self, address: str) -> Any:
        """Have the API write a payment; give what it answered of it."""
        amount = random.randint(1, MOST_AMOUNT)
        if answer := await self._ask("POST", address, json={"tenantId": 1, "amount": amount}):
            payment = answer.get("payment", answer)
            self.rows.add((payment["id"], amount))
            return payment
        return None

    def _failed(self, begun: float, reason: str) -> None:
        super()._failed(begun, reason)
        self.result.failures.append((time.time() - (time.monotonic() - begun), reason))

    async def _arrivals(self) -> None:
        """Say what is not there of all that was acknowledged, once Stripe's retries are over or nothing is missing."""
        result, ends = self.result, time.monotonic() + self.arrival
        while True:
            made, arrived = await self._events(), await self._mails()
            with postgres.connect_admin(self.credentials) as database:
                ids = [row for row, _ in self.rows]
                there = set(database.execute("SELECT id, amount FROM payments WHERE id = ANY(%s)", [ids]).fetchall())
                noted = database.execute("SELECT id FROM webhook_events WHERE id = ANY(%s)", [made]).fetchall()
                unpaid = database.execute(
                    "SELECT provider_intent_id FROM payments WHERE provider_intent_id = ANY(%s) AND status <> 'PAID'",
                    [self.paid],
                ).fetchall()
            result.lost_writes = sorted(self.rows - there)
            result.lost_events = sorted(set(made) - {name for (name,) in noted})
            result.unpaid = sorted(name for (name,) in unpaid)
            result.lost_mails = sorted(set(self.mailed) - arrived)
            if not (result.lost_events or result.unpaid) or time.monotonic() > ends:
                break
            await asyncio.sleep(1)
        result.writes, result.written = len(self.rows), len(self.rows) - len(result.lost_writes)
        result.events, result.applied = len(made), len(made) - len(result.lost_events)
        result.mails = len(self.mailed)

    async def _events(self) -> list[str]:
        """Give all events that Stripe has made meanwhile, whoever caused them."""
        found: list[str] = []
        asked, headers = {"created[gte]": str(self.began), "limit": "100"}, {"Authorization": f"Bearer {self.key}"}
        while True:
            async with self.elsewhere.get(f"{url(STRIPE)}/v1/events", params=asked, headers=headers) as answer:
                page = await answer.json()
            found += [event["id"] for event in page["data"]]
            if not page["has_more"]:
                return found
            asked["starting_after"] = found[-1]

    async def _mails(self) -> set[str]:
        """Give the addresses to which SendGrid has accepted a message."""
        headers = {"Authorization": f"Bearer {self.credentials.stripe_admin_token}"}
        async with self.elsewhere.get(f"{url(SENDGRID)}/_sandbox/messages", headers=headers) as answer:
            messages = await answer.json()
        return {to["email"] for mail in messages for person in mail["personalizations"] for to in person.get("to", [])}


if __name__ == "__main__":
    living = Living(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps(asdict(asyncio.run(living.run()))), flush=True)
