"""A token as the API signs it (a JWT with HMAC), made to ask which secrets the running workers accept."""

import base64
import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import urllib3

from opslib.api import health, log
from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.api.settings import Tokens
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

ASKS = 16
"""New connections go to the workers in turn: with this many for each token, every worker is asked."""
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


def answers(environment: Deployment, secret: str, *, asks: int = ASKS) -> Counter[int]:
    """Count what the API's workers answer to tokens signed with this secret, by HTTP status; 0 is no answer.

    A busy machine may answer too late: then it is asked again, at most as often as it was to be asked.
    """
    token = sign(environment, secret)
    url = f"{environment.api.url}{environment.part(Tokens).route}?{MARK}"
    found = Counter[int]()
    while found.total() - found[0] < asks and found[0] < asks:
        found[_status(url, token)] += 1
    return found


def prove(environment: Deployment, expected: dict[str, tuple[str, int]]) -> Answer:
    """Whether tokens signed with each of these secrets get the expected status from every worker; with a row for each.

    One signed with garbage must get 401 besides. An expected status of 0 is not judged, nor is an answer that came too
    late, as long as others came. A secret that is not known, the empty text, is not asked for: its row says so.
    """
    rows, held = [], True
    for name, (secret, status) in {**expected, "garbage": (make(), 401)}.items():
        found = answers(environment, secret) if secret else Counter[int]()
        held &= not secret or status == 0 or set(found) - {0} == {status}
        got = ", ".join(f"{code or 'no answer'} × {times}" for code, times in sorted(found.items()))
        mark = "made up" if name == "garbage" else env_file.fingerprint(secret) if secret else "not known"
        rows.append(
            {"signed with": name, "fingerprint": mark, "expected": status or "any", "answered": got or "not asked"}
        )
    return Answer(held, rows)


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


def calm(workers: Sequence[Worker], before: Counter[str]) -> Answer:
    """Whether hardly more tokens were refused for their signature since these workers were listed than `before`."""
    now = refused(workers)
    rows = [{"refused": "before", **before}, {"refused": "in this run", **now}]
    return Answer(now["invalid signature"] <= before.total() + SOME, rows, "People are being logged out.")


def _status(url: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
    try:
        return urllib3.request(
            "GET", url, headers=headers, timeout=health.TIMEOUT, retries=False, redirect=False
        ).status
    except urllib3.exceptions.HTTPError:
        return 0


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
