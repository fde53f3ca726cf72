"""A token as the API signs it (a JWT with HMAC), made to ask which secrets the running workers accept."""

import base64
import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from opslib.api import log, poll
from opslib.api.log_event import Event
from opslib.api.pm2 import Worker
from opslib.api.settings import Log, Tokens
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

GARBAGE, NO_TOKEN = "garbage", "no token"
LIFE = 60
"""Seconds for which such a token is valid."""
MARK = "canary=opslib"
"""What the address of each of our requests ends in, by which the API's log tells them from others."""

WITHIN = 2
"""Seconds that PM2 may take to write what it is told."""
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
class Asked:
    """What the workers answered to one kind of token, and how many requests asking once takes."""

    token: str
    fingerprint: str
    expected: str
    answered: str
    asked: int = field(compare=False, repr=False)
    statuses: frozenset[int] = field(repr=False)
    limit: poll.Limit | None = field(default=None, compare=False, repr=False)
    again: float = field(default=0, compare=False, repr=False)
    """Seconds until the API answers again that was asked too often."""

    @property
    def limited(self) -> bool:
        """Whether the API answered that it was asked too often, which says nothing of the token."""
        return poll.TOO_OFTEN in self.statuses


def answers(environment: Deployment, secret: str) -> frozenset[int]:
    """Give what the API's workers answer to a token signed with this secret, by HTTP status; 0 is no answer."""
    return _asked(environment, "", "", 0, secret).statuses


def prove(environment: Deployment, expected: dict[str, tuple[str, int]], *, without: bool = False) -> Answer:
    """Whether tokens signed with each of these secrets get the expected status from every worker; with a row for each.

    One signed with garbage must get 401 besides. An expected status of 0 is not judged, nor is an answer that came too
    late, as long as others came. A secret that is not known, the empty text, is not asked for: its row says so.
    `without` asks without any token too, which is not judged. It cannot be told where the API was asked too often.
    """
    kinds: list[tuple[str, str, int, str | None]]
    kinds = [(name, env_file.fingerprint(key) if key else "not known", to, key) for name, (key, to) in expected.items()]
    kinds += [(GARBAGE, "made up", 401, make()), *([(NO_TOKEN, "none", 0, None)] if without else [])]
    ends, rows = time.monotonic() + poll.WAIT, list[Asked]()
    for name, mark, status, secret in kinds:
        if secret == "" or any(row.limited for row in rows):
            rows.append(Asked(name, mark, str(status or "any"), "not asked", 0, frozenset()))
        else:
            rows.append(_asked(environment, name, mark, status, secret, ends))
    wrong = [row for row in rows if row.asked and not row.limited and row.expected not in ("any", row.answered)]
    again = max((row.again for row in rows if row.limited), default=0)
    said = f"The API was asked too often (429) and answers again in {again:.0f} s. Run this again then."
    return Answer(False if wrong else None if again else True, rows, said if again else "")


def refused(environment: Deployment, workers: Sequence[Worker], *, minutes: float = 0) -> Counter[str]:
    """Count the tokens that the API refused, by reason, from its logs; ours are left out where a line tells of which.

    Since these workers were listed, or over the last `minutes` before now, of which a line without a time is not.
    """
    after = datetime.now(UTC) - timedelta(minutes=minutes)
    counts = Counter[str](dict.fromkeys(_REASONS, 0))
    for one in _logged(environment, workers, whole=minutes > 0).events:
        if MARK not in str(one.said.get("path", "")) and (not minutes or (one.at and one.at >= after)):
            counts.update(_why(one))
    return counts


def told(environment: Deployment, workers: Sequence[Worker]) -> Answer:
    """Whether the logs say why the API refused a token of ours since these workers were listed.

    Where they do not, nothing can be said of those of others either: no line is not the same as no refusal. Nor can it
    where they do not say of which request.
    """
    ends = time.monotonic() + WITHIN
    while True:
        reading = _logged(environment, workers)
        why = [one for one in reading.events if _why(one) or one.said.get("reason")]
        if any(MARK in str(one.said.get("path", "")) for one in why):
            return Answer(True, "yes, as JSON with a `reason`")
        if time.monotonic() > ends:
            break
        time.sleep(0.1)
    if why:
        said = f"the log says why, of {len(why)} tokens since this began, and not of which request: ours are among them"
    elif reading.recognised or not (reading.events or reading.nowhere):
        said = "no line tells of our own tokens that it refused"
    else:
        said = reading.legible.otherwise
    return Answer(None, f"cannot tell: {said}")


def calm(environment: Deployment, workers: Sequence[Worker], before: Counter[str]) -> Answer:
    """Whether hardly more tokens were refused for their signature since these workers were listed than `before`."""
    now = refused(environment, workers)
    rows = [{"refused": "before", **before}, {"refused": "in this run", **now}]
    return Answer(now["invalid signature"] <= before.total() + SOME, rows, "People are being logged out.")


def _logged(environment: Deployment, workers: Sequence[Worker], *, whole: bool = False) -> log.Reading:
    """Read what the API has logged since these workers were listed, or all that it keeps."""
    known = environment.find(Log) or Log()
    marks = [position for worker in workers for position in worker.logs]
    return log.read(log.beginnings(marks, known) if whole else marks, known)


def _why(one: Event) -> list[str]:
    """Give for which of the known reasons a token was refused, if that is what an event tells."""
    text = f"{one.text} {one.said.get('error', '')}" if one.means == "not authenticated" else ""
    return [known for known in _REASONS if known in f"{one.said.get('reason', '')} {text}"]


def _asked(
    environment: Deployment, name: str, mark: str, status: int, secret: str | None, ends: float | None = None
) -> Asked:
    """Ask every worker with tokens signed with this secret, or without any."""

    def headers() -> dict[str, str]:
        # Each time a new one: it must not run out while the API is waited for.
        return {} if secret is None else {"Authorization": f"Bearer {sign(environment, secret)}"}

    got = poll.ask(environment, f"{environment.part(Tokens).route}?{MARK}", headers, ends=ends)
    answered = ", ".join(str(code or "no answer") for code in sorted(got.statuses))
    return Asked(name, mark, str(status or "any"), answered, got.takes, got.statuses, got.limit, got.again)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
