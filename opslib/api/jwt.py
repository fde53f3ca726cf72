"""A token as the API signs it (a JWT with HMAC), made to ask which secrets the running workers accept."""

import base64
import hmac
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from opslib.api import health, log, pm2
from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.api.settings import Tokens
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

ASKS = 16
"""New connections go to the workers in turn: with this many for each token, every worker is asked."""
WAIT = 60
"""Seconds for which a proof waits in all for an API that was asked too often."""
UNSAID = 10.0
"""Seconds after which such an API is asked again if it does not say when."""
TOO_OFTEN = 429
GARBAGE, NO_TOKEN = "garbage", "no token"
LIFE = 60
"""Seconds for which such a token is valid."""
MARK = "canary=opslib"
"""What the address of each of our requests ends in, by which the API's log tells them from others."""

SOME = 5
"""How many tokens more may be refused than before, as somebody always tries an odd one."""

_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
# What the npm package jsonwebtoken says of a token that it refuses; the API logs it with each 401.
_REASONS = ("invalid signature", "jwt expired")


def make() -> str:
    """Make a secret to sign with: 64 random bytes, as many as the hash of HS512 gives (RFC 7518 §3.2 asks for that)."""
    return secrets.token_urlsafe(64)


def sign(environment: Deployment, secret: str) -> str:
    """Give a token with the claims that the environment names, signed with this secret and valid for a minute."""
    tokens, now = environment.part(Tokens), int(time.time())
    algorithm = tokens.algorithm
    head = {"alg": algorithm, "typ": "JWT"}
    body = {**tokens.claims, "iat": now, "exp": now + LIFE}
    text = ".".join(_base64url(json.dumps(part).encode()) for part in (head, body))
    return f"{text}.{_base64url(hmac.digest(secret.encode(), text.encode(), _HASHES[algorithm]))}"


@dataclass(frozen=True)
class Limit:
    """How often the API says that it may be asked: so many requests are left of so many, until it counts anew."""

    of: int
    left: int
    seconds: int


@dataclass(frozen=True)
class Asked:
    """What the workers answered to one kind of token, and how many requests asking once takes."""

    token: str
    fingerprint: str
    expected: str
    answered: str
    asked: int = field(compare=False, repr=False)
    statuses: frozenset[int] = field(repr=False)
    limit: Limit | None = field(default=None, compare=False, repr=False)
    again: float = field(default=0, compare=False, repr=False)
    """Seconds until the API answers again that was asked too often."""

    @property
    def limited(self) -> bool:
        """Whether the API answered that it was asked too often, which says nothing of the token."""
        return TOO_OFTEN in self.statuses


def answers(environment: Deployment, secret: str) -> frozenset[int]:
    """Give what the API's workers answer to a token signed with this secret, by HTTP status; 0 is no answer."""
    return _asked(environment, "", "", 0, secret, time.monotonic() + WAIT).statuses


def prove(environment: Deployment, expected: dict[str, tuple[str, int]], *, without: bool = False) -> Answer:
    """Whether tokens signed with each of these secrets get the expected status from every worker; with a row for each.

    One signed with garbage must get 401 besides. An expected status of 0 is not judged, nor is an answer that came too
    late, as long as others came. A secret that is not known, the empty text, is not asked for: its row says so.
    `without` asks without any token too, which is not judged. It cannot be told where the API was asked too often.
    """
    kinds: list[tuple[str, str, int, str | None]]
    kinds = [(name, env_file.fingerprint(key) if key else "not known", to, key) for name, (key, to) in expected.items()]
    kinds += [(GARBAGE, "made up", 401, make()), *([(NO_TOKEN, "none", 0, None)] if without else [])]
    ends, rows = time.monotonic() + WAIT, list[Asked]()
    for name, mark, status, secret in kinds:
        if secret == "" or any(row.limited for row in rows):
            rows.append(Asked(name, mark, str(status or "any"), "not asked", 0, frozenset()))
        else:
            rows.append(_asked(environment, name, mark, status, secret, ends))
    wrong = [row for row in rows if row.asked and not row.limited and row.expected not in ("any", row.answered)]
    again = max((row.again for row in rows if row.limited), default=0)
    said = f"The API was asked too often (429) and answers again in {again:.0f} s. Run this again then."
    return Answer(False if wrong else None if again else True, rows, said if again else "")


def refused(workers: Sequence[Worker], *, minutes: float = 0) -> Counter[str]:
    """Count the tokens of others that the API refused, by reason, from the workers' logs.

    Since these workers were listed, or over the last `minutes` before now.
    """
    marks = [position for worker in workers for position in worker.logs]
    if minutes:
        marks = [Position(mark.path, 0, 0) for mark in marks]
    after = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat() if minutes else ""
    counts = Counter[str](dict.fromkeys(_REASONS, 0))
    for said in log.fields(marks):
        reason = str(said.get("reason", ""))
        if MARK in str(said.get("path", "")) or str(said.get("timestamp", "")) < after:
            continue
        counts.update(known for known in _REASONS if known in reason)
    return counts


def told(workers: Sequence[Worker]) -> Answer:
    """Whether the logs say why the API refused a token of ours since these workers were listed.

    Where they do not, nothing can be said of those of others either: no line is not the same as no refusal.
    """
    marks = [position for worker in workers for position in worker.logs]
    ends = time.monotonic() + 2  # PM2 writes what it is told a moment later
    while True:
        found = any(said.get("reason") and MARK in str(said.get("path", "")) for said in log.fields(marks))
        if found or time.monotonic() > ends:
            said = "no line with a `reason` and a `path` as JSON tells of our own tokens that it refused"
            return Answer(found or None, "yes, as JSON with a `reason`" if found else f"cannot tell: {said}")
        time.sleep(0.1)


def calm(workers: Sequence[Worker], before: Counter[str]) -> Answer:
    """Whether hardly more tokens were refused for their signature since these workers were listed than `before`."""
    now = refused(workers)
    rows = [{"refused": "before", **before}, {"refused": "in this run", **now}]
    return Answer(now["invalid signature"] <= before.total() + SOME, rows, "People are being logged out.")


def _asked(environment: Deployment, name: str, mark: str, status: int, secret: str | None, ends: float) -> Asked:
    """Ask with tokens signed with this secret, or without any, until every worker has answered, and no more often.

    Which one answered is what the system tells; where it does not, ASKS answers are taken for those of all. A busy
    machine may answer too late: then it is asked again, at most as often as it was to be asked. An API that was asked
    too often is waited for until `ends`.
    """
    url = f"{environment.api.url}{environment.part(Tokens).route}?{MARK}"
    wanted = {worker.pid for worker in pm2.workers(environment) if worker.pid}
    found, seen = list[health.Response](), set[int]()
    late, again = 0, 0.0
    while not (wanted and wanted <= seen) and len(found) < (1 if len(wanted) == 1 else ASKS) and late < ASKS:
        # Each time a new one: it must not run out while the API is waited for.
        headers = {} if secret is None else {"Authorization": f"Bearer {sign(environment, secret)}"}
        got = health.ask(url, wanted, headers)
        if got.status == TOO_OFTEN:
            again = _pause(got)
            if time.monotonic() + again <= ends:
                time.sleep(again)
                continue
            found.append(got)
            break
        seen.add(got.pid)
        late += got.status == 0
        found += [got] if got.status else []
    statuses = frozenset(got.status for got in found) or frozenset({0})
    answered = ", ".join(str(code or "no answer") for code in sorted(statuses))
    limit = next((said for got in reversed(found) if (said := _limit(got.headers))), None)
    takes = len(wanted) if wanted <= seen or len(wanted) == 1 else ASKS
    return Asked(name, mark, str(status or "any"), answered, takes, statuses, limit, again)


def _pause(got: health.Response) -> float:
    """Give the seconds after which an API that was asked too often wants to be asked again, as far as it says."""
    said = str(got.headers.get("retry-after") or got.body.get("retryAfter") or "")
    return max(1.0, float(said)) if re.fullmatch(r"\d+(\.\d+)?", said) else UNSAID


def _limit(headers: Mapping[str, str]) -> Limit | None:
    """Give the limit that an answer tells of, as express-rate-limit and others write it."""
    names = ("limit", "remaining", "reset")
    told = [headers.get(f"ratelimit-{name}") or headers.get(f"x-ratelimit-{name}", "") for name in names]
    if not all(re.fullmatch(r"\d+", text) for text in told):
        return None
    of, left, reset = map(int, told)
    # The older headers give a time instead of the seconds until it.
    return Limit(of, left, reset if reset < 10**9 else max(0, reset - int(time.time())))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
