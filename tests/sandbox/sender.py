"""The process that sends the traffic on schedule, however late the answers come, and then looks what has arrived."""

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from . import postgres
from .credentials import Credentials
from .errors import SandboxError
from .layout import API, STRIPE, url
from .traffic import ARRIVAL_SECONDS, LATE_SECONDS, TIMEOUT_SECONDS, Result

# Odd numbers of requests, so that two workers, which connections go to in turn, are each asked for all.
READS = ("properties", "refresh", "me")
WRITES = (*5 * ("properties", "refresh", "me", "rent"), "upload", "intent", "me")
HEALTH_SECONDS = 0.1
UPLOAD_SECONDS = 2
BEHIND_SECONDS = 1
"""What the sender makes good of its schedule; of more than this it leaves the rest out."""


class Sender:
    """What is sent, and what came of it."""

    address = url(API)

    def __init__(self, rate: int, seconds: float, kinds: Sequence[str] = READS) -> None:
        self.rate = rate
        self.seconds = seconds
        self.kinds = kinds
        self.credentials = Credentials.load()
        self.result = Result()
        self.latencies: list[float] = []
        self.reasons: Counter[str] = Counter()
        self.workers: set[tuple[int, str]] = set()
        self.rents: list[int] = []
        self.intents: list[str] = []
        self.started = 0.0
        self.stopped = asyncio.Event()

    async def run(self) -> Result:
        """Log in, send until the time is up or the input ends, and count what has arrived."""
        timeout = ClientTimeout(total=TIMEOUT_SECONDS)
        async with (
            ClientSession(
                self.address, connector=TCPConnector(force_close=True, limit=0), timeout=timeout
            ) as self.session,
            ClientSession(connector=TCPConnector(force_close=True, limit=0), timeout=timeout) as self.elsewhere,
        ):
            await self._log_in()
            print("sending", flush=True)
            # Nothing is ever written to it: it is readable once whoever wants the traffic has closed it, or is gone.
            asyncio.get_running_loop().add_reader(sys.stdin, self.stopped.set)
            self.started = time.monotonic()
            async with asyncio.TaskGroup() as requests:
                health = requests.create_task(self._each(HEALTH_SECONDS, ["health"]))
                await self._each(1 / self.rate, self.kinds)
                await health
            self.result.seconds = round(time.monotonic() - self.started, 2)
            await self._arrivals()
        return self._summed_up()

    async def _each(self, pause: float, kinds: Iterable[str]) -> None:
        """Send one after the other of these kinds of request, without waiting for their answers."""
        kinds, sent = tuple(kinds), 0
        async with asyncio.TaskGroup() as requests:
            while not self.stopped.is_set() and time.monotonic() - self.started < self.seconds:
                requests.create_task(getattr(self, f"_{kinds[sent % len(kinds)]}")())
                sent += 1 + self._missed(sent * pause, pause)
                await asyncio.sleep(max(0.0, self.started + sent * pause - time.monotonic()))

    def _missed(self, due: float, pause: float) -> int:
        """Give how many requests to leave out, because the sender itself was kept from sending them."""
        behind = time.monotonic() - self.started - due
        self.result.behind = round(max(self.result.behind, behind), 2)
        missed = int(behind / pause) if behind > BEHIND_SECONDS else 0
        self.result.skipped += missed
        return missed

    async def _health(self) -> None:
        if answer := await self._ask("GET", "/health"):
            self.workers.add((answer["pid"], answer["release"]))

    async def _properties(self) -> None:
        await self._ask("GET", "/api/properties")

    async def _me(self) -> None:
        await self._ask("GET", "/api/auth/me")

    async def _refresh(self) -> None:
        if answer := await self._ask("POST", "/api/auth/refresh", json={"refreshToken": self.refresh_token}):
            # From now on the requests carry what this worker has signed, whichever worker they go to.
            self.session.headers["Authorization"] = f"Bearer {answer['accessToken']}"

    async def _rent(self) -> None:
        if answer := await self._ask("POST", "/api/payments", json={"tenantId": 1, "amount": 100}):
            self.rents.append(answer["id"])

    async def _upload(self) -> Any:
        """Have an upload signed, and upload a while later, as somebody does who chooses a file; tell whether it did."""
        if answer := await self._ask("POST", "/api/uploads/signed-url", json={"fileName": "lease.pdf"}):
            await asyncio.sleep(UPLOAD_SECONDS)
            return await self._ask("PUT", answer["url"], data=b"lease")
        return None

    async def _intent(self) -> None:
        """Have the API make a payment intent, and cancel it at Stripe, which makes an event of that."""
        if answer := await self._ask("POST", "/api/payments/intent", json={"tenantId": 1, "amount": 100}):
            intent = answer["payment"]["providerIntentId"]
            if await self._stripe(f"v1/payment_intents/{intent}/cancel", self.key):
                self.intents.append(intent)

    async def _ask(self, method: str, address: str, **body: Any) -> Any:
        """Send one request; give what the answer says, or None if it has failed."""
        target = URL(address, encoded=True)  # or what an upload's signature is over would be written otherwise
        session, named = (self.elsewhere, target.authority) if target.absolute else (self.session, address)
        begun, found, reason = time.monotonic(), None, ""
        self.result.asked += 1
        try:
            async with session.request(method, target, **body) as answer:
                found = await (answer.json() if answer.content_type == "application/json" else answer.text()) or True
            self.result.answered += 1
            self.result.unauthorized += answer.status == 401
            reason = f"{named} answered {answer.status}" if answer.status >= 400 else ""
            self.result.bad += bool(reason)
        except TimeoutError as error:
            self.result.unanswered += 1
            reason = f"{named}: {type(error).__name__}"
        except (ClientError, OSError, ValueError) as error:
            self.result.refused += 1
            reason = f"{named}: {type(error).__name__}"
        seconds = time.monotonic() - begun
        self.latencies.append(seconds * 1000)
        if not reason:
            self.result.late += seconds > LATE_SECONDS
            return found
        self._failed(begun, reason)
        return None

    def _failed(self, begun: float, reason: str) -> None:
        self.result.failed += 1
        self.reasons[reason] += 1
        if len(self.result.first_failures) < 5:
            self.result.first_failures.append(f"after {begun - self.started:.2f} s: {reason}")

    async def _stripe(self, path: str, key: str, **form: str) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        return await self._ask("POST", f"{url(STRIPE)}/{path}", headers=headers, data=form or None)

    async def _log_in(self) -> None:
        login = {"email": self.credentials.login_email, "password": self.credentials.login_password}
        async with self.session.post("/api/auth/login", json=login) as answer:
            if answer.status != 200:
                raise SandboxError(f"the login for the traffic answered {answer.status}")
            self._carry(await answer.json())
        if self.kinds is not READS:
            # A key of its own: the API's is being rotated.
            self.key = (await self._stripe("_sandbox/keys", self.credentials.stripe_admin_token))["secret"]

    def _carry(self, tokens: Any) -> None:
        """Let the requests carry these from now on."""
        self.session.headers["Authorization"] = f"Bearer {tokens['accessToken']}"
        self.refresh_token = tokens["refreshToken"]

    async def _arrivals(self) -> None:
        """Count in the database the rows of the requests that were answered, and those that the events have changed."""
        rows = "SELECT count(*) FROM payments WHERE id = ANY(%s)"
        changed = "SELECT count(*) FROM payments WHERE provider_intent_id = ANY(%s) AND status = 'FAILED'"
        ends = time.monotonic() + ARRIVAL_SECONDS
        self.result.writes, self.result.events = len(self.rents), len(self.intents)
        with postgres.connect_admin(self.credentials) as database:
            while True:
                [(self.result.written,)] = database.execute(rows, [self.rents]).fetchall()
                [(self.result.applied,)] = database.execute(changed, [self.intents]).fetchall()
                if self.result.applied == self.result.events or time.monotonic() > ends:
                    return
                await asyncio.sleep(0.2)

    def _summed_up(self) -> Result:
        self.result.p99_ms = round(statistics.quantiles([0.0, *self.latencies], n=100)[-1], 1)
        self.result.slowest_ms = round(max(self.latencies, default=0), 1)
        self.result.reasons = dict(self.reasons.most_common(8))
        self.result.workers = sorted(self.workers)
        return self.result


if __name__ == "__main__":
    sender = Sender(int(sys.argv[1]), float(sys.argv[2]), WRITES if sys.argv[3] == "writes" else READS)
    print(json.dumps(asdict(asyncio.run(sender.run()))), flush=True)
